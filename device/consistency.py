"""How much two rankings of the same pool disagree: 0 = they agree, 1 = as different as the measure can say.

Every measure is called as (cloud [B, C] float32, device [B, C] float32, valid [B, C] bool) and answers float64 [B].
Candidates are ranked by falling score, ties by pool position; those not valid (padding) do not take part. A pool of
fewer than two valid candidates has one order only: its disagreement is 0. A score that is NaN is a ContractError.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError, ContractError

Scores = NDArray[np.float32]
Valid = NDArray[np.bool_]
Values = NDArray[np.float64]

_CHUNK_CELLS = 1 << 20  # cells of one [b, C, C] comparison, which bounds the memory KendallTau takes
_F32_MAX = np.finfo(np.float32).max


class Measure(Protocol):
    """A disagreement of two rankings.

    `resolution` is the step between neighbouring values where they are few enough to matter, else 0.
    """

    @property
    def resolution(self) -> float:
        """Distance of neighbouring values; 0 = fine."""
        ...

    def __call__(self, cloud: Scores, device: Scores, valid: Valid) -> Values:
        """float64 [B] in [0, 1]."""


def ranks(scores: Scores, valid: Valid) -> NDArray[np.int64]:
    """0-based ranks [B, C] by falling score, ties by position, the valid ones first; ContractError for NaN."""
    order = _order(scores, valid)
    out = np.empty_like(order)
    np.put_along_axis(out, order, np.broadcast_to(np.arange(order.shape[1]), order.shape), axis=1)
    return out


@dataclass(frozen=True, slots=True)
class Footrule:
    """Spearman's footrule sum |a - b| / floor(N^2 / 2): LSC4Rec's displacement, normalised; random orders give 2/3."""

    resolution: ClassVar[float] = 0.0

    def __call__(self, cloud: Scores, device: Scores, valid: Valid) -> Values:
        """float64 [B]."""
        moved = np.abs(ranks(cloud, valid) - ranks(device, valid))
        size = valid.sum(axis=1)
        return np.asarray((moved * valid).sum(axis=1) / np.maximum(size * size // 2, 1), np.float64)


@dataclass(frozen=True, slots=True)
class KendallTau:
    """Share of discordant pairs, (1 - tau) / 2 of Kendall's tau without ties; random orders give 1/2."""

    resolution: ClassVar[float] = 0.0

    def __call__(self, cloud: Scores, device: Scores, valid: Valid) -> Values:
        """float64 [B]."""
        size = valid.sum(axis=1)
        in_cloud_order = np.take_along_axis(ranks(device, valid), _order(cloud, valid), axis=1).astype(np.int32)
        width = in_cloud_order.shape[1]
        upper = np.triu(np.ones((width, width), np.bool_), 1)
        chunk = max(1, _CHUNK_CELLS // max(1, width * width))
        inversions = np.zeros(len(size), np.int64)
        for start in range(0, len(size), chunk):
            part = in_cloud_order[start : start + chunk]
            inverted = (part[:, :, None] > part[:, None, :]) & upper
            real = (np.arange(width) < size[start : start + chunk, None])[:, None, :]
            inversions[start : start + chunk] = np.count_nonzero(inverted & real, axis=(1, 2))
        return np.asarray(inversions / np.maximum(size * (size - 1) // 2, 1), np.float64)


@dataclass(frozen=True, slots=True)
class TopOverlap:
    """1 - |A_k and B_k| / k of the two top-k sets; pools smaller than k are compared whole, which gives 0."""

    k: int = 10

    def __post_init__(self) -> None:
        _check(isinstance(self.k, int) and self.k >= 1, "overlap.k", self.k, "a whole number >= 1")

    @property
    def resolution(self) -> float:
        """1 / k: one item more or less."""
        return 1 / self.k

    def __call__(self, cloud: Scores, device: Scores, valid: Valid) -> Values:
        """float64 [B]."""
        size = np.minimum(valid.sum(axis=1), self.k)
        worse = np.maximum(ranks(cloud, valid), ranks(device, valid))
        common = (worse < size[:, None]).sum(axis=1)
        return np.where(size > 0, 1 - common / np.maximum(size, 1), 0.0)


@dataclass(frozen=True, slots=True)
class RBO:
    """1 - extrapolated rank-biased overlap; p near 0 looks at the first place only, near 1 at all.

    Webber, Moffat and Zobel (ACM TOIS 28(4), 2010), equation 32 with s = l = k, the size of the pool:
    (1 - p) / p * sum_{d=1..k} X_d / d * p^d + X_k / k * p^k, X_d = items common to both tops of depth d; X_k = k.
    """

    resolution: ClassVar[float] = 0.0
    p: float = 0.9

    def __post_init__(self) -> None:
        _check(isinstance(self.p, float) and 0 < self.p < 1, "rbo.p", self.p, "a number between 0 and 1, both excluded")

    def __call__(self, cloud: Scores, device: Scores, valid: Valid) -> Values:
        """float64 [B]."""
        rows, width = valid.shape
        size = valid.sum(axis=1, keepdims=True)
        worse = np.maximum(ranks(cloud, valid), ranks(device, valid))
        cells = (worse + np.arange(rows)[:, None] * width)[valid]
        common = np.cumsum(np.bincount(cells, minlength=rows * width).reshape(rows, width), axis=1)
        depth = np.arange(1, width + 1)
        weights = np.where(depth <= size, (1 - self.p) * self.p ** (depth - 1) / depth, 0)
        agreement = (common * weights).sum(axis=1) + self.p ** size[:, 0]
        return np.asarray(np.clip(1 - agreement, 0, 1), np.float64)


@dataclass(frozen=True, slots=True)
class JensenShannon:
    """Jensen-Shannon divergence in bits (Lin, 1991) of softmax(cloud / T) and softmax(device / T).

    Both scores are standardised over the pool first (mean 0, deviation 1), so neither scale nor shift matters, but how
    far apart scores lie does: this compares scores, the others but `Entropy` only orders. All alike counts as zeros.
    """

    resolution: ClassVar[float] = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        good = isinstance(self.temperature, int | float) and 0 < self.temperature < np.inf
        _check(good, "js.temperature", self.temperature, "a finite number > 0")

    def __call__(self, cloud: Scores, device: Scores, valid: Valid) -> Values:
        """float64 [B]."""
        one, two = (_softmax(_standard(scores, valid) / self.temperature, valid) for scores in (cloud, device))
        mixed = (one + two) / 2
        return np.asarray(np.clip(_bits(mixed) - (_bits(one) + _bits(two)) / 2, 0, 1), np.float64)


@dataclass(frozen=True, slots=True)
class Entropy:
    """The device's doubt: entropy of the softmax over its k best scores over log(min(k, N)).

    The cloud is not looked at. 0 = one candidate stands out, 1 = all alike: a feature for policies, not a distance.
    """

    resolution: ClassVar[float] = 0.0
    k: int = 50

    def __post_init__(self) -> None:
        _check(isinstance(self.k, int) and self.k >= 1, "entropy.k", self.k, "a whole number >= 1")

    def __call__(self, cloud: Scores, device: Scores, valid: Valid) -> Values:
        """float64 [B]."""
        top = valid & (ranks(device, valid) < self.k)
        most = np.log2(np.maximum(top.sum(axis=1), 2))
        return np.asarray(np.clip(_bits(_softmax(device, top)) / most, 0, 1), np.float64)


MEASURES: dict[str, Callable[..., Measure]] = {
    "footrule": Footrule,
    "kendall": KendallTau,
    "overlap": TopOverlap,
    "rbo": RBO,
    "js": JensenShannon,
    "entropy": Entropy,
}


def measure(name: str, **options: float) -> Measure:
    """The measure of that name; ConfigError for an unknown name, option or value, with the nearest right word."""
    if name not in MEASURES:
        raise ConfigError(f"measure: expected one of {', '.join(MEASURES)}, found {name!r}{_nearest(name, MEASURES)}")
    kind = MEASURES[name]
    known = list(inspect.signature(kind).parameters)
    for option in options:
        if option not in known:
            legal = ", ".join(known) or "no options"
            raise ConfigError(f"measure {name}: expected {legal}, found {option!r}{_nearest(option, known)}")
    return kind(**options)


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "; choose one of these"


def _check(good: bool, place: str, value: object, expected: str) -> None:
    if not good:
        raise ConfigError(f"{place}: expected {expected}, found {value!r}; correct it in the config")


def _refuse_nan(scores: Scores | Values, valid: Valid) -> None:
    if np.isnan(scores[valid]).any():
        raise ContractError(f"scores: expected numbers, found NaN in row {np.argmax(np.isnan(scores).any(axis=1))}")


def _order(scores: Scores, valid: Valid) -> NDArray[np.int64]:
    """Positions [B, C] from best to worst, padding last."""
    _refuse_nan(scores, valid)
    keys = np.where(valid, -np.maximum(scores, -_F32_MAX), np.float32(np.inf))
    return np.argsort(keys, axis=1, kind="stable")


def _bounded(scores: Scores | Values, valid: Valid) -> Values:
    """float64 [B, C] finite, 0 where not valid; ContractError for NaN."""
    _refuse_nan(scores, valid)
    return np.where(valid, np.clip(scores.astype(np.float64), -_F32_MAX, _F32_MAX), 0.0)


def _standard(scores: Scores, valid: Valid) -> Values:
    """float64 [B, C] of mean 0 and deviation 1 over the valid candidates; 0 elsewhere and where all are alike."""
    kept, size = _bounded(scores, valid), np.maximum(valid.sum(axis=1, keepdims=True), 1)
    centred = np.where(valid, kept - kept.sum(axis=1, keepdims=True) / size, 0.0)
    spread = np.sqrt((centred**2).sum(axis=1, keepdims=True) / size)
    alike = spread <= 1e-12 * np.abs(kept).max(axis=1, keepdims=True, initial=0.0)  # what is left is rounding
    return np.asarray(np.where(alike, 0.0, centred / np.where(alike, 1.0, spread)), np.float64)


def _softmax(scores: Scores | Values, valid: Valid) -> Values:
    """float64 [B, C] that sum to 1 over the valid candidates, 0 elsewhere."""
    bounded = np.where(valid, _bounded(scores, valid), -np.inf)
    peak = np.where(valid, bounded, -_F32_MAX).max(axis=1, keepdims=True, initial=-_F32_MAX)
    powers = np.exp(bounded - peak)
    return np.asarray(powers / np.maximum(powers.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny))


def _bits(shares: Values) -> Values:
    """Entropy [B] in bits of each row."""
    logs = np.log2(shares, where=shares > 0, out=np.zeros_like(shares))
    return np.asarray(-(shares * logs).sum(axis=1), np.float64)
