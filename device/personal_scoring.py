"""The reranker of devices that hold parameters of their own: all patches as arrays, all devices in calls of 64 rows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from device.errors import ContractError
from device.model import Items, Scores
from device.personal import Personalized
from device.personal_codec import decode_personal, split
from device.scoring import ModelScorer, Rows, Scorer

COLUMNS = 1024
"""Items that are scored at once where a device looks through its resident catalogue."""


class PersonalScorer:
    """A Scorer for D devices with a patch each, which it keeps.

    A patch waits, as a list does, until it is usable. Until the first is, a device scores as the shared model.

    Args:
        inner: the shared model, which answers for the state: one state then means the same under every patch.
        model: that model, as what takes patches.
        devices: [D] device numbers, ascending.
    """

    def __init__(self, inner: ModelScorer, model: Personalized, devices: Rows) -> None:
        self.inner, self.model, self.devices = inner, model, devices
        self.held = {name: np.repeat(value[None], len(devices), axis=0) for name, value in model.unpatched().items()}
        self.coming = {name: values.copy() for name, values in self.held.items()}
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
            self.coming[name][who[got]] = values
        self.usable_at[who[got]] = usable_at[got]
        return replies

    def install(self, who: Rows, at: NDArray[np.float64]) -> Rows:
        """Put the patches in place that devices `who` can use at times `at` [B]; returns those devices."""
        new = who[self.usable_at[who] <= at]
        if len(new):
            for name, values in self.coming.items():
                self.held[name][new] = values[new]
            self.usable_at[new] = np.inf
        return new

    def scores(self, device: Rows, step: Rows, history: Items, candidates: Items) -> Scores:
        """See Scorer."""
        place = np.searchsorted(self.devices, device)
        return self.inner.scored(candidates, lambda rows: self._asked(place[rows], history[rows], candidates[rows]))

    def own(self, device: Rows, step: Rows, history: Items, k: int) -> tuple[Items, Scores]:
        """See Scorer."""
        place = np.searchsorted(self.devices, device)
        return self.inner.best(history, k, lambda rows: self._catalogue(place[rows], history[rows]))

    def state(self, device: Rows, step: Rows, history: Items) -> Scores:
        """See Scorer."""
        return self.inner.state(device, step, history)

    def _asked(self, place: Rows, history: Items, pool: Items) -> Scores:
        patches = {name: values[place] for name, values in self.held.items()}
        return self.inner.asked(
            lambda: self.model.score_personal(self.inner.params, patches, history, pool), history, pool
        )

    def _catalogue(self, place: Rows, history: Items) -> Scores:
        ids = self.inner.resident
        parts = [ids[start : start + COLUMNS] for start in range(0, len(ids), COLUMNS)]
        pools = [np.ascontiguousarray(np.broadcast_to(part, (len(history), len(part)))) for part in parts]
        scores = [self._asked(place, history, pool) for pool in pools]
        return np.concatenate(scores, axis=1) if scores else np.zeros((len(history), 0), np.float32)


def personal(scorer: Scorer, devices: Rows) -> PersonalScorer | None:
    """What keeps the patches of `devices` [D]; None where the model takes none."""
    if isinstance(scorer, ModelScorer) and isinstance(scorer.model, Personalized):
        return PersonalScorer(scorer, scorer.model, devices)
    return None
