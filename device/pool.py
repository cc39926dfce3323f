"""The candidates that a device holds, and what becomes of them when a new list comes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device.model import Items, Scores
from device.row_cache import member
from device.setup import Update

Rows = NDArray[np.int64]
Slots = NDArray[Any]


class Pool:
    """Of D devices, `slots` candidates each at most; the device's own are not among them."""

    def __init__(self, size: int, slots: int) -> None:
        self.items = np.zeros((size, slots), np.int32)
        self.cloud = np.zeros((size, slots), np.float32)  # standardised over the list they came with
        self.made = np.zeros((size, slots), np.int64)  # step of the history that the candidate's list was made from

    def drop(self, who: Rows, taken: NDArray[np.int32]) -> None:
        """Without items `taken` [B]."""
        items = self.items[who]
        self.items[who] = np.where(items == taken[:, None], 0, items)

    def keep(self, who: Rows, known: NDArray[np.bool_]) -> None:
        """Only the candidates that are `known` [B, slots]."""
        self.items[who] = np.where(known, self.items[who], 0)

    def put(self, who: Rows, items: Items, cloud: Scores, step: Rows, *, update: Update) -> None:
        """New lists (items, cloud) [B, slots] made from the histories of `step` [B] replace the old ones or join them.

        Joined, the new list stands first, then what was held and is not in it, newest first, as far as there are slots.
        """
        made = np.broadcast_to(step[:, None], items.shape)
        if update == "merge":
            old = self.items[who], self.cloud[who], self.made[who]
            items, cloud, made = joined((items, cloud, made), old)
        self.items[who], self.cloud[who], self.made[who] = items, cloud, made


def untaken(offered: Items, history: Items, late: Rows) -> Items:
    """Lists [B, C] without what is among the newest `late` [B] items of `history` [B, L]: taken while they came."""
    seen = np.where(np.arange(history.shape[1])[::-1] < late[:, None], history, 0)
    return np.where(member(offered, seen[:, -max(int(late.max(initial=0)), 1) :]), 0, offered)


def joined(new: Sequence[Slots], held: Sequence[Slots]) -> list[Slots]:
    """Lists in front of what was held and is not in them, cut to the slots: the rule of `update = "merge"`.

    Args:
        new: items [B, C], 0 = empty, and any columns [B, C] that go with them.
        held: the same columns of what was held.
    """
    kept = np.where(member(held[0], new[0]), 0, held[0])
    both = np.concatenate([new[0], kept], axis=1)
    order = np.argsort(both == 0, axis=1, kind="stable")[:, : new[0].shape[1]]
    pairs = [(new[0], kept), *zip(new[1:], held[1:], strict=True)]
    return [np.take_along_axis(np.concatenate(pair, axis=1), order, axis=1) for pair in pairs]
