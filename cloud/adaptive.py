"""LSC4Rec's adaptive re-training per device: each takes a few gradient steps on its own newest interactions.

The paper speaks of devices, its released code trains all users together (for which see `cloud.cooperative`). Here every
device starts from the shared weights and changes a small set of them, all devices of a call at once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from device.errors import ConfigError, ContractError
from device.messages import encode_patch
from device.model import Items, Scores
from device.seeds import draws

DEVICES = 64  # trained or scored by one call, the last call padded: no device depends on the others (as in the fleet)


@dataclass(frozen=True, slots=True)
class Adaptation:
    """How a device trains on its own history.

    Args:
        newest: its last interactions that are learned from, each after the items before it.
        steps: gradient steps over all of them.
        rate: of plain gradient descent.
        negatives: items per target, uniform in the catalogue; those in the device's history do not count.
    """

    newest: int = 3
    steps: int = 3
    rate: float = 0.05
    negatives: int = 4

    def __post_init__(self) -> None:
        if min(self.newest, self.steps, self.negatives) < 1 or not self.rate > 0:
            raise ConfigError(f"{self}: expected whole numbers >= 1 and a rate > 0")


@dataclass(frozen=True, slots=True)
class Personal:
    """What each device's weights differ by from the shared ones."""

    shapes: dict[str, tuple[int, ...]]  # of the parameters trained, in the order of their names
    deltas: NDArray[np.float32]  # [D, P] the flattened parameters one after the other


def body(model: nn.Module) -> list[str]:
    """Names of the parameters without the table of item embeddings, the small set that is worth sending per device."""
    table = getattr(model, "item_table", None)
    return sorted(name for name, _ in model.named_parameters() if name != table)


def update_bytes(model: nn.Module, names: Sequence[str]) -> int:
    """Bytes that a device receives when it gets these parameters anew, float32; if it trains itself it gets none."""
    return len(encode_patch({name: tensor.numpy() for name, tensor in _chosen(model, names).items()}))


def adapt(
    model: nn.Module,
    histories: Items,
    devices: NDArray[np.int64],
    *,
    n_items: int,
    seed: int,
    options: Adaptation,
) -> Personal:
    """Train the parameters of `body` per device on `histories` [D, L] of `devices` [D]; `model` is kept.

    Loss: mean binary cross-entropy of each target and its negatives. A device with fewer than two items keeps the
    shared weights. Negatives depend on (seed, device). ContractError for histories
    of fewer than two columns. The deltas take 4 P bytes per device: call it for parts of a large fleet.
    """
    if histories.shape[1] < 2:
        raise ContractError(f"adaptation: histories {histories.shape}; expected [D, L] with L >= 2 to learn from")
    start = _chosen(model, body(model))
    shapes = {name: tuple(tensor.shape) for name, tensor in start.items()}
    deltas = np.zeros((len(histories), sum(t.numel() for t in start.values())), np.float32)
    for rows, padded in _calls(len(histories)):
        lessons = _lessons(histories[padded], devices[padded], n_items=n_items, seed=seed, options=options)
        weights = {name: t.expand(DEVICES, *t.shape) for name, t in start.items()}
        with _vectorised(model):
            for _ in range(options.steps):
                slopes = vmap(grad(_loss(model)))(weights, *lessons)
                weights = {name: w - options.rate * slopes[name] for name, w in weights.items()}
        change = [(weights[name] - start[name]).reshape(DEVICES, -1) for name in shapes]
        deltas[rows] = torch.cat(change, dim=1)[: len(rows)].numpy()
    return Personal(shapes, deltas)


def personal_scores(model: nn.Module, personal: Personal, histories: Items, candidates: Items) -> Scores:
    """Scores [D, C] float32 of `candidates` [D, C] after `histories` [D, L], each device with its own weights."""
    start = _chosen(model, list(personal.shapes))
    scores = np.zeros(candidates.shape, np.float32)

    def score(weights: dict[str, Tensor], history: Tensor, items: Tensor) -> Tensor:
        # Only while it is differentiated is a recurrent layer made of parts that vmap knows.
        scored: Tensor = vjp(lambda w: functional_call(model, w, (history[None], items[None])), weights)[0]
        return scored[0]

    for rows, padded in _calls(len(histories)):
        weights = {k: start[k] + d for k, d in _unpacked(personal, padded).items()}
        history, items = (torch.from_numpy(x[padded].astype(np.int64)) for x in (histories, candidates))
        with _vectorised(model):
            scores[rows] = vmap(score)(weights, history, items)[: len(rows)].numpy()
    return scores


def _lessons(
    histories: Items, devices: NDArray[np.int64], *, n_items: int, seed: int, options: Adaptation
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(prefixes [D, m, L - 1], items [D, m, 1 + negatives], labels, weights of the entries that add up to 1 or 0)."""
    places = min(options.newest, histories.shape[1] - 1)
    length = histories.shape[1] - 1
    shifted = np.pad(histories, ((0, 0), (length, 0)))
    ends = length + histories.shape[1] - 1 - np.arange(places)  # of the targets, newest first
    prefixes = np.stack([shifted[:, end - length : end] for end in ends], axis=1)
    target = histories[:, ::-1][:, :places, None]
    lottery = draws(seed, "adaptation", devices).uniform(places * options.negatives)
    others = 1 + np.floor(lottery.reshape(len(devices), places, -1) * n_items).astype(np.int32)
    known = (others[..., None] == histories[:, None, None, :]).any(-1)
    real = (target > 0) & (prefixes[..., -1:] > 0)
    counted = np.concatenate([real, real & ~known], axis=2).astype(np.float32)
    counted /= np.maximum(counted.sum((1, 2), keepdims=True), 1)
    items = np.concatenate([target, others], axis=2).astype(np.int64)
    labels = np.zeros(items.shape, np.float32)
    labels[..., 0] = 1
    arrays = prefixes.astype(np.int64), items, labels, counted
    prefix, item, label, weight = (torch.from_numpy(array) for array in arrays)
    return prefix, item, label, weight


def _loss(model: nn.Module) -> Any:
    def loss(weights: dict[str, Tensor], history: Tensor, items: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
        logits = functional_call(model, weights, (history, items)).float()
        return (F.binary_cross_entropy_with_logits(logits, labels, reduction="none") * counted).sum()

    return loss


def _chosen(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """The named parameters, detached."""
    known = dict(model.named_parameters())
    return {name: known[name].detach() for name in names}


def _calls(count: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(rows, the same filled up to DEVICES) until all rows had their turn."""
    parts = [np.arange(start, min(start + DEVICES, count)) for start in range(0, count, DEVICES)]
    return [(rows, np.concatenate([rows, np.full(DEVICES - len(rows), rows[0])])) for rows in parts]


def _unpacked(personal: Personal, rows: NDArray[np.int64]) -> dict[str, Tensor]:
    """Deltas by name, each [len(rows), *shape]."""
    sizes = [int(np.prod(shape)) for shape in personal.shapes.values()]
    parts = np.split(personal.deltas[rows], np.cumsum(sizes)[:-1], axis=1)
    return {k: torch.from_numpy(p).reshape(-1, *s) for (k, s), p in zip(personal.shapes.items(), parts, strict=True)}


@contextmanager
def _vectorised(model: nn.Module) -> Iterator[None]:
    """No dropout, no gradients but those asked for, and the one attention that vmap runs without a loop."""
    was = model.training
    model.eval()
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        model.train(was)
