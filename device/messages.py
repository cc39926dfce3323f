"""The wire contract: requests, replies and patches, and their exact bytes (framing in device/frame.py).

    request  varint device, step, n = step - first, received; n ids
             flags: bit 3 ids are int32 instead of varints
    reply    varint device, step, n; [varint R, d]; [float32 retry_after]; n ids; scores; R row ids; float32 scale [R];
             int8 rows [R, d]
             flags: bit 3 ids are int32, bits 4-5 scores (0 none, 1 float16, 2 int8), bit 6 denied, bit 7 rows
             scores: none 0 bytes; float16 2n; int8 float32 scale, float32 offset (absent for n = 0), n codes 0..255
    priced   a reply of kind 4 that ends with the price of a request: float32
    patch    varint number of arrays; each: varint length, UTF-8 name, dtype code, varint ndim, dims, raw bytes
    personal a device's own parameters: device/personal_codec.py

A request of one-byte fields and n two-byte ids has 2 + 4 + 2n + 4 bytes; a float16 reply 2 + 3 + 4n + 4, a price
4 more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device.codec import INT32_IDS, Codec, read_finite, read_ids, read_scores, write_ids, write_scores
from device.errors import WireError
from device.frame import COUNT_CAP, KIND, Reader, fixed_segment, open_frames, ragged, seal, varint_segment, write_frames
from device.patch import PATCH, decode_patch, encode_patch

__all__ = [
    "PATCH",
    "PRICED",
    "REPLY",
    "REQUEST",
    "Codec",
    "Replies",
    "Requests",
    "decode_patch",
    "decode_replies",
    "decode_requests",
    "encode_patch",
    "encode_replies",
    "encode_requests",
    "repriced",
]

REQUEST, REPLY, PRICED = 1, 2, 4
_DENIED, _ROWS = 64, 128
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Requests:
    """B requests; items are the observed positions first..step-1 of each device, so step - first of them."""

    device: Ints  # [B]
    step: Ints  # [B] interactions observed so far; names the request
    first: Ints  # [B] position of the first uploaded item
    items: NDArray[np.int32]  # [B, W] padded with 0 on the left, oldest first
    received: Ints  # [B] step of the last reply that arrived; 0 = only the installation


@dataclass(frozen=True, slots=True)
class Replies:
    """B replies; scores are those that survived the codec, 0 where items are 0; a row's values are rows * row_scale."""

    device: Ints  # [B]
    step: Ints  # [B] the request answered
    items: NDArray[np.int32]  # [B, C] padded with 0 on the right
    scores: NDArray[np.float32]  # [B, C]
    row_ids: NDArray[np.int32]  # [B, R] padded with 0 on the right
    rows: NDArray[np.int8]  # [B, R, d]; d is 0 after decoding a batch without rows
    row_scale: NDArray[np.float32]  # [B, R]
    denied: NDArray[np.bool_]  # [B]
    retry_after: NDArray[np.float32]  # [B] seconds; 0 unless denied
    price: NDArray[np.float32] | None = None  # [B] of a request from now on; None = the cloud names none


def encode_requests(requests: Requests, codec: Codec) -> list[bytes]:
    """B messages; WireError if the items are not left-padded positions first..step-1."""
    _check_rows(requests)
    counts = requests.step - requests.first
    width = requests.items.shape[1]
    _check_ids(requests.items, np.arange(width) >= width - counts[:, None], "items")
    _check_counts(counts, min(width, COUNT_CAP), "step - first")
    head = np.full(counts.size, REQUEST | (codec.flags & INT32_IDS), np.uint8)
    columns = np.stack([requests.device, requests.step, counts, requests.received], axis=1).astype(np.int64)
    names = varint_segment(columns.reshape(-1), np.full(counts.size, 4, np.int64))
    return write_frames(head, [names, write_ids(requests.items, counts, codec)])


