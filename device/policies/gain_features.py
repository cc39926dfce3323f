"""What our request policy looks at: ages, misses, the reranker's view of its pool, and the reranker's state."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from device.errors import ContractError
from device.policy import View
from device.row_cache import member

Values = NDArray[np.float32]
LOOKED_FOR = 5


def log1p(values: NDArray[np.generic]) -> Values:
    """log(1 + x) of what is at least 0."""
    return np.asarray(np.log1p(np.maximum(values, 0).astype(np.float32)))


@dataclass(frozen=True)
class Seen:
    """A view, and what several features need of it."""

    view: View

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """[B, C] where there is a candidate."""
        return self.view.valid

    @cached_property
    def best(self) -> Values:
        """[B] the best of the reranker's scores."""
        best: Values = self.view.device_scores.max(1, where=self.valid, initial=np.float32(-1e4))
        return best

    @cached_property
    def mass(self) -> Values:
        """[B] their log-sum-exp: how much the reranker expects of the pool as a whole."""
        with np.errstate(over="ignore"):  # of empty slots, which take no part
            total = np.exp(self.view.device_scores - self.best[:, None]).sum(1, where=self.valid)
        mass: Values = (np.log(total + 1e-12) + self.best).astype(np.float32)
        return mass

    @cached_property
    def state(self) -> Values:
        """[B, STATES] the reranker's state now; [B, 0] where the model shows none."""
        with suppress(ContractError):
            return folded(self.view.state)
        return np.zeros((len(self.view.device), 0), np.float32)

    @cached_property
    def asked_state(self) -> Values:
        """[B, STATES] the one at the last request; [B, 0] where the model shows none."""
        with suppress(ContractError):
            return folded(self.view.asked_state)
        return np.zeros((len(self.view.device), 0), np.float32)

    @cached_property
    def size(self) -> Values:
        """[B] candidates in the pool."""
        size: Values = self.valid.sum(1).astype(np.float32)
        return size


def folded(state: Values) -> Values:
    """[B, STATES] of a state [B, d]: sums of its pieces of STATES numbers; [B, 0] of none."""
    width = state.shape[1]
    if width in (0, STATES):
        return state
    count = -(-width // STATES)
    pieces = np.pad(state, ((0, 0), (0, count * STATES - width))).reshape(len(state), count, STATES)
    found: Values = pieces.sum(1).astype(np.float32)
    return found


def cosine(one: Values, other: Values) -> Values:
    """[B] of the angle between rows; 0 where one of them is 0."""
    lengths = np.sqrt((one**2).sum(1) * (other**2).sum(1))
    found: Values = ((one * other).sum(1) / np.maximum(lengths, np.float32(1e-9))).astype(np.float32)
    return found


def out_of_pool(seen: Seen) -> Values:
    """Share of the device's own LOOKED_FOR best resident items that the pool lacks; 0 where it looks for none."""
    own = seen.view.own[:, :LOOKED_FOR]
    if not own.shape[1]:
        return np.zeros(len(own), np.float32)
    lacking: Values = (~member(own, seen.view.candidates)).mean(1).astype(np.float32)
    return lacking


def last_rank(view: View) -> Values:
    """Discount of the place at which the last item taken was shown; 0 where it was not in the pool."""
    discount: Values = ((view.taken > 0) / np.log2(np.maximum(view.taken, 1) + 1.0)).astype(np.float32)
    return discount


FEATURES: dict[str, Callable[[Seen], Values]] = {
    "pool age": lambda s: log1p(s.view.pool_age),
    "since request": lambda s: log1p(s.view.since_request),
    "misses": lambda s: log1p(s.view.misses),
    "miss share": lambda s: (s.view.misses / np.maximum(s.view.pool_age, 1)).astype(np.float32),
    "last hit": lambda s: (s.view.taken > 0).astype(np.float32),
    "last rank": lambda s: last_rank(s.view),
    "hit rate": lambda s: s.view.hit_rate.astype(np.float32),
    "candidates": lambda s: log1p(s.size),
    "pool mass": lambda s: s.mass,
    "best share": lambda s: (s.best - s.mass).astype(np.float32),
    "out of pool": out_of_pool,
    "history": lambda s: log1p((s.view.history != 0).sum(1)),
    "idle": lambda s: log1p(s.view.idle_s),
    "reply age": lambda s: log1p(s.view.reply_age_s),
    "state shift": lambda s: np.sqrt(((s.state - s.asked_state) ** 2).sum(1)),
    "state cosine": lambda s: cosine(s.state, s.asked_state),
}
"""Numbers that the policy looks at, each [B]; every one can be left out by name, and so can STATE."""
STATE = "state"
"""The reranker's state itself, folded to STATES numbers; nothing where the model shows none."""
STATES = 32
