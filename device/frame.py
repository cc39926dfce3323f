"""The frame of every message: two head bytes, varints, little-endian columns, CRC32; whole batches at a time.

byte 0       0xD1: high nibble = ours, low nibble = version
byte 1       bits 0-2 kind, bits 3-7 flags of that kind
...          varints (7 bits a byte, low bits first, shortest form, at most 9 bytes) and little-endian arrays
last 4       CRC32 of everything before, little-endian
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from device.errors import WireError

MAGIC = 0xD1
COUNT_CAP = 65_536
CELL_CAP = 1 << 26
KIND = 7
_TAIL = 16  # zero bytes behind the joined buffer, so that reading a varint never leaves it
_SMALLEST = 6
RESEND = "the message was cut or altered: discard it and ask again"

Segment = tuple[NDArray[np.uint8], NDArray[np.int64]]  # bytes of all messages one after another, bytes of each [B]


def ragged(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and position within the row of each of sum(counts) elements, int64."""
    rows = np.repeat(np.arange(counts.size), counts)
    return rows, np.arange(rows.size) - np.repeat(np.cumsum(counts) - counts, counts)


def varint_segment(values: NDArray[np.int64], counts: NDArray[np.int64]) -> Segment:
    """Segment of flat non-negative int64 values [sum(counts)], counts[i] of them in message i."""
    if values.size and values.min() < 0:
        raise WireError(f"encoding: a field is {values.min()}, expected >= 0; counters and ids start at 0")
    lengths = np.ones(values.size, np.int64)
    limit = 7
    while values.size and limit < 63 and (longer := values >= (1 << limit)).any():
        lengths += longer
        limit += 7
    place = np.arange(lengths.max(initial=1))
    groups = ((values[:, None] >> (7 * place)) & 127).astype(np.uint8)
    groups |= (place < lengths[:, None] - 1).astype(np.uint8) << 7
    ends = np.concatenate([[0], np.cumsum(lengths)])[np.concatenate([[0], np.cumsum(counts)])]
    return groups[place < lengths[:, None]], np.diff(ends)


def fixed_segment(values: NDArray[np.generic], counts: NDArray[np.int64]) -> Segment:
    """Segment of flat little-endian values [sum(counts)], counts[i] of them in message i."""
    return np.ascontiguousarray(values).view(np.uint8).reshape(-1), counts * values.dtype.itemsize


def seal(body: bytes) -> bytes:
    """The body with its CRC32 behind it."""
    return body + zlib.crc32(body).to_bytes(4, "little")


def write_frames(heads: NDArray[np.uint8], segments: Sequence[Segment]) -> list[bytes]:
    """B messages: magic, heads[i], row i of every segment, CRC32."""
    columns = [[bytes((MAGIC, head)) for head in heads.tolist()]]
    for flat, lengths in segments:
        raw, ends = flat.tobytes(), np.cumsum(lengths).tolist()
        columns.append([raw[a:b] for a, b in zip([0, *ends], ends, strict=False)])
    return [seal(b"".join(parts)) for parts in zip(*columns, strict=True)]


def check_frame(body: bytes, kind: int, place: str) -> None:
    """WireError unless the body is a whole, unaltered message of this version and kind."""
    if len(body) < _SMALLEST:
        raise WireError(f"{place}: expected at least {_SMALLEST} bytes, found {len(body)}; {RESEND}")
    if body[0] != MAGIC:
        raise WireError(
            f"{place}: expected first byte 0x{MAGIC:02x} (version {MAGIC & 15}), found 0x{body[0]:02x}; "
            "install the same release on both sides, or discard bytes that are not ours"
        )
    found, stated = zlib.crc32(body[:-4]), int.from_bytes(body[-4:], "little")
    if found != stated:
        raise WireError(f"{place}: expected CRC32 {stated:08x}, found {found:08x}; {RESEND}")
    if body[1] & KIND != kind:
        raise WireError(f"{place}: expected kind {kind}, found {body[1] & KIND}; send it to the decoder of its kind")


