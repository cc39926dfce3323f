"""Random numbers that derive from names, never from order.

Two forms. `rng(seed, *names)` is an ordinary numpy Generator for whatever is done once (weights, shuffles).
`Draws` serves many devices at once: row i depends on (seed, purpose, device i, step i) only, so a device draws the
same numbers for any number of clients, shards, workers and any order of arrival.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def key(seed: int, *names: str | int) -> int:
    """64-bit key of a seed and a path of names."""
    text = "\x1f".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def rng(seed: int, *names: str | int) -> np.random.Generator:
    """Generator whose stream is fixed by (seed, names)."""
    return np.random.Generator(np.random.Philox(key(seed, *names)))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014), elementwise."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True, slots=True)
class Draws:
    """Counter-based random numbers for B rows; each call with the same arguments returns the same numbers."""

    keys: NDArray[np.uint64]  # [B]

    def bits(self, n: int, stream: int = 0) -> NDArray[np.uint64]:
        """[B, n] independent 64-bit words; `stream` separates several uses of one row."""
        with np.errstate(over="ignore"):
            counter = _mix(np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN + np.uint64(stream * 0x632BE5AB))
            return _mix(self.keys[:, None] + counter[None, :] * _GOLDEN)

    def uniform(self, n: int = 1, stream: int = 0) -> NDArray[np.float64]:
        """[B, n] float64 in [0, 1)."""
        return (self.bits(n, stream) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, n: int = 1, stream: int = 0) -> NDArray[np.float64]:
        """[B, n] float64 standard normal (Box-Muller)."""
        u = self.uniform(2 * n, stream)
        return np.sqrt(-2.0 * np.log1p(-u[:, :n])) * np.cos(2.0 * np.pi * u[:, n:])

    def __getitem__(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> "Draws":
        return Draws(self.keys[rows])


def draws(seed: int, purpose: str, *coordinates: ArrayLike) -> Draws:
    """Rows of random numbers keyed by (seed, purpose) and integer coordinates of one length, e.g. device and step."""
    with np.errstate(over="ignore"):
        arrays = np.broadcast_arrays(*[np.asarray(c, np.int64) for c in coordinates])
        state = np.full(arrays[0].shape, key(seed, purpose), np.uint64)
        for array in arrays:
            state = _mix(state + _GOLDEN) ^ _mix(array.astype(np.uint64) * _GOLDEN + _GOLDEN)
            state = _mix(state)
    return Draws(np.atleast_1d(state))
