"""What several replays of the same steps share: the reranker's states, computed once per (device, step)."""

import numpy as np
from numpy.typing import NDArray

from device.incremental import ShowsState
from device.incremental_scorer import IncrementalScorer
from device.model import HasItemTable, HasState, Items, Scores
from device.scoring import SCORING_BATCH, ModelScorer, Rows, Scorer, batches

TOLERANCE = 1e-4
PORTION = 1024  # devices whose whole states are held at once
SLICE = 64  # rows whose candidates' embeddings are gathered at once: they fit into the processor's cache


class SharedScores:
    """A scorer that remembers the state of every (device, step) and the device's own candidates there.

    It serves models whose score is the product of their state and the candidate's row of their item table (SASRec,
    GRU4Rec); see `shared`. Equal to the model's own scores up to float32 rounding.

    Args:
        inner: asks the model.
        devices, steps: devices are 0..devices - 1, steps 0..steps.
        lived: [devices, steps + 1, d] states of devices that go on from their own, NaN where there is no step. Without
            them every state is read from the history.
    """

    def __init__(self, inner: ModelScorer, devices: int, steps: int, lived: Scores | None = None) -> None:
        self.inner, self.steps, self.goes_on = inner, steps + 1, lived is not None
        table = inner.item_table()
        assert table is not None
        self.table = np.ascontiguousarray(table, np.float32)
        shape = (devices * self.steps, self.table.shape[1])
        self.states = np.full(shape, np.nan, np.float32) if lived is None else lived.reshape(shape)
        self.found: dict[int, tuple[Items, Scores]] = {}

    def scores(self, device: Rows, step: Rows, history: Items, candidates: Items) -> Scores:
        """See Scorer."""
        states = self.state(device, step, history)
        out = np.empty(candidates.shape, np.float32)
        for start in range(0, len(out), SLICE):
            rows = slice(start, start + SLICE)
            listed = np.take(self.table, candidates[rows], axis=0, mode="clip")  # unchecked: lists were checked at once
            out[rows] = np.einsum("bd,bcd->bc", states[rows], listed)
        return out

    def own(self, device: Rows, step: Rows, history: Items, k: int) -> tuple[Items, Scores]:
        """See Scorer."""
        if k not in self.found:
            size = (len(self.states), k)
            self.found[k] = np.full(size, -1, np.int32), np.zeros(size, np.float32)
        items, scores = self.found[k]
        key = device * self.steps + step
        todo = np.flatnonzero(items[key, 0] < 0)
        if len(todo):
            ask = self._from_states if self.goes_on else self.inner.own
            items[key[todo]], scores[key[todo]] = ask(device[todo], step[todo], history[todo], k)
        return items[key], scores[key]

    def state(self, device: Rows, step: Rows, history: Items) -> Scores:
        """See Scorer."""
        key = device * self.steps + step
        todo = np.flatnonzero(np.isnan(self.states[key, 0]))
        if len(todo):
            self.states[key[todo]] = self.inner.state(device[todo], step[todo], history[todo])
        found: Scores = self.states[key]
        return found

    def _from_states(self, device: Rows, step: Rows, history: Items, k: int) -> tuple[Items, Scores]:
        states, listed = self.state(device, step, history), self.table[self.inner.resident].T
        return self.inner.best(history, k, lambda rows: states[rows] @ listed)


def shared(inner: ModelScorer, devices: int, steps: int, history: Items, *, going_on: Items | None = None) -> Scorer:
    """A SharedScores where a trial on some of `history` [B, L] shows that the model may have one; else `inner`.

    `going_on` [devices, steps]: what devices that begin with `history` take, where they go on from their states.
    """
    if not (isinstance(inner.model, HasState) and isinstance(inner.model, HasItemTable)) or not len(history):
        return inner
    made = SharedScores(inner, devices, steps)
    some = next(rows for rows, _ in batches(min(len(history), SCORING_BATCH)))
    pools = trial_pools(len(some), len(made.table) - 1)
    try:
        known = inner.scores(some, some * 0, history[some], pools)
        states = inner.state(some, some * 0, history[some])
    except ValueError:  # the model shows no state after all
        return inner
    product = (
        np.einsum("bd,bcd->bc", states, made.table[pools]) if states.shape[1] == made.table.shape[1] else known + 1
    )
    if not np.allclose(product, known, rtol=TOLERANCE, atol=TOLERANCE):
        return inner
    if going_on is None:
        return made
    if not isinstance(inner.model, ShowsState):
        return inner
    return SharedScores(inner, devices, steps, along(inner, history, going_on))


def along(inner: ModelScorer, histories: Items, items: Items) -> Scores:
    """[D, S + 1, d] what the states show of devices that begin with `histories` [D, L] and take `items` [D, S].

    0 among the items = no such step; what would follow it is NaN.
    """
    parts = []
    for first in range(0, len(histories), PORTION):
        known, taken = histories[first : first + PORTION].copy(), items[first : first + PORTION]
        who = np.arange(len(known))
        kept = IncrementalScorer(inner, who, known.shape[1])
        shown = [kept.state(who, who * 0, known)]
        for step, item in enumerate(taken.T, start=1):
            rows = np.flatnonzero(item)
            known[rows] = np.concatenate([known[rows, 1:], item[rows, None]], axis=1)
            shown.append(np.full_like(shown[0], np.nan))
            shown[-1][rows] = kept.state(rows, np.full(len(rows), step), known[rows])
        parts.append(np.stack(shown, axis=1))
    return np.concatenate(parts)


def trial_pools(rows: int, n_items: int) -> NDArray[np.int32]:
    """[rows, 8] items from all over the catalogue."""
    return np.broadcast_to(np.linspace(1, n_items, 8).astype(np.int32), (rows, 8))
