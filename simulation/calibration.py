"""What may be chosen is chosen on validation steps: the price of a request and the fusion of the two scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud.gateway import Delivery, Gateway, Service
from cloud.ledger import Ledger
from device.fleet import Fleet, Setup
from device.fusion import Fusion, Normalisation
from simulation.metrics import NDCG
from simulation.replay import Columns, Shard, Timeline, Wave, replay

ALPHAS = tuple(i / 10 for i in range(11))
NORMALISATIONS: tuple[Normalisation, ...] = ("standardise", "minmax", "rank")
SEARCH_STEPS = 12


@dataclass(frozen=True, slots=True)
class Validation:
    """The validation replay: the steps before the test steps, lived by some of the devices."""

    timeline: Timeline
    service: Service
    model_bytes: Sequence[int]
    shown: int = 1

    def run(self, setups: Sequence[Setup], watch: "Watch | None" = None) -> Columns:
        """Telemetry of one replay without Flower."""
        gateway = Gateway(self.service, self.timeline.histories, Ledger())
        shard = Shard(
            setups,
            self.timeline,
            pool=self.service.pool,
            history=self.service.upload,
            codec=self.service.codec,
            shown=self.shown,
            watch=watch.see if watch else None,
        )
        first = gateway.install(self.model_bytes, self.timeline.at[:, 0])

        def exchange(number: int, delivery: Delivery) -> Iterator[Wave]:
            yield shard.wave(number, delivery)

        waves = list(replay(exchange, gateway, first, self.timeline.steps))
        return {k: np.concatenate([wave[k] for wave in waves]) for k in waves[0]}


@dataclass(slots=True)
class Watch:
    """Collects, per validation step, the scores that a fusion would have had to combine."""

    cloud: list[NDArray[Any]] = field(default_factory=list)
    device: list[NDArray[Any]] = field(default_factory=list)
    pool: list[NDArray[Any]] = field(default_factory=list)
    target: list[NDArray[Any]] = field(default_factory=list)

    def see(self, fleet: Fleet, who: NDArray[np.int64], taken: NDArray[np.int32]) -> None:
        """Called after `rank` and before `observe`."""
        self.cloud.append(fleet.cloud[who])
        self.device.append(fleet.scores(who).copy())
        self.pool.append(fleet.items[who])
        self.target.append(taken)

    def ndcg(self, fusion: Fusion) -> float:
        """NDCG@10 of all collected steps under a fusion."""
        from device.fleet import Ranking

        values = []
        for cloud, device, pool, target in zip(self.cloud, self.device, self.pool, self.target, strict=True):
            ranking = Ranking(pool, fusion(cloud, device, pool != 0), np.zeros(len(pool), np.int64))
            values.append(NDCG(10).of(*ranking.place(target)))
        return float(np.concatenate(values).mean())


def find_price(validation: Validation, setups: Sequence[Setup], ratio: float) -> float:
    """The price at which requests / steps on the validation replay comes closest to `ratio`, by bisection.

    Two replays, one in which every urgency is too low for the price and one in which none is, tell which urgencies
    occur; every later one halves the interval between a price that gives too many requests and one that gives too few.
    A wait for a reply can make a high ratio unreachable: then the lowest price is returned.
    """
    ends = [validation.run([replace(s, price=price) for s in setups])["urgency"] for price in (-np.inf, np.inf)]
    finite = [end[np.isfinite(end)].astype(np.float64) for end in ends]
    if not all(len(end) for end in finite):
        return 0.0
    low, high = min(end.min() for end in finite) - 1e-9, max(end.max() for end in finite)
    best = (np.inf, low)
    middle = float(np.quantile(np.concatenate(finite), 1 - ratio))
    for _ in range(SEARCH_STEPS):
        asked = validation.run([replace(s, price=middle) for s in setups])["asked"].mean()
        best = min(best, (abs(asked - ratio), middle))
        if best[0] < 0.01 * ratio:
            break
        low, high = (middle, high) if asked > ratio else (low, middle)
        middle = (low + high) / 2
    return float(best[1])


def find_fusion(validation: Validation, setups: Sequence[Setup]) -> Fusion:
    """The fusion with the best NDCG@10 on the validation replay under the policy and price of `setups`.

    Equal values go to the smaller weight of the cloud. One replay serves all fusions: the pools do not depend on the
    fusion, unless a policy looks at the rank of what was taken.
    """
    watch = Watch()
    validation.run(setups, watch)
    choices = [Fusion(a, n) for a, n in product(ALPHAS, NORMALISATIONS)]
    return max(choices, key=watch.ndcg)