def decode_requests(bodies: Sequence[bytes], *, width: int) -> Requests:
    """Requests with items [B, width]; WireError for anything else than whole requests of at most `width` items."""
    reader = open_frames(bodies, REQUEST)
    reader.refuse((reader.heads & ~np.uint8(7 | INT32_IDS)) != 0, "flags", "only the id flag", reader.heads)
    four = np.full(len(bodies), 4, np.int64)
    device, step, counts, received = reader.varints(four, "device, step, count, received").reshape(-1, 4).T
    reader.check_count(counts, "items", min(width, COUNT_CAP))
    reader.refuse(counts > step, "items", "no more items than the step number", counts)
    flat = read_ids(reader, counts, "items")
    reader.close()
    rows, cols = ragged(counts)
    items = np.zeros((len(bodies), width), np.int32)
    items[rows, width - counts[rows] + cols] = flat
    return Requests(device.copy(), step.copy(), step - counts, items, received.copy())


def encode_replies(replies: Replies, codec: Codec) -> list[bytes]:
    """B messages; WireError for holes in a list, scores the codec cannot hold, or a retry time without a denial."""
    _check_rows(replies)
    counts, row_counts = (replies.items != 0).sum(axis=1), (replies.row_ids != 0).sum(axis=1)
    for ids, n, name in ((replies.items, counts, "items"), (replies.row_ids, row_counts, "row_ids")):
        _check_ids(ids, np.arange(ids.shape[1]) < n[:, None], name)
        _check_counts(n, COUNT_CAP, name)
    _check_floats(replies)
    rows = row_counts > 0
    kind = REPLY if replies.price is None else PRICED
    head = kind | codec.flags | _DENIED * replies.denied.astype(np.uint8) | _ROWS * rows.astype(np.uint8)
    names = np.stack([replies.device, replies.step, counts], axis=1).astype(np.int64)
    sizes = np.stack([row_counts[rows], np.full(rows.sum(), replies.rows.shape[2])], axis=1)
    kept = np.arange(replies.row_ids.shape[1]) < row_counts[:, None]
    return write_frames(
        head.astype(np.uint8),
        [
            varint_segment(names.reshape(-1), np.full(counts.size, 3, np.int64)),
            varint_segment(sizes.reshape(-1), 2 * rows.astype(np.int64)),
            fixed_segment(replies.retry_after[replies.denied].astype("<f4"), replies.denied.astype(np.int64)),
            write_ids(replies.items, counts, codec),
            *write_scores(replies.scores, replies.items != 0, codec),
            write_ids(replies.row_ids, row_counts, codec),
            fixed_segment(replies.row_scale[kept].astype("<f4"), row_counts),
            fixed_segment(replies.rows[kept].reshape(-1), row_counts * replies.rows.shape[2]),
            *([] if replies.price is None else [fixed_segment(replies.price.astype("<f4"), np.ones_like(counts))]),
        ],
    )


def repriced(bodies: Sequence[bytes], price: NDArray[np.float32]) -> list[bytes]:
    """The same priced replies with other prices [B]: a list that was made ready leaves with the price of the moment."""
    made = zip(bodies, price.astype("<f4"), strict=True)
    return [seal(body[:-8] + one.tobytes()) for body, one in made]


def decode_replies(bodies: Sequence[bytes]) -> Replies:
    """Replies padded to the longest list of the batch; WireError for anything else than whole replies of one kind."""
    priced = bool(bodies) and len(bodies[0]) > 1 and bodies[0][1] & KIND == PRICED
    reader = open_frames(bodies, PRICED if priced else REPLY)
    three = np.full(len(bodies), 3, np.int64)
    device, step, counts = reader.varints(three, "device, step, count").reshape(-1, 3).T
    reader.check_count(counts, "items")
    row_counts, dim = _read_sizes(reader)
    denied = (reader.heads & _DENIED) != 0
    retry = np.zeros(len(bodies), np.float32)
    retry[denied] = read_finite(reader, denied.astype(np.int64), "retry_after")
    reader.refuse(retry < 0, "retry_after", "seconds >= 0", retry)
    items = _pad(read_ids(reader, counts, "items"), counts)
    scores = _pad(read_scores(reader, counts), counts)
    row_ids = _pad(read_ids(reader, row_counts, "row_ids"), row_counts)
    scale = _pad(read_finite(reader, row_counts, "row_scale"), row_counts)
    cells = row_counts * dim
    rows = _pad(reader.fixed(cells, np.int8, "rows").reshape(int(row_counts.sum()), dim), row_counts)
    price = read_finite(reader, np.ones(len(bodies), np.int64), "price") if priced else None
    reader.close()
    return Replies(device.copy(), step.copy(), items, scores, row_ids, rows, scale, denied, retry, price)


