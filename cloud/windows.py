"""Whole windows of sequences, for modules whose own `training_loss` learns at every position of a history."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud.sequences import Sequences
from device.model import Items


@dataclass(frozen=True, slots=True)
class Windows(Sequences):
    """Sequences of which `prefix_batches` gives one prefix each: all of a window but its last item, the target.

    `starts` and `ends` name the last two items of each window, so there is only one prefix; its history reaches back to
    `first`, and has as many columns as the longest of its batch.
    """

    first: NDArray[np.int64]  # [W] where each window begins

    def windows(self, users: NDArray[np.int64], ends: NDArray[np.int64], length: int) -> Items:
        """[B, l] left-padded items of windows `users` before `ends` [B]; l >= length holds the longest."""
        widest = int(max(length, (ends - self.first[users]).max(initial=0)))
        return Sequences(self.items, self.first, self.ends).windows(users, ends, widest)


def windows(data: Sequences, length: int) -> Windows:
    """Windows of up to `length` + 1 items of all users with two items or more.

    The last of a user ends where the user ends, each earlier one half a length before, and the first begins where the
    user begins; so longer users meet most targets twice, with more and with less history.
    """
    stride = (length + 1) // 2
    counts = np.where(data.lengths < 2, 0, 1 + -(-np.maximum(data.lengths - length - 1, 0) // stride))
    user = np.repeat(np.arange(len(data)), counts)
    nth = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
    ends = data.ends[user] - nth * stride
    first = np.maximum(data.starts[user], ends - length - 1)
    return Windows(data.items, ends - 2, ends, first)
