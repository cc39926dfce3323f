"""Training material: the items of many users in one array, and windows cut from it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device.model import Items


@dataclass(frozen=True, slots=True)
class Sequences:
    """Users' items, oldest first: user u owns `items[starts[u]:ends[u]]`."""

    items: NDArray[np.int32]  # [N]
    starts: NDArray[np.int64]  # [U]
    ends: NDArray[np.int64]  # [U]

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[U] number of items of each user."""
        return self.ends - self.starts

    def windows(self, users: NDArray[np.int64], ends: NDArray[np.int64], length: int) -> Items:
        """[B, length] left-padded items of `users` before absolute position `ends` [B]."""
        position = ends[:, None] - length + np.arange(length)
        inside = position >= self.starts[users][:, None]
        if not len(self.items):
            return np.zeros(position.shape, np.int32)
        return np.where(inside, self.items[np.where(inside, position, 0)], 0).astype(np.int32)

    def flat(self) -> NDArray[np.int32]:
        """All items of all users, user by user."""
        return np.concatenate([self.items[a:b] for a, b in zip(self.starts, self.ends, strict=True)])


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Validation pairs: what was known, and what was taken next."""

    histories: Items  # [V, L]
    targets: NDArray[np.int32]  # [V]


def position_batches(
    data: Sequences, length: int, batch: int, rng: np.random.Generator
) -> Iterator[tuple[Items, Items]]:
    """One epoch of (history, next items), both [B, l], l <= length, over all users with two items or more.

    A user longer than the window gives one window at a random place of an epoch; batches hold users of similar length
    and are cut to their longest, so little is spent on padding.
    """
    users = np.flatnonzero(data.lengths >= 2)
    spare = np.maximum(data.lengths[users] - (length + 1), 0)
    ends = data.ends[users] - np.where(rng.random(len(users)) < 0.5, 0, rng.integers(0, spare + 1))
    sizes = np.minimum(ends - data.starts[users], length + 1)
    for rows in bucketed(sizes, batch, rng):
        window = data.windows(users[rows], ends[rows], int(sizes[rows].max()))
        target = np.where(window[:, :-1] > 0, window[:, 1:], 0)
        yield window[:, :-1], target


def prefix_batches(
    data: Sequences, length: int, batch: int, rng: np.random.Generator
) -> Iterator[tuple[Items, NDArray[np.int32]]]:
    """One epoch of (history [B, l], next item [B]) over every prefix of every user."""
    counts = np.maximum(data.lengths - 1, 0)
    users = np.repeat(np.arange(len(data)), counts)
    nth = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    ends = data.starts[users] + 1 + nth
    sizes = np.minimum(ends - data.starts[users], length)
    for rows in bucketed(sizes, batch, rng):
        yield data.windows(users[rows], ends[rows], int(sizes[rows].max())), data.items[ends[rows]]


def bucketed(sizes: NDArray[np.int64], batch: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Row numbers in batches of similar size: shuffle, sort inside runs of 32 batches, shuffle the batches."""
    order = rng.permutation(len(sizes))
    runs = [order[i : i + 32 * batch] for i in range(0, len(order), 32 * batch)]
    rows = [run[np.argsort(sizes[run], kind="stable")] for run in runs]
    batches = [run[i : i + batch] for run in rows for i in range(0, len(run), batch)]
    return [batches[i] for i in rng.permutation(len(batches))]
