"""What a request costs each device: a price of the setup's, or the one that replies told it last."""

import numpy as np
from numpy.typing import NDArray

from device.errors import ContractError
from device.lease import Lease
from device.messages import Replies

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]


class Prices:
    """Of D devices.

    Args:
        size: D.
        price: of a request as long as none was told.
        lease: how long a told price counts; None = none is told.
    """

    def __init__(self, size: int, price: float, lease: Lease | None) -> None:
        self.given, self.lease = price, lease
        self.told = np.full(size, price)
        self.told_step = np.zeros(size, np.int64)  # it came when so many interactions were observed
        self.coming = np.zeros(size, np.float32)
        self.heard_at = np.full(size, np.inf)  # `coming` is there from then on

    def note(self, who: Rows, replies: Replies, usable_at: Floats) -> None:
        """Prices of replies [B] to devices `who`, there from usable_at on; ContractError where one lacks its price."""
        if (self.lease is None) != (replies.price is None):
            raise ContractError("either devices have a lease and every reply names a price, or neither")
        if replies.price is not None:
            self.coming[who], self.heard_at[who] = replies.price, usable_at

    def hear(self, who: Rows, observed: Rows, at: Floats) -> None:
        """Take over prices that have come by `at` [B]; `observed` [B] interactions of devices `who`."""
        if self.lease is None:
            return
        there = self.heard_at[who] <= at
        heard = who[there]
        self.told[heard], self.told_step[heard] = self.coming[heard], observed[there]
        self.heard_at[heard] = np.inf

    def of(self, who: Rows, observed: Rows) -> Floats | float:
        """[B] what the urgency of devices `who` must exceed."""
        if self.lease is None:
            return self.given
        return self.lease.price(self.told[who], observed - self.told_step[who])
