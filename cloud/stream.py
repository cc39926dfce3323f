"""What a cloud sees happen by itself: the clicks of users that are no devices of the fleet."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """M clicks, oldest first. Nobody of the fleet is among them, so nothing that a device does not upload is known."""

    at: Floats  # [M] virtual seconds, never decreasing
    item: NDArray[np.int32]  # [M] ids 1..n
    before: NDArray[np.int32]  # [M] what the same user clicked before; 0 = nothing

    @classmethod
    def of(cls, user: NDArray[np.int64], item: NDArray[np.int32], at: Floats) -> "Stream":
        """Of clicks [M] that stand user by user, each user's oldest first."""
        before = np.zeros(len(item), np.int32)
        before[1:] = np.where(user[1:] == user[:-1], item[:-1], 0)
        order = np.argsort(at, kind="stable")
        return cls(at[order], item[order].astype(np.int32), before[order])

    def __len__(self) -> int:
        return len(self.at)


@runtime_checkable
class Listens(Protocol):
    """A generator that needs the stream before it is asked for lists; `[data] stream` keeps it."""

    def listen(self, stream: Stream) -> None:
        """Take the whole stream. A list asked for at a time may only use what was clicked before it."""
        ...
