"""The reranker of devices that hold parameters of their own: all patches as arrays, all devices in calls of 64 rows."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from device.errors import ContractError
from device.incremental_scorer import IncrementalScorer
from device.model import Items, Scores
from device.personal import Continued, Headed, Part, Patches, Personalized
from device.personal_codec import decode_personal, split
from device.scoring import ModelScorer, Rows, Scorer, batches

COLUMNS = 1024
"""Items that are scored at once where a device looks through its resident catalogue."""
States: TypeAlias = Callable[[Rows, Rows, Items], Scores]
"""(device, step, history) -> states [B, d] of the body, as `Scorer.state`."""


class PersonalScorer:
    """A Scorer for D devices with a patch each, which it keeps.

    A patch waits, as a list does, until it is usable. Until the first is, a device scores as the shared model. Of a
    Headed model the body is asked once per history, however many lists, patches and own candidates follow.

    Args:
        inner: the shared model, which answers for the state: one state then means the same under every patch.
        model: that model, as what takes patches.
        devices: [D] device numbers, ascending.
        states: what answers for the body of a Headed model, as an IncrementalScorer of the body alone, and where the
            model is Continued also for `state`; None = `Bodies`.
    """

    def __init__(self, inner: ModelScorer, model: Personalized, devices: Rows, *, states: States | None = None) -> None:
        self.inner, self.model, self.devices = inner, model, devices
        self.headed = model if isinstance(model, Headed) else None
        self.states = (states or Bodies(inner, self.headed, devices)) if self.headed else stateless
        self.continued = model if states is not None and isinstance(model, Continued) else None
        self.layout = dict(model.layout)
        self.held = {name: np.repeat(value[None], len(devices), axis=0) for name, value in model.unpatched().items()}
        self.coming = {name: waiting(self.layout[name], values).copy() for name, values in self.held.items()}
        self.usable_at = np.full(len(devices), np.inf)

    def take(self, who: Rows, transfers: Sequence[bytes], usable_at: NDArray[np.float64]) -> list[bytes]:
        """Take the patches from what reached devices `who` [B]; returns the replies behind them.

        Raises WireError for what is no patch of this model, and ContractError for another device's.
        """
        patches, replies = split(transfers, self.model.layout)
        got = np.array([bool(body) for body in patches], np.bool_)
        came = decode_personal([body for body in patches if body], self.model.layout)
        if (came.device != self.devices[who[got]]).any():
            raise ContractError("a patch reached another device than the one it names")
        for name, values in came.patches.items():
            self.coming[name][who[got]] = waiting(self.layout[name], values)
        self.usable_at[who[got]] = usable_at[got]
        return replies

    def install(self, who: Rows, at: NDArray[np.float64]) -> Rows:
        """Put the patches in place that devices `who` can use at times `at` [B]; returns those devices."""
        new = who[self.usable_at[who] <= at]
        if len(new):
            for name, values in self.coming.items():
                self.held[name][new] = arrived(self.layout[name], values[new])
            self.usable_at[new] = np.inf
        return new

    def scores(self, device: Rows, step: Rows, history: Items, candidates: Items) -> Scores:
        """See Scorer."""
        place, state = np.searchsorted(self.devices, device), self.states(device, step, history)
        return self.inner.scored(
            candidates, lambda rows: self._asked(place[rows], history[rows], state[rows], candidates[rows])
        )

    def own(self, device: Rows, step: Rows, history: Items, k: int) -> tuple[Items, Scores]:
        """See Scorer."""
        place, state = np.searchsorted(self.devices, device), self.states(device, step, history)
        return self.inner.best(history, k, lambda rows: self._catalogue(place[rows], history[rows], state[rows]))

    def state(self, device: Rows, step: Rows, history: Items) -> Scores:
        """See Scorer."""
        if self.continued is None:
            return self.inner.state(device, step, history)
        state, params, model = self.states(device, step, history), self.inner.params, self.continued
        parts = [model.shown_behind(params, state[filled])[: len(rows)] for rows, filled in batches(len(state))]
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)

    def _patches(self, place: Rows) -> Patches:
        return {name: values[place] for name, values in self.held.items()}

    def _asked(self, place: Rows, history: Items, state: Scores, pool: Items) -> Scores:
        params, patches = self.inner.params, self._patches(place)
        if headed := self.headed:
            return self.inner.asked(lambda: headed.behind(params, patches, state, pool), history, pool)
        return self.inner.asked(lambda: self.model.score_personal(params, patches, history, pool), history, pool)

    def _catalogue(self, place: Rows, history: Items, state: Scores) -> Scores:
        ids = self.inner.resident
        if self.headed:
            every = self.headed.catalogue_behind(self.inner.params, self._patches(place), state)
            return np.take(every, ids, axis=1)
        parts = [ids[start : start + COLUMNS] for start in range(0, len(ids), COLUMNS)]
        pools = [np.ascontiguousarray(np.broadcast_to(part, (len(history), len(part)))) for part in parts]
        scores = [self._asked(place, history, state, pool) for pool in pools]
        return np.concatenate(scores, axis=1) if scores else np.zeros((len(history), 0), np.float32)


def waiting(part: Part, values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Values [B, *shape] as they wait: bool as bits [B, bytes], the rest as it is."""
    if part.kind != "bool":
        return values
    return np.packbits(values.astype(np.bool_, copy=False).reshape(len(values), part.size), axis=1)


