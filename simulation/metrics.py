"""Ranking measures as values: `parse("ndcg@10")` and `str()` invert each other.

Every step has one relevant item, the one the user really took, so the usual formulas reduce to a gain of its rank.
Where a model gives equal scores the value is the expectation under random tie-breaking: the mean gain over the
positions the target's group occupies (McSherry and Najork, ECIR 2008).
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from device.errors import ConfigError, ContractError

_SYNTAX = re.compile(r"([a-z]+)(?:@([1-9][0-9]{0,8}))?")
# With one relevant item these are other names of the same number.
_SYNONYMS = {"recall": "hr", "hit": "hr", "hits": "hr", "hitrate": "hr", "success": "hr", "rr": "mrr"}
_KNOWN = ("hr", "ndcg", "mrr")


@dataclass(frozen=True, slots=True)
class HR:
    """Hit rate: 1 where rank <= k, else 0."""

    k: int

    def __post_init__(self) -> None:
        _check_cutoff("hr", self.k)

    def __str__(self) -> str:
        return f"hr@{self.k}"

    def of(self, rank: ArrayLike, ties: ArrayLike | None = None) -> NDArray[np.float64]:
        """Values in [0, 1] of `rank` (int, 1 = first, 0 = absent) with `ties` equal scores; both of one shape."""
        return _expected(rank, ties, self.k, np.ones_like)


@dataclass(frozen=True, slots=True)
class NDCG:
    """Normalised discounted cumulative gain with one relevant item: 1 / log2(rank + 1) up to rank k.

    Järvelin and Kekäläinen, TOIS 20(4), 2002; the ideal gain is 1.
    """

    k: int

    def __post_init__(self) -> None:
        _check_cutoff("ndcg", self.k)

    def __str__(self) -> str:
        return f"ndcg@{self.k}"

    def of(self, rank: ArrayLike, ties: ArrayLike | None = None) -> NDArray[np.float64]:
        """Values in [0, 1] of `rank` (int, 1 = first, 0 = absent) with `ties` equal scores; both of one shape."""
        return _expected(rank, ties, self.k, lambda position: 1.0 / np.log2(position + 1.0))


@dataclass(frozen=True, slots=True)
class MRR:
    """Reciprocal rank: 1 / rank, up to rank k where k is given."""

    k: int | None = None

    def __post_init__(self) -> None:
        _check_cutoff("mrr", 1 if self.k is None else self.k)

    def __str__(self) -> str:
        return "mrr" if self.k is None else f"mrr@{self.k}"

    def of(self, rank: ArrayLike, ties: ArrayLike | None = None) -> NDArray[np.float64]:
        """Values in [0, 1] of `rank` (int, 1 = first, 0 = absent) with `ties` equal scores; both of one shape."""
        return _expected(rank, ties, self.k, lambda position: 1.0 / position)


Measure = HR | NDCG | MRR


def parse(text: str) -> Measure:
    """Measure named by `hr@k`, `ndcg@k`, `mrr` or `mrr@k`; ConfigError with the nearest right word otherwise."""
    match = _SYNTAX.fullmatch(text.strip().lower())
    name, cutoff = match.groups() if match else ("", None)
    if match is None or name not in _KNOWN:
        raise ConfigError(f"metrics: {text!r} is not a measure; did you mean {_nearest(text)!r}? {_SPELLING}")
    if name == "mrr":
        return MRR(None if cutoff is None else int(cutoff))
    if cutoff is None:
        raise ConfigError(f"metrics: {text!r} lacks its cutoff; did you mean '{name}@10'? {_SPELLING}")
    return HR(int(cutoff)) if name == "hr" else NDCG(int(cutoff))


_SPELLING = "Measures are written hr@K, ndcg@K, mrr or mrr@K with a whole K >= 1."


def _nearest(text: str) -> str:
    """The right spelling closest to what was written."""
    name, _, cutoff = text.strip().lower().partition("@")
    right = _SYNONYMS.get(name) or difflib.get_close_matches(name, _KNOWN, n=1, cutoff=0.0)[0]
    return f"{right}@{cutoff if re.fullmatch('[1-9][0-9]*', cutoff) else 10}"


def _check_cutoff(name: str, k: object) -> None:
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise ConfigError(f"metrics: cutoff {k!r} of {name} must be a whole number >= 1, e.g. '{name}@10'")


def _expected(
    rank: ArrayLike,
    ties: ArrayLike | None,
    k: int | None,
    gain: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Mean of the gain over positions rank .. rank + ties - 1, 0 beyond k and for rank 0."""
    first = np.asarray(rank, np.int64)
    group = np.ones_like(first) if ties is None else np.asarray(ties, np.int64)
    _check_ranks(first, group)
    last = first + group - 1
    depth = int(last.max(initial=1)) if k is None else k
    gains = np.concatenate([[0.0], gain(np.arange(1, depth + 1, dtype=np.float64)), [0.0]])
    upto = np.cumsum(gains)
    tied = (upto[np.minimum(last, depth)] - upto[np.clip(first - 1, 0, depth)]) / group
    # Without ties the gain itself is exact; the difference of two sums would lose its last bit.
    value = np.where(group == 1, gains[np.minimum(first, depth + 1)], tied)
    return np.where(first > 0, value, 0.0)


def _check_ranks(rank: NDArray[np.int64], ties: NDArray[np.int64]) -> None:
    if rank.shape != ties.shape:
        raise ContractError(f"metrics: rank {rank.shape} and ties {ties.shape} must have one shape; pass one per step")
    if rank.size and (rank.min() < 0 or ties.min() < 1):
        raise ContractError(
            f"metrics: smallest rank {rank.min()} and ties {ties.min()}; ranks start at 1 (0 = absent) and ties at 1"
        )
