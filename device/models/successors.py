"""What followed an item before: successor counts of the device's own history and of a small installed table.

A first-order Markov chain kept on the device: as a reranker, as a source of candidates without a request, and as a
feature of another reranker. A pool that hides what was taken never holds an item of the history, so there the device's
own counts are silent and the installed pairs speak alone.
"""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError, ContractError
from device.model import DeviceModel, HasItemTable, HasState, Items, Parameters, RanksCatalogue, Scores
from device.scoring import top_k

Counts = NDArray[np.float64]
MOST = 65_504.0
"""The largest count that float16 holds."""


class Users(Protocol):
    """Users' items, oldest first: user u owns `items[starts[u]:ends[u]]`."""

    @property
    def items(self) -> NDArray[np.int32]:
        """[N]."""
        ...

    @property
    def starts(self) -> NDArray[np.int64]:
        """[U]."""
        ...

    @property
    def ends(self) -> NDArray[np.int64]:
        """[U]."""
        ...


class Successors:
    """A DeviceModel: log of the smoothed share of times that a candidate followed the newest item.

    log((own * o + m + smoothing / n) / (own * O + M + smoothing)), with the counts of the pair on the device (o) and in
    the installed table (m), and O and M those of the newest item before anything; log(1 / n) for an empty history.
    Installed are 10 bytes per pair: before and after [P] int32, ascending, and count [P] float16.

    Args:
        n_items: catalogue size n.
        pairs: most frequent pairs that are installed, P at most.
        own: what an observation on the device counts, in installed ones.
        smoothing: weight of the uniform distribution, in observations.
    """

    def __init__(self, n_items: int, *, pairs: int = 2000, own: float = 1.0, smoothing: float = 1.0) -> None:
        if pairs < 0 or own < 0 or smoothing <= 0:
            raise ConfigError(
                f"successors: pairs = {pairs}, own = {own}, smoothing = {smoothing}; expected numbers not below 0, and "
                "smoothing above 0"
            )
        self.n_items, self.pairs, self.own, self.smoothing = n_items, pairs, own, smoothing
        self.table: dict[str, NDArray[np.generic]] = {
            "before": np.zeros(0, np.int32),
            "after": np.zeros(0, np.int32),
            "count": np.zeros(0, np.float16),
        }

    def fit(self, data: Users) -> None:
        """Count who followed whom and keep the most frequent pairs, the smaller ids first among equals."""
        inside = np.ones(len(data.items), np.bool_)
        inside[data.starts[data.starts < data.ends]] = False  # a user's first item follows nothing
        owned = np.zeros(len(data.items) + 1, np.int64)
        np.add.at(owned, data.starts, 1)
        np.add.at(owned, data.ends, -1)
        after = np.flatnonzero(inside & (np.cumsum(owned)[:-1] > 0))
        found, counts = np.unique(self._key(data.items[after - 1], data.items[after]), return_counts=True)
        best = np.sort(np.argsort(-counts, kind="stable")[: self.pairs])
        before, follower = np.divmod(found[best], self.n_items + 1)
        self.table = {
            "before": before.astype(np.int32),
            "after": follower.astype(np.int32),
            "count": np.minimum(counts[best], MOST).astype(np.float16),
        }

    def init(self, rng: np.random.Generator) -> Parameters:
        """The table; nothing is drawn."""
        return {name: array.copy() for name, array in self.table.items()}

    def score(self, params: Parameters, history: Items, candidates: Items) -> Scores:
        """Log shares [B, C]."""
        newest = history[:, -1:]
        own = (followers(history)[:, None, :] == candidates[:, :, None]).sum(2) * (candidates != 0)
        known = self._key(params["before"], params["after"])
        wanted = self._key(np.broadcast_to(newest, candidates.shape), candidates)
        place = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
        counts = self.own * own
        if len(known):
            counts = counts + np.where(known[place] == wanted, params["count"][place].astype(np.float64), 0.0)
        return self._log_share(params, history, counts)

    def catalogue(self, params: Parameters, history: Items) -> Scores:
        """Log shares [B, n + 1] of all items."""
        return self._log_share(params, history, self._counts(params, history))

    def candidates(self, params: Parameters, history: Items, k: int) -> tuple[Items, Scores]:
        """(items, log shares) [B, k]: the most frequent successors that are not in `history`, best first; 0 = none."""
        counts = self._counts(params, history)
        np.put_along_axis(counts, history.astype(np.int64), 0, axis=1)
        counts[:, 0] = 0
        best, items = top_k(np.where(counts > 0, self._log_share(params, history, counts), -np.inf), k)
        some = np.isfinite(best)
        spare = ((0, 0), (0, k - best.shape[1]))
        found = np.pad(np.where(some, items, 0), spare).astype(np.int32)
        return found, np.pad(np.where(some, best, 0), spare).astype(np.float32)

    def _counts(self, params: Parameters, history: Items) -> Counts:
        """[B, n + 1] own and installed counts of what followed the newest item."""
        counts = np.zeros((len(history), self.n_items + 1))
        own = followers(history)
        np.add.at(counts, (np.arange(len(history))[:, None], own), self.own * (own != 0))
        first, last = self._segment(params, history)
        row = np.repeat(np.arange(len(history)), last - first)
        place = np.arange(len(row)) - np.repeat(np.cumsum(last - first) - last, last - first)
        counts[row, params["after"][place]] += params["count"][place]
        return counts

    def _log_share(self, params: Parameters, history: Items, counts: Counts) -> Scores:
        total = np.concatenate([[0.0], np.cumsum(params["count"].astype(np.float64))])
        first, last = self._segment(params, history)
        before = self.own * (followers(history) != 0).sum(1) + total[last] - total[first]
        share = (counts + self.smoothing / self.n_items) / (before + self.smoothing)[:, None]
        return np.log(share).astype(np.float32)

    def _segment(self, params: Parameters, history: Items) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """[B] first and behind the last pair that begins with the newest item."""
        before, newest = params["before"], history[:, -1]
        return np.searchsorted(before, newest), np.searchsorted(before, newest, side="right")

    def _key(self, before: NDArray[np.generic], after: NDArray[np.generic]) -> NDArray[np.int64]:
        return before.astype(np.int64) * (self.n_items + 1) + after.astype(np.int64)


