"""What reaches devices after one exchange with the cloud."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud.queueing import Span

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What reaches B devices after one exchange, with the times the simulator keeps for them."""

    device: NDArray[np.int64]  # [B]
    bodies: list[bytes]  # encoded replies, a patch of the device's own before it where one comes; b"" = none arrives
    usable_at: Floats  # [B]; inf where none arrives
    free_at: Floats  # [B] the device may ask again; inf = it will be told; later than usable_at after a denial
    due: Span | None = None  # steps to be lived next are those in this span of time; None = one of every device

    def rows(self, rows: Ints) -> "Delivery":
        """Some of them."""
        return Delivery(
            self.device[rows], [self.bodies[row] for row in rows], self.usable_at[rows], self.free_at[rows], self.due
        )


def nothing() -> Delivery:
    """A delivery to nobody."""
    return Delivery(np.zeros(0, np.int64), [], np.zeros(0), np.zeros(0))


def merged(older: Delivery, newer: Delivery) -> Delivery:
    """Both, sorted by device; the newer counts for a device of both."""
    older = older.rows(np.flatnonzero(~np.isin(older.device, newer.device)))
    columns = [np.concatenate([getattr(d, n) for d in (older, newer)]) for n in ("device", "usable_at", "free_at")]
    both = Delivery(columns[0], older.bodies + newer.bodies, columns[1], columns[2])
    return both.rows(np.argsort(both.device, kind="stable"))
