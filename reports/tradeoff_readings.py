"""What a sweep says: readings at a budget, the Pareto front, areas, and paired differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reports import tradeoff_stats as stats
from reports.tradeoff_points import REQUESTS, Points
from reports.tradeoff_stats import Floats
from simulation.statistics import Difference, Interval

LEAST = 0.01
"""Share of never's value by which always, or a bound, must be worth more; below it shares of the gain say nothing."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A policy at a cost: its value, what it gains over never, and its share of always's and of each bound's gain.

    `recovered` is None where always and never hardly differ (see `shares_defined`). The bound itself is held as
    measured, so `of_bound` is the gain's interval in units of the bound's gain, without bounds hardly above never.
    """

    value: Interval
    gain: Interval
    recovered: Interval | None
    of_bound: Mapping[str, Interval]
    install_bytes: float


def shares_defined(points: Points, measure: str) -> bool:
    """Whether always is worth more than never: by 1 % of never's value, and in the 95 % interval over users."""
    never, always = (points.means(measure)[i] for i in (points.never, points.always))
    resampled = points.resampled[measure]
    low = float(np.percentile(resampled[:, points.always] - resampled[:, points.never], 2.5))
    return low > 0.0 and _worth(always, never)


def _worth(best: float, never: float) -> bool:
    """Whether `best` (NaN: no) is so much better than never that shares of the difference say anything."""
    return bool(best > never and best - never >= LEAST * abs(never))


def read_at(points: Points, measure: str, policy: str, axis: str, at: float) -> Reading | None:
    """What `policy` is worth at cost `at` on an axis of `AXES`; None where it does not reach."""
    weights = points.weights(policy, axis, at)
    if np.isnan(weights).any():
        return None
    value, replicates = float(points.means(measure) @ weights), points.resampled[measure] @ weights
    ends, resampled = points.means(measure), points.resampled[measure]
    never, always, n = points.never, points.always, points.users

    def share(best: float, best_resampled: Floats | float) -> Interval:
        shares = stats.recovered(replicates, resampled[:, never], best_resampled)
        return stats.interval(float(stats.recovered(value, ends[never], best)), shares, n)

    bounds = points.bounds if axis == REQUESTS and measure == points.measures[0] else {}
    tops = {name: bound_at(curve, at) for name, curve in bounds.items()}
    return Reading(
        value=stats.interval(value, replicates, n),
        gain=stats.interval(value - float(ends[never]), replicates - resampled[:, never], n),
        recovered=share(float(ends[always]), resampled[:, always]) if shares_defined(points, measure) else None,
        of_bound={name: share(top, top) for name, top in tops.items() if _worth(top, float(ends[never]))},
        install_bytes=float(points.install_bytes @ weights),
    )


def bound_at(curve: tuple[Floats, Floats], at: float) -> float:
    """Value of a bound with at most `at` requests per step: its last value holds on, NaN before its first point."""
    return float(np.interp(at, *curve, left=np.nan))


def front(points: Points, measure: str, axis: str) -> tuple[NDArray[np.bool_], Floats]:
    """Which points are Pareto-optimal among all, and the share of resamples they are."""
    cost = points.cost[axis]
    inside = stats.on_front(cost, points.resampled[measure])
    return stats.on_front(cost, points.means(measure)), np.asarray(inside.mean(axis=0), np.float64)


def hypervolume(points: Points, measure: str, axis: str, policy: str) -> Interval:
    """Area between a policy's points and the reference (largest cost of all points, never's value) on an axis."""
    mine, cost = points.of(policy), points.cost[axis]
    known = cost[np.isfinite(cost)]
    worst = float(known.max()) if known.size else 0.0

    def volume(values: Floats) -> Floats:
        never = values[..., points.never]
        return stats.hypervolume(cost[mine], values[..., mine], worst_cost=worst, worst_value=never)

    return stats.interval(float(volume(points.means(measure))), volume(points.resampled[measure]), points.users)


@dataclass(frozen=True, slots=True)
class Area:
    """Normalised area between random (0) and a bound (1) over the request ratios from `low` to `high`."""

    share: Interval
    low: float
    high: float


def area(points: Points, policy: str, random: str, bound: str) -> Area | None:
    """(area under policy - under random) / (under bound - under random), first measure against the request ratio.

    Over the ratios that all three cover; None where there are none. The bound is held as measured.
    """
    measure, cost = points.measures[0], points.cost[REQUESTS]
    mine, other, (ratios, top) = points.of(policy), points.of(random), points.bounds[bound]
    knots = stats.common_knots(cost[mine], cost[other], np.append(ratios, max(1.0, ratios[-1])))
    if not knots.size:
        return None
    best = stats.areas(np.append(ratios, max(1.0, ratios[-1])), np.append(top, top[-1]), knots)

    def share(values: Floats) -> Floats:
        drawn = stats.areas(cost[other], values[..., other], knots)
        return stats.recovered(stats.areas(cost[mine], values[..., mine], knots), drawn, best)

    found = stats.interval(float(share(points.means(measure))), share(points.resampled[measure]), points.users)
    return Area(found, float(knots[0]), float(knots[-1]))


@dataclass(frozen=True, slots=True)
class Lead:
    """`policy` minus `against` at equal cost `at` of an axis; p_holm is corrected over all leads of one call."""

    policy: str
    against: str
    at: float
    difference: Difference
    p_holm: float


def leads(points: Points, measure: str, against: str) -> list[Lead]:
    """Every policy minus `against`, paired by user, at each of its budgets that both reach.

    Both sides are read off at the same realised ratio: a user's values at the two neighbouring points are
    interpolated as the means are. A policy without a budget is met at its own ratio.
    """
    places = []
    for i, policy in enumerate(points.policy):
        wanted = float(points.budget[i] if np.isfinite(points.budget[i]) else points.cost[REQUESTS][i])
        if policy != against and reaches(points, wanted, policy, against):
            places.append((policy, against, wanted))
    return paired(points, measure, places)


def reaches(points: Points, at: float, *policies: str, axis: str = REQUESTS) -> bool:
    """Whether all of `policies` can be read off at cost `at` of `axis`."""
    weights = [points.weights(policy, axis, at) for policy in policies]
    return bool(np.isfinite([at, *(one.sum() for one in weights)]).all())


def spent(points: Points, axis: str, policy: str, at: float) -> float:
    """What `policy` spends on `axis` at request ratio `at`, which it must reach; NaN where that is unknown."""
    return float(_mixed(points.cost[axis][None], points.weights(policy, REQUESTS, at))[0])


def paired(
    points: Points, measure: str, places: Sequence[tuple[str, str, float]], *, axis: str = REQUESTS
) -> list[Lead]:
    """The lead at each (policy, against, cost on `axis`), which both must reach; one Holm correction over all."""
    values = points.values[measure]
    pairs = [
        (_mixed(values, points.weights(policy, axis, at)), _mixed(values, points.weights(against, axis, at)))
        for policy, against, at in places
    ]
    return [Lead(*place, *test) for place, test in zip(places, stats.holm_differences(pairs), strict=True)]


def _mixed(values: Floats, weights: Floats) -> Floats:
    """values [U, P] @ weights [P], of which at most a few are not 0."""
    used = np.flatnonzero(weights)
    return np.asarray(values[:, used] @ weights[used], np.float64)
