"""The wire message of a device's own parameters (framing in device/frame.py).

    personal   kind 5; varint device, step; the values of each part in the order of the layout, little-endian; bool as
               bits, eight to a byte, the first in the highest place, zeros behind the last of a part

The layout is that of the installed model and does not travel. One-byte device and step: 8 bytes beside the values.
Where a reply brings a patch, the two messages follow one another in one transfer, the patch first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device.errors import WireError
from device.frame import (
    KIND,
    RESEND,
    Reader,
    Segment,
    check_frame,
    fixed_segment,
    open_frames,
    open_heads,
    seal,
    varint_segment,
    write_frames,
)
from device.personal import Layout, Part, Patches

PERSONAL = 5
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Personal:
    """B patches on their way."""

    device: Ints  # [B]
    step: Ints  # [B] interactions of the device that the cloud knew when it made the patch
    patches: Patches  # name -> [B, *shape]


def values_bytes(layout: Layout) -> int:
    """Bytes of the values of one patch."""
    return sum(part.nbytes for part in layout.values())


def encode_personal(sent: Personal, layout: Layout) -> list[bytes]:
    """B messages; WireError for arrays that are not [B, *shape] of the layout's kinds, and for NaN and infinity."""
    size = len(sent.device)
    if sent.step.shape != (size,) or sent.patches.keys() != layout.keys():
        raise WireError(
            f"encoding patches: steps {sent.step.shape} for {size} devices, parts {sorted(sent.patches)}; expected "
            f"one step each and {sorted(layout)}"
        )
    names = np.stack([sent.device, sent.step], axis=1).astype(np.int64).reshape(-1)
    parts = [_segment(name, sent.patches, part, size) for name, part in layout.items()]
    return write_frames(np.full(size, PERSONAL, np.uint8), [varint_segment(names, np.full(size, 2)), *parts])


def decode_personal(bodies: Sequence[bytes], layout: Layout) -> Personal:
    """What `encode_personal` wrote; WireError for anything else than whole patches of this layout."""
    reader, values = _opened(bodies, layout)
    reader.refuse(reader.heads != PERSONAL, "flags", "none", reader.heads)
    device, step = reader.varints(np.full(len(bodies), 2), "device, step").reshape(-1, 2).T
    reader.close()
    patches, at = {}, 0
    for name, part in layout.items():
        patches[name] = _values(name, part, values[:, at : at + part.nbytes])
        at += part.nbytes
    return Personal(device.copy(), step.copy(), patches)


def split(bodies: Sequence[bytes], layout: Layout) -> tuple[list[bytes], list[bytes]]:
    """(patches, replies) of B transfers; b"" where there is none."""
    ends = [_end(body, layout) for body in bodies]
    return ([b[:end] for b, end in zip(bodies, ends, strict=True)], [b[e:] for b, e in zip(bodies, ends, strict=True)])


def _end(body: bytes, layout: Layout) -> int:
    """Where the patch in front ends; 0 = there is none."""
    if len(body) < 2 or body[1] & KIND != PERSONAL:
        return 0
    at = _start(body)
    if not _ragged(layout):
        return at + values_bytes(layout) + 4
    return at + _dense(body[at:], layout)[1] + 4


def _start(body: bytes) -> int:
    """Where the values begin, behind two varints."""
    at = 2
    for _ in range(2):
        while at < len(body) and body[at] & 128:
            at += 1
        at += 1
    return at


def _ragged(layout: Layout) -> bool:
    return any(part.kept_by for part in layout.values())


def _opened(bodies: Sequence[bytes], layout: Layout) -> tuple[Reader, NDArray[np.uint8]]:
    """Reader of device and step, and the values [B, bytes] with zeros for the slices that did not travel."""
    if not _ragged(layout):
        return open_heads(bodies, PERSONAL, values_bytes(layout))
    values = np.zeros((len(bodies), values_bytes(layout)), np.uint8)
    heads = []
    for row, body in enumerate(bodies):
        check_frame(body, PERSONAL, f"message {row} of {len(bodies)}")
        start = _start(body)
        values[row], used = _dense(body[start:-4], layout)
        if start + used + 4 != len(body):
            raise WireError(
                f"message {row} of {len(bodies)}: expected {start + used + 4} bytes, found {len(body)}; {RESEND}"
            )
        heads.append(seal(body[:start]))
    return open_frames(heads, PERSONAL), values


def _dense(raw: bytes, layout: Layout) -> tuple[NDArray[np.uint8], int]:
    """(values with every slice, bytes that they took) of one message's values; what lies behind them is left alone."""
    dense, at, place = np.zeros(values_bytes(layout), np.uint8), 0, 0
    bits: dict[str, NDArray[np.bool_]] = {}
    for name, part in layout.items():
        kept, each = bits.get(part.kept_by, np.ones(1, np.bool_)), part.nbytes // (part.shape[0] if part.kept_by else 1)
        size = each * int(kept.sum())
        mine = np.frombuffer(raw[at : at + size], np.uint8)
        if len(mine) < size:
            return dense, at + size  # too short, as the caller will see
        dense[place : place + part.nbytes].reshape(len(kept), each)[kept] = mine.reshape(-1, each)
        if part.kind == "bool":
            bits[name] = np.unpackbits(mine)[: part.size].astype(np.bool_)
        at, place = at + size, place + part.nbytes
    return dense, at


def _segment(name: str, patches: Patches, part: Part, size: int) -> Segment:
    values = patches[name]
    if values.shape != (size, *part.shape) or values.dtype != np.dtype(part.kind):
        raise WireError(
            f"encoding patch {name!r}: expected {part.kind} {(size, *part.shape)}, found {values.dtype} "
            f"{values.shape}; give what the layout says"
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise WireError(f"encoding patch {name!r}: expected finite numbers, found NaN or infinity")
    if part.kept_by:
        kept = patches[part.kept_by].astype(np.bool_)
        if values[~kept].any():
            raise WireError(f"encoding patch {name!r}: expected zeros in slices that {part.kept_by!r} leaves out")
        sliced = values[kept]
        return fixed_segment(
            sliced.astype(sliced.dtype.newbyteorder("<")).reshape(-1), kept.sum(1) * (part.size // part.shape[0])
        )
    flat = values.reshape(size, part.size)
    if part.kind == "bool":
        return fixed_segment(np.packbits(flat.astype(np.bool_), axis=1).reshape(-1), np.full(size, part.nbytes))
    return fixed_segment(flat.astype(flat.dtype.newbyteorder("<")).reshape(-1), np.full(size, part.size))


def _values(name: str, part: Part, raw: NDArray[np.uint8]) -> NDArray[np.generic]:
    shape = (len(raw), *part.shape)
    if part.kind == "bool":
        bits = np.unpackbits(raw, axis=1)
        if bits[:, part.size :].any():
            raise WireError(f"patch {name!r}: expected zeros behind its {part.size} bits, found ones; {RESEND}")
        return bits[:, : part.size].astype(np.bool_).reshape(shape)
    kind = np.dtype(part.kind).newbyteorder("<")
    found: NDArray[np.generic] = np.frombuffer(raw.tobytes(), kind).astype(part.kind).reshape(shape)
    if kind.kind == "f" and not np.isfinite(found).all():
        raise WireError(f"patch {name!r}: expected finite numbers, found NaN or infinity; correct the sender")
    return found
