"""Holds what a whole fleet may spend by the price of a request, which reaches devices only inside replies.

The rule. Every tier (or the whole fleet) has a purse. It is filled at the rate of the budget and emptied by what is
spent; it holds at most what the budget gives in one `horizon`, so what was not spent for longer than that is forgone
and cannot be spent in one rush. Urgencies come in any unit, so the dual variable is not the price but the log-odds of a
request, and the curve seen on validation steps turns it into a price. With every report

    odds += (GAIN * (allowance - demand) / larger of both + GAIN^2 / 4 * (level / full - 1/2)) * elapsed / horizon

The first term is dual ascent on the budget (Balseiro, Lu and Mirrokni, Operations Research 2023), made free of scale;
both sums are of late (they fade by e in 1 / MEMORY of a horizon). The second steers the purse to half full, so that the
cumulative spending meets the budget; GAIN^2 / 4 is critical damping. Where urgencies have drifted the curve is wrong,
and the sums make up for it. Nothing winds up: a full purse banks nothing, and the terms are at most 1 and 3/2.

Devices that do not ask do not hear. Held prices that are too low mend themselves, as their holders ask much and hear
soon; a price that is too high would be held for ever. So a price is a `Lease`: it holds for some steps, then falls
steadily until the device asks again.

A price cannot keep a promise when everybody becomes urgent at once. So while a purse is overdrawn the cloud turns
requests away (`shut`): what is spent on answers is never more than the allowance and one wave. What is turned away
counts as demand all the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError, ContractError
from device.lease import Lease

__all__ = ["Budget", "Coordinator", "Curve", "Lease", "Spending", "Tariff"]
Floats = NDArray[np.float64]
Amounts = float | Sequence[float] | None
GAIN = 4.0
MEMORY = 16.0
ODDS_CAP = 40.0
"""Bound of the log-odds; the curve goes on in a straight line far beyond what validation has seen."""
GRID = 64


@dataclass(frozen=True, slots=True)
class Spending:
    """What happened since the last report; arrays are [tiers]."""

    answered: Floats  # requests
    denied: Floats  # requests turned away for the budget's sake
    nbytes: Floats  # both directions, all attempts
    cloud_seconds: Floats
    steps: Floats  # lived by devices; needed for a budget of requests per step only
    hours: float  # of virtual time


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent, exactly one of three; a number for the whole fleet, or one number per tier.

    Args:
        requests_per_step: answered requests per step lived.
        bytes_per_hour: both directions, all attempts, of all devices together.
        cloud_seconds_per_hour: seconds of work of all servers together.
    """

    requests_per_step: Amounts = None
    bytes_per_hour: Amounts = None
    cloud_seconds_per_hour: Amounts = None

    def __post_init__(self) -> None:
        given = [a for a in (self.requests_per_step, self.bytes_per_hour, self.cloud_seconds_per_hour) if a is not None]
        if len(given) != 1:
            raise ConfigError(
                f"[budget] {len(given)} budgets; give one of requests_per_step, bytes_per_hour, cloud_seconds_per_hour"
            )
        rate = np.atleast_1d(np.asarray(given[0], np.float64))
        if rate.ndim != 1 or not len(rate) or not (np.isfinite(rate) & (rate > 0)).all():
            raise ConfigError(f"[budget] {given[0]}; expected a number above 0, or one per tier")

    @property
    def rate(self) -> Floats:
        """[G] what each purse gets per step or hour; G = 1 for a budget of the whole fleet."""
        given = (self.requests_per_step, self.bytes_per_hour, self.cloud_seconds_per_hour)
        return np.atleast_1d(np.asarray(next(a for a in given if a is not None), np.float64))

    @property
    def unit(self) -> Literal["steps", "hours"]:
        """What the budget is spread over."""
        return "hours" if self.requests_per_step is None else "steps"

    def measure(self, spending: Spending) -> tuple[Floats, Floats, Floats, Floats]:
        """(spent, elapsed in `unit`, answered, denied), each [G]; ContractError for another number of tiers."""
        if self.requests_per_step is not None:
            spent = spending.answered
        else:
            spent = spending.cloud_seconds if self.bytes_per_hour is None else spending.nbytes
        columns = [spent, spending.steps, spending.answered, spending.denied]
        if len(self.rate) == 1:
            columns = [column.sum(keepdims=True) for column in columns]
        elif len(spent) != len(self.rate):
            raise ContractError(f"[budget] of {len(self.rate)} tiers, the fleet has {len(spent)}; give one per tier")
        elapsed = columns[1] if self.unit == "steps" else np.full(len(self.rate), spending.hours)
        return columns[0], elapsed, columns[2], columns[3]


