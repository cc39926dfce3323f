"""How long a device keeps to the price of a request that it was told."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

LEASE_BYTES = 8
"""A lease as it is installed: int32 steps, float32 fall."""


class Falling(Protocol):
    """What is known of how prices and request ratios hang together."""

    @property
    def slope(self) -> float:
        """Fall of the price per unit of log-odds of a request."""
        ...


@dataclass(frozen=True, slots=True)
class Lease:
    """How long a device keeps to a price that it was told; both numbers come with the installation.

    Args:
        steps: interactions during which the price holds as told.
        fall: by how much it falls with every interaction after them.
    """

    steps: int
    fall: float

    @classmethod
    def of(cls, curve: Falling, ratio: float) -> "Lease":
        """The lease for an expected request ratio: one expected gap between requests, then 2 log-odds in another."""
        return cls(int(np.ceil(1 / ratio)), float(np.float32(2 * ratio * curve.slope)))

    def price(self, told: NDArray[np.float64], since: NDArray[np.int64]) -> NDArray[np.float64]:
        """[B] the price now, of devices told `told` [B] that have lived `since` [B] interactions since."""
        return np.asarray(told - self.fall * np.maximum(since - self.steps, 0))
