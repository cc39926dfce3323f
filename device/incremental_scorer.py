"""The reranker of devices that go on from where they were: all states as arrays, all devices in calls of 64 rows."""

import numpy as np
from numpy.typing import NDArray

from device.errors import ContractError
from device.incremental import AdvancesInPlace, Incremental, OnDemand, RanksFromState, ShowsState, State, state_bytes
from device.model import Items, Scores
from device.personal import Continued
from device.scoring import SCORING_BATCH, ModelScorer, Rows, Scorer, batches

ALIGNED = 64  # bytes


class IncrementalScorer:
    """A Scorer that keeps the states of D devices.

    Asked for step s + 1 after step s, it advances by the newest item; asked again it answers from what it has; asked
    for anything else (a new replay, a history that changed because item rows came or went), it starts from the history
    given. A state remembers more than the history it is shown, see Incremental: who compares runs starts all of them
    at the same step and leaves none out (`bring`).

    Args:
        inner: the model and its parameters; ContractError where the model is not Incremental.
        devices: [D] device numbers, ascending.
        length: items in a history, as it will be given.
    """

    def __init__(self, inner: ModelScorer, devices: Rows, length: int) -> None:
        if not isinstance(inner.model, Incremental):
            raise ContractError(
                f"device model {type(inner.model).__name__} keeps no state; give it start, advance and score_state, "
                "wrap its module in IncrementalTorch, or use ModelScorer"
            )
        self.inner, self.model, self.devices = inner, inner.model, devices
        self.step = np.full(len(devices), -1, np.int64)  # that the states belong to; -1 = none yet
        self.history = np.zeros((len(devices), length), np.int32)
        empty = self.model.start(inner.params, np.zeros((1, length), np.int32))
        self.held = {name: repeated(value[0], len(devices)) for name, value in empty.items()}
        scratch = {n: aligned((SCORING_BATCH, *value.shape[1:]), value.dtype) for n, value in empty.items()}
        self._scratch = scratch.__getitem__  # not an array, so no part of a snapshot
        width = self.model.shown(inner.params, empty).shape[1] if isinstance(self.model, ShowsState) else 0
        self.marked = np.zeros((len(devices), width), np.float32)  # what the state showed at step marked_step
        self.marked_step = np.full(len(devices), -1, np.int64)

    @property
    def device_bytes(self) -> int:
        """Bytes that one device keeps: its state, and what that showed when it asked last."""
        return state_bytes(self.held) + self.marked[:1].nbytes

    def bring(self, device: Rows, step: Rows, history: Items) -> Rows:
        """[B] places of the devices, whose states then are those after `history` [B, L]; a new one is marked."""
        place = np.searchsorted(self.devices, device)
        old = self.step[place]
        behind = np.flatnonzero((old != step) | (self.history[place] != history).any(1))
        if not len(behind):
            return place
        late, known = place[behind], history[behind]
        moved = (self.history[late, 1:] == known[:, :-1]).all(1) & (known[:, -1] != 0)
        follows = (old[behind] >= 0) & (old[behind] + 1 == step[behind]) & moved
        self._advance(late[follows], known[follows, -1])
        self._start(late[~follows], known[~follows])
        self.step[late], self.history[late] = step[behind], known
        self._mark(late[~follows])
        return place

    def mark(self, device: Rows, step: Rows, history: Items) -> None:
        """Keep what the states show at this step; `state` gives it for that step until they are marked again."""
        self._mark(self.bring(device, step, history))

    def scores(self, device: Rows, step: Rows, history: Items, candidates: Items) -> Scores:
        """See Scorer."""
        place = self.bring(device, step, history)
        return self.inner.scored(candidates, lambda rows: self._asked(place[rows], history[rows], candidates[rows]))

    def own(self, device: Rows, step: Rows, history: Items, k: int) -> tuple[Items, Scores]:
        """See Scorer."""
        place = self.bring(device, step, history)
        return self.inner.best(history, k, lambda rows: self._catalogue(place[rows], history[rows]))

    def state(self, device: Rows, step: Rows, history: Items) -> Scores:
        """See Scorer. Of a step gone by, what was marked there, or else what `history` alone gives; none is lost."""
        if not isinstance(self.model, ShowsState):
            return self.inner.state(device, step, history)
        place = np.searchsorted(self.devices, device)
        now = (self.step[place] < 0) | (self.step[place] <= step)
        marked = ~now & (self.marked_step[place] == step)
        found = self.marked[place]
        found[now] = self._shown(self.bring(device[now], step[now], history[now]))
        apart = ~now & ~marked
        if apart.any():
            found[apart] = self.inner.state(device[apart], step[apart], history[apart])
        return found

    def _start(self, place: Rows, history: Items) -> None:
        """Begin the states at `place` [b] with `history` [b, L]."""
        for rows, filled in batches(len(place)):
            state = self.model.start(self.inner.params, history[filled])
            for name, values in self.held.items():
                values[place[rows]] = state[name][: len(rows)]

    def _advance(self, place: Rows, item: NDArray[np.int32]) -> None:
        """Take the states at `place` [b] on by `item` [b]."""
        params, model = self.inner.params, self.model
        in_place = model if isinstance(model, AdvancesInPlace) else None
        for rows, filled in batches(len(place)):
            where, items = place[filled], item[filled]
            if in_place is not None:
                in_place.advance_at(params, self._of(where), items, self.held, where)
                continue
            state = model.advance(params, self._of(where), items)
            for name, values in self.held.items():
                values[where[: len(rows)]] = state[name][: len(rows)]

    def _mark(self, place: Rows) -> None:
        if self.marked.shape[1]:
            self.marked[place], self.marked_step[place] = self._shown(place), self.step[place]

    def _shown(self, place: Rows) -> Scores:
        """[b, d] what the states at `place` [b] show."""
        out = np.empty((len(place), self.marked.shape[1]), np.float32)
        assert isinstance(self.model, ShowsState)
        for rows, filled in batches(len(place)):
            out[rows] = self.model.shown(self.inner.params, self._of(place[filled]))[: len(rows)]
        return out

    def _of(self, place: Rows) -> State:
        """States at places [64], as copies that the next call overwrites; only what is looked at is copied.

        Rows that follow each other are shown where they lie, if memory could begin there (see `aligned`).
        """
        first, run = int(place[0]), follow(place)

        def look(name: str) -> NDArray[np.generic]:
            values = self.held[name]
            if run and (there := values[first : first + SCORING_BATCH]).ctypes.data % ALIGNED == 0:
                return there
            return np.take(values, place, axis=0, out=self._scratch(name), mode="clip")  # unchecked: places are ours

        return OnDemand(self.held, look)

    def _asked(self, place: Rows, history: Items, pool: Items) -> Scores:
        return self.inner.asked(lambda: self.model.score_state(self.inner.params, self._of(place), pool), history, pool)

    def _catalogue(self, place: Rows, history: Items) -> Scores:
        if isinstance(self.model, RanksFromState):
            return self.model.catalogue_state(self.inner.params, self._of(place))[:, self.inner.resident]
        pool = np.broadcast_to(self.inner.resident, (len(place), len(self.inner.resident)))
        return self._asked(place, history, np.ascontiguousarray(pool))


