"""What every method of a comparison is asked: the cloud's lists at each replayed step, and negatives for the AUC."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud.generator import CandidateGenerator, check_lists, lists_at
from device.errors import ConfigError, DataError
from device.model import Items
from device.seeds import Draws, draws
from simulation.data.dataset import Split, windows

Say = Callable[[str], None]
Ints = NDArray[np.int64]
PART = 1024  # steps whose patches are in memory at a time


@dataclass(frozen=True, slots=True)
class Asked:
    """R steps of U users, user by user, oldest first; nothing is put into a list that the cloud did not list."""

    split: Split
    users: Ints  # [U] user index in the data
    row: Ints  # [R] number of a step's user among `users`
    position: Ints  # [R] absolute position of the item that was taken
    pools: Items  # [R, N] in the cloud's order; 0 = empty
    negatives: Items  # [R, K]

    @property
    def user(self) -> Ints:
        """[R] user index in the data."""
        return self.users[self.row]

    @property
    def targets(self) -> NDArray[np.int32]:
        """[R] the items that were taken."""
        return self.split.data.item[self.position]

    @property
    def known(self) -> Ints:
        """[R] how many items came before."""
        known: Ints = self.position - self.split.data.offsets[self.user]
        return known

    def histories(self, rows: Ints, length: int) -> Items:
        """[B, length] what came before, all of it: the cloud's list and a device's patch are made of nothing older."""
        return windows(self.split.data, self.user[rows], self.position[rows], length)

    def per_user(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """[U] the mean over each user's steps of `values` [R]."""
        total = np.bincount(self.row, values, len(self.users))
        return np.asarray(total / np.bincount(self.row, minlength=len(self.users)), np.float64)


def asked(
    generator: CandidateGenerator, split: Split, *, pool: int, length: int, negatives: int, seed: int, say: Say
) -> Asked:
    """All test steps of all users that have one; lists of `pool` candidates from the newest `length` items."""
    data = split.data
    users = np.flatnonzero(split.valid_end < data.offsets[1:])
    if not len(users):
        raise ConfigError("[data.split] leaves no test steps; lower leave_last, validation or min_train")
    steps = data.offsets[users + 1] - split.valid_end[users]
    row = np.repeat(np.arange(len(users)), steps)
    position = np.arange(len(row)) - np.repeat(np.cumsum(steps) - steps, steps) + split.valid_end[users][row]
    say(f"lists at {len(row):,} steps of {len(users):,} users")
    empty = np.zeros((len(row), 0), np.int32)
    bare = Asked(split, users, row, position, empty, sampled_negatives(split, users[row], position, negatives, seed))
    pools = np.zeros((len(row), pool), np.int32)
    for part in parts(len(row)):
        draw = draws(seed, "devices lists", users[row[part]], position[part])
        made = lists_at(generator, bare.histories(part, length), pool, at=asked_at(bare, part), rng=draw)
        check_lists(generator, made, rows=len(part), pool=pool, n_items=data.n_items)
        pools[part, : made.items.shape[1]] = made.items
    return Asked(split, users, row, position, pools, bare.negatives)


def asked_at(steps: Asked, rows: Ints) -> NDArray[np.float64]:
    """[B] when a device would ask: at the step before; at the step itself where there is none."""
    before = steps.position[rows] - (steps.known[rows] > 0)
    return steps.split.data.at[before]


def sampled_negatives(split: Split, user: Ints, position: Ints, count: int, seed: int) -> Items:
    """[R, count] items that a user never took, uniform and with replacement, for steps of `user` [R], user by user.

    Drawn per (seed, user, position). Raises DataError for a user who took every item.
    """
    data = split.data
    out = np.zeros((len(user), count), np.int32)
    draw: Draws = draws(seed, "devices negatives", user, position)
    first = np.flatnonzero(np.diff(user, prepend=-1))
    for start, end in zip(first, [*first[1:], len(user)], strict=True):
        who = user[start]
        taken = np.unique(data.item[data.offsets[who] : data.offsets[who + 1]])
        left = data.n_items - len(taken)
        if not left:
            raise DataError(f"user {data.users[who]!r} took all {len(taken)} items; an AUC needs others")
        nth = np.floor(draw[slice(start, end)].uniform(count) * left).astype(np.int64)
        # Before the j-th item that was taken stand taken[j] - 1 - j others.
        out[start:end] = nth + 1 + np.searchsorted(taken - 1 - np.arange(len(taken)), nth, side="right")
    return out


def parts(size: int) -> Iterator[Ints]:
    """0..size - 1 in runs of PART."""
    for start in range(0, size, PART):
        yield np.arange(start, min(start + PART, size))