@dataclass(frozen=True, slots=True)
class Curve:
    """How the price of a request depends on the wanted log-odds of one, as seen on validation steps."""

    odds: Floats  # [K] rising
    value: Floats  # [K] falling: the urgency exceeded with these odds

    @classmethod
    def flat(cls, price: float) -> "Curve":
        """One price for all odds: of a policy that asks always or never, whatever the price."""
        return cls(np.array([-1.0, 1.0]), np.full(2, price))

    @classmethod
    def of(cls, urgencies: Floats) -> "Curve":
        """The curve of urgencies [n] observed on validation; infinite ones and NaN (a device that waits) are left out.

        Raises ConfigError when nothing is left or all are the same, for no price can then choose between steps.
        """
        seen = urgencies[np.isfinite(urgencies)].astype(np.float64)
        if not len(seen) or seen.min() == seen.max():
            raise ConfigError(
                "[budget] the policy's urgencies on validation are all the same or not finite, so no price can hold a "
                "budget; use a policy whose urgency varies"
            )
        reach = np.log(len(seen) + 1.0)
        odds = np.linspace(-reach, reach, GRID)
        return cls(odds, np.quantile(seen, 1 / (1 + np.exp(odds))))

    def price(self, odds: Floats) -> Floats:
        """[...] the price for log-odds [...]; a straight line of the mean slope goes on beyond both ends."""
        slope = (self.value[-1] - self.value[0]) / (self.odds[-1] - self.odds[0])
        beyond = odds - np.clip(odds, self.odds[0], self.odds[-1])
        return np.asarray(np.interp(odds, self.odds, self.value) + slope * beyond)

    @property
    def slope(self) -> float:
        """Fall of the price per unit of log-odds."""
        return float((self.value[0] - self.value[-1]) / (self.odds[-1] - self.odds[0]))


@dataclass(frozen=True, slots=True)
class Tariff:
    """What a coordinator starts from; see `Coordinator` for the meaning of the four."""

    budget: Budget
    curves: tuple[Curve, ...]
    start: tuple[float, ...]
    horizon: float

    def coordinator(self) -> "Coordinator":
        """A new one."""
        return Coordinator(self.budget, self.curves, start=self.start, horizon=self.horizon)


@final
class Coordinator:
    """The purses and prices of G groups: the tiers, or the whole fleet as one.

    Args:
        budget: what may be spent.
        curves: G of them.
        start: requests per step to begin with, in (0, 1); one for all or one per group.
        horizon: hours (or steps of all devices, for a budget of requests per step) over which spending may be uneven:
            a day where nights are quiet. Below about twice what a device takes from one reply to the next, prices
            swing. Warm-up takes about three; over n more the spending is off by 1 / (2n), or prices cannot reach it.
    """

    def __init__(
        self, budget: Budget, curves: Sequence[Curve], *, start: float | Sequence[float], horizon: float
    ) -> None:
        first = np.broadcast_to(np.asarray(start, np.float64), len(curves))
        if not ((first > 0) & (first < 1)).all():
            raise ConfigError(f"[budget] start = {start}; expected a request ratio between 0 and 1")
        if not 0 < horizon < np.inf:
            raise ConfigError(f"[budget] horizon = {horizon}; expected {budget.unit} above 0")
        if len(curves) != len(budget.rate):
            raise ConfigError(f"[budget] {len(curves)} price curves for {len(budget.rate)} budgets; give one each")
        self.budget, self.curves, self.horizon = budget, list(curves), horizon
        self.full = budget.rate * horizon
        self.level = np.zeros(len(curves))  # what may still be spent; below 0 = overdrawn
        self.odds = np.log(first / (1 - first))  # the dual variable
        self.flow = np.zeros((2, len(curves)))  # allowance and demand of late
        self.total = np.zeros((4, len(curves)))  # spent, answered, elapsed, hours

    @property
    def price(self) -> Floats:
        """[G] finite price that replies carry now."""
        return np.array([curve.price(odds) for curve, odds in zip(self.curves, self.odds, strict=True)])

    @property
    def shut(self) -> NDArray[np.bool_]:
        """[G] True while a purse is overdrawn: requests are turned away."""
        return self.level < 0

    @property
    def shut_s(self) -> Floats:
        """[G] virtual seconds until a purse is level again if nothing is spent; 0 where it is not overdrawn."""
        hours = np.divide(self.total[3], self.total[2], out=np.ones(len(self.level)), where=self.total[2] > 0)
        return np.asarray(np.maximum(-self.level, 0) / self.budget.rate * hours * 3600)

    def of_tier(self, values: NDArray[np.generic], tier: NDArray[np.int64]) -> NDArray[np.generic]:
        """[B] the entries of values [G] that hold for devices of tiers [B]."""
        return values[tier if len(values) > 1 else np.zeros_like(tier)]

    def report(self, spending: Spending) -> None:
        """Take in what was spent since the last report; prices change. ContractError for what cannot be."""
        spent, elapsed, answered, denied = self.budget.measure(spending)
        if not all((np.isfinite(a) & (a >= 0)).all() for a in (spent, elapsed, answered, denied)):
            raise ContractError(f"[budget] spent {spent}, elapsed {elapsed}; expected finite numbers >= 0")
        # What the purse cannot hold is forgone, and does not move the price either.
        banked = np.minimum(self.level + self.budget.rate * elapsed, self.full) - self.level
        self.level += banked - spent
        self.total += np.stack([spent, answered, elapsed, np.full(len(spent), spending.hours)])
        demand = spent + denied * self._cost()
        self.flow = self.flow * np.exp(-MEMORY * elapsed / self.horizon) + np.stack([banked, demand])
        most = self.flow.max(axis=0)
        push = np.divide(self.flow[0] - self.flow[1], most, out=np.zeros(len(most)), where=most > 0)
        step = GAIN * push + GAIN**2 / 4 * (np.clip(self.level / self.full, -1, 1) - 0.5)
        self.odds = np.clip(self.odds + step * np.minimum(elapsed / self.horizon, 0.25), -ODDS_CAP, ODDS_CAP)

    def _cost(self) -> Floats:
        """[G] mean spending per answered request so far."""
        return np.asarray(self.total[0] / np.maximum(self.total[1], 1))
