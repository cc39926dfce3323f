"""What the conformance kit asks of a device model that takes parameters of a device's own."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device.check_scores import TOLERANCE, Finding
from device.errors import TandemError
from device.model import Items, Parameters, Scores
from device.personal import Part, Patches, Personalized
from device.seeds import rng
from simulation.conformance.made_up import LENGTH, ROWS
from simulation.conformance.policies import altered, finding, named, unchanged

HALF = LENGTH // 2


@dataclass(frozen=True, slots=True)
class Half:
    """The device half of a method, and what it is tried on: histories that are full, half, one item and empty."""

    model: Personalized
    params: Parameters
    histories: Items
    candidates: Items

    def score(self, patches: Patches, rows: slice = slice(None), first: int = 0) -> Scores:
        """Scores of some rows, of their histories from column `first` on."""
        own = {name: values[rows] for name, values in patches.items()}
        known, pool = self.histories[rows, first:], self.candidates[rows]
        return self.model.score_personal(self.params, own, np.ascontiguousarray(known), np.ascontiguousarray(pool))

    def drawn(self) -> dict[str, NDArray[np.generic]]:
        """Random patches; the same at every call."""
        return {name: random_part(name, part) for name, part in self.model.layout.items()}


def scored(half: Half) -> list[Finding]:
    """All findings on a device half; one that says so where it raises."""
    return guarded("scores", lambda: scores(half))


def guarded(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """What `check` finds, or the reason why it raised."""
    try:
        return check()
    except TandemError as error:
        return [Finding(name, False, str(error))]
    except Exception as error:
        cure = "the contract's arrays, empty histories among them, must pass without an exception"
        return [Finding(name, False, f"raised {named(error)}; {cure}")]


def scores(half: Half) -> list[Finding]:
    """What the device half makes of random patches, and of the one that stands for none."""
    none = {name: np.repeat(value[None], ROWS, axis=0) for name, value in half.model.unpatched().items()}
    drawn = half.drawn()
    given = {**half.params, **drawn, "history": half.histories, "candidates": half.candidates}
    before = {name: array.copy() for name, array in given.items()}
    got, again = half.score(drawn), half.score(drawn)
    spoilt = altered(before, given)
    if got.shape != half.candidates.shape or got.dtype != np.float32 or not np.isfinite(got).all():
        wrong = f"score_personal returned {got.dtype} {got.shape}, or NaN; return finite float32 [B, C]"
        return [Finding("scores", False, wrong)]
    plain = half.model.score(half.params, half.histories, half.candidates)
    idle = [name for name in drawn if not np.any(np.abs(half.score({**drawn, name: none[name]}) - got) > 0)]
    return [
        Finding("scores", True, "float32 [B, C], finite"),
        unchanged("arguments", spoilt, "score_personal"),
        finding(
            "repeated scores", np.array_equal(got, again), "same", "two calls differ; take dropout out of eval mode"
        ),
        compared(
            "unpatched",
            (half.score(none), plain),
            "the patch that stands for none scores as the shared model",
            "the patch that stands for none does not score as the shared model; give the device half unpatched() -> "
            "{name: tensor} with what does (ones for a factor, zeros for a term)",
        ),
        finding(
            "effect", not idle, "every part changes scores", f"{', '.join(idle)} changes no score; use it, or drop it"
        ),
        *separate(half, drawn, got),
    ]


def separate(half: Half, drawn: Patches, got: Scores) -> list[Finding]:
    """Whether the scores `got` of a batch under patches `drawn` depend on the other devices, or on padding."""
    single = np.concatenate([half.score(drawn, slice(row, row + 1)) for row in range(ROWS)])
    short = half.score(drawn, slice(1, 2), LENGTH - HALF)
    return [
        compared(
            "single devices",
            (single, got),
            "a batch of devices equals single devices",
            "a device scores differently alone than in a batch; apply row b of every part to row b only (bmm, einsum)",
        ),
        compared(
            "padded scores",
            (short, got[1:2]),
            "padding is not treated as an item",
            "a history scores differently without its padding; mask id 0, count positions from the newest item",
        ),
    ]


def random_part(name: str, part: Part) -> NDArray[np.generic]:
    """[B, *shape] of small numbers, or coins."""
    values = rng(0, "conformance", name).normal(0, 0.5, (ROWS, *part.shape))
    made: NDArray[np.generic] = values > 0 if part.kind == "bool" else (values * (8 if part.kind == "int8" else 1))
    return made.astype(part.kind)


def close(name: str, pair: tuple[Patches, Patches], good: str, bad: str) -> Finding:
    """Whether two batches of patches are the same up to rounding."""
    one, two = pair
    off = [n for n in one if not np.allclose(one[n].astype("f8"), two[n].astype("f8"), rtol=TOLERANCE, atol=TOLERANCE)]
    return finding(name, not off, good, f"{', '.join(off)}: {bad}")


def compared(name: str, pair: tuple[Scores, Scores], good: str, bad: str) -> Finding:
    """Whether two batches of scores are the same up to rounding."""
    return close(name, ({"scores": pair[0]}, {"scores": pair[1]}), good, bad)
