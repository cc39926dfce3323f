"""The virtual clock: recorded times where there are any, drawn gaps where there are not."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError
from device.seeds import draws

_MICRO = 1e6  # gaps are whole microseconds, so that their sums are exact and a user's times never depend on other users
_LONGEST_S = 30 * 86400.0


@dataclass(frozen=True, slots=True)
class Clock:
    """Log-normal gaps between events: median `median_s` seconds, `sigma` of the logarithm; raises ConfigError."""

    median_s: float = 30.0
    sigma: float = 1.0

    def __post_init__(self) -> None:
        if not 0.001 <= self.median_s <= _LONGEST_S:
            raise ConfigError(f"clock: median_s = {self.median_s!r}, expected 0.001 to {_LONGEST_S:.0f} seconds")
        if not 0 <= self.sigma <= 5:
            raise ConfigError(f"clock: sigma = {self.sigma!r}, expected 0 to 5")

    def gaps_us(self, seed: int, user: NDArray[np.int64], position: NDArray[np.int64]) -> NDArray[np.int64]:
        """[N] int64 microseconds between event `position` of `user` and the one before; 1 ms to 30 days."""
        normal = draws(seed, "clock", user, position).normal(1)[:, 0] if len(user) else np.zeros(0)
        gap = np.clip(self.median_s * np.exp(self.sigma * normal), 0.001, _LONGEST_S)
        return np.rint(gap * _MICRO).astype(np.int64)


DEFAULT = Clock()


def drawn(clock: Clock, seed: int, offsets: NDArray[np.int64]) -> NDArray[np.float64]:
    """[N] float64 times for data with only an order; a user's first event comes one gap after 0."""
    user, position = _coordinates(offsets)
    total = np.cumsum(clock.gaps_us(seed, user, position))
    before = np.concatenate([np.zeros(1, np.int64), total])[offsets[:-1]]
    at: NDArray[np.float64] = (total - before[user]) / _MICRO
    return at


def spread(
    clock: Clock, seed: int, offsets: NDArray[np.int64], recorded: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Times [N] float64 and the tied flags [N] bool of recorded times that never decrease within a user.

    The first event of a tied run keeps its recorded time, every further one comes a drawn gap after the one before;
    where the gaps would run into the user's next recorded time they are shrunk in proportion to end before it.
    So no event changes place and no recorded time moves.
    """
    user, position = _coordinates(offsets)
    events = len(recorded)
    tied = np.zeros(events, np.bool_)
    tied[1:] = (recorded[1:] == recorded[:-1]) & (position[1:] > 0)
    if not tied.any():
        return recorded.astype(np.float64), tied
    gap = np.zeros(events, np.int64)
    gap[tied] = clock.gaps_us(seed, user[tied], position[tied])
    starts = np.flatnonzero(~tied)
    run = np.cumsum(~tied) - 1
    total = np.cumsum(gap)
    shift = (total - total[starts][run]) / _MICRO
    at = recorded + shift * _shrink(recorded, user, starts, shift)[run]
    return _strictly(at, user), tied


def _shrink(
    recorded: NDArray[np.float64], user: NDArray[np.int64], starts: NDArray[np.int64], shift: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Factor per run, at most 1: a run of m events may fill (m - 1) / m of the time to the user's next record."""
    ends = np.append(starts[1:], len(recorded))
    size, last = ends - starts, shift[ends - 1]
    room = np.full(len(starts), np.inf)
    room[:-1] = np.where(user[starts[1:]] == user[starts[:-1]], recorded[starts[1:]] - recorded[starts[:-1]], np.inf)
    shrink = np.ones(len(starts))
    many = size > 1
    shrink[many] = np.minimum(1.0, room[many] * (size - 1)[many] / (size * last)[many])
    return shrink


def _strictly(at: NDArray[np.float64], user: NDArray[np.int64]) -> NDArray[np.float64]:
    """Raises the times that float64 could not keep apart to the next number; only sub-microsecond data need it."""
    late = np.flatnonzero((at[1:] <= at[:-1]) & (user[1:] == user[:-1])) + 1
    for start in late:
        event = int(start)
        while event < len(at) and user[event] == user[event - 1] and at[event] <= at[event - 1]:
            at[event] = np.nextafter(at[event - 1], np.inf)
            event += 1
    return at


def _coordinates(offsets: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    lengths = np.diff(offsets)
    user = np.repeat(np.arange(len(lengths)), lengths)
    return user, np.arange(offsets[-1]) - offsets[user]
