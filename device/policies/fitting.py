"""What policies with small networks share: rows of experience, what a request gained, descent, calls of 64 rows.

A network is a function of (parameters, inputs, activation) that uses `@`, `+` and indexing only. So one function serves
numpy on the device and torch while fitting, and the two cannot drift apart. torch is imported when something is fitted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from device.errors import ContractError
from device.policy import Experience, Learned, Urgency, View
from device.scoring import batches

if TYPE_CHECKING:
    from torch import Tensor

Numbers = NDArray[np.float32]
Network = Mapping[str, Any]  # name -> numpy array or torch tensor


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and in what steps AdamW descends; a falling rate goes down to 0 in a straight line, pass by pass."""

    epochs: int
    batch: int
    rate: float = 1e-3
    decay: float = 0.0
    falling: bool = False


@runtime_checkable
class PredictsGain(Protocol):
    """A policy whose urgency is the gain of a request in NDCG@10, summed over the next steps; see `summed_gain`."""

    @property
    def predicts_gain(self) -> int:
        """So many steps."""
        ...


def summed_gain(experience: Experience, horizon: int) -> NDArray[np.float64]:
    """[N] NDCG@10 that a request gains over the next `horizon` steps; NaN where no next step is known.

    Where fewer steps are known (the log ends, or the experience looks less far) their mean stands for the others.
    """
    gain = (experience.fresh - experience.kept)[:, :horizon].astype(np.float64)
    steps = np.isfinite(gain).sum(1)
    return np.where(steps > 0, np.nansum(gain, axis=1) / np.maximum(steps, 1) * horizon, np.nan)


def gathered(experience: Experience, look: Callable[[View], NDArray[Any]]) -> NDArray[Any]:
    """What `look` sees in every view, one below the other; ContractError unless outcomes have as many rows."""
    rows = [look(view) for view in experience.views]
    found, expected = sum(map(len, rows)), len(experience.kept)
    if not rows or found != expected:
        raise ContractError(f"experience: {found} rows of views, {expected} of outcomes; give one outcome per view row")
    return np.concatenate(rows)


def refuse_none(policy: str, rows: NDArray[Any], wanted: str) -> None:
    """ContractError when there are no rows to learn from."""
    if not len(rows):
        raise ContractError(f"{policy}.fit: no row of experience has {wanted}; give more validation steps per user")


def known(policy: str, learned: Learned | None) -> Learned:
    """The parameters; ContractError when there are none yet."""
    if learned is None:
        raise ContractError(
            f"{policy} has learned nothing yet, so it cannot say how urgent a request is; "
            "fit it on validation steps and decide with what `taught` returns"
        )
    return learned


def standard(values: NDArray[Any]) -> tuple[Numbers, Numbers]:
    """(mean, standard deviation) per column, float32; 1 in place of a deviation of 0."""
    spread = values.std(axis=0)
    return values.mean(axis=0).astype(np.float32), np.where(spread > 1e-6, spread, 1).astype(np.float32)


def layer(rng: np.random.Generator, name: str, inputs: int, outputs: int, *, bias: bool = True) -> dict[str, Numbers]:
    """Fresh weights [inputs, outputs], uniform within 1 / sqrt(inputs), and a bias of zeros, float32."""
    weight = rng.uniform(-1, 1, (inputs, outputs)) * inputs**-0.5
    fresh = {f"{name}.weight": weight.astype(np.float32)}
    return fresh | ({f"{name}.bias": np.zeros(outputs, np.float32)} if bias else {})


def affine(network: Network, name: str, x: Any) -> Any:
    """x [..., inputs] through that layer."""
    return x @ network[f"{name}.weight"] + network[f"{name}.bias"]


def descend(
    start: Learned,
    loss: Callable[[Network, NDArray[np.int64]], "Tensor"],
    *,
    rows: int,
    plan: Plan,
    rng: np.random.Generator,
    judge: Callable[[Network], "Tensor"] | None = None,
) -> dict[str, Numbers]:
    """Parameters after AdamW on `loss(network, rows of a batch)`, batches shuffled per epoch.

    AdamW: Loshchilov and Hutter, ICLR 2019; without decay it is Adam (Kingma and Ba, 2015). With `judge`, the
    parameters after the pass that it finds lowest; without, those after the last.
    """
    import torch

    network = {name: torch.tensor(values, requires_grad=True) for name, values in start.items()}
    adam = torch.optim.AdamW(network.values(), lr=plan.rate, weight_decay=plan.decay)
    best, kept = np.inf, copied(network)
    for epoch in range(plan.epochs):
        adam.param_groups[0]["lr"] = plan.rate * (1 - epoch / plan.epochs) if plan.falling else plan.rate
        order = rng.permutation(rows)
        for first in range(0, rows, plan.batch):
            adam.zero_grad()
            loss(network, order[first : first + plan.batch]).backward()  # type: ignore[no-untyped-call]
            adam.step()
        if judge:
            with torch.no_grad():
                value = float(judge(network))
            best, kept = (value, copied(network)) if value < best else (best, kept)
    return kept if judge else copied(network)


def copied(network: Network) -> dict[str, Numbers]:
    """As numpy arrays that later descent leaves alone."""
    return {name: values.detach().numpy().copy() for name, values in network.items()}


def answered(ask: Callable[..., Urgency], *inputs: NDArray[Any]) -> Urgency:
    """[B] `ask` of inputs [B, ...], 64 rows per call: so a device's answer does not depend on who shares its client."""
    out = np.empty(len(inputs[0]), np.float64)
    for rows, filled in batches(len(out)):
        out[rows] = ask(*(values[filled] for values in inputs))[: len(rows)]
    return out
