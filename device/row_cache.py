"""Which item embeddings a device holds when they are streamed with the candidates instead of installed.

Device and cloud keep the same book by the same rule, so the cloud knows which rows to leave out of a reply: what a
list needs comes first, then what was held before, newest first, up to the capacity.

A merged pool holds candidates of older lists, which no later list needs. One whose row falls out leaves the pool, so
nothing is ever scored without its row. None falls out whose age is at most `capacity - slots - L`, with `slots`
candidates in the pool and L items in the history. For what can stand before a candidate c in the book is

* of lists: its own list up to c, and later ones. What of these is still in the pool stands before c there too: fewer
  than `slots`. What is not was taken since c's list was made, or pushed out by `slots` or for its row; then c, behind
  it in pool and book, went too.
* of histories: the L items that c's list was made from, and what was taken since, as many items as c is old.

So c is among the first `slots + L + age` of the book.
"""

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError, ContractError
from device.model import Items

NOTHING = np.zeros(0, np.int32)


class RowCache:
    """Item ids held by D devices, int32 [D, capacity], most recently needed first, 0 = free.

    Args:
        devices: D.
        capacity: rows that a device keeps.
        installed: [M] ids whose rows every device holds from its installation on; they take no room.
    """

    def __init__(self, devices: int, capacity: int, installed: NDArray[np.int32] = NOTHING) -> None:
        if capacity < 1:
            raise ConfigError(f"row cache: capacity = {capacity}; expected 1 or more rows")
        self.held = np.zeros((devices, capacity), np.int32)
        self.installed = np.zeros(int(installed.max(initial=0)) + 2, np.bool_)
        self.installed[installed] = True

    def knows(self, who: NDArray[np.int64], ids: Items) -> NDArray[np.bool_]:
        """[B, R] True where device who[i] holds the row of ids[i, j]; padding is always known."""
        return self.among(ids, self.held[who])

    def among(self, ids: Items, held: Items) -> NDArray[np.bool_]:
        """[B, R] True where a device that holds `held` [B, capacity] has the row of ids[i, j]."""
        known: NDArray[np.bool_] = member(ids, held) | self._installed(ids) | (ids == 0)
        return known

    def _installed(self, ids: Items) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self.installed[np.minimum(ids, len(self.installed) - 1)]
        return found

    def known(self, who: NDArray[np.int64], history: Items) -> Items:
        """Histories [B, L] without the items whose rows are not held, moved together to the right."""
        known = np.where(self.knows(who, history), history, 0)
        return np.take_along_axis(known, np.argsort(known != 0, axis=1, kind="stable"), axis=1)

    def take(self, who: NDArray[np.int64], wanted: Items, came: Items) -> None:
        """Rows `wanted` [B, R] are needed and those of `came` [B, K] have come; ContractError if others are lacking."""
        if not (self.knows(who, wanted) | member(wanted, came)).all():
            raise ContractError("a reply lacks item rows that its device needs and does not hold; the books differ")
        self.need(who, wanted)

    def need(self, who: NDArray[np.int64], ids: Items) -> None:
        """Put the rows of ids [B, R] (no id twice in a row) in front; the least recently needed fall out."""
        self.held[who] = self.after(who, ids)

    def after(self, who: NDArray[np.int64], ids: Items) -> Items:
        """[B, capacity] what devices `who` hold once they have needed `ids`; nothing is changed."""
        held, ids = self.held[who], np.where(self._installed(ids), 0, ids)
        both = np.concatenate([ids, np.where(member(held, ids), 0, held)], axis=1)
        order = np.argsort(both == 0, axis=1, kind="stable")[:, : held.shape[1]]
        after: Items = np.take_along_axis(both, order, axis=1)
        return after


def member(ids: Items, among: Items) -> NDArray[np.bool_]:
    """[B, R] True where ids[i, j] occurs in row i of `among` [B, K]; compared in slices of bounded memory."""
    out = np.zeros(ids.shape, np.bool_)
    rows = max(1, 4_000_000 // max(ids.shape[1] * among.shape[1], 1))
    for start in range(0, len(ids), rows):
        part = slice(start, start + rows)
        out[part] = (ids[part, :, None] == among[part, None, :]).any(2)
    return out


def distinct(ids: Items) -> Items:
    """Each row's ids once, first occurrence first, 0-padded on the right; int32 [B, R]."""
    first = np.zeros(ids.shape, np.bool_)
    for column in range(ids.shape[1]):
        first[:, column] = (ids[:, column] != 0) & ~(ids[:, :column] == ids[:, column, None]).any(1)
    kept = np.where(first, ids, 0)
    return np.take_along_axis(kept, np.argsort(kept == 0, axis=1, kind="stable"), axis=1)


def needed(candidates: Items, history: Items) -> Items:
    """The rows a streamed list needs: its candidates, then the uploaded history, each id once; int32 [B, C + L]."""
    return distinct(np.concatenate([candidates, history[:, ::-1]], axis=1))
