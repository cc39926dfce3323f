"""A generator that errs as a language model does which writes item ids digit by digit: some of its ids do not exist.

An id is cut from its end into pieces, as LSC4Rec's released code does it (KDD 2025): the last two digits, the two
before them, and what is left in front. An error puts pieces of several ids of a list together.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cloud.generator import CandidateGenerator, Generated
from device.errors import ConfigError
from device.model import Items
from device.seeds import Draws

_HEAVY, _GARBLED, _DONORS, _RECOMBINED = 7101, 7102, 7103, 7104  # streams that no wrapped generator uses
Number = TypeVar("Number", bound=np.generic)
Pieces = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class DigitWriter:
    """Lists of `inner`, each id garbled with a small probability; ids that do not exist or repeat are dropped.

    So a list is shorter by its invalid generations: its empty places, beside those that `inner` left empty. A garbled
    id that exists stays in the list under the score of the right one, a plausible wrong answer. A list depends on its
    own request only.

    Of the garbled ids of a catalogue of 12,101 about a seventh are invalid. There, with 50 places, garbled = 0.0023,
    heavy_share = 0.00625 and heavy = 0.4 give about the released counts per 16 lists: one or more in a third, two or
    more in a tenth, three or more in a twentieth of the cases.

    Args:
        inner: what makes the right lists, at the cost that is charged.
        n_items: catalogue size; ids above it are invalid.
        garbled: probability that an id of an ordinary request is garbled.
        heavy_share: share of requests, drawn per request, whose ids are garbled with probability `heavy` instead.
    """

    inner: CandidateGenerator
    n_items: int
    garbled: float = 0.01
    heavy_share: float = 0.0
    heavy: float = 0.5

    def __post_init__(self) -> None:
        for name in ("garbled", "heavy_share", "heavy"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"DigitWriter: {name} = {getattr(self, name)}; expected a probability")

    def generate(self, histories: Items, k: int, *, rng: Draws) -> Generated:
        """Lists for `histories` [B, L], each as long as it has valid ids, then item 0 and score 0."""
        made = self.inner.generate(histories, k, rng=rng)
        width = made.items.shape[1]
        chance = np.where(rng.uniform(stream=_HEAVY) < self.heavy_share, self.heavy, self.garbled)
        wrong = (rng.uniform(width, stream=_GARBLED) < chance) & (made.items > 0)
        written = np.where(wrong, garble(made.items, rng), made.items.astype(np.int64))
        valid = (written >= 1) & (written <= self.n_items) & ~repeats(written)
        items, scores = compact(valid, written.astype(np.int32)), compact(valid, made.scores)
        return Generated(items, scores, made.flops, made.seconds)


def garble(items: Items, rng: Draws) -> NDArray[np.int64]:
    """[B, k] another id for each place: front, middle and end of three ids drawn from the row's own (with repeats)."""
    rows, width = items.shape
    filled = (items > 0).sum(1)[:, None, None]
    place = np.floor(rng.uniform(3 * width, stream=_DONORS).reshape(rows, 3, width) * filled).astype(np.int64)
    by_place = compact(items > 0, items)  # donors are real ids, wherever the empty places are
    front, middle, end = (np.take_along_axis(by_place, place[:, part], axis=1) for part in range(3))
    return joined(cut(front)[0], cut(middle)[1], cut(end)[2])


def cut(ids: NDArray[np.integer]) -> tuple[NDArray[np.int64], Pieces, Pieces]:
    """(front, (middle, its digits), (end, its digits)), each of the shape of `ids`; a missing piece has 0 digits."""
    whole = ids.astype(np.int64)
    digits = np.searchsorted(10 ** np.arange(11), whole, side="right")
    middle, end = whole // 100 % 100, whole % 100
    return whole // 10_000, (middle, np.clip(digits - 2, 0, 2)), (end, np.clip(digits, 0, 2))


def joined(front: NDArray[np.int64], middle: Pieces, end: Pieces) -> NDArray[np.int64]:
    """The number that the pieces spell one after the other; shapes broadcast."""
    spelled: NDArray[np.int64] = (front * 10 ** middle[1] + middle[0]) * 10 ** end[1] + end[0]
    return spelled


def recombined(items: Items, count: int, rng: Draws, *, n_items: int | None = None) -> NDArray[np.int64]:
    """[B, count] ids from all combinations of the pieces of `items` [B, k], in random order, 0-padded.

    Front pieces are those of the row and none; middle and end pieces those of the row, each distinct piece once, so a
    row of ids below 100 has no combination. `n_items` leaves out ids that do not exist (else there may be any); the
    same id may come several times, spelled in different ways.
    """
    front, middle, end = cut(np.concatenate([np.zeros((len(items), 1), items.dtype), items], axis=1))
    parts = (
        (front, np.concatenate([np.ones((len(items), 1), np.bool_), front[:, 1:] > 0], axis=1)),
        (middle[0] + 100 * middle[1], middle[1] > 0),
        (end[0] + 100 * end[1], end[1] > 0),
    )
    first, second, third = (real & ~repeats(np.where(real, code, -1)) for code, real in parts)
    usable = (first[:, :, None, None] & second[:, None, :, None] & third[:, None, None, :]).reshape(len(items), -1)
    spelled = joined(
        front[:, :, None, None],
        (middle[0][:, None, :, None], middle[1][:, None, :, None]),
        (end[0][:, None, None, :], end[1][:, None, None, :]),
    ).reshape(len(items), -1)
    if n_items is not None:
        usable &= (spelled >= 1) & (spelled <= n_items)
    return _some(spelled, usable, count, rng)


def _some(values: NDArray[np.int64], usable: NDArray[np.bool_], count: int, rng: Draws) -> NDArray[np.int64]:
    """[B, count] usable values in random order, 0 where there are no more."""
    lottery = np.where(usable, rng.uniform(values.shape[1], stream=_RECOMBINED), 2.0)
    best = np.argpartition(lottery, min(count, lottery.shape[1]) - 1, axis=1)[:, :count]
    order = np.take_along_axis(best, np.argsort(np.take_along_axis(lottery, best, axis=1), axis=1), axis=1)
    kept = np.where(np.take_along_axis(usable, order, axis=1), np.take_along_axis(values, order, axis=1), 0)
    return np.pad(kept, ((0, 0), (0, count - kept.shape[1])))


def repeats(values: NDArray[np.integer]) -> NDArray[np.bool_]:
    """[B, k] True where a value has stood further left in its row."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    again = np.zeros(values.shape, np.bool_)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    return again


def compact(keep: NDArray[np.bool_], values: NDArray[Number]) -> NDArray[Number]:
    """Values [B, k] with the kept ones moved to the left in their order, then zeros."""
    order = np.argsort(~keep, axis=1, kind="stable")
    return np.take_along_axis(np.where(keep, values, np.zeros((), values.dtype)), order, axis=1)
