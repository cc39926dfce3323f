"""Intervals over users: one mean, or the paired difference of two policies met by the same users.

Never Wilcoxon: its null is a symmetric difference, not equal means, and per-user differences of hit rates are skewed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from device.errors import RunError


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its two-sided confidence interval over n users; the ends are NaN for n = 1."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of a - b over n pairs, its interval, Student's t with n - 1 degrees of freedom, p and Cohen's d_z."""

    mean: float
    low: float
    high: float
    t: float
    p: float
    d_z: float
    n: int


def mean_interval(values: ArrayLike, *, confidence: float = 0.95) -> Interval:
    """Student's t interval of the mean of `values` [n]; RunError when there is none or one is not finite."""
    x = _finite(values)
    mean, half = float(x.mean()), _half_width(x, confidence)
    return Interval(mean, mean - half, mean + half, x.size)


def paired_difference(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95) -> Difference:
    """Paired t-test of a - b, both [n] and aligned by user; RunError when lengths differ or values are missing.

    d_z = mean / sd of the differences (Cohen 1988, section 2.3.5). Equal differences have no spread: p is 1 where
    they are all 0, otherwise 0.
    """
    x, y = _finite(a), _finite(b)
    if x.shape != y.shape:
        raise RunError(f"paired difference: {x.size} values against {y.size}; pair them by user first")
    d = x - y
    mean, half = float(d.mean()), _half_width(d, confidence)
    spread = float(d.std(ddof=1)) if d.size > 1 else math.nan
    d_z = _ratio(mean, spread)
    t = d_z * math.sqrt(d.size)
    p = float(2.0 * stats.t.sf(abs(t), d.size - 1)) if d.size > 1 else math.nan
    return Difference(mean, mean - half, mean + half, t, p, d_z, d.size)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (Scandinavian Journal of Statistics 6, 1979), in the order given.

    NaN (no test was possible) stays NaN and does not count as a test.
    """
    p = np.asarray(p_values, np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(order.size, 0, -1)
    adjusted = p.copy()
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return [float(value) for value in adjusted]


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(values, np.float64).ravel()
    if not x.size or not np.isfinite(x).all():
        bad = int(x.size - np.isfinite(x).sum())
        raise RunError(f"statistics: {x.size} values, {bad} of them not finite; give one finite value per user")
    return x


def _half_width(x: NDArray[np.float64], confidence: float) -> float:
    if x.size < 2:
        return math.nan
    return float(stats.t.ppf(0.5 + confidence / 2.0, x.size - 1) * x.std(ddof=1) / math.sqrt(x.size))


def _ratio(mean: float, spread: float) -> float:
    if spread == 0.0:
        return math.copysign(math.inf, mean) if mean else 0.0
    return mean / spread
