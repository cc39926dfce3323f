"""MetaController (KDD 2022): keep the cloud's list, rerank it on the device, or refresh it in the cloud, by uplift.

As published: effects tau_device = E[O(1) | H] - E[O(0) | H] and tau_refresh = E[O(2) | H] - E[O(0) | H], tau_keep = 0,
from a T- or X-learner; label c = argmax tau; a controller of width 16 with a softmax over the three, cross-entropy,
Adam 1e-3, batches of 512; above a budget of refreshes, labels of refresh are smoothed to (1 - lambda) c + lambda c',
c' the second best.

Reconstructed: their logs are randomised and show one outcome per row, ours are counterfactual and show all three, so
every row teaches every arm and the propensity is 1/2. The shared sequence encoder is the reranker's state plus a few
numbers about the pool; the outcome models of a T- or X-learner share one hidden layer, which stands in for the paper's
trained encoder. lambda and the number of epochs are not in the sources. Our devices always rerank, so the controller's
first two answers both mean "do not ask".
"""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError
from device.policies.fitting import (
    Network,
    Numbers,
    Plan,
    affine,
    answered,
    descend,
    gathered,
    known,
    layer,
    refuse_none,
    standard,
)
from device.policy import Experience, Learned, Urgency, View
from device.seeds import Draws

if TYPE_CHECKING:
    from torch import Tensor

KEEP, DEVICE, REFRESH = 0, 1, 2
_WIDTH = 16


@dataclass(frozen=True, slots=True)
class MetaController:
    """Asks where the three-way controller prefers a refresh.

    Args:
        learner: "T" (effects are differences of outcome models) or "X" (effects are learned from imputed ones).
        budget: share of refreshes in a batch above which the labels of refresh are smoothed.
        smoothing: lambda, the share of such a label that goes to the second best.
        epochs: passes over the experience, per network.
        learned: set by `taught`.
    """

    learner: Literal["T", "X"] = "T"
    budget: float = 0.2
    smoothing: float = 0.5
    epochs: int = 20
    learned: Learned | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.learner not in ("T", "X"):
            raise ConfigError(f"MetaController: learner = {self.learner!r}; expected 'T' or 'X'")
        for name in ("budget", "smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"MetaController: {name} = {getattr(self, name)}; expected 0 to 1")
        if self.epochs < 1:
            raise ConfigError(f"MetaController: epochs = {self.epochs}; expected 1 or more")

    def fit(self, experience: Experience, rng: np.random.Generator) -> Learned:
        """The controller's parameters; ContractError without a row whose next step is known."""
        outcomes = np.stack([experience.shown[:, 0], experience.kept[:, 0], experience.fresh[:, 0]], axis=1)
        seen = np.isfinite(outcomes).all(axis=1)
        refuse_none("MetaController", outcomes[seen], "a next step")
        features = gathered(experience, _features)[seen]
        shift, scale = standard(features)
        inputs = ((features - shift) / scale).astype(np.float32)
        plan = Plan(self.epochs, batch=512)
        effects = uplift(inputs, outcomes[seen].astype(np.float32), learner=self.learner, plan=plan, rng=rng)
        return {"shift": shift, "scale": scale} | self._controller(inputs, effects, plan, rng)

    def taught(self, learned: Learned) -> Self:
        """The policy that decides with these parameters."""
        return replace(self, learned=learned)

    def urgency(self, view: View, draws: Draws) -> Urgency:
        """Log-odds of refresh against both others; ContractError before it was taught or for a model without state."""
        learned = known("MetaController", self.learned)
        return answered(lambda features: _log_odds(learned, features), _features(view))

    def _controller(
        self, inputs: Numbers, effects: Numbers, plan: Plan, rng: np.random.Generator
    ) -> dict[str, Numbers]:
        import torch

        ranked = np.argsort(-effects, axis=1, kind="stable")
        best, second = (np.eye(3, dtype=np.float32)[ranked[:, place]] for place in (0, 1))
        smooth = (1 - self.smoothing) * best + self.smoothing * second

        def loss(network: Network, rows: NDArray[np.int64]) -> "Tensor":
            logits = _network(network, torch.from_numpy(inputs[rows]), torch.relu)
            share = float((logits.argmax(dim=1) == REFRESH).float().mean())
            over = (share > self.budget) & (ranked[rows, :1] == REFRESH)
            labels = np.where(over, smooth[rows], best[rows]).astype(np.float32)
            return torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels))

        return descend(_fresh(inputs.shape[1], 3, rng), loss, rows=len(inputs), plan=plan, rng=rng)


def uplift(
    inputs: Numbers, outcomes: Numbers, *, learner: Literal["T", "X"], plan: Plan, rng: np.random.Generator
) -> Numbers:
    """Effects [N, 3] of keep (0), device and refresh, from features [N, F] and outcomes [N, 3] of the three arms.

    T-learner: differences of the outcome models. X-learner (Kuenzel et al., PNAS 2019): models of the imputed effects
    O(a) - mu_0(x) and mu_a(x) - O(0), averaged.
    """
    means = _regressed(inputs, outcomes, plan, rng)
    if learner == "T":
        return means - means[:, :1]
    treated, untreated = outcomes[:, 1:] - means[:, :1], means[:, 1:] - outcomes[:, :1]
    both = _regressed(inputs, np.concatenate([treated, untreated], axis=1), plan, rng)
    return np.pad((both[:, :2] + both[:, 2:]) / 2, ((0, 0), (1, 0)))


def _regressed(inputs: Numbers, targets: Numbers, plan: Plan, rng: np.random.Generator) -> Numbers:
    """[N, T] least-squares fit by one hidden layer that all targets share."""
    import torch

    def loss(network: Network, rows: NDArray[np.int64]) -> "Tensor":
        found = _network(network, torch.from_numpy(inputs[rows]), torch.relu)
        return torch.nn.functional.mse_loss(found, torch.from_numpy(targets[rows]))

    network = descend(_fresh(inputs.shape[1], targets.shape[1], rng), loss, rows=len(inputs), plan=plan, rng=rng)
    return np.asarray(_network(network, inputs, _relu), np.float32)


def _features(view: View) -> NDArray[np.float64]:
    """[B, d + 7] the reranker's state, then what the device knows about its pool."""
    counts = np.log1p(np.stack([view.step, view.pool_age, view.since_request, view.misses, view.empty], axis=1))
    luck = np.stack([view.hit_rate, view.taken > 0], axis=1)
    return np.concatenate([view.state, counts, luck], axis=1, dtype=np.float64)


def _fresh(inputs: int, outputs: int, rng: np.random.Generator) -> dict[str, Numbers]:
    return layer(rng, "hidden", inputs, _WIDTH) | layer(rng, "out", _WIDTH, outputs)


def _network(network: Network, x: Any, relu: Any) -> Any:
    return affine(network, "out", relu(affine(network, "hidden", x)))


def _relu(x: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.maximum(x, 0))


def _log_odds(learned: Learned, features: NDArray[np.float64]) -> Urgency:
    logits = _network(learned, (features - learned["shift"]) / learned["scale"], _relu)
    return np.asarray(logits[:, REFRESH] - np.logaddexp(logits[:, KEEP], logits[:, DEVICE]), np.float64)
