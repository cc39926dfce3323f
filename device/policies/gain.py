"""Our request policy: the expected gain of a request, learned from what requests would have changed on validation.

A request now is worth what the next steps' slates gain from it. The log says what users took next, so on validation
steps both branches are known, with the request and without (see `simulation.experience`); a network of a few hundred
weights learns their difference from what a phone knows anyway: ages, misses, and what its reranker says of its pool.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError, ContractError
from device.fusion import normalised
from device.policy import Experience, Learned, RequestPolicy, Urgency, View
from device.row_cache import member
from device.seeds import Draws

Values = NDArray[np.float32]
HIDDEN = 12
EPOCHS, BATCH, RATE, DECAY = 30, 1024, 3e-3, 1e-3


def log1p(values: NDArray[np.generic]) -> Values:
    """log(1 + x) of what is at least 0."""
    return np.asarray(np.log1p(np.maximum(values, 0).astype(np.float32)))


def pool_mass(view: View) -> Values:
    """Log-sum-exp of the reranker's scores over the pool: how much it expects of the pool as a whole."""
    scores = np.where(view.valid, view.device_scores, -np.inf)
    peak = np.maximum(scores.max(1, initial=-1e4), -1e4)
    return np.asarray(np.log(np.exp(scores - peak[:, None]).sum(1) + 1e-12) + peak, np.float32)


def best_share(view: View) -> Values:
    """Log-probability of the pool's best candidate: how sure the reranker is."""
    scores = np.where(view.valid, view.device_scores, -np.inf)
    return np.asarray(np.maximum(scores.max(1, initial=-1e4), -1e4), np.float32) - pool_mass(view)


def agreement(view: View) -> Values:
    """Correlation of the cloud's and the reranker's scores over the pool."""
    device = normalised(view.device_scores, view.valid, "standardise")
    cloud = normalised(view.cloud_scores, view.valid, "standardise")
    return np.asarray((device * cloud).sum(1) / np.maximum(view.valid.sum(1), 1), np.float32)


def out_of_pool(view: View) -> Values:
    """Share of the device's own best resident items that the pool lacks; 0 where it looks for none."""
    if not view.own.shape[1]:
        return np.zeros(len(view.device), np.float32)
    return np.asarray((~member(view.own, view.candidates)).mean(1), np.float32)


FEATURES: dict[str, Callable[[View], Values]] = {
    "pool age": lambda v: log1p(v.pool_age),
    "since request": lambda v: log1p(v.since_request),
    "misses": lambda v: log1p(v.misses),
    "miss share": lambda v: (v.misses / np.maximum(v.pool_age, 1)).astype(np.float32),
    "last hit": lambda v: (v.taken > 0).astype(np.float32),
    "last rank": lambda v: ((v.taken > 0) / np.log2(np.maximum(v.taken, 1) + 1.0)).astype(np.float32),
    "hit rate": lambda v: v.hit_rate.astype(np.float32),
    "candidates": lambda v: log1p(v.valid.sum(1)),
    "mean age": lambda v: log1p((v.age * v.valid).sum(1) / np.maximum(v.valid.sum(1), 1)),
    "pool mass": pool_mass,
    "best share": best_share,
    "agreement": agreement,
    "out of pool": out_of_pool,
    "history": lambda v: log1p((v.history != 0).sum(1)),
    "idle": lambda v: log1p(v.idle_s),
    "reply age": lambda v: log1p(v.reply_age_s),
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
        return np.stack([FEATURES[name](view) for name in self.names], axis=1)

    def urgency(self, view: View, draws: Draws) -> Urgency:
        """The expected gain in NDCG@10, summed over the horizon; ContractError before it has learned."""
        if self.learned is None:
            raise ContractError(
                "Gain has learned nothing yet; give it validation steps: fit(experience), then taught()"
            )
        p = self.learned
        x = (np.clip(self.features(view), p["low"], p["high"]) - p["mean"]) * p["scale"]
        hidden = np.tanh(products(x, p["w1"]) + p["b1"])
        return (products(hidden, p["w2"][:, None])[:, 0] + p["b2"]).astype(np.float64)

    def taught(self, learned: Learned) -> RequestPolicy:
        """The policy with these parameters."""
        return replace(self, learned=learned)

    def fit(self, experience: Experience, rng: np.random.Generator) -> Learned:
        """Least squares of the gain by a network with one hidden layer; a truncated horizon is scaled up.

        At most 16 features, 12 hidden units: 16 * 12 + 12 + 12 + 1 weights and 4 * 16 numbers to scale features. A
        fifth of the devices tell after which pass the network is best.
        """
        x = np.concatenate([self.features(view) for view in experience.views])
        held = np.concatenate([view.device for view in experience.views]) % 5 == 0
        gain = (experience.fresh - experience.kept)[:, : self.horizon]
        known = np.isfinite(gain)
        rows = known.any(1)
        y = np.nansum(gain[rows], axis=1) / known[rows].sum(1) * self.horizon
        return network(x[rows], y.astype(np.float32), held[rows], rng)


def products(x: Values, weights: Values) -> Values:
    """x [B, I] times weights [I, O]; unlike those of BLAS, the last bits of a row do not depend on the other rows."""
    made: Values = (x[:, :, None] * weights).sum(1)
    return made


def network(x: Values, y: Values, held: NDArray[np.bool_], rng: np.random.Generator) -> Learned:
    """Parameters of a network x [N, F] -> y [N]: AdamW with a falling rate, the pass that fits `held` rows [N] best."""
    import torch

    if len(x) < 2:
        raise ContractError(f"Gain: {len(x)} validation steps to learn from; raise validation in [data.split]")
    torch.manual_seed(int(rng.integers(2**31)))
    mean, scale = x.mean(0), 1 / np.maximum(x.std(0), 1e-3)
    spread = float(y.std()) or 1.0
    inputs, targets = torch.from_numpy((x - mean) * scale), torch.from_numpy(y / np.float32(spread))
    first, second = torch.nn.Linear(x.shape[1], HIDDEN), torch.nn.Linear(HIDDEN, 1)
    layers = torch.nn.Sequential(first, torch.nn.Tanh(), second)
    optimizer = torch.optim.AdamW(layers.parameters(), RATE, weight_decay=DECAY)
    judged = torch.from_numpy(np.flatnonzero(held if held.any() else ~held))
    learned = torch.from_numpy(np.flatnonzero(~held if not held.all() else held))
    best, kept = np.inf, layers.state_dict()
    for epoch in range(EPOCHS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - epoch / EPOCHS)
        for rows in torch.split(learned[torch.randperm(len(learned))], BATCH):
            loss = ((layers(inputs[rows])[:, 0] - targets[rows]) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            value = float(((layers(inputs[judged])[:, 0] - targets[judged]) ** 2).mean())
        if value < best:
            best, kept = value, {name: tensor.clone() for name, tensor in layers.state_dict().items()}
    weights = {
        "w1": kept["0.weight"].T,
        "b1": kept["0.bias"],
        "w2": kept["2.weight"][0] * spread,
        "b2": kept["2.bias"] * spread,
    }
    seen = {"mean": mean, "scale": scale, "low": x.min(0), "high": x.max(0)}  # nothing is extrapolated beyond them
    return seen | {k: v.numpy().copy() for k, v in weights.items()}
