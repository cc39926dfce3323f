"""What policies with small networks share: rows of experience, gradient descent, answers in calls of 64 rows.

A network is a function of (parameters, inputs, activation) that uses `@`, `+` and indexing only. So one function serves
numpy on the device and torch while fitting, and the two cannot drift apart. torch is imported when something is fitted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    """How long and in what steps Adam descends."""

    epochs: int
    batch: int
    rate: float = 1e-3


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
) -> dict[str, Numbers]:
    """Parameters after Adam (Kingma and Ba, 2015) on `loss(network, rows of a batch)`, batches shuffled per epoch."""
    import torch

    network = {name: torch.tensor(values, requires_grad=True) for name, values in start.items()}
    adam = torch.optim.Adam(network.values(), lr=plan.rate)
    for _ in range(plan.epochs):
        order = rng.permutation(rows)
        for first in range(0, rows, plan.batch):
            adam.zero_grad()
            loss(network, order[first : first + plan.batch]).backward()  # type: ignore[no-untyped-call]
            adam.step()
    return {name: values.detach().numpy().copy() for name, values in network.items()}


def answered(ask: Callable[..., Urgency], *inputs: NDArray[Any]) -> Urgency:
    """[B] `ask` of inputs [B, ...], 64 rows per call: so a device's answer does not depend on who shares its client."""
    out = np.empty(len(inputs[0]), np.float64)
    for rows, filled in batches(len(out)):
        out[rows] = ask(*(values[filled] for values in inputs))[: len(rows)]
    return out