def incremental(scorer: Scorer, devices: Rows, length: int) -> IncrementalScorer | None:
    """What keeps the states of `devices` [D] with histories of `length` items; None beside a scorer that looks them up.

    Of a model that patches work in, the states are those of its body. ContractError where the model has none.
    """
    if not isinstance(scorer, ModelScorer):
        return None
    if isinstance(model := scorer.model, Continued):
        scorer = ModelScorer(model.body(), model.body_params(scorer.params))
    return IncrementalScorer(scorer, devices, length)


def follow(rows: Rows) -> bool:
    """Whether rows [64] are those from the first one on."""
    return bool(rows[-1] - rows[0] == SCORING_BATCH - 1 and (rows[1:] - rows[:-1] == 1).all())


def repeated(row: NDArray[np.generic], count: int) -> NDArray[np.generic]:
    """[count, ...] copies of `row`, in memory as `aligned` makes it."""
    made = aligned((count, *row.shape), row.dtype)
    made[:] = row
    return made


def aligned(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """Zeros that begin at a multiple of ALIGNED bytes, for the last bits of a matrix product can depend on that too."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.zeros(size + ALIGNED, np.uint8)
    first = -memory.ctypes.data % ALIGNED
    return memory[first : first + size].view(dtype).reshape(shape)
