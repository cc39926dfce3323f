"""Replays without Flower: the validation steps while something is chosen, the test steps in a sweep."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cloud.gateway import Delivery, Gateway, Service
from cloud.ledger import Ledger
from device.fleet import Fleet
from device.setup import Setup
from simulation.in_time import live
from simulation.replay import Columns, Shard, Timeline, Wave


class Watches(Protocol):
    """Looks on at a replay."""

    def see(self, fleet: Fleet, who: NDArray[np.int64], taken: NDArray[np.int32]) -> None:
        """Called after `rank` and before `observe`."""
        ...


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A replay without Flower: the validation steps while something is chosen, the test steps in a sweep."""

    timeline: Timeline
    service: Service
    model_bytes: Sequence[int]
    slots: int  # of a pool
    shown: int = 1

    def run(self, setups: Sequence[Setup], watch: Watches | None = None, ledger: Ledger | None = None) -> Columns:
        """Telemetry of one replay; every transfer goes into `ledger`."""
        gateway = Gateway(self.service, self.timeline.histories, Ledger() if ledger is None else ledger)
        shard = Shard(
            setups,
            self.timeline,
            slots=self.slots,
            history=self.service.upload,
            codec=self.service.codec,
            shown=self.shown,
            watch=watch.see if watch else None,
        )
        first = gateway.install(self.model_bytes, self.timeline.at[:, 0])

        def exchange(number: int, delivery: Delivery) -> Iterator[Wave]:
            yield shard.wave(number, delivery)

        return live(exchange, gateway, first, self.timeline)
