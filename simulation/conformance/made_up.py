"""Made-up devices and validation steps, on which the conformance kit tries policies."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device.model import Items, Scores
from device.policy import Experience, View
from device.seeds import rng

N_ITEMS, LENGTH, CANDIDATES, ROWS = 50, 10, 8, 16
WAVES, HORIZON = 6, 8
STATE = 4


@dataclass(frozen=True, slots=True)
class MadeUp:
    """What a made-up view shows on demand."""

    device_scores: Scores
    best: Items
    states: Scores

    def scores(self) -> Scores:
        """See device.policy.Look."""
        return self.device_scores

    def own(self) -> Items:
        """See device.policy.Look."""
        return self.best

    def state(self, history: Items, step: NDArray[np.int64]) -> Scores:
        """See device.policy.Look."""
        return (self.states + np.sin(step)[:, None]).astype(np.float32)

    def part(self, rows: slice) -> "MadeUp":
        """Of some devices."""
        return MadeUp(self.device_scores[rows], self.best[rows], self.states[rows])


def view(rows: int = ROWS, *, wave: int = 0, own: int = 3) -> View:
    """Devices 0 .. `rows` - 1 after one more interaction each `wave`; a new view with the same numbers at every call.

    `own`: how many resident items each device looks for; 0 = it looks for none.
    """
    numbers = rng(0, "conformance", wave)
    pool = np.stack([numbers.permutation(N_ITEMS)[:CANDIDATES] + 1 for _ in range(rows)]).astype(np.int32)
    pool[0, -1] = 0
    scores = numbers.normal(size=(rows, CANDIDATES)).astype(np.float32)
    best = np.stack([numbers.permutation(N_ITEMS)[:own] + 1 for _ in range(rows)]).astype(np.int32)
    count, pool_age = np.arange(rows), numbers.integers(1, 6, rows)
    return View(
        device=count,
        step=count + 1 + wave,
        at=(count + 60 * wave).astype(np.float64),
        pool_age=pool_age,
        since_request=numbers.integers(1, 4, rows),
        history=numbers.integers(1, N_ITEMS + 1, (rows, LENGTH)).astype(np.int32),
        asked_history=numbers.integers(1, N_ITEMS + 1, (rows, LENGTH)).astype(np.int32),
        candidates=pool,
        cloud_scores=-np.sort(-scores, axis=1),
        age=np.repeat(pool_age[:, None], CANDIDATES, axis=1),
        empty=numbers.integers(0, 2, rows),
        taken=numbers.integers(0, CANDIDATES + 1, rows),
        misses=numbers.integers(0, 4, rows),
        hit_rate=numbers.random(rows),
        idle_s=(count * 10).astype(np.float64),
        reply_age_s=(count * 100).astype(np.float64),
        tier=np.zeros(rows, np.int64),
        look=MadeUp(scores, best, numbers.normal(size=(rows, STATE)).astype(np.float32)),
    )


def rows_of(whole: View, rows: slice) -> View:
    """A made-up view of some of its devices."""
    assert isinstance(whole.look, MadeUp)
    arrays = {n: getattr(whole, n)[rows] for n in View.__dataclass_fields__ if n != "look"}
    return View(**arrays, look=whole.look.part(rows))


def experience(*, own: int = 3) -> Experience:
    """`WAVES` waves of `ROWS` devices and outcomes [WAVES * ROWS, HORIZON]; a new one at every call.

    NaN after a device's last step: some rows are NaN from the first step ahead, as in a real log.
    """
    views = [view(wave=wave, own=own) for wave in range(WAVES)]
    left = np.concatenate([WAVES - 1 - wave + seen.device % 3 for wave, seen in enumerate(views)])
    place = rng(0, "conformance", "outcomes").integers(1, 21, (3, len(left), HORIZON))
    gain = np.where(place <= 10, 1 / np.log2(place + 1), 0)
    kept, fresh, shown = np.where(np.arange(HORIZON) < left[:, None], gain, np.nan).astype(np.float32)
    return Experience(views, kept, fresh, shown)


def probes() -> tuple[Items, Items]:
    """(histories [B, L], candidates [B, C])."""
    numbers = rng(0, "conformance")
    histories = numbers.integers(1, N_ITEMS + 1, (ROWS, LENGTH)).astype(np.int32)
    for row, items in ((1, LENGTH // 2), (2, 1), (3, 0)):
        histories[row, : LENGTH - items] = 0
    return histories, np.stack([numbers.permutation(N_ITEMS)[:CANDIDATES] + 1 for _ in histories]).astype(np.int32)
