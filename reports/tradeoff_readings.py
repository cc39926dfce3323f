"""What a sweep says: readings at a budget, the Pareto front, areas, and paired differences."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reports import tradeoff_stats as stats
from reports.tradeoff_points import REQUESTS, Points
from reports.tradeoff_stats import Floats
from simulation import sweep_folder as f
from simulation.statistics import Difference, Interval


@dataclass(frozen=True, slots=True)
class Reading:
    """A policy at a cost: its value, its share of the difference from never to always, and of the gain of each bound.

    The bound itself is held as measured, so `of_bound` is the gain's interval in units of the bound's gain.
    """

    value: Interval
    recovered: Interval
    of_bound: Mapping[str, Interval]
    install_bytes: float


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
        recovered=share(float(ends[always]), resampled[:, always]),
        of_bound={name: share(top, top) for name, top in tops.items() if np.isfinite(top)},
        install_bytes=float(points.install_bytes @ weights),
    )


def bound_at(curve: tuple[Floats, Floats], at: float) -> float:
    """Value of a bound with at most `at` requests per step: its last value holds on, NaN before its first point."""
    return float(np.interp(at, *curve, left=np.nan))


def front(points: Points, measure: str, axis: str) -> tuple[NDArray[np.bool_], Floats]:
    """Which points are Pareto-optimal among all that do not know the future, and the share of resamples they are."""
    bound = np.array([family == f.BOUND_FAMILY for family in points.family])
    cost = np.where(bound, np.nan, points.cost[axis])
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
    """`policy` minus `against` at equal request ratio `at`; p_holm is corrected over all leads of one call."""

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
    places: list[tuple[str, float]] = []
    pairs: list[tuple[Floats, Floats]] = []
    for i, policy in enumerate(points.policy):
        wanted = float(points.budget[i] if np.isfinite(points.budget[i]) else points.cost[REQUESTS][i])
        mine, other = (points.weights(name, REQUESTS, wanted) for name in (policy, against))
        skipped = policy == against or points.family[i] == f.BOUND_FAMILY
        if not skipped and np.isfinite([wanted, mine.sum(), other.sum()]).all():
            places.append((policy, wanted))
            pairs.append((_mixed(points.values[measure], mine), _mixed(points.values[measure], other)))
    tests = stats.holm_differences(pairs)
    return [Lead(policy, against, at, *test) for (policy, at), test in zip(places, tests, strict=True)]


def _mixed(values: Floats, weights: Floats) -> Floats:
    """values [U, P] @ weights [P], of which at most a few are not 0."""
    used = np.flatnonzero(weights)
    return np.asarray(values[:, used] @ weights[used], np.float64)