@dataclass(slots=True)
class Reader:
    """Cursor over B framed messages at once; every read advances each row and refuses what is not there."""

    data: NDArray[np.uint8]
    stops: NDArray[np.int64]  # positions of bytes that end a varint
    at: NDArray[np.int64]  # [B]
    end: NDArray[np.int64]  # [B] where the CRC starts
    heads: NDArray[np.uint8]  # [B]

    def refuse(self, wrong: NDArray[np.bool_], field: str, expected: str, found: NDArray[np.generic]) -> None:
        """WireError about the first row marked in `wrong` [B], if any."""
        if wrong.any():
            row = int(np.argmax(wrong))
            raise WireError(
                f"message {row} of {wrong.size}, {field}: expected {expected}, found {found[row]}; {RESEND}"
            )

    def need(self, nbytes: NDArray[np.int64], field: str) -> None:
        """WireError if a row has fewer than nbytes [B] left; called before anything of that size is allocated."""
        left = self.end - self.at
        self.refuse(nbytes > left, field, f"up to {nbytes.max(initial=0)} more bytes", left)

    def check_count(self, counts: NDArray[np.int64], field: str, cap: int = COUNT_CAP) -> None:
        """WireError if a count [B] is beyond the cap, or if the padded batch [B, max count] is beyond CELL_CAP."""
        self.refuse(counts > cap, field, f"at most {cap}", counts)
        cells = counts.size * int(counts.max(initial=0))
        if cells > CELL_CAP:
            raise WireError(f"{field}: padding the batch needs {cells} cells, limit {CELL_CAP}; decode fewer at a time")

    def varints(self, counts: NDArray[np.int64], field: str) -> NDArray[np.int64]:
        """Flat int64 [sum(counts)] of counts[i] varints from row i."""
        self.need(counts, field)
        rows, cols = ragged(counts)
        order = np.minimum(np.searchsorted(self.stops, self.at)[rows] + cols, self.stops.size - 1)
        last = self.stops[order]
        starts = np.where(cols == 0, self.at[rows], np.concatenate([[0], last[:-1]])[: last.size] + 1)
        lengths = last - starts + 1
        self._refuse_varints(rows, last, lengths, field)
        ends = np.cumsum(counts)[counts > 0] - 1
        self.at[counts > 0] = last[ends] + 1
        values = np.zeros(rows.size, np.int64)
        for place in range(int(lengths.max(initial=0))):
            part = (self.data[starts + place] & 127).astype(np.int64) << (7 * place)
            values += np.where(place < lengths, part, 0)
        return values

    def _refuse_varints(
        self, rows: NDArray[np.int64], last: NDArray[np.int64], lengths: NDArray[np.int64], field: str
    ) -> None:
        for wrong, expected in (
            (last >= self.end[rows], "a varint that ends inside the message"),
            (lengths > 9, "a varint of at most 9 bytes"),
            ((lengths > 1) & (self.data[last] == 0), "a varint in its shortest form"),
        ):
            if wrong.any():
                row = int(rows[np.argmax(wrong)])
                length = int(lengths[np.argmax(wrong)])
                raise WireError(
                    f"message {row} of {self.at.size}, {field}: expected {expected}, found {length} bytes; {RESEND}"
                )

    def fixed(self, counts: NDArray[np.int64], dtype: DTypeLike, field: str) -> NDArray[np.generic]:
        """Flat array [sum(counts)] of counts[i] little-endian values from row i."""
        kind = np.dtype(dtype)
        self.need(counts * kind.itemsize, field)
        rows, cols = ragged(counts)
        starts = self.at[rows] + cols * kind.itemsize
        self.at += counts * kind.itemsize
        raw = self.data[starts[:, None] + np.arange(kind.itemsize)]
        flat: NDArray[np.generic] = raw.view(kind).reshape(-1).astype(kind.newbyteorder("="))
        return flat

    def close(self) -> None:
        """WireError if bytes are left over."""
        self.refuse(self.at != self.end, "end", "no trailing bytes", self.end - self.at)


def open_frames(bodies: Sequence[bytes], kind: int) -> Reader:
    """Reader behind the heads of B messages, all of one kind; WireError for the first that is not whole."""
    for index, body in enumerate(bodies):
        check_frame(body, kind, f"message {index} of {len(bodies)}")
    data = np.frombuffer(b"".join(bodies) + bytes(_TAIL), np.uint8)
    lengths = np.array([len(body) for body in bodies], np.int64)
    start = np.cumsum(lengths) - lengths
    return Reader(data, np.flatnonzero(data < 128), start + 2, start + lengths - 4, data[start + 1])


def open_heads(bodies: Sequence[bytes], kind: int, nbytes: int) -> tuple[Reader, NDArray[np.uint8]]:
    """Reader of what stands before the last `nbytes` of B messages of one kind, and those [B, nbytes]; CRC apart."""
    for index, body in enumerate(bodies):
        place = f"message {index} of {len(bodies)}"
        check_frame(body, kind, place)
        if len(body) < _SMALLEST + nbytes:
            raise WireError(f"{place}: expected {_SMALLEST + nbytes} bytes or more, found {len(body)}; {RESEND}")
    ends = [len(body) - 4 - nbytes for body in bodies]
    data = np.frombuffer(b"".join(b[:end] for b, end in zip(bodies, ends, strict=True)) + bytes(_TAIL), np.uint8)
    values = b"".join(body[end:-4] for body, end in zip(bodies, ends, strict=True))
    stop = np.cumsum(np.array(ends, np.int64))
    start = stop - np.array(ends, np.int64)
    reader = Reader(data, np.flatnonzero(data < 128), start + 2, stop, data[start + 1])
    return reader, np.frombuffer(values, np.uint8).reshape(len(bodies), nbytes)
