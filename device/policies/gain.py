"""Our request policy: the expected gain of a request, learned from what requests would have changed on validation.

A request now is worth what the next steps' slates gain from it. The log says what users took next, so on validation
steps both branches are known, with the request and without (see `simulation.choosing.experience`); a network of a few
hundred weights learns their difference from what a phone knows anyway: ages, misses, what its reranker says of its
pool, and the reranker's state.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError
from device.policies.fitting import Network, Plan, descend, gathered, known, layer, refuse_none, summed_gain
from device.policies.gain_features import FEATURES, STATE, Seen, Values
from device.policy import Experience, Learned, RequestPolicy, Urgency, View
from device.seeds import Draws

if TYPE_CHECKING:
    from torch import Tensor

HIDDEN = 8
EPOCHS, BATCHES, LEAST, RATE, DECAY = 30, 32, 64, 3e-3, 1e-3


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
        if unknown := [name for name in self.without if name not in (*FEATURES, STATE)]:
            raise ConfigError(f"Gain: without = {unknown[0]!r} is no feature; known: {', '.join((*FEATURES, STATE))}")

    @property
    def names(self) -> list[str]:
        """The numbers in use."""
        return [name for name in FEATURES if name not in self.without]

    def features(self, view: View) -> Values:
        """[B, F] float32: the numbers in use, then the state."""
        seen = Seen(view)
        numbers = np.stack([FEATURES[name](seen) for name in self.names], axis=1)
        return numbers if STATE in self.without else np.concatenate([numbers, seen.state], axis=1)

    @property
    def predicts_gain(self) -> int:
        """See PredictsGain: the urgency is summed over so many steps."""
        return self.horizon

    def urgency(self, view: View, draws: Draws) -> Urgency:
        """The expected gain in NDCG@10, summed over the horizon; ContractError before it has learned."""
        learned = known("Gain", self.learned)
        return np.asarray(answer(learned, within(self.features(view), learned), products, np.tanh), np.float64)

    def taught(self, learned: Learned) -> RequestPolicy:
        """The policy with these parameters."""
        return replace(self, learned=learned)

    def fit(self, experience: Experience, rng: np.random.Generator) -> Learned:
        """Least squares of the gain by a network with one hidden layer; ContractError without a known next step.

        At most 16 + 32 features, 8 hidden units: 48 * 8 + 8 + 8 + 1 weights and 2 * 16 bounds. A fifth of the devices
        tell after which pass the network is best.
        """
        gain = summed_gain(experience, self.horizon)
        rows = np.isfinite(gain)
        refuse_none("Gain", gain[rows], "a next step")
        x = gathered(experience, self.features)[rows]
        held = gathered(experience, lambda view: view.device)[rows] % 5 == 0
        return network(x, gain[rows].astype(np.float32), held, bounded=len(self.names), rng=rng)


def within(x: Values, bounds: Mapping[str, Values]) -> Values:
    """x [B, F] with its first columns inside the bounds [n] that were seen while fitting: nothing is extrapolated."""
    size, inside = len(bounds["low"]), x.copy()
    inside[:, :size] = np.clip(x[:, :size], bounds["low"], bounds["high"])
    return inside


def answer(network: Network, x: Any, times: Callable[[Any, Any], Any], tanh: Callable[[Any], Any]) -> Any:
    """[B] of features x [B, F]: numpy's on the device, torch's while fitting, there of standardised ones."""
    hidden = tanh(times(x, network["hidden.weight"]) + network["hidden.bias"])
    return (times(hidden, network["out.weight"]) + network["out.bias"])[:, 0]


def products(x: Values, weights: Values) -> Values:
    """x [B, I] times weights [I, O]; unlike those of BLAS, the last bits of a row do not depend on the other rows."""
    made: Values = (x[:, :, None] * weights).sum(1)
    return made


def network(
    x: Values, y: Values, held: NDArray[np.bool_], *, bounded: int, rng: np.random.Generator
) -> dict[str, Values]:
    """Parameters of a network x [N, F] -> y [N]: AdamW with a falling rate, the pass that fits `held` rows [N] best.

    The scales of features and target end up in the weights; of the first `bounded` features the bounds are kept.

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
    first = weights["hidden.weight"] * scale[:, None]
    return {
        "hidden.weight": first,
        "hidden.bias": weights["hidden.bias"] - mean @ first,
        "out.weight": weights["out.weight"] * spread,
        "out.bias": weights["out.bias"] * spread + level,
        "low": x[:, :bounded].min(0),
        "high": x[:, :bounded].max(0),
    }