def _check_rows(batch: Requests | Replies) -> None:
    columns = {field.name: getattr(batch, field.name) for field in fields(batch)}
    for name, values in columns.items():
        if values is None:
            continue
        found, size = len(values), batch.device.size
        if found != size:
            raise WireError(f"encoding {name}: expected {size} rows as in `device`, found {found}; give one each")


def _check_ids(ids: NDArray[np.int32], present: NDArray[np.bool_], field: str) -> None:
    wrong = np.flatnonzero(((ids > 0) != present).any(axis=1))
    if wrong.size:
        row = ids[wrong[0]].tolist()
        raise WireError(
            f"encoding {field} of row {wrong[0]}: expected ids >= 1 and padding on one side, found {row[:9]}"
        )


def _check_counts(counts: Ints, cap: int, field: str) -> None:
    if counts.size and (counts.min() < 0 or counts.max() > cap):
        raise WireError(f"encoding {field}: expected 0..{cap} ids, found {counts.min()}..{counts.max()}; send fewer")


def _check_floats(replies: Replies) -> None:
    shapes = replies.items.shape, replies.row_ids.shape, replies.row_ids.shape
    if shapes != (replies.scores.shape, replies.row_scale.shape, replies.rows.shape[:2]):
        raise WireError(f"encoding: expected scores {shapes[0]}, row_scale {shapes[1]}, rows {shapes[1]} + (d,)")
    listed = replies.items != 0
    for name, values in (
        ("scores", replies.scores[listed]),
        ("row_scale", replies.row_scale),
        ("retry_after", replies.retry_after),
        ("price", np.zeros(0) if replies.price is None else replies.price),
    ):
        if not np.isfinite(values).all():
            raise WireError(f"encoding {name}: expected finite numbers, found {values[~np.isfinite(values)][0]}")
    if (replies.retry_after < 0).any() or (replies.retry_after[~replies.denied] != 0).any():
        raise WireError("encoding retry_after: expected seconds >= 0, and 0 where not denied; only denials send it")


def _read_sizes(reader: Reader) -> tuple[Ints, int]:
    """Row counts [B] and the one row width of the batch."""
    has = (reader.heads & _ROWS) != 0
    row_counts = np.zeros(has.size, np.int64)
    sizes = reader.varints(2 * has.astype(np.int64), "row count, row width").reshape(-1, 2)
    dims = np.full(has.size, sizes[0, 1] if sizes.size else 0)
    row_counts[has], dims[has] = sizes.T
    reader.check_count(row_counts, "row count")
    reader.check_count(dims, "row width")
    reader.refuse(has & ((row_counts == 0) | (dims == 0)), "rows", "a row count and width >= 1", row_counts)
    reader.refuse(dims != dims.min(initial=COUNT_CAP), "row width", "one width for the whole batch", dims)
    width = int(dims.max(initial=0))
    reader.check_count(row_counts * width, "rows times width", COUNT_CAP * 16)
    return row_counts, width


def _pad(flat: NDArray[np.generic], counts: Ints) -> NDArray[Any]:
    rows, cols = ragged(counts)
    out = np.zeros((counts.size, int(counts.max(initial=0)), *flat.shape[1:]), flat.dtype)
    out[rows, cols] = flat
    return out
