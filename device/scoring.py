"""What the reranker says about candidates: computed in calls of one shape, or looked up where others computed it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from device.errors import ContractError
from device.model import DeviceModel, HasItemTable, HasState, Items, Parameters, RanksCatalogue, Scores

SCORING_BATCH = 64
"""Rows of every call of a model. Always the same number, the last call padded, because the last bits of a matrix
product depend on its shape: so a device's scores do not depend on how many devices share its client."""
Rows = NDArray[np.int64]


class Scorer(Protocol):
    """Answers for B devices; (device, step) names the history, so an answer can be kept for others who ask it again."""

    def scores(self, device: Rows, step: Rows, history: Items, candidates: Items) -> Scores:
        """[B, C] scores of `candidates` [B, C] after `history` [B, L]; those of padding mean nothing."""
        ...

    def own(self, device: Rows, step: Rows, history: Items, k: int) -> tuple[Items, Scores]:
        """(items, scores) [B, k]: the best resident items that are not in `history`, best first; 0 = none."""
        ...

    def state(self, device: Rows, step: Rows, history: Items) -> Scores:
        """[B, d] the reranker's state after `history`."""
        ...


@dataclass(frozen=True, slots=True)
class ModelScorer:
    """Asks the model; `resident` [M], ascending, are the items that the device can score of its own accord."""

    model: DeviceModel
    params: Parameters
    resident: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))

    def scores(self, device: Rows, step: Rows, history: Items, candidates: Items) -> Scores:
        """See Scorer; ContractError for a wrong shape or numbers."""
        return self.scored(candidates, lambda rows: self._shared(history[rows], candidates[rows]))

    def scored(self, candidates: Items, ask: Callable[[Rows], Scores]) -> Scores:
        """[B, C] by asking for the scores of rows of `candidates` in calls of one shape; ContractError for NaN."""
        out = np.empty(candidates.shape, np.float32)
        for rows, filled in batches(len(candidates)):
            out[rows] = ask(filled)[: len(rows)]
        self._refuse_infinite(out, candidates == 0)
        return out

    def own(self, device: Rows, step: Rows, history: Items, k: int) -> tuple[Items, Scores]:
        """See Scorer; equal scores come in the order of their item ids. ContractError as in `scores`."""
        return self.best(history, k, lambda rows: self.catalogue(history[rows]))

    def best(self, history: Items, k: int, ask: Callable[[Rows], Scores]) -> tuple[Items, Scores]:
        """See `own`; `ask` scores all resident items for rows of `history`, [b, M]."""
        items, scores = np.zeros((len(history), k), np.int32), np.zeros((len(history), k), np.float32)
        for rows, filled in batches(len(history)):
            values = np.pad(ask(filled)[: len(rows)], ((0, 0), (0, 1)))
            self._refuse_infinite(values, np.zeros(values.shape, np.bool_))
            np.put_along_axis(values, self.places(history[rows]), -np.inf, axis=1)
            best, order = top_k(values[:, :-1], k)
            items[rows, : order.shape[1]] = np.where(np.isfinite(best), self.resident[order], 0)
            scores[rows, : order.shape[1]] = np.where(np.isfinite(best), best, 0)
        return items, scores

    def places(self, items: Items) -> Rows:
        """Where items [B, L] stand among the M resident ones; M = nowhere."""
        ids = self.resident
        found = np.searchsorted(ids, items)
        here = ids[np.minimum(found, len(ids) - 1)] == items if len(ids) else np.zeros(items.shape, np.bool_)
        return np.where(here, found, len(ids))

    def catalogue(self, history: Items) -> Scores:
        """[B, M] scores of the resident items."""
        if isinstance(self.model, RanksCatalogue):
            return self.model.catalogue(self.params, history)[:, self.resident]
        pool = np.broadcast_to(self.resident, (len(history), len(self.resident)))
        return self._shared(history, np.ascontiguousarray(pool))

    def state(self, device: Rows, step: Rows, history: Items) -> Scores:
        """See Scorer; ContractError when the model shows no state."""
        if not isinstance(self.model, HasState):
            raise ContractError(
                f"device model {type(self.model).__name__} shows no state, which this policy looks at; "
                "give it state(params, history), or choose another policy"
            )
        parts = [self.model.state(self.params, history[filled])[: len(rows)] for rows, filled in batches(len(history))]
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)

    def item_table(self) -> NDArray[np.generic] | None:
        """[n + 1, d] the embeddings it computes with, where the model names them."""
        return self.params[self.model.item_table] if isinstance(self.model, HasItemTable) else None

    def _shared(self, history: Items, pool: Items) -> Scores:
        return self.asked(lambda: self.model.score(self.params, history, pool), history, pool)

    def asked(self, score: Callable[[], Scores], history: Items, pool: Items) -> Scores:
        """What `score()` says about `pool` [B, C] after `history`; ContractError for unknown items and other shapes."""
        try:
            scores = score()
        except IndexError as error:
            raise ContractError(
                f"device model {type(self.model).__name__} does not know all items: histories go up to id "
                f"{history.max()}, candidates up to {pool.max()} ({error}); build or train it for this data set"
            ) from error
        if not isinstance(scores, np.ndarray) or scores.shape != pool.shape:
            raise ContractError(
                f"device model {type(self.model).__name__}.score returned {getattr(scores, 'shape', type(scores))} "
                f"for candidates {pool.shape}; return a numpy array of that shape"
            )
        return scores

    def _refuse_infinite(self, scores: Scores, padding: NDArray[np.bool_]) -> None:
        if not (np.isfinite(scores) | padding).all():
            raise ContractError(
                f"device model {type(self.model).__name__}.score returned NaN or infinity; "
                "run `tandemrec check device-model` on it"
            )


def batches(size: int) -> Iterator[tuple[Rows, Rows]]:
    """(rows, the same filled up to SCORING_BATCH with the first of them) until all of 0..size - 1 had their turn."""
    for start in range(0, size, SCORING_BATCH):
        filled = np.arange(start, start + SCORING_BATCH)
        filled[filled >= size] = start
        yield filled[: min(size - start, SCORING_BATCH)], filled


def top_k(values: Scores, k: int) -> tuple[Scores, NDArray[np.int64]]:
    """(scores, columns) [B, k] of the k largest values per row, descending, ties by column number."""
    k = min(k, values.shape[1])
    if not k:
        return values[:, :0], np.zeros((len(values), 0), np.int64)
    columns = np.argpartition(-values, k - 1, axis=1)[:, :k]
    edge = np.take_along_axis(values, columns, axis=1).min(1)
    for row in np.flatnonzero((values >= edge[:, None]).sum(1) > k):  # several at the edge: the first of them
        above, level = np.flatnonzero(values[row] > edge[row]), np.flatnonzero(values[row] == edge[row])
        columns[row] = np.concatenate([above, level[: k - len(above)]])
    columns.sort(axis=1)
    found = np.take_along_axis(values, columns, axis=1)
    order = np.argsort(-found, axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(columns, order, axis=1)