def arrived(part: Part, kept: NDArray[np.generic]) -> NDArray[np.generic]:
    """What `waiting` was given."""
    if part.kind != "bool":
        return kept
    return np.unpackbits(kept.view(np.uint8), axis=1, count=part.size).view(np.bool_).reshape(-1, *part.shape)


class Bodies:
    """States of the body of a Headed model, kept per device for as long as its history stays the same."""

    def __init__(self, inner: ModelScorer, model: Headed, devices: Rows) -> None:
        self.inner, self.model, self.devices = inner, model, devices
        self.history = np.zeros((len(devices), 0), np.int32)  # that the states are of; [D, L] from the first call on
        self.known = np.zeros((len(devices), 0), np.float32)

    def __call__(self, device: Rows, step: Rows, history: Items) -> Scores:
        """States [B, d] after `history` [B, L]."""
        place = np.searchsorted(self.devices, device)
        if self.history.shape[1] != history.shape[1]:
            self.history = np.full((len(self.devices), history.shape[1]), -1, np.int32)
        todo = np.flatnonzero((self.history[place] != history).any(1))
        for rows, filled in batches(len(todo)):
            made = self._before(history[todo[filled]])[: len(rows)]
            if self.known.shape[1] != made.shape[1]:
                self.known = np.zeros((len(self.devices), made.shape[1]), np.float32)
            self.known[place[todo[rows]]] = made
        self.history[place[todo]] = history[todo]
        return self.known[place]

    def _before(self, history: Items) -> Scores:
        try:
            return self.model.before(self.inner.params, history)
        except IndexError as error:
            raise ContractError(
                f"device model {type(self.model).__name__} does not know all items: histories go up to id "
                f"{history.max()} ({error}); build or train it for this data set"
            ) from error


def stateless(device: Rows, step: Rows, history: Items) -> Scores:
    """[B, 0], where states stand for models that read the history with every call."""
    return np.zeros((len(history), 0), np.float32)


def personal(scorer: Scorer, devices: Rows, kept: IncrementalScorer | None = None) -> PersonalScorer | None:
    """What keeps the patches of `devices` [D], beside what keeps their states; None where the model takes no patch."""
    if isinstance(scorer, ModelScorer) and isinstance(scorer.model, Personalized):
        return PersonalScorer(scorer, scorer.model, devices, states=kept.state if kept else None)
    return None
