"""IntellectReq (WWW 2024, arXiv 2302.07335): ask when the old list is probably wrong for the interest of now.

Two modules. The distribution mapper (DM) is a conditional variational autoencoder on the state u of the reranker: how
far may the next interest lie from the present one? Prior q(z | u) and posterior q(z | u, c): one layer of 16 with tanh,
then mean and log scale of 16 numbers each; decoder: one layer on [u; z]. Its spread U over 10 samples of the prior is
the uncertainty. The mis-recommendation detector (MRD) compares the states at the last request and now:
a = tanh(w1 . [u_asked; u]), m = w2 . [a; U], sigmoid(m) = P(the old one is right). Trained one after the other, the
earlier frozen; Adam 1e-3, batches of 1,024, 10 epochs. The device asks iff sigmoid(m) < tau, so urgency is -m.

Reconstructed: they ask for new weights of the reranker, here a new list is asked for, so their first stage (the
hypernetwork) falls away, and "right" means that the next item stood in the old pool's top 10. The next interest c is
the state one step later instead of the item's embedding, and the decoder is trained to give that state (squared error)
instead of the item's label; its variance is set to 0.1, since with 1 the latent numbers would not pay for themselves.
States and U are standardised on the experience. Their 10 epochs are the default; the replayed validation steps are
fewer rows than their logs, so the study's configurations give 60, the same number for every data set. What is fitted,
and the tau that a price stands for, come from validation steps alone.
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

SAMPLES, LATENT = 10, 16
_VARIANCE = 0.1  # of a standardised state around what the decoder says
_SIGNALS = ("both", "dm", "mrd")


@dataclass(frozen=True, slots=True)
class IntellectReq:
    """Asks where the detector doubts the old list.

    Args:
        signal: "both"; "dm" = urgency is the mapper's U alone; "mrd" = the detector without U.
        faithful: U and its noise as released: the variance across the coordinates of one sample (summed over samples)
            instead of that across samples; noise uniform in [0, 1) instead of normal; the exponential of the log
            variance taken for the scale.
        epochs: passes over the experience, per module.
        learned: set by `taught`.
    """

    signal: Literal["both", "dm", "mrd"] = "both"
    faithful: bool = False
    epochs: int = 10
    learned: Learned | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.signal not in _SIGNALS:
            raise ConfigError(f"IntellectReq: signal = {self.signal!r}; expected one of {', '.join(_SIGNALS)}")
        if self.epochs < 1:
            raise ConfigError(f"IntellectReq: epochs = {self.epochs}; expected 1 or more")

    def fit(self, experience: Experience, rng: np.random.Generator) -> Learned:
        """Parameters of the modules in use; ContractError without a row whose next state or next step is known."""
        states = gathered(experience, lambda view: view.state)
        shift, scale = standard(states)
        learned = {"shift": shift, "scale": scale}
        now = _scaled(learned, states)
        if self.signal != "mrd":
            learned |= self._mapper(now, next_rows(experience), rng)
        if self.signal == "dm":
            return learned
        asked = _scaled(learned, gathered(experience, lambda view: view.asked_state))
        doubt = None
        if self.signal == "both":
            noise = self._noise(rng, len(now))
            values = answered(lambda u, e: self._spread(learned, u, e), now, noise)[:, None]
            learned["doubt.shift"], learned["doubt.scale"] = standard(values)
            doubt = _standard_doubt(learned, values)
        return learned | self._detector((asked, now, doubt), experience.kept[:, 0], rng)

    def taught(self, learned: Learned) -> Self:
        """The policy that decides with these parameters."""
        return replace(self, learned=learned)

    def urgency(self, view: View, draws: Draws) -> Urgency:
        """-m, or U for "dm"; ContractError before it was taught or for a model without state."""
        learned = known("IntellectReq", self.learned)
        now = _scaled(learned, view.state)
        if self.signal == "mrd":
            return answered(lambda old, u: -_margin(learned, old, u), _scaled(learned, view.asked_state), now)
        flat = draws.uniform(SAMPLES * LATENT) if self.faithful else draws.normal(SAMPLES * LATENT)
        noise = flat.reshape(-1, SAMPLES, LATENT).astype(np.float32)
        if self.signal == "dm":
            return answered(lambda u, e: self._spread(learned, u, e), now, noise)

        def wrong(old: Numbers, u: Numbers, e: Numbers) -> Urgency:
            doubt = _standard_doubt(learned, self._spread(learned, u, e)[:, None])
            return np.asarray(-_margin(learned, old, u, doubt))

        return answered(wrong, _scaled(learned, view.asked_state), now, noise)

    def _noise(self, rng: np.random.Generator, rows: int) -> Numbers:
        """[rows, SAMPLES, LATENT] for fitting; a device's own draws take its place when it decides."""
        shape = (rows, SAMPLES, LATENT)
        return rng.random(shape, np.float32) if self.faithful else rng.standard_normal(shape, np.float32)

    def _spread(self, network: Network, u: Numbers, noise: Numbers) -> Urgency:
        """U [B] from states [B, d] and noise [B, SAMPLES, LATENT]."""
        mean, scale = _latent(network, "prior", _hidden(network, "prior", u, np.tanh))
        z = mean[:, None] + np.exp(scale)[:, None] * noise
        decoded = _decoded(network, u[:, None], z)
        spread = decoded.var(axis=2 if self.faithful else 1).sum(axis=1)
        return np.asarray(spread, np.float64)

    def _mapper(self, now: Numbers, then: NDArray[np.int64], rng: np.random.Generator) -> dict[str, Numbers]:
        """Prior and decoder of the DM from states [N, d]; `then` [N] is each row's successor, -1 = none."""
        import torch

        u, c = now[then >= 0], now[then[then >= 0]]
        refuse_none("IntellectReq", u, "its device's next step beside it")

        def lower_bound(network: Network, rows: NDArray[np.int64]) -> "Tensor":
            here, target = torch.from_numpy(u[rows]), torch.from_numpy(c[rows])
            prior = _latent(network, "prior", _hidden(network, "prior", here, torch.tanh))
            posterior = _latent(network, "posterior", _hidden(network, "posterior", here, torch.tanh, target))
            z = posterior[0] + posterior[1].exp() * torch.from_numpy(self._noise(rng, len(rows))[:, 0])
            missed = (_decoded(network, here, z) - target).square().sum(dim=1) / (2 * _VARIANCE)
            loss: Tensor = (missed + _divergence(posterior, prior, 1 if self.faithful else 2)).mean()
            return loss

        start = _fresh_mapper(now.shape[1], rng)
        fitted = descend(start, lower_bound, rows=len(u), plan=Plan(self.epochs, batch=1024), rng=rng)
        return {name: values for name, values in fitted.items() if not name.startswith("posterior")}

    def _detector(
        self, evidence: tuple[Numbers, Numbers, Numbers | None], kept: Numbers, rng: np.random.Generator
    ) -> dict[str, Numbers]:
        """The MRD from (asked, now, doubt) and what the old pool gave at the next step, NaN = there was none."""
        import torch

        seen = np.isfinite(kept)
        refuse_none("IntellectReq", kept[seen], "a next step")
        inputs = [values[seen] for values in evidence if values is not None]
        right = (kept[seen] > 0).astype(np.float32)

        def loss(network: Network, rows: NDArray[np.int64]) -> "Tensor":
            m = _margin(network, *(torch.from_numpy(values[rows]) for values in inputs), tanh=torch.tanh)
            return torch.nn.functional.binary_cross_entropy_with_logits(m, torch.from_numpy(right[rows]))

        width = inputs[0].shape[1]
        start = layer(rng, "asked", width, 1) | layer(rng, "now", width, 1, bias=False) | layer(rng, "judge", 1, 1)
        start |= layer(rng, "doubt", 1, 1, bias=False) if len(inputs) == 3 else {}
        return descend(start, loss, rows=len(right), plan=Plan(self.epochs, batch=1024), rng=rng)


