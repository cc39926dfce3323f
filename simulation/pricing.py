"""From a byte, request or time budget to the price that a fleet starts with: what validation steps say about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud.coordinator import Budget, Curve, Tariff
from device.lease import Lease
from simulation import schema as c
from simulation.config_tables import BudgetTable
from simulation.replay import Columns, Timeline

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
RATIOS = (0.002, 0.9)
"""Bounds of the request ratio that a budget is expected to give."""


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
        timeline: of the validation steps; their number per hour is the load that an operator would forecast.
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
    lived = np.isfinite(timeline.at)
    hours = max(float(np.ptp(timeline.at[lived])) / 3600, 1e-9)
    load = np.bincount(groups(budget, timeline.tier), lived.sum(axis=1), size) / hours * devices / len(timeline.devices)
    return np.clip(budget.rate / np.maximum(cost * load, 1e-300), *RATIOS)


def pricing(budget: Budget, lived: Columns, tier: Ints, *, price: float, ratios: Floats) -> Pricing:
    """Curves from the urgencies of a replay on validation, `tier` [D] being the tiers of its devices.

    Where urgencies are all the same or infinite no price can choose between steps: it stays `price`, and the budget is
    held by turning requests away.
    """
    group = groups(budget, tier)[lived[c.DEVICE]]
    curves = tuple(curve_of(lived[c.URGENCY][group == one], price) for one in range(len(budget.rate)))
    return Pricing(curves, tuple(ratios.tolist()))


def curve_of(urgencies: NDArray[np.float32], price: float) -> Curve:
    """See `pricing`."""
    finite = urgencies[np.isfinite(urgencies)]
    varied = len(finite) > 0 and finite.min() < finite.max()
    return Curve.of(urgencies.astype(np.float64)) if varied else Curve.flat(price)
