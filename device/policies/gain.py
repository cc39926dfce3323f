"""Our request policy: the expected gain of a request, learned from what requests would have changed on validation.

A request now is worth what the next steps' slates gain from it. The log says what users took next, so on validation
steps both branches are known, with the request and without (see `simulation.experience`); a network of a few hundred
weights learns their difference from what a phone knows anyway: ages, misses, and what its reranker says of its pool.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError
from device.policies.fitting import Network, Plan, descend, gathered, known, layer, refuse_none, summed_gain
from device.policy import Experience, Learned, RequestPolicy, Urgency, View
from device.row_cache import member
from device.seeds import Draws

if TYPE_CHECKING:
    from torch import Tensor

Values = NDArray[np.float32]
HIDDEN = 12
LOOKED_FOR = 5
EPOCHS, BATCHES, LEAST, RATE, DECAY = 30, 32, 64, 3e-3, 1e-3


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
    def scores(self) -> Values:
        """[B, C] the reranker's scores; -inf in empty slots."""
        return np.where(self.valid, self.view.device_scores, np.float32(-np.inf))

    @cached_property
    def best(self) -> Values:
        """[B] the best of them."""
        best: Values = np.maximum(self.scores.max(1, initial=-1e4), np.float32(-1e4))
        return best

    @cached_property
    def mass(self) -> Values:
        """[B] their log-sum-exp: how much the reranker expects of the pool as a whole."""
        mass: Values = (np.log(np.exp(self.scores - self.best[:, None]).sum(1) + 1e-12) + self.best).astype(np.float32)
        return mass

    @cached_property
    def size(self) -> Values:
        """[B] candidates in the pool."""
        size: Values = self.valid.sum(1).astype(np.float32)
        return size


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
}
"""What the policy looks at, each [B]; every one can be left out by name."""


@dataclass(frozen=True, slots=True)
class Gain:
    """Asks where the learned gain of a request over the next `horizon` steps exceeds the price.

    Args:
        horizon: steps ahead whose NDCG@10 counts; a learner sees at most as many as the experience holds.
        without: names of features to leave out, for ablations.
    """

    horizon: int = 4
    without: Sequence[str] = ()
    learned: Learned | None = None

    def __post_init__(self) -> None:
        if self.horizon < 1:
            raise ConfigError(f"Gain: horizon = {self.horizon}; expected 1 or more")
        if unknown := [name for name in self.without if name not in FEATURES]:
            raise ConfigError(f"Gain: without = {unknown[0]!r} is no feature; known: {', '.join(FEATURES)}")

    @property
    def names(self) -> list[str]:
        """The features in use."""
        return [name for name in FEATURES if name not in self.without]

    def features(self, view: View) -> Values:
        """[B, F] float32."""
        seen = Seen(view)
        return np.stack([FEATURES[name](seen) for name in self.names], axis=1)

    @property
    def predicts_gain(self) -> int:
        """See PredictsGain: the urgency is summed over so many steps."""
        return self.horizon

    def urgency(self, view: View, draws: Draws) -> Urgency:
        """The expected gain in NDCG@10, summed over the horizon; ContractError before it has learned."""
        learned = known("Gain", self.learned)
        x = (np.clip(self.features(view), learned["low"], learned["high"]) - learned["mean"]) * learned["scale"]
        return np.asarray(answer(learned, x, products, np.tanh), np.float64)

    def taught(self, learned: Learned) -> RequestPolicy:
        """The policy with these parameters."""
        return replace(self, learned=learned)

    def fit(self, experience: Experience, rng: np.random.Generator) -> Learned:
        """Least squares of the gain by a network with one hidden layer; ContractError without a known next step.

        At most 14 features, 12 hidden units: 14 * 12 + 12 + 12 + 1 weights and 4 * 14 numbers to scale features. A
        fifth of the devices tell after which pass the network is best.
        """
        gain = summed_gain(experience, self.horizon)
        rows = np.isfinite(gain)
        refuse_none("Gain", gain[rows], "a next step")
        x = gathered(experience, self.features)[rows]
        held = gathered(experience, lambda view: view.device)[rows] % 5 == 0
        return network(x, gain[rows].astype(np.float32), held, rng)


def answer(network: Network, x: Any, times: Callable[[Any, Any], Any], tanh: Callable[[Any], Any]) -> Any:
    """[B] of standardised features x [B, F]: numpy's on the device, torch's while fitting."""
    hidden = tanh(times(x, network["hidden.weight"]) + network["hidden.bias"])
    return (times(hidden, network["out.weight"]) + network["out.bias"])[:, 0]


def products(x: Values, weights: Values) -> Values:
    """x [B, I] times weights [I, O]; unlike those of BLAS, the last bits of a row do not depend on the other rows."""
    made: Values = (x[:, :, None] * weights).sum(1)
    return made


def network(x: Values, y: Values, held: NDArray[np.bool_], rng: np.random.Generator) -> Learned:
    """Parameters of a network x [N, F] -> y [N]: AdamW with a falling rate, the pass that fits `held` rows [N] best.

    However many rows there are, a pass takes at most BATCHES steps, of LEAST rows or more: on validation steps of
    MovieLens-1M and LastFM more of them fit other users no better.
    """
    import torch

    mean, scale = x.mean(0), 1 / np.maximum(x.std(0), 1e-3)
    level, spread = y.mean(), y.std() or np.float32(1)
    inputs, targets = (x - mean) * scale, (y - level) / spread
    judges = held if held.any() else ~held
    teaches = ~held if not held.all() else held
    taught, told, judged, found = (
        torch.from_numpy(part[rows]) for rows in (teaches, judges) for part in (inputs, targets)
    )

    def loss(network: Network, x: "Tensor", y: "Tensor") -> "Tensor":
        return torch.nn.functional.mse_loss(answer(network, x, torch.matmul, torch.tanh), y)

    def batch(network: Network, rows: NDArray[np.int64]) -> "Tensor":
        which = torch.from_numpy(rows)
        return loss(network, taught.index_select(0, which), told.index_select(0, which))

    weights = descend(
        layer(rng, "hidden", x.shape[1], HIDDEN) | layer(rng, "out", HIDDEN, 1),
        batch,
        rows=len(told),
        plan=Plan(EPOCHS, max(-(-len(told) // BATCHES), LEAST), RATE, DECAY, falling=True),
        rng=rng,
        judge=lambda network: loss(network, judged, found),
    )
    units = {"out.weight": weights["out.weight"] * spread, "out.bias": weights["out.bias"] * spread + level}
    seen = {"mean": mean, "scale": scale, "low": x.min(0), "high": x.max(0)}  # nothing is extrapolated beyond them
    return weights | units | seen
