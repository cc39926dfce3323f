"""Foretells a number of a subnet (its NDCG, its latency) from its sizes, after some subnets were measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from device.errors import ConfigError
from device.subnet import SubnetSpec, family

Floats = NDArray[np.float64]
RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True, slots=True)
class Predictor:
    """Ridge regression on the logarithms of a subnet's sizes, their squares and their products.

    The strength of the ridge is the one with the smallest squared error of the values left out one by one. So these
    errors are no measure of the predictor; `held_out` is.
    """

    mean: Floats  # [F] of the features
    spread: Floats  # [F]
    weights: Floats  # [F]
    bias: float

    @classmethod
    def fit(cls, specs: Sequence[SubnetSpec], values: Floats) -> "Predictor":
        """From measured `values` [N] of `specs`; ConfigError for none, or values that are no numbers."""
        if not len(specs) or len(specs) != len(values) or not np.isfinite(values).all():
            raise ConfigError(
                f"predictor: {len(specs)} subnets with values {values}; measure one at least, with finite values"
            )
        raw = features(specs)
        mean, spread = raw.mean(0), np.where(raw.std(0) > 1e-9, raw.std(0), 1.0)
        x = (raw - mean) / spread
        ridge = min(RIDGES, key=lambda ridge: float(((left_out(x, values, ridge) - values) ** 2).sum()))
        weights, bias = solved(x, values, ridge)
        return cls(mean, spread, weights, bias)

    def __call__(self, specs: Sequence[SubnetSpec]) -> Floats:
        """[N] what `specs` are worth."""
        made: Floats = ((features(specs) - self.mean) / self.spread) @ self.weights + self.bias
        return made


def features(specs: Sequence[SubnetSpec]) -> Floats:
    """[N, F]: base-2 logarithms of width, blocks, items and what an item is described with, squares and products."""
    base = np.array([np.log2([spec.width, spec.blocks, spec.items, bits(spec)]) for spec in specs], np.float64).reshape(
        len(specs), 4
    )
    first, second = np.triu_indices(4)
    return np.concatenate([base, base[:, first] * base[:, second]], axis=1)


def bits(spec: SubnetSpec) -> float:
    """Of one item's embedding as installed: its numbers, or its codes of 8 bits; scales and codebooks left out."""
    kind, number = family(spec.table)
    return 8 * number if kind == "code" else number * spec.items


def solved(x: Floats, values: Floats, ridge: float) -> tuple[Floats, float]:
    """(weights [F], bias): least squares with `ridge` times N times the squared weights; the bias is free."""
    middle, bias = x.mean(0), float(values.mean())
    moved = x - middle
    gram = moved.T @ moved + ridge * len(x) * np.eye(x.shape[1])
    weights: Floats = np.linalg.solve(gram, moved.T @ (values - bias))
    return weights, bias - float(middle @ weights)


def held_out(specs: Sequence[SubnetSpec], values: Floats) -> Floats:
    """[N] each of `values` [N] as a predictor foretells it that knows the others alone, its ridge chosen among them.

    ConfigError for fewer than two.
    """
    made = np.empty(len(specs))
    for row, spec in enumerate(specs):
        others = [*specs[:row], *specs[row + 1 :]]
        made[row] = Predictor.fit(others, np.delete(values, row))([spec])[0]
    return made


def left_out(x: Floats, values: Floats, ridge: float) -> Floats:
    """[N] each value as the others foretell it with one ridge; a value without others as itself."""
    if len(x) < 2:
        return values
    rows = np.arange(len(x))
    found = np.empty(len(x))
    for row in rows:
        weights, bias = solved(x[rows != row], values[rows != row], ridge)
        found[row] = x[row] @ weights + bias
    return found


def rank_correlation(one: Floats, other: Floats) -> float:
    """Spearman's, ties by their mean rank; NaN where one of them is constant or shorter than two."""
    first, second = rankdata(one), rankdata(other)
    if len(first) < 2 or not first.std() or not second.std():
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])
