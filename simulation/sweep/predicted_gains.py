"""Whether a predicted gain comes true: deciles of what a policy expects of a request beside what requests did gain."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from device.errors import ContractError
from device.policies.fitting import PredictsGain, gathered, summed_gain
from device.policy import RequestPolicy, Urgency, View
from device.seeds import Draws
from device.setup import Setup
from simulation.choosing.experience import gather
from simulation.choosing.rehearsal import Rehearsal
from simulation.replay import Columns
from simulation.statistics import Interval

DECILE, STEPS, PREDICTED, REALISED, LOW, HIGH = "decile", "steps", "predicted", "realised", "low", "high"
DECILES = 10
Floats = NDArray[np.float64]


@dataclass(slots=True)
class Heard:
    """A policy, and what it said."""

    policy: RequestPolicy
    said: list[Urgency] = field(default_factory=list)

    def urgency(self, view: View, draws: Draws) -> Urgency:
        """The policy's."""
        self.said.append(self.policy.urgency(view, draws))
        return self.said[-1]


def calibrated(rehearsal: Rehearsal, setups: Sequence[Setup]) -> Columns:
    """Deciles of the predicted gain under the policy and price of `setups`, at every step at which a device might ask.

    Columns, one row per decile that has steps, the lowest prediction first: decile int32 0..9, steps int64, and float64
    in NDCG@10 summed over the policy's horizon: predicted and realised (means; see `summed_gain`), low and high (95 %
    of the realised mean, see `clustered_interval`; users are the clusters). A decile holds a tenth of the steps, so
    equal predictions may lie in two. Steps after which the log says nothing are left out; realised replies come at
    once. ContractError for a policy whose urgency is no gain.
    """
    horizon = horizon_of(setups)
    heard = [Heard(setup.policy) for setup in setups]
    lived = gather(rehearsal, [replace(s, policy=h) for s, h in zip(setups, heard, strict=True)], horizon)
    gain = summed_gain(lived, horizon)
    known = np.isfinite(gain)
    if not known.any():
        raise ContractError("calibrated: no step of this replay has a next one; replay more steps per user")
    predicted = np.concatenate([said for one in heard for said in one.said])[known]
    return deciles(predicted, gain[known], gathered(lived, lambda view: view.device)[known])


def horizon_of(setups: Sequence[Setup]) -> int:
    """The one horizon over which all policies predict a gain; ContractError when there is none."""
    for setup in setups:
        if not isinstance(setup.policy, PredictsGain):
            name = type(setup.policy).__name__
            raise ContractError(
                f"calibrated: the urgency of {name} is not said to be a gain in NDCG@10; "
                "give a policy with `predicts_gain`, its horizon in steps"
            )
    horizons = {setup.policy.predicts_gain for setup in setups if isinstance(setup.policy, PredictsGain)}
    if len(horizons) != 1:
        raise ContractError(f"calibrated: horizons {sorted(horizons)}; give setups whose policies look equally far")
    return horizons.pop()


def deciles(predicted: Floats, realised: Floats, users: NDArray[np.int64]) -> Columns:
    """The table of `calibrated`, from predicted and realised gains [N] of steps of users [N]."""
    order = np.argsort(predicted, kind="stable")
    rows = [part for part in np.array_split(order, DECILES) if len(part)]
    found = [clustered_interval(realised[part], users[part]) for part in rows]
    return {
        DECILE: np.arange(len(rows), dtype=np.int32),
        STEPS: np.array([len(part) for part in rows], np.int64),
        PREDICTED: np.array([predicted[part].mean() for part in rows]),
        REALISED: np.array([one.mean for one in found]),
        LOW: np.array([one.low for one in found]),
        HIGH: np.array([one.high for one in found]),
    }


def clustered_interval(values: Floats, clusters: NDArray[np.int64]) -> Interval:
    """95 % Student's t interval of the mean of values [N] that are independent between clusters [N] only.

    Variance of a mean over G clusters, linearised, with the factor G / (G - 1) (Liang and Zeger, Biometrika 73, 1986):
    G / (G - 1) / N^2 times the sum over clusters of (sum of the cluster's residuals)^2; G - 1 degrees of freedom. With
    one value per cluster it is the usual interval. The ends are NaN for one cluster.
    """
    mean, size = float(values.mean()), len(np.unique(clusters))
    if size < 2:
        return Interval(mean, np.nan, np.nan, size)
    residuals = np.bincount(np.unique(clusters, return_inverse=True)[1], values - mean)
    error = np.sqrt(size / (size - 1) * (residuals**2).sum()) / len(values)
    half = float(stats.t.ppf(0.975, size - 1) * error)
    return Interval(mean, mean - half, mean + half, size)
