"""The numbers of the diffusion: noise levels, posterior jumps, sampling times and the loss weight's annealing.

Steps are counted 1..T; 0 is the clean sequence. A_t is the share of signal left in the variance after t steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError


def signal_left(steps: int) -> NDArray[np.float64]:
    """A_0..A_T, float64 [T+1], of the linear schedule scaled to T: beta from 1e-4 k to 0.02 k, k = 1000 / T.

    Raises ConfigError for 20 steps or fewer, where the last beta reaches 1.
    """
    if steps <= 20:
        raise ConfigError(f"DCRec: steps = {steps}, but the scaled linear schedule needs 21 or more; raise steps")
    betas = np.linspace(1e-4, 0.02, steps) * (1000.0 / steps)
    return np.concatenate([[1.0], np.cumprod(1.0 - betas)])


@dataclass(frozen=True, slots=True)
class Jump:
    """x_s = clean * xhat_0 + noisy * x_t + deviation * z, with z standard normal."""

    clean: float
    noisy: float
    deviation: float


def posterior_jump(at_t: float, at_s: float) -> Jump:
    """Gaussian q(x_s | x_t, x_0) for any s < t, from A_t and A_s; for s = t - 1 DDPM's (Ho et al. 2020, eq. 7).

    With r = A_t / A_s and D = 1 - A_t: mean = sqrt(A_s) (1 - r) / D x_0 + sqrt(r) (1 - A_s) / D x_t,
    variance = (1 - A_s) (1 - r) / D. With s = 0 the jump is x_0 itself.
    """
    ratio, spread = at_t / at_s, 1.0 - at_t
    return Jump(
        clean=math.sqrt(at_s) * (1.0 - ratio) / spread,
        noisy=math.sqrt(ratio) * (1.0 - at_s) / spread,
        deviation=math.sqrt((1.0 - at_s) * (1.0 - ratio) / spread),
    )


def sampling_times(steps: int, used: int) -> tuple[int, ...]:
    """The `used` evenly spaced times of 1..T visited from noise to clean, T first; the clean end 0 is not among them.

    Raises ConfigError unless 1 <= used <= steps.
    """
    if not 1 <= used <= steps:
        raise ConfigError(f"DCRec: sampling_steps = {used} is outside 1..{steps}; choose one of these or raise steps")
    return tuple(i * steps // used for i in range(used, 0, -1))


def jumps(signal: Sequence[float] | NDArray[np.float64], times: Sequence[int]) -> tuple[Jump, ...]:
    """The jumps between neighbouring `times`, one fewer than there are times."""
    return tuple(posterior_jump(float(signal[t]), float(signal[s])) for t, s in pairwise(times))


@dataclass(frozen=True, slots=True)
class Annealing:
    """Weight lambda of the cross-entropy: start * (1 - min(epoch, epochs) / epochs)^9 + floor (released code)."""

    start: float
    floor: float
    epochs: int

    def __post_init__(self) -> None:
        if min(self.start, self.floor) < 0 or self.start + self.floor > 1 or self.epochs < 1:
            raise ConfigError(
                f"DCRec: lambda_start = {self.start}, lambda_floor = {self.floor}, lambda_epochs = {self.epochs}, but "
                "start and floor must be at least 0 and sum to at most 1, over 1 or more epochs; correct them"
            )

    def at(self, epoch: int) -> float:
        """Lambda in `epoch`, counted from 0."""
        left = 1.0 - min(epoch, self.epochs) / self.epochs
        return float(self.start * left**9 + self.floor)
