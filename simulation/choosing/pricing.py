"""From a byte, request or time budget to the price that a fleet starts with: what validation steps say about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud.coordinator import Budget, Curve, Tariff
from device.lease import Lease
from simulation import schema as c
from simulation.config.tables import BudgetTable
from simulation.replay import Columns, Timeline

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
RATIOS = (0.002, 0.9)
"""Bounds of the request ratio that a budget is expected to give."""
STEPS = (-1.5, 1.5)
"""Log-odds from the expected ones of a request at which validation is replayed for the response to a price."""


@dataclass(frozen=True, slots=True)
class Pricing:
    """How price and request ratio of one policy hang together in each of G groups: the tiers, or the whole fleet."""

    curves: tuple[Curve, ...]
    ratios: tuple[float, ...]  # expected under the budget

    def lease(self, tier: int) -> Lease:
        """What devices of a tier are told at installation."""
        group = tier if len(self.curves) > 1 else 0
        return Lease.of(self.curves[group], self.ratios[group])

    def tariff(self, budget: Budget, horizon: float) -> Tariff:
        """What the coordinator starts from."""
        return Tariff(budget, self.curves, self.ratios, horizon)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        curves = [{"odds": curve.odds.tolist(), "value": curve.value.tolist()} for curve in self.curves]
        return {"curves": curves, "ratios": list(self.ratios)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Pricing":
        """Inverse of `to_json`."""
        curves = tuple(Curve(np.array(one["odds"]), np.array(one["value"])) for one in values["curves"])
        return cls(curves, tuple(values["ratios"]))


def budget_of(table: BudgetTable, tiers: Sequence[str]) -> Budget:
    """The budget of a configuration; ConfigError when it is not one, or when it does not name the `tiers`."""

    def amounts(given: float | Mapping[str, float] | None) -> float | list[float] | None:
        return [given[name] for name in tiers] if isinstance(given, Mapping) else given

    return Budget(
        requests_per_step=amounts(table.requests_per_step),
        bytes_per_hour=amounts(table.bytes_per_hour),
        cloud_seconds_per_hour=amounts(table.cloud_seconds_per_hour),
    )


def groups(budget: Budget, tier: Ints) -> Ints:
    """The purse of devices of tiers [B]."""
    return tier if len(budget.rate) > 1 else np.zeros_like(tier)


def expected_ratios(budget: Budget, timeline: Timeline, ledger: Columns, *, devices: int) -> Floats:
    """[G] requests per step that a budget is expected to pay for.

    Args:
        budget: what may be spent.
        timeline: of the validation steps; their number per hour is the load that an operator would forecast. It is
            taken between their quartiles, when most devices are there: those of `leave_last` neither begin nor end
            together, so that there are few at both ends.
        ledger: of a replay of them; what a request costs.
        devices: of the fleet to come; the load is scaled from those of the timeline to so many.
    """
    if budget.unit == "steps":
        return np.clip(budget.rate, *RATIOS)
    size, group = len(budget.rate), groups(budget, timeline.tier)[ledger[c.DEVICE]]
    running = ~np.isin(ledger[c.KIND], c.INSTALLATION_KINDS)
    answered = running & (ledger[c.KIND] == c.CANDIDATES) & (ledger[c.ATTEMPT] == 1)
    column = c.NBYTES if budget.bytes_per_hour is not None else c.CLOUD_S
    spent = np.bincount(group[running], ledger[column][running], size)
    cost = spent / np.maximum(np.bincount(group[answered], minlength=size), 1)
    begin, end = np.quantile(timeline.at[np.isfinite(timeline.at)], (0.25, 0.75))
    lived = ((timeline.at >= begin) & (timeline.at < end)).sum(axis=1)
    hours = max(float(end - begin) / 3600, 1e-9)
    load = np.bincount(groups(budget, timeline.tier), lived, size) / hours * devices / len(timeline.devices)
    return np.clip(budget.rate / np.maximum(cost * load, 1e-300), *RATIOS)


def around(ratio: float) -> list[float]:
    """Request ratios below and above `ratio`, between which the response to a price is looked at."""
    odds = np.log(ratio / (1 - ratio)) + np.array(STEPS)
    return [float(one) for one in 1 / (1 + np.exp(-odds))]


def pricing(budget: Budget, lived: Mapping[float, Columns], tier: Ints, *, price: float, ratios: Floats) -> Pricing:
    """Curves from replays on validation at several prices; `tier` [D] are the tiers of its devices.

    The urgencies of one replay would not do: a policy that asks by the age of its list never shows an urgency far above
    its price, so they tell nothing of a higher one. Where the price does not change how often devices ask, it stays
    `price`, and the budget is held by turning requests away.
    """
    prices = np.sort(np.array(list(lived)))[::-1]
    group = {one: groups(budget, tier)[lived[one][c.DEVICE]] for one in prices}
    curves = []
    for number in range(len(budget.rate)):
        asked = [lived[one][c.ASKED][group[one] == number] for one in prices]
        curves.append(curve_of(prices, np.array([(a.sum() + 0.5) / (len(a) + 1) for a in asked]), price))
    return Pricing(tuple(curves), tuple(ratios.tolist()))


def curve_of(prices: Floats, asked: Floats, price: float) -> Curve:
    """The curve through request ratios asked [K] seen at falling prices [K]; see `pricing`."""
    higher = np.concatenate([[True], np.diff(np.maximum.accumulate(asked)) > 0])
    if higher.sum() < 2:
        return Curve.flat(price)
    asked = asked[higher]
    return Curve(np.log(asked / (1 - asked)), prices[higher])