def next_rows(experience: Experience) -> NDArray[np.int64]:
    """[N] the row among all views that shows the same device one step later, -1 where there is none."""
    device, step = (gathered(experience, look) for look in (lambda view: view.device, lambda view: view.step))
    key = device * (step.max() + 2) + step
    order = np.argsort(key, kind="stable")
    place = np.minimum(np.searchsorted(key, key + 1, sorter=order), len(key) - 1)
    return np.where(key[order[place]] == key + 1, order[place], -1)


def _fresh_mapper(width: int, rng: np.random.Generator) -> dict[str, Numbers]:
    start = layer(rng, "decode", width, width) | layer(rng, "decode.z", LATENT, width, bias=False)
    for name in ("prior", "posterior"):
        start |= layer(rng, name, width, LATENT)
        start |= layer(rng, f"{name}.mean", LATENT, LATENT) | layer(rng, f"{name}.scale", LATENT, LATENT)
    return start | layer(rng, "posterior.next", width, LATENT, bias=False)


def _hidden(network: Network, name: str, u: Any, tanh: Any, c: Any = None) -> Any:
    """tanh of one layer on u, or on [u; c]."""
    return tanh(affine(network, name, u) + (0 if c is None else c @ network[f"{name}.next.weight"]))


def _latent(network: Network, name: str, hidden: Any) -> tuple[Any, Any]:
    """(mean, log scale) of z, both [B, LATENT]."""
    return affine(network, f"{name}.mean", hidden), affine(network, f"{name}.scale", hidden)


def _decoded(network: Network, u: Any, z: Any) -> Any:
    """One layer on [u; z]."""
    return affine(network, "decode", u) + z @ network["decode.z.weight"]


def _divergence(q: tuple[Any, Any], p: tuple[Any, Any], power: int) -> Any:
    """KL(q || p) [B] of two diagonal normals (mean, log scale); their variance is the scale to this power."""
    wide_q, wide_p = power * q[1], power * p[1]
    return (wide_p - wide_q + (wide_q.exp() + (q[0] - p[0]) ** 2) / wide_p.exp() - 1).sum(dim=1) / 2


def _margin(network: Network, asked: Any, now: Any, doubt: Any = None, *, tanh: Any = np.tanh) -> Any:
    """m [B] from states [B, d] at the last request and now, and the standardised U [B, 1]."""
    a = tanh(affine(network, "asked", asked) + now @ network["now.weight"])
    m = affine(network, "judge", a)
    return (m if doubt is None else m + doubt @ network["doubt.weight"])[:, 0]


def _scaled(learned: Learned, states: NDArray[np.float32]) -> Numbers:
    return np.asarray((states - learned["shift"]) / learned["scale"], np.float32)


def _standard_doubt(learned: Learned, values: NDArray[np.float64]) -> Numbers:
    return np.asarray((values - learned["doubt.shift"]) / learned["doubt.scale"], np.float32)
