"""Request policies of one number that a device knows anyway.

Each adds a draw below one of its steps, which decides between devices with the same number, so that a price can give
any wanted request ratio. "Clicks since the last upload" is `device.policy.Every` without `steps`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError
from device.model import Items
from device.policy import Urgency, View
from device.row_cache import member
from device.seeds import Draws


@dataclass(frozen=True, slots=True)
class SinceReply:
    """Asks the longer, the older the history that the newest list was made from (a denied request changes nothing)."""

    def urgency(self, view: View, draws: Draws) -> Urgency:
        """Interactions since that history, plus a draw."""
        return np.asarray(view.pool_age + draws.uniform()[:, 0], np.float64)


@dataclass(frozen=True, slots=True)
class Misses:
    """Asks the more items were taken, since the newest list came, that were not among the candidates shown."""

    def urgency(self, view: View, draws: Draws) -> Urgency:
        """Items missed since the newest list came, plus a draw."""
        return np.asarray(view.misses + draws.uniform()[:, 0], np.float64)


@dataclass(frozen=True, slots=True)
class OutOfPool:
    """Asks when the pool lacks much of the device's own top k of the resident catalogue (order does not count).

    Args:
        k: how many of the device's own best are looked up; fewer where fewer are resident and not taken.
    """

    k: int = 20

    def __post_init__(self) -> None:
        _check_k("OutOfPool", self.k)

    def urgency(self, view: View, draws: Draws) -> Urgency:
        """Share of the own top k that is not in the pool, plus a draw below 1 / k; ConfigError if none is resident."""
        top = _own_top("OutOfPool", view, self.k)
        size = np.not_equal(top, 0).sum(axis=1)
        lacking = _lacking(view, top).sum(axis=1) + draws.uniform()[:, 0]
        return np.asarray(lacking / np.where(size > 0, size, self.k), np.float64)


@dataclass(frozen=True, slots=True)
class RankGap:
    """Asks when the device knows many resident items that it prefers to the best resident one in the pool.

    The same question as that of a score gap, max over the resident items - max over the pool, asked in ranks: scores of
    different histories have different scales, places have not. Non-resident candidates do not count, however good.

    Args:
        k: how far down the own list is looked; k = nothing in the pool is among the own top k.
    """

    k: int = 20

    def __post_init__(self) -> None:
        _check_k("RankGap", self.k)

    def urgency(self, view: View, draws: Draws) -> Urgency:
        """Own best items before the first that the pool holds, plus a draw; ConfigError if none is resident."""
        lacking = _lacking(view, _own_top("RankGap", view, self.k))
        return np.asarray(np.logical_and.accumulate(lacking, axis=1).sum(axis=1) + draws.uniform()[:, 0], np.float64)


def _own_top(policy: str, view: View, k: int) -> Items:
    """[B, <= k] the device's own best items; 0 = none."""
    if not view.own.size:
        raise ConfigError(
            f"policy {policy}: the device ranks no items of its own, so nothing can be missing in its pool; "
            "make a share of the catalogue resident and let the device rank it, or choose another policy"
        )
    return view.own[:, :k]


def _lacking(view: View, top: Items) -> NDArray[np.bool_]:
    """[B, K] which of the own best items are not in the pool."""
    return np.not_equal(top, 0) & ~member(top, view.candidates)


def _check_k(policy: str, k: int) -> None:
    if k < 1:
        raise ConfigError(f"policy {policy}: k = {k}; expected 1 or more")
