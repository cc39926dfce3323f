"""A cloud with few servers: requests wait in one line, first come, first served, in virtual time.

Why the times are exact although devices are simulated in groups. A device's requests leave at its steps, and a step's
time is known before the step is lived. So if no device's next step is earlier than a time h, no request that is still
to come can reach the cloud before h, and everything that arrives by h can be put in its final order now. The simulator
therefore lives the steps in order of time: `Span.next` picks the earliest steps, their requests go into the
`WaitingRoom`, and `due(h)`, h being the earliest step still to be lived, hands out what has become certain. A device
whose request is still in the room has no reply before h either, so none of its steps up to h misses one.

A wave may take in every step less than `window_s` after the earliest. That changes nothing while the window is no
longer than the least time a list takes from its arrival at the cloud to the device (service and downlink). A longer
window is an approximation for large fleets: the order in the line stays exact, but a reply that would have been there
for a step of the same wave is seen one step of that device later. With window 0 it never happens.

Requests that arrive in the same instant are served in order of their devices, except that nothing overtakes what has
been handed out.
"""

from dataclasses import dataclass
from heapq import heapreplace
from typing import final

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError, ContractError
from device.seeds import Draws

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Span:
    """A time and what comes less than a window after it."""

    first: float  # virtual seconds
    until: float

    @classmethod
    def next(cls, next_at: Floats, window_s: float) -> "Span | None":
        """The span that begins with the earliest of next_at [D] (inf = no step left); None when nothing is left."""
        first = float(next_at.min(initial=np.inf))
        return cls(first, first + window_s) if np.isfinite(first) else None

    def rows(self, next_at: Floats) -> Ints:
        """Which of next_at [D] lie in it."""
        return np.flatnonzero((next_at == self.first) | (next_at < self.until))


@final
class Servers:
    """Equal servers with one line before them, state kept between batches.

    Args:
        count: number of servers; ConfigError below 1.
    """

    __slots__ = ("closed_until", "free_at")

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ConfigError(f"[cloud] servers = {count}; expected 1 or more")
        self.free_at: Floats = np.full(count, -np.inf)  # sorted: when each server has done what it was given
        self.closed_until = -np.inf  # the last arrival that was put in order

    def serve(self, arrive: Floats, seconds: Floats, *, tie: Ints, max_wait_s: float = np.inf) -> Floats:
        """[B] when the work on requests begins that arrive at `arrive` [B] and take `seconds` [B].

        A request that would have to wait longer than `max_wait_s` is turned away and takes no server's time; its
        number is when it would have begun. Any order of rows; equal arrivals go by `tie` [B] (the device). Raises
        ContractError for an arrival earlier than one of an earlier call, or for times that are not finite.
        """
        self._check(arrive, seconds)
        start = np.empty(len(arrive))
        order = np.lexsort((tie, arrive))
        # One addition and one comparison per request, always the same ones: a sum over a whole batch would be faster
        # and differ in the last bits with where the stream was cut.
        free, begins = self.free_at.tolist(), []
        for at, work in zip(arrive[order].tolist(), seconds[order].tolist(), strict=True):
            begin = max(free[0], at)
            if begin - at <= max_wait_s:
                heapreplace(free, begin + work)
            begins.append(begin)
        start[order] = begins
        self.free_at = np.sort(np.array(free))
        self.closed_until = float(arrive.max(initial=self.closed_until))
        return start

    def _check(self, arrive: Floats, seconds: Floats) -> None:
        if not (np.isfinite(arrive).all() and np.isfinite(seconds).all() and (seconds >= 0).all()):
            raise ContractError("servers: arrivals and seconds must be finite, seconds >= 0; leave out what was lost")
        if arrive.min(initial=np.inf) < self.closed_until:
            raise ContractError(
                f"servers: a request arrives at {arrive.min()} s, but arrivals up to {self.closed_until} s are served "
                "already; serve only what the waiting room hands out"
            )


@dataclass(frozen=True, slots=True)
class Waiting:
    """B requests on their way to the servers, in order of arrival."""

    arrive: Floats  # [B] virtual seconds
    device: Ints  # [B]
    step: Ints  # [B] names the request

    def rows(self, rows: Ints) -> "Waiting":
        """Some of them."""
        return Waiting(self.arrive[rows], self.device[rows], self.step[rows])


@final
class WaitingRoom:
    """Keeps requests until no earlier one can arrive any more."""

    __slots__ = ("closed_until", "inside")

    def __init__(self) -> None:
        self.inside = Waiting(np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))
        self.closed_until = -np.inf

    def __len__(self) -> int:
        return len(self.inside.device)

    def add(self, arrive: Floats, device: Ints, step: Ints) -> None:
        """Take in requests [B]; ContractError if one arrives before what was handed out, or never."""
        if not np.isfinite(arrive).all():
            raise ContractError("waiting room: arrivals must be finite; leave out what was lost")
        if arrive.min(initial=np.inf) < self.closed_until:
            raise ContractError(
                f"waiting room: a request arrives at {arrive.min()} s, but all up to {self.closed_until} s was handed "
                "out; live the steps in order of time"
            )
        old = self.inside
        arrive = np.concatenate([old.arrive, arrive])
        device, step = np.concatenate([old.device, device]), np.concatenate([old.step, step])
        order = np.lexsort((device, arrive))
        self.inside = Waiting(arrive[order], device[order], step[order])

    def due(self, until: float) -> Waiting:
        """Hand out what arrives up to and at `until`, the time of the earliest step still to be lived (inf = none)."""
        self.closed_until = max(self.closed_until, until)
        old, cut = self.inside, int(np.searchsorted(self.inside.arrive, until, side="right"))
        self.inside = Waiting(old.arrive[cut:], old.device[cut:], old.step[cut:])
        return Waiting(old.arrive[:cut], old.device[:cut], old.step[:cut])


@dataclass(frozen=True, slots=True)
class Admission:
    """Turns requests away at once when their wait would be long, and says when to come back.

    Args:
        max_wait_s: longest wait in the line.
        least_retry_s: shortest time after which a device that was turned away is asked back.
    """

    max_wait_s: float
    least_retry_s: float = 1.0

    def __post_init__(self) -> None:
        if not (self.max_wait_s >= 0 and 0 < self.least_retry_s < np.inf):
            raise ConfigError(
                f"[cloud] max_wait_s = {self.max_wait_s}, least_retry_s = {self.least_retry_s}; "
                "expected seconds >= 0 and > 0"
            )

    def denied(self, arrive: Floats, start: Floats) -> NDArray[np.bool_]:
        """[B] which of the requests that `Servers.serve` placed with this max_wait_s were turned away."""
        return start - arrive > self.max_wait_s

    def retry_after(self, arrive: Floats, start: Floats, draws: Draws) -> NDArray[np.float32]:
        """[B] seconds until the line will be short enough if nobody else comes, times a draw in [1, 1.5); 0 = admitted.

        The draw keeps devices that were turned away together from coming back together.
        """
        calm = np.maximum(start - arrive - self.max_wait_s, self.least_retry_s)
        spread = calm * (1.0 + 0.5 * draws.uniform()[:, 0])
        return np.where(self.denied(arrive, start), spread, 0.0).astype(np.float32)
