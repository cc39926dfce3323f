"""k-core filtering to a fixed point."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Core:
    """What a k-core keeps, and the counts (before, after)."""

    keep: NDArray[np.bool_]  # [N]
    users: tuple[int, int]
    items: tuple[int, int]
    events: tuple[int, int]
    rounds: int


def k_core(user: NDArray[np.int64], item: NDArray[np.int64], *, user_k: int, item_k: int) -> Core:
    """The largest set of events in which every user has at least `user_k` and every item at least `item_k` of them.

    `user` and `item` [N] are non-negative codes. Users and items below the bound are dropped together until none is.
    """
    keep = np.ones(len(user), np.bool_)
    rounds = 0
    while True:
        enough = (np.bincount(user[keep], minlength=1) >= user_k, np.bincount(item[keep], minlength=1) >= item_k)
        kept = np.flatnonzero(keep)
        low = ~(enough[0][user[kept]] & enough[1][item[kept]])
        if not low.any():
            return Core(keep, _counts(user, keep), _counts(item, keep), (len(user), int(keep.sum())), rounds)
        keep[kept[low]] = False
        rounds += 1


def _counts(code: NDArray[np.int64], keep: NDArray[np.bool_]) -> tuple[int, int]:
    return len(np.unique(code)), len(np.unique(code[keep]))
