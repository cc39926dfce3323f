"""Statistics of a trade-off between accuracy and cost, on arrays only.

U users, P points (a policy at a budget), R resamples. A user's values are averaged over the seeds before anything
else: the persons are the same under every seed, so seeds are repeated measurements of one person and not more
persons. A resample therefore takes a user with all its seeds, and policy, never and always see the same users.
Costs are what was really spent; they are held as measured in every resample.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from device.errors import RunError
from device.seeds import rng
from simulation.statistics import Difference, Interval, holm, paired_difference

Floats = NDArray[np.float64]
REACH = 0.05
"""How far beyond a policy's last point it is still read off, as a share of the place asked for."""
_CHUNK = 50  # resamples at a time: [50, 36,000] float64 is 14 MB


def resampled_means(values: Floats, *, seed: int, resamples: int = 1000) -> Floats:
    """Means [R, P] of `values` [U, P] over users drawn with replacement (Efron 1979), one draw for all columns.

    RunError without users or with values that are not finite.
    """
    users = len(values)
    if not users or not np.isfinite(values).all():
        raise RunError(f"bootstrap: {users} users, or values that are not finite; give one value per user and point")
    generator = rng(seed, "trade-off", "bootstrap")
    means = np.empty((resamples, values.shape[1]))
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        drawn = generator.integers(users, size=(rows, users)) + np.arange(rows)[:, None] * users
        counts = np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users)
        means[start : start + rows] = counts @ values / users
    return means


def interval(value: float, replicates: Floats, users: int) -> Interval:
    """`value` with the 2.5 and 97.5 % points of its resamples [R] (percentile bootstrap, Efron 1979)."""
    low, high = np.percentile(replicates, [2.5, 97.5])
    return Interval(float(value), float(low), float(high), users)


def recovered(value: ArrayLike, never: ArrayLike, always: ArrayLike) -> Floats:
    """(value - never) / (always - never), broadcast: 0 is as good as never, 1 as always; NaN where these are equal.

    The same share of the optimum's gain has the optimum in the place of `always`.
    """
    gain, whole = np.subtract(value, never), np.subtract(always, never)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole == 0.0, np.nan, gain / whole)


def weights_at(cost: Floats, at: float) -> Floats:
    """Weights [P] so that `values @ weights` is the policy's value at cost `at`; all NaN where it does not reach.

    Linear between the two neighbouring points of the policy itself: never and always are not its ends, because a
    policy with other means (a merged list, items resident on the device) does not end there. Up to 5 % of `at`
    beyond the first or last point that point's value holds (realised spending is never exactly the budget); further
    away nothing is claimed. Points of equal cost count with their mean; NaN costs are left out.
    """
    weights, known = np.zeros(len(cost)), np.isfinite(cost)
    places, inverse, counts = np.unique(cost[known], return_inverse=True, return_counts=True)
    slack = REACH * abs(at)
    if not places.size or not places[0] - slack <= at <= places[-1] + slack:
        return np.full(len(cost), np.nan)
    weights[known] = (_segment_weights(places, float(np.clip(at, places[0], places[-1]))) / counts)[inverse]
    return weights


def _segment_weights(places: Floats, at: float) -> Floats:
    weights = np.zeros(places.size)
    if places.size == 1:
        weights[0] = 1.0
        return weights
    right = int(np.clip(np.searchsorted(places, at), 1, places.size - 1))
    share = (at - places[right - 1]) / (places[right] - places[right - 1])
    weights[right - 1], weights[right] = 1.0 - share, share
    return weights


def on_front(cost: Floats, value: Floats) -> NDArray[np.bool_]:
    """Whether each of the P points is on the Pareto front; cost [P], value [P] or [R, P].

    A point is off it when another costs no more and is worth no less, one of the two strictly. A point without a
    cost (NaN) is neither on the front nor does it push another off.
    """
    comes_first = cost[None, :] <= cost[:, None]
    cheaper = cost[None, :] < cost[:, None]
    rows = np.atleast_2d(value)
    dominated = np.empty(rows.shape, bool)
    for i in range(len(cost)):
        mine = rows[:, i : i + 1]
        better = (comes_first[i] & (rows > mine)) | (cheaper[i] & (rows >= mine))
        dominated[:, i] = better.any(axis=1)
    result: NDArray[np.bool_] = ~dominated & np.isfinite(cost)
    return result.reshape(value.shape)


def hypervolume(cost: Floats, value: Floats, *, worst_cost: float, worst_value: ArrayLike) -> Floats:
    """Area that the points dominate up to the reference point (worst_cost, worst_value) (Zitzler and Thiele, 1999).

    cost [P], value [P] or [R, P], worst_value a number or [R]; in units of cost times value. Points without a cost,
    or no better than the reference, add nothing.
    """
    inside = np.flatnonzero(cost <= worst_cost)
    order = inside[np.argsort(cost[inside], kind="stable")]
    widths = np.diff(np.append(cost[order], worst_cost))
    above = np.maximum(value[..., order] - np.asarray(worst_value)[..., None], 0.0)
    return np.asarray(np.maximum.accumulate(above, axis=-1) @ widths, np.float64)


def areas(cost: Floats, values: Floats, knots: Floats) -> Floats:
    """Area under the line through the points between the first and last of `knots` [K], exact when the line has no
    other bends there; values [P] or [R, P]."""
    weights = np.stack([weights_at(cost, at) for at in knots], axis=1)
    line = values @ weights
    return np.asarray(((line[..., 1:] + line[..., :-1]) / 2.0) @ np.diff(knots), np.float64)


def common_knots(*costs: Floats) -> Floats:
    """All places of the given lines inside the range that every one of them covers; empty where there is none."""
    known = [cost[np.isfinite(cost)] for cost in costs]
    if not all(cost.size for cost in known):
        return np.empty(0)
    low, high = max(cost.min() for cost in known), min(cost.max() for cost in known)
    if not low < high:
        return np.empty(0)
    places = np.unique(np.concatenate([*known, [low, high]]))
    return np.asarray(places[(places >= low) & (places <= high)], np.float64)


def holm_differences(pairs: Sequence[tuple[Floats, Floats]]) -> list[tuple[Difference, float]]:
    """Paired t-test of each (a, b), both [U]: the difference a - b and its p value, Holm-corrected over all pairs."""
    found = [paired_difference(a, b) for a, b in pairs]
    return list(zip(found, holm([one.p for one in found]), strict=True))
