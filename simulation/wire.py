"""Deliveries and waves as single byte strings, for the envelopes that Flower carries between server and clients."""

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from cloud.gateway import Delivery
from cloud.queueing import Span
from simulation.replay import Wave


def pack_delivery(delivery: Delivery) -> bytes:
    """One byte string."""
    body, length = joined(delivery.bodies)
    due = delivery.due
    return save(
        {
            "device": np.ascontiguousarray(delivery.device),
            "usable_at": np.ascontiguousarray(delivery.usable_at),
            "free_at": np.ascontiguousarray(delivery.free_at),
            "body": body,
            "length": length,
            "due": np.zeros(0) if due is None else np.array([due.first, due.until]),
        }
    )


def unpack_delivery(packed: bytes) -> Delivery:
    """Inverse of `pack_delivery`."""
    arrays = load(packed)
    bodies = separated(arrays["body"], arrays["length"])
    due = Span(*arrays["due"].tolist()) if arrays["due"].size else None
    return Delivery(arrays["device"], bodies, arrays["usable_at"], arrays["free_at"], due)


def pack_wave(wave: Wave) -> bytes:
    """One byte string."""
    body, length = joined(wave.requests)
    telemetry = {f"telemetry.{k}": np.ascontiguousarray(v) for k, v in wave.telemetry.items()}
    return save({"body": body, "length": length, "asked_at": np.ascontiguousarray(wave.asked_at), **telemetry})


def unpack_wave(packed: bytes) -> Wave:
    """Inverse of `pack_wave`."""
    arrays = load(packed)
    telemetry = {k.removeprefix("telemetry."): v for k, v in arrays.items() if k.startswith("telemetry.")}
    return Wave(separated(arrays["body"], arrays["length"]), arrays["asked_at"], telemetry)


def joined(bodies: list[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Messages end to end, and their lengths."""
    return np.frombuffer(b"".join(bodies), np.uint8), np.fromiter(map(len, bodies), np.int64, len(bodies))


def separated(body: NDArray[np.uint8], length: NDArray[np.int64]) -> list[bytes]:
    """Inverse of `joined`."""
    whole, ends = body.tobytes(), np.cumsum(length)
    return [whole[end - size : end] for end, size in zip(ends.tolist(), length.tolist(), strict=True)]


def part_of(delivery: Delivery, first: int, last: int) -> Delivery:
    """The rows for devices first..last - 1; `delivery.device` is sorted."""
    low, high = np.searchsorted(delivery.device, [first, last])
    rows = slice(int(low), int(high))
    bodies, times = delivery.bodies[rows], (delivery.usable_at[rows], delivery.free_at[rows])
    return Delivery(delivery.device[rows], bodies, *times, delivery.due)
