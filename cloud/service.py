"""What the cloud offers to one fleet, and the links it needs for that."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cloud.coordinator import Tariff
from cloud.generator import CandidateGenerator, Generated, plugin_name
from cloud.item_rows import Rows
from cloud.personalizer import Personalizer
from device.errors import ConfigError
from device.messages import Codec
from device.row_cache import NOTHING
from device.seeds import Draws

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Line:
    """Finite servers with one line before them.

    Args:
        count: of equal servers.
        max_wait_s: a request that would wait longer is turned away at once.
    """

    count: int
    max_wait_s: float = np.inf


class Carried(Protocol):
    """What became of B messages."""

    @property
    def arrive_at(self) -> Floats:
        """[B] virtual seconds; inf = lost."""
        ...

    @property
    def attempts(self) -> NDArray[np.int64]:
        """[B] attempts made."""
        ...

    @property
    def attempt_lost(self) -> NDArray[np.bool_]:
        """[B, A] which of them were lost."""
        ...


class Carrier(Protocol):
    """The link of one tier in virtual time; see `simulation.network`."""

    def send(self, nbytes: NDArray[np.int64], at: Floats, *, up: bool, draws: Draws, devices: Draws) -> Carried:
        """Carry B messages of nbytes [B], sent at `at` [B]."""
        ...

    @property
    def give_up_s(self) -> float:
        """Seconds after which a sender of a lost message is free to send another."""
        ...


@dataclass(frozen=True, slots=True)
class Personalization:
    """Parameters of a device's own.

    Args:
        personalizer: makes them.
        tiers: [tiers] bool: whose devices take them.
        every: a new patch with every so manieth answered request; 0 = only the one of the installation.
    """

    personalizer: Personalizer
    tiers: NDArray[np.bool_]
    every: int = 1


@dataclass(frozen=True, slots=True)
class Service:
    """What the cloud offers to one fleet under one policy.

    Args:
        generator: makes the lists.
        n_items: size of the catalogue.
        pool: candidates per list.
        history: items of a device that the cloud keeps.
        upload: items that a request may carry: the devices' history length.
        codec: of ids and scores.
        gflops: declared speed of the cloud in 10^9 floating-point operations per second and request.
        seconds: declared seconds per request instead of the generator's own cost (e.g. a published latency).
        carriers: one link per tier.
        tier: [D] tier of each device.
        rows: per tier, streamed item embeddings; None = the item table is resident.
        cache_rows: capacity of the devices' row caches.
        installed: [M] items whose rows are installed where the others are streamed.
        seed: of the experiment.
        delta_slots: replies leave out what is still in a merged pool of so many slots; 0 = replies are whole lists.
        servers: the finite servers with their line; None = every list is worked on at once.
        tariff: the budget held by a price; None = devices know a price of their own.
        window_s: steps that lie less than so many seconds apart may be lived at once; 0 is exact.
        personalization: what devices get of their own beside lists; None = nothing.
    """

    generator: CandidateGenerator
    n_items: int
    pool: int
    history: int
    upload: int
    codec: Codec
    gflops: float
    seconds: float | None
    carriers: Sequence[Carrier]
    tier: NDArray[np.int64]
    rows: Sequence[Rows | None]
    cache_rows: int
    seed: int
    delta_slots: int = 0
    installed: NDArray[np.int32] = field(default_factory=lambda: NOTHING)
    servers: Line | None = None
    tariff: Tariff | None = None
    window_s: float = 0.0
    personalization: Personalization | None = None

    @property
    def in_time(self) -> bool:
        """Whether what a device gets depends on what others asked before it, so that the order of time matters."""
        return self.servers is not None or self.tariff is not None


def cloud_seconds(service: Service, made: Generated) -> Floats:
    """[B] seconds the cloud works on each list; ConfigError when nobody says what a list costs."""
    if service.seconds is not None:
        return np.full(len(made.items), service.seconds)
    if made.seconds is not None:
        return made.seconds
    if made.flops is None:
        raise ConfigError(
            f"[cloud] {plugin_name(service.generator)} does not say what a list costs (flops or seconds); "
            "set seconds_per_request in [cloud], for it is not free"
        )
    return made.flops / (service.gflops * 1e9)
