"""Interactions of many users as flat arrays, and where training, validation and test begin in them."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cloud.sequences import Sequences
from cloud.stream import Stream
from device.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """U users, n items and N events, grouped by user, oldest first; raises DataError where the arrays disagree."""

    name: str
    users: NDArray[np.object_]  # [U] external user ids (str)
    items: NDArray[np.object_]  # [n] external item ids (str); items[i - 1] is item id i
    offsets: NDArray[np.int64]  # [U + 1]; user u's events are [offsets[u], offsets[u + 1])
    item: NDArray[np.int32]  # [N] ids 1..n
    at: NDArray[np.float64]  # [N] virtual seconds, strictly increasing per user
    titles: NDArray[np.object_] | None  # [n] display titles ("" = unknown), or None
    timed: bool  # False: the clock was drawn, the data had only an order
    tied: NDArray[np.bool_]  # [N] the recorded time equals the one of the same user's event before
    session: NDArray[np.int64] | None  # [N]
    outside: Stream | None = None  # what users that are no devices click

    def __post_init__(self) -> None:
        _check(self)

    @property
    def n_users(self) -> int:
        """Number of users U."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """Number of items n; valid ids are 1..n."""
        return len(self.items)

    @property
    def n_events(self) -> int:
        """Number of events N."""
        return len(self.item)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[U] int64 number of events of every user."""
        return np.diff(self.offsets)

    @property
    def owner(self) -> NDArray[np.int64]:
        """[N] int64 user index of every event."""
        return np.repeat(np.arange(self.n_users), self.lengths)

    @property
    def recorded(self) -> NDArray[np.float64]:
        """[N] float64 recorded times: that of the first of a tied run for all of it (the clock never moves a first)."""
        first = np.maximum.accumulate(np.where(self.tied, 0, np.arange(self.n_events)))
        return self.at[first]

    def content_hash(self) -> str:
        """SHA-256 (hex) of everything but the name."""
        digest = hashlib.sha256(f"tandemrec dataset 1, timed={self.timed}".encode())
        for numbers in (self.offsets, self.item, self.at, self.tied, self.session):
            _hash_array(digest, numbers)
        for texts in (self.users, self.items, self.titles):
            _hash_texts(digest, texts)
        if self.outside is not None:
            for numbers in (self.outside.at, self.outside.item, self.outside.before):
                _hash_array(digest, numbers)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Absolute positions: training from offsets[u], validation from train_end[u], test from valid_end[u] on."""

    data: Dataset
    train_end: NDArray[np.int64]  # [U]
    valid_end: NDArray[np.int64]  # [U]

    def __post_init__(self) -> None:
        bounds = [self.data.offsets[:-1], self.train_end, self.valid_end, self.data.offsets[1:]]
        if any(len(b) != self.data.n_users for b in bounds):
            raise DataError(f"split of {self.data.name}: train_end and valid_end need one entry per user")
        for lower, upper in pairwise(bounds):
            if (lower > upper).any():
                user = self.data.users[int(np.argmax(lower > upper))]
                raise DataError(f"split of {self.data.name}: the parts of user {user!r} overlap or leave its events")

    def part(self) -> NDArray[np.int8]:
        """[N] int8: 0 training, 1 validation, 2 test."""
        owner, position = self.data.owner, np.arange(self.data.n_events)
        part = (position >= self.train_end[owner]).astype(np.int8)
        return part + (position >= self.valid_end[owner])


def windows(data: Dataset, users: ArrayLike, ends: ArrayLike, length: int) -> NDArray[np.int32]:
    """The last `length` items of users[i] before absolute position ends[i]: int32 [B, length], 0-padded on the left.

    Raises DataError for an end outside its user's events.
    """
    user, end = np.asarray(users, np.int64), np.asarray(ends, np.int64)
    outside = (end < data.offsets[user]) | (end > data.offsets[user + 1])
    if outside.any():
        row = int(np.argmax(outside))
        raise DataError(f"windows: end {end[row]} is outside the events of user index {user[row]}; ends are absolute")
    return Sequences(data.item, data.offsets[:-1], data.offsets[1:]).windows(user, end, length)


def _check(data: Dataset) -> None:
    for problem in _problems(data):
        raise DataError(f"dataset {data.name!r}: {problem}")


def _problems(data: Dataset) -> Iterable[str]:
    events = len(data.item)
    if len(data.offsets) != len(data.users) + 1 or data.offsets[0] != 0 or data.offsets[-1] != events:
        yield f"offsets must run from 0 to {events} with {len(data.users) + 1} entries"
    elif (np.diff(data.offsets) < 0).any():
        yield "offsets must not decrease"
    for name, array in (("at", data.at), ("tied", data.tied), ("session", data.session)):
        if array is not None and len(array) != events:
            yield f"{name} has {len(array)} entries for {events} events"
    if data.titles is not None and len(data.titles) != len(data.items):
        yield f"{len(data.titles)} titles for {len(data.items)} items"
    if events and not 1 <= data.item.min() <= data.item.max() <= len(data.items):
        yield f"item ids must lie in 1..{len(data.items)}, found {data.item.min()}..{data.item.max()}"
    if not np.isfinite(data.at).all():
        yield "times must be finite"
    inner = np.ones(events, np.bool_)
    inner[data.offsets[:-1][data.lengths > 0]] = False
    if (data.tied & ~inner).any():
        yield "a user's first event cannot be tied with the one before"
    elif (inner[1:] & (np.diff(data.at) <= 0)).any():
        where = int(np.argmax(inner[1:] & (np.diff(data.at) <= 0))) + 1
        yield f"times must strictly increase per user; event {where} has {data.at[where]} after {data.at[where - 1]}"


def _hash_array(digest: "hashlib._Hash", array: NDArray[np.generic] | None) -> None:
    if array is None:
        digest.update(b"absent")
        return
    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    digest.update(f"{little.dtype.str}{little.shape}".encode())
    digest.update(little.tobytes())


def _hash_texts(digest: "hashlib._Hash", texts: NDArray[np.object_] | None) -> None:
    if texts is None:
        digest.update(b"absent")
        return
    encoded = [str(text).encode() for text in texts]
    _hash_array(digest, np.array([len(text) for text in encoded], np.int64))
    digest.update(b"".join(encoded))
