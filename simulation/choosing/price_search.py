"""The price of a request that gives a wanted share of steps with a request, searched on replays of validation steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from device.setup import Setup
from simulation.choosing.rehearsal import Rehearsal

Floats = NDArray[np.float64]
SEARCH_STEPS = 12
TOLERANCE = 0.04
"""Of a request ratio, relative: readings at a budget are interpolated at what was really spent."""


@dataclass(slots=True)
class Trials:
    """Request ratios (requests / steps) of validation replays at the prices tried so far."""

    rehearsal: Rehearsal
    setups: Sequence[Setup]
    tried: dict[float, float] = field(default_factory=dict)

    def live(self, price: float) -> Floats:
        """[N] finite urgencies of a replay at a price, whose ratio is kept."""
        lived = self.rehearsal.run([replace(setup, price=price) for setup in self.setups])
        self.tried[price] = float(lived["asked"].mean())
        found = lived["urgency"].astype(np.float64)
        return found[np.isfinite(found)]

    def asked(self, price: float) -> float:
        """The ratio at a price."""
        if price not in self.tried:
            self.live(price)
        return self.tried[price]


def find_prices(
    rehearsal: Rehearsal, setups: Sequence[Setup], ratios: Sequence[float], tolerance: float = TOLERANCE
) -> list[float]:
    """The price for each wanted request ratio; every replay serves the search for all of them, see `search`.

    Two replays, one in which every urgency is above the price and one in which none is, tell which urgencies occur.
    A wait for a reply can make a high ratio unreachable: then the lowest price is returned.
    """
    trials = Trials(rehearsal, setups)
    ends = [trials.live(price) for price in (-np.inf, np.inf)]
    most, least = trials.tried.pop(-np.inf), trials.tried.pop(np.inf)
    if not all(len(end) for end in ends):
        return [0.0] * len(ratios)
    urgencies = np.sort(np.concatenate(ends))
    low, high = outside(urgencies)
    trials.tried[low] = most
    if not least:
        trials.tried[high] = 0.0
    trials.asked(high)
    return [search(trials.asked, trials.tried, ratio, urgencies, tolerance) for ratio in ratios]


def adjusted_price(rehearsal: Rehearsal, setups: Sequence[Setup], ratio: float, price: float) -> float:
    """The price for a wanted request ratio where `price` was right before some small thing changed."""
    trials = Trials(rehearsal, setups)
    urgencies = np.sort(trials.live(price))
    if close(trials.tried, ratio):
        return price
    if len(urgencies):
        shift = np.log(max(trials.tried[price], 0.5 / len(urgencies)) / ratio)
        for part in (1.0, 3.0):  # until there is a ratio on either side of the wanted one
            above = max(len(urgencies) - int(np.searchsorted(urgencies, price, "right")), 0.5) / len(urgencies)
            trials.asked(float(np.quantile(urgencies, 1 - min(above * np.exp(-part * shift), 1.0))))
        found = search(trials.asked, trials.tried, ratio, urgencies)
        if close({found: trials.tried[found]}, ratio):
            return found
    return find_prices(rehearsal, setups, [ratio])[0]


def outside(urgencies: Floats) -> tuple[float, float]:
    """Prices just below and just above all urgencies (sorted; recorded as float32)."""
    low, high = np.float32(urgencies[0]), np.float32(urgencies[-1])
    return float(np.nextafter(low, np.float32(-np.inf))), float(np.nextafter(high, np.float32(np.inf)))


def search(
    asked: Callable[[float], float],
    tried: dict[float, float],
    ratio: float,
    urgencies: Floats,
    tolerance: float = TOLERANCE,
) -> float:
    """The price nearest to `ratio` of those tried and at most SEARCH_STEPS more; within `tolerance` of it if it can be.

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
            if close(tried, ratio, tolerance) or not low[0] < price < high[0]:
                break
            if (found := point(price))[2] > 0:
                low, high[2], side = found, high[2] / (2 if side > 0 else 1), 1
            else:
                high, low[2], side = found, low[2] / (2 if side < 0 else 1), -1
    return min(tried, key=lambda price: (abs(tried[price] - ratio), price))


def close(tried: dict[float, float], ratio: float, tolerance: float = TOLERANCE) -> bool:
    """Whether one of the prices tried gives the ratio."""
    return min(abs(r - ratio) for r in tried.values()) <= tolerance * ratio
