"""Which item embeddings a device holds when they are streamed with the candidates instead of installed.

Device and cloud keep the same book by the same rule, so the cloud knows which rows to leave out of a reply: what a
list needs comes first, then what was held before, newest first, up to the capacity.
"""

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError
from device.model import Items


class RowCache:
    """Item ids held by D devices, int32 [D, capacity], most recently needed first, 0 = free."""

    def __init__(self, devices: int, capacity: int) -> None:
        if capacity < 1:
            raise ConfigError(f"row cache: capacity = {capacity}; expected 1 or more rows")
        self.held = np.zeros((devices, capacity), np.int32)

    def knows(self, who: NDArray[np.int64], ids: Items) -> NDArray[np.bool_]:
        """[B, R] True where device who[i] holds the row of ids[i, j]; padding is always known."""
        known: NDArray[np.bool_] = member(ids, self.held[who]) | (ids == 0)
        return known

    def need(self, who: NDArray[np.int64], ids: Items) -> None:
        """Put the rows of ids [B, R] (no id twice in a row) in front; the least recently needed fall out."""
        held = self.held[who]
        both = np.concatenate([ids, np.where(member(held, ids), 0, held)], axis=1)
        order = np.argsort(both == 0, axis=1, kind="stable")[:, : held.shape[1]]
        self.held[who] = np.take_along_axis(both, order, axis=1)


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