class WithSuccessors:
    """Another reranker's score plus `weight` times that of Successors, item by item.

    With a reranker trained with a softmax loss, whose scores are log-probabilities up to a constant, the product of two
    opinions. Parameters are those of both under "model." and "successors.".
    """

    item_table: str  # set only where the model has it, so that isinstance(model, HasItemTable) tells the truth

    def __init__(self, model: DeviceModel, successors: Successors, *, weight: float) -> None:
        self.model, self.successors, self.weight = model, successors, np.float32(weight)
        self._seen: tuple[Parameters, Parameters, Parameters] | None = None
        if isinstance(model, HasItemTable):
            self.item_table = "model." + model.item_table

    def init(self, rng: np.random.Generator) -> Parameters:
        """Fresh parameters of both."""
        return self.joined(self.model.init(rng), self.successors.init(rng))

    def joined(self, model: Parameters, successors: Parameters) -> Parameters:
        """One mapping of both models' parameters."""
        named = {f"successors.{name}": array for name, array in successors.items()}
        return {f"model.{name}": array for name, array in model.items()} | named

    def score(self, params: Parameters, history: Items, candidates: Items) -> Scores:
        """Scores [B, C]."""
        model, successors = self._parts(params)
        other = self.successors.score(successors, history, candidates)
        return self.model.score(model, history, candidates) + self.weight * other

    def catalogue(self, params: Parameters, history: Items) -> Scores:
        """Scores [B, n + 1] of all items."""
        model, successors = self._parts(params)
        if isinstance(self.model, RanksCatalogue):
            scores = self.model.catalogue(model, history)
        else:
            every = np.arange(self.successors.n_items + 1, dtype=np.int32)
            scores = self.model.score(model, history, np.tile(every, (len(history), 1)))
        return scores + self.weight * self.successors.catalogue(successors, history)

    def state(self, params: Parameters, history: Items) -> Scores:
        """State [B, d] of the other reranker; ContractError where it shows none."""
        if not isinstance(self.model, HasState):
            raise ContractError(f"{type(self.model).__name__} shows no state; give it state(params, history)")
        return self.model.state(self._parts(params)[0], history)

    def _parts(self, params: Parameters) -> tuple[Parameters, Parameters]:
        """The same two mappings for the same mapping, by which models find again what they prepared."""
        if self._seen is None or self._seen[0] is not params:
            model, successors = (
                {name.removeprefix(prefix): array for name, array in params.items() if name.startswith(prefix)}
                for prefix in ("model.", "successors.")
            )
            self._seen = params, model, successors
        return self._seen[1:]


def followers(history: Items) -> Items:
    """[B, L - 1] the items that followed an earlier occurrence of the newest item, elsewhere 0."""
    newest = history[:, -1:]
    return np.where((history[:, :-1] == newest) & (newest != 0), history[:, 1:], 0).astype(np.int32)
