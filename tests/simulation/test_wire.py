"""Deliveries and waves survive their envelope, empty ones too."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cloud.gateway import Delivery, nothing
from simulation.replay import Wave
from simulation.wire import joined, pack_delivery, pack_wave, part_of, separated, unpack_delivery, unpack_wave

bodies = st.lists(st.binary(max_size=12), max_size=8)


def delivery(messages: list[bytes]) -> Delivery:
    """Devices 0, 2, 4, ...; a reply that never arrives is usable at infinity."""
    number = np.arange(len(messages), dtype=np.float64)
    usable = np.array([i + 0.25 if body else np.inf for i, body in enumerate(messages)], np.float64)
    return Delivery(2 * np.arange(len(messages)), messages, usable, number)


def same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@given(bodies)
def test_a_delivery_survives(messages: list[bytes]) -> None:
    sent = delivery(messages)
    got = unpack_delivery(pack_delivery(sent))
    assert got.bodies == messages
    for name in ("device", "usable_at", "free_at"):
        assert same(getattr(got, name), getattr(sent, name))


@given(bodies, st.integers(0, 4))
def test_a_wave_survives(messages: list[bytes], rows: int) -> None:
    telemetry = {
        "device": np.arange(rows),
        "step": np.full(rows, 3, np.int32),
        "asked": np.arange(rows) % 2 == 0,
        "urgency": np.array([np.nan, np.inf, -np.inf, 0.5][:rows], np.float32),
        "shown": np.arange(rows * 10, dtype=np.int32).reshape(rows, 10)[:, ::-1],  # not contiguous
    }
    sent = Wave(messages, np.arange(len(messages), dtype=np.float64), telemetry)
    got = unpack_wave(pack_wave(sent))
    assert got.requests == messages
    assert same(got.asked_at, sent.asked_at)
    assert got.telemetry.keys() == telemetry.keys()
    assert all(same(got.telemetry[name], telemetry[name]) for name in telemetry)


def test_nothing_survives() -> None:
    assert unpack_delivery(pack_delivery(nothing())).bodies == []
    got = unpack_wave(pack_wave(Wave([], np.zeros(0), {})))
    assert (got.requests, len(got.asked_at), got.telemetry) == ([], 0, {})


@given(bodies)
def test_joined_and_separated(messages: list[bytes]) -> None:
    body, length = joined(messages)
    assert body.tobytes() == b"".join(messages)
    assert length.tolist() == [len(one) for one in messages]
    assert separated(body, length) == messages


@given(bodies, st.lists(st.integers(0, 16), max_size=3))
def test_parts_make_the_whole(messages: list[bytes], cuts: list[int]) -> None:
    whole = delivery(messages)
    edges = [0, *sorted(cuts), 17]
    parts = [part_of(whole, first, last) for first, last in pairwise(edges)]
    assert [body for part in parts for body in part.bodies] == messages
    for part, first, last in zip(parts, edges, edges[1:], strict=False):
        assert ((part.device >= first) & (part.device < last)).all()
    for name in ("device", "usable_at", "free_at"):
        assert same(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_cut_envelope_is_no_delivery(cut: int) -> None:
    packed = pack_delivery(delivery([b"abc", b"", b"de"]))
    with pytest.raises(Exception, match=r"(?i)header|deserializ|buffer|metadata"):
        unpack_delivery(packed[:cut])
