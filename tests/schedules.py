"""The best schedule under a price, found by looking at every schedule: an oracle for `simulation.sweep.oracle`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simulation.sweep.oracle import Rewards


@dataclass(frozen=True)
class Schedule:
    """The best schedule of each device under a price; among equals one with the fewest requests."""

    value: NDArray[np.float64]  # [D] sum of rewards less price x requests
    asked: NDArray[np.bool_]  # [D, S] True at [d, t - 1]: a request at the end of step t
    requests: NDArray[np.int64]  # [D]


def best_value(rewards: Rewards, price: float | NDArray[np.float64]) -> Schedule:
    """All 2^(S - 1) schedules, so S is small; `price` is one number or one per device [D]."""
    longest, devices = rewards.longest, len(rewards.steps)
    count = 2 ** (longest - 1)
    asked = np.zeros((count, longest), np.bool_)
    asked[:, :-1] = np.arange(count)[:, None] >> np.arange(longest - 1) & 1
    newest, older, total = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros((devices, count))
    for t in range(1, longest + 1):
        table, there = rewards.at(t), rewards.steps >= t
        earned = table[:, older, newest] if rewards.merged else table[:, newest, 0]
        total[there] += earned[there]
        now = asked[:, t - 1]
        older, newest = np.where(now, newest, older), np.where(now, t, newest)
    possible = newest < rewards.steps[:, None]  # a request at the end of the last step is useless
    requests = asked.sum(1)
    net = np.where(possible, total - np.broadcast_to(price, devices)[:, None] * requests, -np.inf)
    best = np.where(net == net.max(1, keepdims=True), requests, longest).argmin(1)
    return Schedule(net[np.arange(devices), best], asked[best], requests[best])
