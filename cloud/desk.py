"""Decides, in order of time, who is served when, who is turned away and what a request costs; the gateway does it."""

from typing import final

import numpy as np
from numpy.typing import NDArray

from cloud.coordinator import Spending
from cloud.queueing import Admission, Servers, Waiting, WaitingRoom
from cloud.service import Service
from device.seeds import draws

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Retry = NDArray[np.float32]
BACKOFF_CAP = 16
_ANSWERED, _DENIED, _NBYTES, _SECONDS = range(4)


@final
class Desk:
    """State of a cloud with finite servers or a budget (see `cloud.queueing`, `cloud.coordinator`).

    Args:
        service: what is offered; without `servers` every list is begun on arrival, without `tariff` nothing is priced.
    """

    def __init__(self, service: Service) -> None:
        line = service.servers
        self.service, self.room = service, WaitingRoom()
        self.servers = Servers(line.count) if line else None
        self.admission = Admission(line.max_wait_s if line else np.inf)
        self.coordinator = service.tariff.coordinator() if service.tariff else None
        self.counts = np.zeros((4, len(service.carriers)))  # since the last report
        self.now = 0.0  # virtual seconds of the last report
        self.backoff = np.zeros(len(service.tier), np.int64)  # one more for every denial, one less for every list

    def price(self, device: Ints) -> NDArray[np.float32] | None:
        """[B] what replies to these devices say now; None without a budget."""
        if self.coordinator is None:
            return None
        return self.coordinator.of_tier(self.coordinator.price, self.service.tier[device]).astype(np.float32)

    def shut_out(self, due: Waiting) -> Retry:
        """[B] seconds after which those may ask again whose purse is overdrawn; 0 = not turned away for that.

        They double with every denial and halve with every list: otherwise devices that no price keeps from asking spend
        the budget on denials, and nobody gets a list.
        """
        if self.coordinator is None:
            return np.zeros(len(due.device), np.float32)
        fleet, tier = self.coordinator, self.service.tier[due.device]
        shut = fleet.of_tier(fleet.shut, tier)
        calm = np.maximum(fleet.of_tier(fleet.shut_s, tier), self.admission.least_retry_s)
        spread = calm * (1.0 + 0.5 * draws(self.service.seed, "retry", due.device, due.step).uniform()[:, 0])
        spread *= 2.0 ** self.backoff[due.device]
        self.backoff[due.device] = np.clip(self.backoff[due.device] + np.where(shut, 1, -1), 0, BACKOFF_CAP)
        self._count(_DENIED, due.device, shut)
        return np.where(shut, spread, 0.0).astype(np.float32)

    def serve(self, due: Waiting, seconds: Floats) -> tuple[Floats, Retry]:
        """(when work on each list begins, seconds after which those turned away may ask again; 0 = served), [B]."""
        if self.servers is None:
            start, retry = due.arrive, np.zeros(len(due.device), np.float32)
        else:
            start = self.servers.serve(due.arrive, seconds, tie=due.device, max_wait_s=self.admission.max_wait_s)
            spread = draws(self.service.seed, "retry", due.device, due.step)
            retry = self.admission.retry_after(due.arrive, start, spread)
        served = retry == 0
        self._count(_ANSWERED, due.device, served)
        self._count(_SECONDS, due.device, np.where(served, seconds, 0.0))
        return start, retry

    def carried(self, device: Ints, nbytes: Ints) -> None:
        """So many bytes were sent to or by these devices, all attempts."""
        self._count(_NBYTES, device, nbytes)

    def report(self, lived: Ints, until: float) -> None:
        """Devices `lived` have lived a step each; the earliest still to be lived is at `until` (inf = none)."""
        hours = (until - self.now) / 3600 if np.isfinite(until) else 0.0
        self.now = until
        if self.coordinator is not None:
            steps = np.bincount(self.service.tier[lived], minlength=self.counts.shape[1]).astype(np.float64)
            answered, denied, nbytes, seconds = self.counts
            self.coordinator.report(Spending(answered, denied, nbytes, seconds, steps, hours))
        self.counts = np.zeros_like(self.counts)

    def _count(self, what: int, device: Ints, amounts: NDArray[np.generic]) -> None:
        tier, width = self.service.tier[device], self.counts.shape[1]
        self.counts[what] += np.bincount(tier, weights=amounts.astype(np.float64), minlength=width)
