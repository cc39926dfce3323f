"""How the cloud's scores and the reranker's become one ranking."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError
from device.model import Scores

Normalisation = Literal["standardise", "minmax", "rank"]


@dataclass(frozen=True, slots=True)
class Fusion:
    """`alpha * cloud + (1 - alpha) * device` after a normalisation of each list (LSC4Rec's collaborative inference).

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

    def __call__(self, cloud: Scores, device: Scores, valid: NDArray[np.bool_]) -> Scores:
        """Fused scores [B, C] of cloud and device [B, C]; -inf where `valid` is False."""
        fused = np.zeros(cloud.shape, np.float32)
        for weight, scores in ((self.alpha, cloud), (1 - self.alpha, device)):
            if weight:
                fused += np.float32(weight) * normalised(scores, valid, self.normalise)
        return np.where(valid, fused, np.float32(-np.inf))


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
