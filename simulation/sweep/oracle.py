"""The exact optimum of when to ask: dynamic programming over the rewards that every possible pool would have earned.

A log tells what a device would have earned at step t = 1..S with a pool made at any earlier step s (s = 0: the first
list; s >= 1: a request at the end of step s, answered before step s + 1). So the best schedule of each user is known in
hindsight: an upper bound for every policy, which no policy can reach without knowing the future. Two worlds:

* *replaced*: a new list takes the place of the old one; the state is s, the step the pool was made at.
* *merged*: the pool holds the two newest lists; the state is (s1, s2), s1 < s2, and a request at the end of step t
  leads to (s2, t). A device begins in (0, 0): the first list alone.

Every recursion runs forward in t (Bellman, Dynamic Programming, 1957, with time turned round), so each step's rewards
are asked for once, in ascending order, and may be made while a replay goes on. Devices are independent: where memory is
short, treat them in parts; `frontier` takes the results of several.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError, ContractError

Values = NDArray[np.float64]
Counts = NDArray[np.int64]
StepRewards = Callable[[int], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Rewards:
    """What D devices would earn with every pool they may hold; made by `replaced` or `merged`.

    Args:
        steps: int64 [D], how many steps each device lives, 1 or more; ContractError otherwise.
        at: step t -> [D, t, 1] indexed [d, s, 0] when replaced, [D, t, t] indexed [d, s1, s2] when merged.
        merged: whether the pool holds two lists.
    """

    steps: Counts
    at: StepRewards
    merged: bool

    def __post_init__(self) -> None:
        if np.ndim(self.steps) != 1 or not len(self.steps) or np.min(self.steps) < 1:
            raise ContractError("rewards: each device needs at least one step; leave devices without steps out")

    @property
    def longest(self) -> int:
        """S, the number of steps of the device that lives longest."""
        return int(self.steps.max())


@dataclass(frozen=True, slots=True)
class Frontier:
    """What a whole fleet can reach, fewest requests first; point 0 is never asking.

    Each point is what one price for the whole fleet reaches. Between two points lies a mixture: users who draw one of
    the two prices at random reach it in expectation.
    """

    request_ratio: Values  # [n] requests / steps, both summed over devices; rises strictly
    mean_reward: Values  # [n] mean over users of the mean over their steps; rises, and is concave in request_ratio

    def at(self, ratio: float | Values) -> Values:
        """The mean reward at request ratios of any shape; beyond the last point more requests gain nothing."""
        return np.asarray(np.interp(np.asarray(ratio, np.float64), self.request_ratio, self.mean_reward), np.float64)


def replaced(reward: NDArray[np.float32]) -> Rewards:
    """Rewards in the world where a new list replaces the old one.

    `reward` [D, S, S] holds at [d, s, t - 1] what device d earns at step t with the pool made at s, and NaN where
    s >= t or the device has no step t. ContractError for another shape.
    """
    if reward.ndim != 3 or reward.shape[1] != reward.shape[2]:
        raise ContractError(f"rewards of replaced pools have shape {reward.shape}; expected [D, S, S]")
    steps = (~np.isnan(reward[:, 0, :])).sum(1).astype(np.int64)
    return Rewards(steps, lambda t: reward[:, :t, t - 1, None], False)


def merged(steps: Counts, at: StepRewards) -> Rewards:
    """Rewards in the world where the pool holds the two newest lists.

    `at(t)` returns [D, t, t] with, at [d, s1, s2] for s1 < s2 < t, what device d earns at step t with the lists made at
    s1 and s2 merged, and at [d, 0, 0] with the first list alone. Other entries, and rows d with steps[d] < t, are never
    looked at. It is called for t = 1..max(steps), each once and in this order, by each function below.
    """
    return Rewards(np.asarray(steps, np.int64), at, True)


def best_by_budget(rewards: Rewards, most: int) -> Values:
    """[D, most + 1] the largest sum of rewards with at most k requests, k = 0..most.

    ConfigError when `most` is negative. Holds D x S x (most + 1) numbers of 8 bytes, merged D x S x S x (most + 1).
    """
    if most < 0:
        raise ConfigError(f"optimum: at most {most} requests; expected 0 or more")
    total = _states(rewards, most + 1)
    for t in range(1, rewards.longest + 1):
        total[:, :t, :t] += _step(rewards, t)[..., None]
        if t < rewards.longest:
            _after_request(total, t, rewards)[..., 1:] = total[:, :t, :t, :-1].max(axis=1)
    return np.asarray(total.max(axis=(1, 2)), np.float64)


def frontier(parts: Sequence[tuple[Values, Counts]]) -> Frontier:
    """All points that one price for the whole fleet reaches, from never asking down to price 0.

    The budget counts requests; the objective is the mean over users of the mean over their steps. In the objective's
    units a user's gain is (sum of rewards) / steps, so with Lagrange multiplier `price` each user maximises
    sum / steps - price x requests: a request of a user with many steps must gain more. The users' problems are
    separate, hence the fleet's concave frontier is made of their concave majorants, steepest pieces first (Everett,
    Operations Research 11, 1963). No schedule of the fleet with as many requests lies above it.

    Args:
        parts: of the fleet, cut anyhow: float64 [D, most + 1] of `best_by_budget` and int64 [D], `Rewards.steps`. With
            most >= max(steps) - 1 of each part no request is cut off.
    """
    gain = np.concatenate([(_majorant_increments(value) / steps[:, None]).ravel() for value, steps in parts])
    price, count = (x[::-1] for x in np.unique(gain[gain > 0], return_counts=True))
    requests = np.concatenate([[0], np.cumsum(count)])
    gained = np.concatenate([[0.0], np.cumsum(price * count)])
    never = np.concatenate([value[:, 0] / steps for value, steps in parts])
    lived = sum(int(steps.sum()) for _, steps in parts)
    mean = float(never.mean()) + gained / len(never)
    return Frontier(requests / lived, mean)


def _states(rewards: Rewards, budgets: int) -> Values:
    """[D, S, W, budgets] -inf, but 0 in the state every device begins in; W = S when merged, else 1."""
    longest = rewards.longest
    total = np.full((len(rewards.steps), longest, longest if rewards.merged else 1, budgets), -np.inf)
    total[:, 0, 0] = 0.0
    return total


def _after_request(states: Values, t: int, rewards: Rewards) -> Values:
    """View [D, W', ...] of the states entered by a request at the end of step t; W' = t when merged, else 1."""
    return states[:, :t, t] if rewards.merged else states[:, t]


def _step(rewards: Rewards, t: int) -> Values:
    """Rewards of step t as float64 [D, t, W]; 0 in states that cannot be and for devices that have no step t."""
    given, wide = rewards.at(t), t if rewards.merged else 1
    if given.shape != (len(rewards.steps), t, wide):
        raise ContractError(f"rewards of step {t} have shape {given.shape}; expected {(len(rewards.steps), t, wide)}")
    possible = np.triu(np.ones((t, wide), np.bool_), 1) if rewards.merged else np.ones((t, wide), np.bool_)
    possible[0, 0] = True
    counts = possible & (rewards.steps >= t)[:, None, None]
    bad = np.argwhere(counts & ~np.isfinite(given))
    if len(bad):
        where = bad[0].tolist()
        raise ContractError(f"rewards of step {t}, [device, list..] = {where}: not finite; replay that list too")
    return np.where(counts, given, 0.0).astype(np.float64)


def _majorant_increments(value: Values) -> Values:
    """[D, K] increments of the least concave majorant of value [D, K + 1] over k = 0..K."""
    k = np.arange(value.shape[1])
    out, start = np.zeros(value.shape), np.zeros(len(value), np.int64)
    while (start < k[-1]).any():
        ahead = k - start[:, None]
        rise = value - np.take_along_axis(value, start[:, None], axis=1)
        slope = np.where(ahead > 0, rise / np.maximum(ahead, 1), -np.inf)
        top = slope.max(axis=1, keepdims=True)
        end = k[-1] - (slope == top)[:, ::-1].argmax(axis=1)
        out = np.where((ahead > 0) & (k <= end[:, None]), top, out)
        start = end
    return out[:, 1:]
