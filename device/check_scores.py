"""What the conformance kit asks of a device model's scores, one question after the other."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device.errors import ContractError
from device.model import DeviceModel, Items, Parameters, Scores
from device.seeds import rng

TOLERANCE = 1e-5  # absolute and relative; float32 sums taken in another order differ by less
REVERSED = 3.0  # times that the oldest item may sway scores as much as the newest, before a model reads backwards
TRIED = 8  # items put in the newest and the oldest item's place


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found and, where it failed, the cure."""

    name: str
    ok: bool
    message: str


class Failed(Exception):
    """What a check found and the cure."""


def attempt(name: str, check: Callable[[], str], contract: str = "the contract's arrays") -> Finding:
    """What `check` says, or the reason why it raised."""
    try:
        return Finding(name, True, check())
    except (Failed, ContractError) as failed:  # both name the cure themselves
        return Finding(name, False, str(failed))
    except Exception as error:  # whatever the model raises is a finding
        text = f"raised {type(error).__name__}: {error}; {contract} must pass without an exception"
        if isinstance(error, IndexError):
            text += " (ids are 0..n_items, so a table has n_items + 1 rows; arrays may have B = 1, C = 1 and 0 items)"
        return Finding(name, False, text)


@dataclass(frozen=True, slots=True)
class Probe:
    """A model, its parameters and a batch of five: full, half, one item, none, full histories."""

    model: DeviceModel
    params: Parameters
    history: Items
    candidates: Items
    untouched: tuple[Parameters, Items, Items]  # copies of the three above from before the first call

    @classmethod
    def of(cls, model: DeviceModel, params: Parameters, sizes: tuple[int, int, int], seed: int = 0) -> "Probe":
        """With random histories and distinct candidates; `sizes` are (items, length, candidates)."""
        n_items, length, candidates = sizes
        draw = rng(seed, "check")
        history = draw.integers(1, n_items + 1, (5, length), dtype=np.int32)
        history[4, 0] = n_items
        for row, items in ((1, length // 2), (2, 1), (3, 0)):
            history[row, : length - items] = 0
        pool = np.stack([draw.permutation(n_items)[:candidates] + 1 for _ in history]).astype(np.int32)
        if n_items not in pool[0]:
            pool[0, 0] = n_items
        copies = ({name: array.copy() for name, array in params.items()}, history.copy(), pool.copy())
        return cls(model, params, history, pool, copies)

    def score(self, history: Items | None = None, candidates: Items | None = None) -> Scores:
        """Scores of the batch, or of other arrays, as the contract delivers them: int32 and contiguous."""
        history = self.history if history is None else history
        candidates = self.candidates if candidates is None else candidates
        return self.model.score(self.params, np.ascontiguousarray(history), np.ascontiguousarray(candidates))


def check_scores(scores: object, candidates: Items) -> None:
    """Raise Failed unless `scores` are finite float32 [B, C] for `candidates` [B, C]."""
    if not isinstance(scores, np.ndarray):
        raise Failed(f"returned {type(scores).__name__}; return a numpy array, float32 [B, C]")
    if scores.shape != candidates.shape:
        raise Failed(
            f"shape {scores.shape} for candidates {candidates.shape}; return one score per candidate, [B, C], and do "
            "not squeeze sizes of 1"
        )
    if scores.dtype != np.float32:
        raise Failed(f"dtype {scores.dtype}; return float32, with scores.astype(np.float32)")
    if not np.isfinite(scores).all():
        rows = np.flatnonzero(~np.isfinite(scores).all(1)).tolist()
        hint = " (row 3 has an empty history: do not divide by its length)" if 3 in rows else ""
        raise Failed(f"NaN or infinity in rows {rows}{hint}; keep all scores finite")


def _score(probe: Probe) -> str:
    scores = probe.score()
    check_scores(scores, probe.candidates)
    check_scores(probe.score(probe.history[:1], probe.candidates[:1, :1]), probe.candidates[:1, :1])
    return "float32 [B, C], finite, also for an empty history and for B = C = 1"


def _arguments(probe: Probe) -> str:
    params, history, candidates = probe.untouched
    if wrong := different(params, probe.params):
        raise Failed(f"score changed params ({wrong}), which devices share; copy an array before writing to it")
    if not (np.array_equal(history, probe.history) and np.array_equal(candidates, probe.candidates)):
        raise Failed("score changed history or candidates; copy an array before writing to it")
    return "params, history and candidates are left as they are"


def _repeated(probe: Probe) -> str:
    first = probe.score()
    kept = first.copy()
    probe.score(probe.history[::-1], probe.candidates[::-1])
    if not np.array_equal(first, kept):
        raise Failed("a later call changed the scores of an earlier one; return a new array, not one the model keeps")
    if not np.array_equal(probe.score(), kept):
        raise Failed("the same call gave other scores; take out dropout and unseeded randomness, keep no state")
    return "the same call gives the same scores"


def _batch(probe: Probe) -> str:
    rows = [probe.score(probe.history[i : i + 1], probe.candidates[i : i + 1]) for i in range(len(probe.history))]
    close(
        probe.score(),
        np.concatenate(rows),
        "a row scores differently alone than in a batch; use no statistics over the batch (batch norm in eval mode)",
    )
    return "a batch of B equals B batches of one"


def _longer_padding(probe: Probe) -> str:
    longer = np.pad(probe.history, ((0, 0), (5, 0)))
    close(
        probe.score(longer),
        probe.score(),
        "five more zeros on the left changed scores; mask id 0 and count positions from the newest item",
    )
    return "more padding changes nothing"


def _no_padding(probe: Probe) -> str:
    half = probe.history[1:2]
    close(
        probe.score(half[half != 0][None], probe.candidates[1:2]),
        probe.score(half, probe.candidates[1:2]),
        "a history scores differently without its padding; do not treat id 0 as an item, and divide by the number of "
        "items instead of L",
    )
    return "padding is not treated as an item"


def _candidate_order(probe: Probe) -> str:
    back = np.arange(probe.candidates.shape[1])[::-1]
    close(
        probe.score(candidates=probe.candidates[:, back]),
        probe.score()[:, back],
        "a candidate's score depends on its place in the list; score each candidate by its id and the history only",
    )
    return "permuted candidates give permuted scores"


def _empty_slots(probe: Probe) -> str:
    """A pool that is not full ends in zeros, whose scores nobody looks at."""
    short = probe.candidates.copy()
    short[:, short.shape[1] // 2 :] = 0
    some = short.shape[1] // 2
    close(
        probe.score(candidates=short)[:, :some],
        probe.score()[:, :some],
        "empty slots (id 0) beside them changed the candidates' scores; compute no statistics over the list",
    )
    return "empty slots of a pool change nothing"


def _history_order(probe: Probe) -> str:
    """Which item sways scores more, the newest or the oldest; a model that looks at neither, or at no order, is right.

    Scores of an untrained model say so too, for what a model begins with is closest to its newest item.
    """
    full = probe.history[[0, 4]]
    newest, oldest = sway(probe, full, -1), sway(probe, full, 0)
    if oldest > REVERSED * newest and oldest > TOLERANCE:
        times = f"{oldest / newest:.0f} times as much as" if newest > 0 else "and not"
        raise Failed(
            f"the oldest item of a history sways scores, {times} the newest; ids are oldest first, so the newest is "
            "history[:, -1]: read from there, and do not reverse"
        )
    pool = probe.candidates[[0, 4]]
    alike = np.allclose(probe.score(full[:, ::-1], pool), probe.score(full, pool), rtol=TOLERANCE, atol=TOLERANCE)
    if not alike:
        return "the order of the history matters"
    if max(newest, oldest) <= TOLERANCE:
        return "scores do not change with the history; if they should, see what weights it starts with, or fit it first"
    return "the order of the history does not matter; if it should, weigh items by their distance from history[:, -1]"


def sway(probe: Probe, full: Items, column: int) -> float:
    """Mean change of scores when another item stands in one column of full histories [2, L]."""
    pool = probe.candidates[[0, 4]]
    before, changes = probe.score(full, pool), []
    for item in np.unique(probe.history[[0, 4]])[:TRIED]:
        other = full.copy()
        other[:, column] = item
        changes.append(np.abs(probe.score(other, pool) - before).mean())
    return float(np.mean(changes))


CHECKS: tuple[tuple[str, Callable[[Probe], str]], ...] = (
    ("score", _score),
    ("arguments", _arguments),
    ("repeated calls", _repeated),
    ("batch", _batch),
    ("longer padding", _longer_padding),
    ("no padding", _no_padding),
    ("candidate order", _candidate_order),
    ("empty slots", _empty_slots),
    ("history order", _history_order),
)


def close(got: Scores, expected: Scores, cure: str, *, what: str = "scores") -> None:
    """Raise Failed with the rows that differ by more than rounding."""
    if got.shape != expected.shape:
        raise Failed(f"{what} are {got.shape} instead of {expected.shape}: {cure}")
    rows = np.flatnonzero(~np.isclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE).all(axis=1)).tolist()
    if rows:
        empty = " (row 3 has an empty history)" if 3 in rows else ""
        where = f" of rows {rows}{empty}" if len(got) > 1 else ""
        raise Failed(f"{what}{where} differ by up to {np.abs(got - expected).max():.2g}: {cure}")


def different(a: Parameters, b: Parameters) -> str:
    """Names of arrays that are not the same to the last bit; "" = all are."""
    names = sorted(name for name in a.keys() | b.keys() if name not in a or name not in b or not same(a[name], b[name]))
    return ", ".join(names)


def same(a: NDArray[np.generic], b: NDArray[np.generic]) -> bool:
    """Whether two arrays are the same in type, shape and every bit."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
