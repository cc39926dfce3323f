"""How the columns of a message are written: ids as varints or int32, scores as float16, int8 codes or not at all."""

from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from device.errors import WireError
from device.frame import Reader, Segment, fixed_segment, ragged, varint_segment

INT32_IDS = 8
_ID_LIMIT = 2**31 - 1
_F32_MAX = float(np.finfo(np.float32).max)
ScoreCodec = Literal["none", "float16", "int8"]
_SCORES = get_args(ScoreCodec)
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Codec:
    """How ids and scores are written; `none` sends no scores and the receiver takes 1 - r/n for 0-based rank r."""

    ids: Literal["varint", "int32"] = "varint"
    scores: ScoreCodec = "float16"

    def __post_init__(self) -> None:
        for name, legal in (("ids", ("varint", "int32")), ("scores", _SCORES)):
            if getattr(self, name) not in legal:
                raise WireError(f"codec.{name}: expected one of {', '.join(legal)}, found {getattr(self, name)!r}")

    @property
    def flags(self) -> int:
        """Flag bits of the head byte."""
        return (INT32_IDS if self.ids == "int32" else 0) | _SCORES.index(self.scores) << 4


def write_ids(ids: NDArray[np.int32], counts: Ints, codec: Codec) -> Segment:
    """Segment of the non-zero ids [B, N], counts[i] of them in message i."""
    flat = ids[ids != 0]
    return (
        fixed_segment(flat.astype("<i4"), counts)
        if codec.ids == "int32"
        else varint_segment(flat.astype(np.int64), counts)
    )


def write_scores(scores: NDArray[np.float32], listed: NDArray[np.bool_], codec: Codec) -> list[Segment]:
    """Segments of the listed scores [B, C]; WireError where the codec cannot hold them."""
    counts = listed.sum(axis=1)
    if codec.scores == "float16":
        with np.errstate(over="ignore"):
            halves = scores[listed].astype("<f2")
        if not np.isfinite(halves).all():
            raise WireError(f"encoding scores: {scores.max()} is beyond float16's 65504; use scores = 'int8' or 'none'")
        return [fixed_segment(halves, counts)]
    if codec.scores == "int8":
        return _quantised(scores.astype(np.float64), listed, counts)
    pairs = listed[:, 1:] & (scores[:, 1:] > scores[:, :-1])
    if pairs.any():
        raise WireError(f"encoding scores of row {pairs.any(axis=1).argmax()}: 'none' sends the order; sort descending")
    return []


def _quantised(scores: NDArray[np.float64], listed: NDArray[np.bool_], counts: Ints) -> list[Segment]:
    some = counts > 0
    low = np.where(listed, scores, np.inf).min(axis=1, initial=np.inf)[some]
    high = np.where(listed, scores, -np.inf).max(axis=1, initial=-np.inf)[some]
    steps = np.stack([(high - low) / 255, low], axis=1).astype("<f4")
    scale, offset = np.repeat(steps.astype(np.float64), counts[some], axis=0).T
    codes = np.rint((scores[listed] - offset) / np.where(scale > 0, scale, 1)).clip(0, 255).astype(np.uint8)
    return [fixed_segment(steps.reshape(-1), 2 * some.astype(np.int64)), fixed_segment(codes, counts)]


def read_ids(reader: Reader, counts: Ints, field: str) -> NDArray[np.int32]:
    """Flat int32 [sum(counts)] of ids 1..2^31-1, written as each row's flag says."""
    wide = (reader.heads & INT32_IDS) != 0
    reader.need(np.where(wide, 4 * counts, counts), field)
    rows, _ = ragged(counts)
    flat = np.zeros(rows.size, np.int64)
    flat[~wide[rows]] = reader.varints(counts * ~wide, field)
    flat[wide[rows]] = reader.fixed(counts * wide, "<i4", field)
    legal = (flat > 0) & (flat <= _ID_LIMIT)
    if not legal.all():
        row, found = rows[np.argmin(legal)], flat[np.argmin(legal)]
        raise WireError(f"message {row}, {field}: expected ids 1..{_ID_LIMIT}, found {found}; discard it and ask again")
    return flat.astype(np.int32)


def read_finite(reader: Reader, counts: Ints, field: str) -> NDArray[np.float32]:
    """Flat float32 [sum(counts)] of finite numbers."""
    values = cast(NDArray[np.float32], reader.fixed(counts, "<f4", field))
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(ragged(counts)[0][np.argmax(bad)])
        raise WireError(f"message {row}, {field}: expected finite numbers, found {values[bad][0]}; correct the sender")
    return values


def read_scores(reader: Reader, counts: Ints) -> NDArray[np.float32]:
    """Flat float32 [sum(counts)] of finite scores, written as each row's flags say."""
    codes = (reader.heads >> 4) & 3
    reader.refuse(codes >= len(_SCORES), "score codec", f"0..{len(_SCORES) - 1}", codes)
    rows, ranks = ragged(counts)
    flat = (1 - ranks / counts[rows]).astype(np.float32)
    halves = reader.fixed(counts * (codes == 1), "<f2", "scores")
    flat[(codes == 1)[rows]] = halves
    quantised = counts * (codes == 2)
    steps = read_finite(reader, 2 * (quantised > 0).astype(np.int64), "score scale, offset").astype(np.float64)
    scale, offset = np.repeat(steps.reshape(-1, 2), quantised[quantised > 0], axis=0).T
    levels = reader.fixed(quantised, np.uint8, "scores").astype(np.float64) * scale + offset
    flat[(codes == 2)[rows]] = levels.clip(-_F32_MAX, _F32_MAX)
    finite = np.isfinite(flat)
    if not finite.all():
        row = rows[np.argmin(finite)]
        raise WireError(f"message {row}, scores: expected finite numbers, found {flat[~finite][0]}; correct the sender")
    return flat
