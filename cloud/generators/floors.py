"""The floors that every claim is held against: popularity, first-order Markov successor counts, the id counter."""

import numpy as np
from numpy.typing import NDArray

from cloud.sequences import Sequences
from device.model import Items, Scores
from device.seeds import Draws


class Popularity:
    """Ranks by the number of training interactions."""

    def __init__(self, n_items: int) -> None:
        self.n_items = n_items
        self.counts = np.zeros(n_items + 1, np.float32)

    def fit(self, data: Sequences) -> None:
        """Count."""
        self.counts = np.bincount(data.flat(), minlength=self.n_items + 1).astype(np.float32)

    def scores(self, histories: Items, rng: Draws) -> Scores:
        """[B, n_items + 1] the counts, the same for everybody."""
        return np.repeat(self.counts[None], len(histories), axis=0)

    def flops(self, histories: Items) -> NDArray[np.float64]:
        """[B]: looking up a prepared list costs about one operation per item."""
        return np.full(len(histories), float(self.n_items))


class Markov:
    """Ranks by how often an item directly followed the newest one; popularity breaks ties and fills up."""

    def __init__(self, n_items: int) -> None:
        self.n_items = n_items
        self.popularity = Popularity(n_items)
        self.start = np.zeros(n_items + 2, np.int64)
        self.successor, self.count = np.zeros(0, np.int32), np.zeros(0, np.float32)

    def fit(self, data: Sequences) -> None:
        """Count successors: rows of a sparse matrix, start[i]..start[i + 1] of (successor, count)."""
        self.popularity.fit(data)
        position = np.concatenate([np.arange(a + 1, b) for a, b in zip(data.starts, data.ends, strict=True)])
        pair = data.items[position - 1].astype(np.int64) * (self.n_items + 1) + data.items[position]
        pairs, counts = np.unique(pair, return_counts=True)
        before = pairs // (self.n_items + 1)
        self.start = np.searchsorted(before, np.arange(self.n_items + 2))
        self.successor, self.count = (pairs % (self.n_items + 1)).astype(np.int32), counts.astype(np.float32)

    def scores(self, histories: Items, rng: Draws) -> Scores:
        """[B, n_items + 1] successor counts plus popularity scaled below one."""
        base = self.popularity.counts / (self.popularity.counts.max(initial=0) + 1)
        out = np.repeat(base[None], len(histories), axis=0)
        for row, item in enumerate(histories[:, -1]):
            inside = slice(self.start[item], self.start[item + 1])
            out[row, self.successor[inside]] += self.count[inside]
        return out

    def flops(self, histories: Items) -> NDArray[np.float64]:
        """[B]: one addition per successor and one pass over the catalogue."""
        last = histories[:, -1]
        return (self.start[last + 1] - self.start[last] + self.n_items).astype(np.float64)


class IdCounter:
    """ "Largest id in the history, plus 1, 2, 3, ...": shows whether a data set's numbering leaks the next item.

    On ids dealt out in order of first appearance (the published P5 files) this beats many models; on permuted ids it
    is chance.
    """

    def __init__(self, n_items: int) -> None:
        self.n_items = n_items

    def fit(self, data: Sequences) -> None:
        """Nothing to learn."""

    def scores(self, histories: Items, rng: Draws) -> Scores:
        """[B, n_items + 1]: minus the distance above the largest id; ids below it come last."""
        ahead = np.arange(self.n_items + 1)[None] - histories.max(1)[:, None]
        return np.where(ahead > 0, -ahead, -2 * self.n_items + ahead).astype(np.float32)

    def flops(self, histories: Items) -> NDArray[np.float64]:
        """[B]: one pass over the catalogue."""
        return np.full(len(histories), float(self.n_items))
