"""How the cloud's scores and the reranker's become one ranking."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError
from device.model import Scores

Normalisation = Literal["standardise", "minmax", "rank"]
Ages = NDArray[np.int64]
OWN = -1
"""Age of a candidate that no list of the cloud's brought: the device found it in the resident catalogue."""
AGE_EDGES = (0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20)
"""First age of each class of ages that a fusion by age tells apart."""


class Fuses(Protocol):
    """Makes one ranking of two."""

    @property
    def looks_at_device(self) -> bool:
        """False: the device's scores are never looked at, so they need not be computed."""
        ...

    def __call__(self, cloud: Scores, device: Scores, valid: NDArray[np.bool_], age: Ages) -> Scores:
        """Fused scores [B, C]; -inf where `valid` is False.

        `cloud` [B, C] is standardised over the list that each candidate came with; `age` [B, C] counts interactions
        since that list's history, OWN = no list brought it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Fusion:
    """`alpha * cloud + (1 - alpha) * device` after a normalisation of each list (LSC4Rec's collaborative inference).

    A candidate that the cloud did not list counts as the last of the cloud's.

    Args:
        alpha: weight of the cloud in [0, 1].
        normalise: "standardise" (mean 0, deviation 1), "minmax" (0 to 1) or "rank" (1 - r/N, LSC4Rec's P_init).
    """

    alpha: float = 0.5
    normalise: Normalisation = "standardise"

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"fusion: alpha = {self.alpha}; expected a weight from 0 (device) to 1 (cloud)")
        if self.normalise not in get_args(Normalisation):
            raise ConfigError(f"fusion: normalise = {self.normalise!r}; expected one of {get_args(Normalisation)}")

    @property
    def looks_at_device(self) -> bool:
        """True unless all weight is the cloud's."""
        return self.alpha < 1

    def __call__(self, cloud: Scores, device: Scores, valid: NDArray[np.bool_], age: Ages) -> Scores:
        """See Fuses."""
        fused = np.zeros(cloud.shape, np.float32)
        if self.alpha:
            fused += np.float32(self.alpha) * self._of_cloud(cloud, valid, age)
        if self.alpha < 1:
            fused += np.float32(1 - self.alpha) * normalised(device, valid, self.normalise)
        return np.where(valid, fused, np.float32(-np.inf))

    def _of_cloud(self, cloud: Scores, valid: NDArray[np.bool_], age: Ages) -> Scores:
        listed = valid & (age >= 0)
        scores = normalised(cloud, listed, self.normalise)
        if listed.sum() == valid.sum():
            return scores
        last = np.where(listed, scores, np.float32(np.inf)).min(1, keepdims=True)
        return np.where(listed, scores, np.where(np.isfinite(last), last, 0))


@dataclass(frozen=True, slots=True)
class FusionByAge:
    """`device_weight * device + cloud_weight[age] * cloud + bias[age]`: an old list's word counts for less.

    Ours; the weights are learned on validation steps (see `simulation.choosing.fusing`). The device's scores are taken
    as they are, for a reranker trained with a softmax loss gives log-probabilities up to a constant.

    Args:
        device_weight: of the device's score.
        cloud_weight, bias: one number per class of ages (AGE_EDGES), then one for the device's own candidates.
    """

    device_weight: float
    cloud_weight: Sequence[float]
    bias: Sequence[float]

    def __post_init__(self) -> None:
        wanted = len(AGE_EDGES) + 1
        if len(self.cloud_weight) != wanted or len(self.bias) != wanted:
            raise ConfigError(
                f"fusion by age: {len(self.cloud_weight)} weights and {len(self.bias)} biases; expected {wanted} each"
            )

    @property
    def looks_at_device(self) -> bool:
        """Always."""
        return True

    def __call__(self, cloud: Scores, device: Scores, valid: NDArray[np.bool_], age: Ages) -> Scores:
        """See Fuses."""
        kind = age_class(age)
        weight, bias = np.asarray(self.cloud_weight, np.float32), np.asarray(self.bias, np.float32)
        fused = np.float32(self.device_weight) * device + weight[kind] * cloud + bias[kind]
        return np.where(valid, fused, np.float32(-np.inf))


def age_class(age: Ages) -> Ages:
    """Class of each age: the last edge not above it; the class after the last edge's holds the device's own."""
    table = np.searchsorted(AGE_EDGES, np.arange(AGE_EDGES[-1] + 1), side="right") - 1
    found = table[np.clip(age, 0, AGE_EDGES[-1])]
    return np.asarray(np.where(age == OWN, len(AGE_EDGES), found), np.int64)


def normalised(scores: Scores, valid: NDArray[np.bool_], how: Normalisation) -> Scores:
    """Scores [B, C] on a common scale per list; invalid slots are 0 and take no part."""
    kept = np.where(valid, scores, np.float32(0))
    count = np.maximum(valid.sum(1, keepdims=True), 1).astype(np.float32)
    if how == "standardise":
        centred = np.where(valid, kept - kept.sum(1, keepdims=True) / count, np.float32(0))
        spread = np.sqrt(np.einsum("bc,bc->b", centred, centred)[:, None] / count)
        scaled: Scores = centred / np.maximum(spread, np.float32(1e-12))
        return scaled
    if how == "minmax":
        low = np.where(valid, scores, np.float32(np.inf)).min(1, keepdims=True)
        high = np.where(valid, scores, np.float32(-np.inf)).max(1, keepdims=True)
        with np.errstate(invalid="ignore"):
            return np.where(valid, (scores - low) / np.maximum(high - low, np.float32(1e-12)), np.float32(0))
    order = np.argsort(np.where(valid, -scores, np.float32(np.inf)), axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(1, scores.shape[1] + 1)[None], axis=1)
    return np.where(valid, 1 - place / count, 0).astype(np.float32)
