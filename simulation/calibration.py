"""What may be chosen is chosen on validation steps: the price of a request and the fusion of the two scores."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cloud.gateway import Delivery, Gateway, Service
from cloud.ledger import Ledger
from device.fleet import Fleet, Ranking, Setup
from device.fusion import Fuses, Fusion, FusionByAge, Normalisation
from device.model import Scores
from simulation.fusing import Shown, learn_fusion
from simulation.in_time import live
from simulation.metrics import NDCG
from simulation.replay import Columns, Shard, Timeline, Wave

ALPHAS = tuple(i / 10 for i in range(11))
NORMALISATIONS: tuple[Normalisation, ...] = ("standardise", "minmax", "rank")
SEARCH_STEPS = 12
TOLERANCE = 0.02
"""Of a request ratio, relative: readings at a budget are interpolated at what was really spent."""
Floats = NDArray[np.float64]
FUSION_ROWS = 40_000
"""Validation steps on which fusions are compared, at most."""


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


@dataclass(slots=True)
class Watch:
    """Collects, per validation step, the scores that a fusion would have had to combine."""

    parts: list[Shown] = field(default_factory=list)

    def see(self, fleet: Fleet, who: NDArray[np.int64], taken: NDArray[np.int32]) -> None:
        """See Watches."""
        self.parts.append(Shown(*fleet.candidates(who), taken))

    def together(self) -> Shown:
        """All steps, or FUSION_ROWS of them spread over all."""
        columns = [np.concatenate([getattr(part, name) for part in self.parts]) for name in Shown.__slots__]
        rows = np.linspace(0, len(columns[0]) - 1, min(len(columns[0]), FUSION_ROWS)).astype(int)
        return Shown(*(column[rows] for column in columns))


def ndcg(shown: Shown, fusion: Fuses) -> float:
    """NDCG@10 of the steps under a fusion."""
    return value(shown, fusion(shown.cloud, shown.device, shown.items != 0, shown.age))


def value(shown: Shown, fused: Scores) -> float:
    """NDCG@10 of the steps under fused scores [N, C]."""
    ranking = Ranking(shown.items, fused, np.zeros(len(fused), np.int64))
    return float(NDCG(10).of(*ranking.place(shown.taken)).mean())


def constant_fusions(shown: Shown) -> Iterator[tuple[Fusion, Scores]]:
    """Every constant fusion, smaller weights of the cloud first, with what it makes of the steps, [N, C].

    Each is a mean of the cloud's and the device's normalised scores, which are made once.
    """
    valid = shown.items != 0
    ends = {
        how: [Fusion(alpha, how)(shown.cloud, shown.device, valid, shown.age) for alpha in (1.0, 0.0)]
        for how in NORMALISATIONS
    }
    for alpha, how in product(ALPHAS, NORMALISATIONS):
        cloud, device = ends[how]
        with np.errstate(invalid="ignore"):  # an infinite score of an empty slot
            fused = np.float32(alpha) * cloud + np.float32(1 - alpha) * device
        yield Fusion(alpha, how), np.where(valid, fused, np.float32(-np.inf))


def find_price(rehearsal: Rehearsal, setups: Sequence[Setup], ratio: float) -> float:
    """The price at which requests / steps on the validation replay comes closest to `ratio`; see find_prices."""
    return find_prices(rehearsal, setups, [ratio])[0]


def find_prices(rehearsal: Rehearsal, setups: Sequence[Setup], ratios: Sequence[float]) -> list[float]:
    """The price for each wanted request ratio; every replay serves the search for all of them, see `search`.

    Two replays, one in which every urgency is above the price and one in which none is, tell which urgencies occur.
    A wait for a reply can make a high ratio unreachable: then the lowest price is returned.
    """
    ends = [rehearsal.run([replace(s, price=price) for s in setups]) for price in (-np.inf, np.inf)]
    finite = [end["urgency"][np.isfinite(end["urgency"])] for end in ends]
    if not all(len(end) for end in finite):
        return [0.0] * len(ratios)
    urgencies = np.sort(np.concatenate(finite))
    low, high = np.nextafter(urgencies[0], -np.inf), np.nextafter(urgencies[-1], np.inf)  # float32: as it is recorded
    tried = {float(low): float(ends[0]["asked"].mean())}
    if not any(np.isposinf(end["urgency"]).any() for end in ends):
        tried[float(high)] = 0.0

    def asked(price: float) -> float:
        if price not in tried:
            tried[price] = float(rehearsal.run([replace(s, price=price) for s in setups])["asked"].mean())
        return tried[price]

    asked(float(high))
    return [search(asked, tried, ratio, urgencies.astype(np.float64)) for ratio in ratios]


def search(asked: Callable[[float], float], tried: dict[float, float], ratio: float, urgencies: Floats) -> float:
    """The best price among those tried so far and at most SEARCH_STEPS more, within TOLERANCE of `ratio` if it can be.

    Regula falsi with the Illinois rule (Dowell and Jarratt, BIT 11, 1971) between the neighbouring prices tried before:
    log of the request ratio over log of the share of `urgencies` (sorted) above the price. Were a policy's urgencies
    independent of what it asked before, that would be a straight line.
    """
    size = len(urgencies)

    def point(price: float) -> list[float]:
        above = max(size - int(np.searchsorted(urgencies, price, "right")), 0.5) / size
        return [price, float(np.log(above)), float(np.log(max(asked(price), 0.5 / size) / ratio))]

    over = [price for price, r in tried.items() if r > ratio]
    under = [price for price, r in tried.items() if r <= ratio and price > max(over, default=-np.inf)]
    if over and under:
        low, high, side = point(max(over)), point(min(under)), 0
        for _ in range(SEARCH_STEPS):
            part = low[2] / (low[2] - high[2])
            price = float(np.quantile(urgencies, 1 - np.exp(low[1] + part * (high[1] - low[1]))))
            price = price if low[0] < price < high[0] else (low[0] + high[0]) / 2
            if close(tried, ratio) or not low[0] < price < high[0]:
                break
            if (found := point(price))[2] > 0:
                low, high[2], side = found, high[2] / (2 if side > 0 else 1), 1
            else:
                high, low[2], side = found, low[2] / (2 if side < 0 else 1), -1
    return min(tried, key=lambda price: (abs(tried[price] - ratio), price))


def close(tried: dict[float, float], ratio: float) -> bool:
    """Whether one of the prices tried gives the ratio."""
    return min(abs(r - ratio) for r in tried.values()) <= TOLERANCE * ratio


def find_fusion(rehearsal: Rehearsal, setups: Sequence[Setup]) -> Fusion:
    """The constant fusion with the best NDCG@10 on the validation replay under the policy and price of `setups`.

    Equal values go to the smaller weight of the cloud. One replay serves all fusions: the pools do not depend on the
    fusion, unless a policy looks at the rank of what was taken.
    """
    shown = watched(rehearsal, setups)
    values = ((fusion, value(shown, fused)) for fusion, fused in constant_fusions(shown))
    return max(values, key=lambda found: found[1])[0]


def find_fusion_by_age(rehearsal: Rehearsal, setups: Sequence[Setup]) -> FusionByAge:
    """The fusion by age learned on the validation replay under the policy and price of `setups`."""
    return learn_fusion(watched(rehearsal, setups))


def watched(rehearsal: Rehearsal, setups: Sequence[Setup]) -> Shown:
    """What a fusion would have had to combine on one replay."""
    watch = Watch()
    rehearsal.run(setups, watch)
    return watch.together()
