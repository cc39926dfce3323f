"""Learns a fusion by age: a conditional logit over what was in the pool at validation steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from device.fusion import AGE_EDGES, Fuses, FusionByAge, age_class
from device.model import Items, Scores

Floats = NDArray[np.float64]
CLASSES = len(AGE_EDGES) + 1
PENALTY = 1e-3
"""Ridge on the weights' distance from their start; it decides for ages that validation hardly shows."""


@dataclass(frozen=True, slots=True)
class Shown:
    """Pools as they were ranked, and what was taken from them; N steps."""

    items: Items  # [N, C]
    cloud: Scores  # [N, C]
    device: Scores  # [N, C]
    age: NDArray[np.int64]  # [N, C]
    taken: NDArray[np.int32]  # [N]


def learn_fusion(shown: Shown, near: Fuses | None = None) -> FusionByAge:
    """The weights under which the taken item is most likely, P(c) = softmax(fused)_c over the pool.

    Steps whose item was not in the pool tell nothing about the order within it and are left out. The search begins at
    `near`, where that is a fusion by age; the problem is convex, so that only saves time.
    """
    here = shown.items == shown.taken[:, None]
    rows = np.flatnonzero(here.any(1))
    start = np.concatenate([[1.0], np.linspace(0.5, 0.0, CLASSES - 1), [0.0], np.zeros(CLASSES)])
    if len(rows) < 2:
        return of_weights(start)
    valid = shown.items[rows] != 0
    problem = Problem(
        valid=valid,
        cloud=np.where(valid, shown.cloud[rows], 0).astype(np.float64),
        device=np.where(valid, shown.device[rows], 0).astype(np.float64),  # a reranker may say anything of empty slots
        kind=age_class(shown.age[rows]),
        taken=here[rows].argmax(1),
        start=start,
    )
    first = np.array([near.device_weight, *near.cloud_weight, *near.bias]) if isinstance(near, FusionByAge) else start
    return of_weights(minimize(problem.loss, first, jac=True, method="L-BFGS-B", options={"maxiter": 60}).x)


def of_weights(weights: Floats) -> FusionByAge:
    """The fusion of a weight vector [1 + 2 * CLASSES]."""
    numbers: Sequence[float] = [float(np.float32(w)) for w in weights]
    return FusionByAge(numbers[0], tuple(numbers[1 : 1 + CLASSES]), tuple(numbers[1 + CLASSES :]))


@dataclass(frozen=True, slots=True)
class Problem:
    """Negative log-likelihood and its gradient."""

    valid: NDArray[np.bool_]  # [N, C]
    cloud: Floats
    device: Floats
    kind: NDArray[np.int64]
    taken: NDArray[np.int64]  # [N] column
    start: Floats

    def loss(self, weights: Floats) -> tuple[float, Floats]:
        """(mean negative log-likelihood plus ridge, gradient)."""
        cloud_weight, bias = weights[1 : 1 + CLASSES], weights[1 + CLASSES :]
        fused = weights[0] * self.device + cloud_weight[self.kind] * self.cloud + bias[self.kind]
        fused = np.where(self.valid, fused, -np.inf)
        fused -= fused.max(1, keepdims=True)
        share = np.exp(fused)
        total = share.sum(1, keepdims=True)
        row = np.arange(len(fused))
        value = float((np.log(total[:, 0]) - fused[row, self.taken]).mean())
        slope = share / total
        slope[row, self.taken] -= 1.0
        slope /= len(fused)
        by_kind = [np.bincount(self.kind.ravel(), (slope * x).ravel(), CLASSES) for x in (self.cloud, 1.0)]
        gradient = np.concatenate([[float((slope * self.device).sum())], *by_kind])
        away = weights - self.start
        return value + PENALTY * float(away @ away), gradient + 2 * PENALTY * away
