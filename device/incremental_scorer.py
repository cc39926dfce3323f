"""The reranker of devices that go on from where they were: all states as arrays, all devices in calls of 64 rows."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from device.errors import ContractError
from device.incremental import Incremental, OnDemand, RanksFromState, ShowsState, State
from device.model import Items, Scores
from device.scoring import SCORING_BATCH, ModelScorer, Rows, Scorer, batches


class IncrementalScorer:
    """A Scorer that keeps the states of D devices.

    Asked for step s + 1 after step s, it advances by the newest item; asked again it answers from what it has; asked
    for anything else (a new replay, a history that changed because item rows came or went), it starts from the history
    given. A state remembers more than the history it is shown, see Incremental: who compares runs starts all of them
    at the same step.

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
        empty = self.model.start(inner.params, self.history[:1] if len(devices) else np.zeros((1, length), np.int32))
        self.held = {name: np.repeat(value[:1], len(devices), axis=0) for name, value in empty.items()}
        self._copy = copier(empty)

    def scores(self, device: Rows, step: Rows, history: Items, candidates: Items) -> Scores:
        """See Scorer."""
        place = self._brought(device, step, history)
        return self.inner.scored(candidates, lambda rows: self._asked(place[rows], history[rows], candidates[rows]))

    def own(self, device: Rows, step: Rows, history: Items, k: int) -> tuple[Items, Scores]:
        """See Scorer."""
        place = self._brought(device, step, history)
        return self.inner.best(history, k, lambda rows: self._catalogue(place[rows], history[rows]))

    def state(self, device: Rows, step: Rows, history: Items) -> Scores:
        """See Scorer. An older history, as that of the last request, is read from its beginning; no state is lost."""
        if not isinstance(self.model, ShowsState):
            return self.inner.state(device, step, history)
        place = np.searchsorted(self.devices, device)
        aside = (self.step[place] >= 0) & ~self._same(place, step, history) & ~self._next(place, step, history)
        kept = self._brought(device[~aside], step[~aside], history[~aside])
        parts = [
            self.model.shown(self.inner.params, self._of(kept[filled]))[: len(rows)]
            for rows, filled in batches(len(kept))
        ]
        if not aside.any():
            return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
        apart = self.inner.state(device[aside], step[aside], history[aside])
        found = np.empty((len(device), apart.shape[1]), np.float32)
        found[aside] = apart
        if parts:
            found[~aside] = np.concatenate(parts)
        return found

    def _brought(self, device: Rows, step: Rows, history: Items) -> Rows:
        """[B] places of the devices, whose states then are those after `history` [B, L]."""
        place = np.searchsorted(self.devices, device)
        follows = self._next(place, step, history)
        params, newest = self.inner.params, history[:, -1]
        self._write(place, follows, lambda rows: self.model.advance(params, self._of(place[rows]), newest[rows]))
        others = ~follows & ~self._same(place, step, history)
        self._write(place, others, lambda rows: self.model.start(params, history[rows]))
        changed = follows | others
        self.step[place[changed]], self.history[place[changed]] = step[changed], history[changed]
        return place

    def _same(self, place: Rows, step: Rows, history: Items) -> NDArray[np.bool_]:
        same: NDArray[np.bool_] = (self.step[place] == step) & (self.history[place] == history).all(1)
        return same

    def _next(self, place: Rows, step: Rows, history: Items) -> NDArray[np.bool_]:
        """[B] True where `history` is the one known and one more item."""
        moved = (self.history[place, 1:] == history[:, :-1]).all(1) & (history[:, -1] != 0)
        follows: NDArray[np.bool_] = (self.step[place] >= 0) & (self.step[place] + 1 == step) & moved
        return follows

    def _write(self, place: Rows, todo: NDArray[np.bool_], made: Callable[[Rows], State]) -> None:
        """Put the states that `made(rows)` makes of rows of the call into their places, where `todo` [B]."""
        wanted = np.flatnonzero(todo)
        for rows, filled in batches(len(wanted)):
            state = made(wanted[filled])
            for name, values in self.held.items():
                values[place[wanted[rows]]] = state[name][: len(rows)]

    def _of(self, place: Rows) -> State:
        """States at places [64], as copies that the next call overwrites; only what is looked at is copied."""
        return OnDemand(self.held, lambda name: self._copy(name, self.held[name], place))

    def _asked(self, place: Rows, history: Items, pool: Items) -> Scores:
        return self.inner.asked(lambda: self.model.score_state(self.inner.params, self._of(place), pool), history, pool)

    def _catalogue(self, place: Rows, history: Items) -> Scores:
        if isinstance(self.model, RanksFromState):
            return self.model.catalogue_state(self.inner.params, self._of(place))[:, self.inner.resident]
        pool = np.broadcast_to(self.inner.resident, (len(place), len(self.inner.resident)))
        return self._asked(place, history, np.ascontiguousarray(pool))


def incremental(scorer: Scorer, devices: Rows, length: int) -> IncrementalScorer | None:
    """What keeps the states of `devices` [D] with histories of `length` items; None where the model has none."""
    if isinstance(scorer, ModelScorer) and isinstance(scorer.model, Incremental):
        return IncrementalScorer(scorer, devices, length)
    return None


def copier(like: State) -> Callable[[str, NDArray[np.generic], Rows], NDArray[np.generic]]:
    """copy(name, values, rows [64]): those rows of `values`, in memory that is kept from call to call."""
    kept = {name: aligned((SCORING_BATCH, *value.shape[1:]), value.dtype) for name, value in like.items()}

    def copy(name: str, values: NDArray[np.generic], rows: Rows) -> NDArray[np.generic]:
        return np.take(values, rows, axis=0, out=kept[name], mode="clip")  # unchecked: rows come from places

    return copy


def aligned(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """Zeros that begin at a multiple of 64 bytes, for the last bits of a matrix product can depend on that too."""
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.zeros(size + 64, np.uint8)
    first = -memory.ctypes.data % 64
    return memory[first : first + size].view(dtype).reshape(shape)
