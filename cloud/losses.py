"""The three ways a model learns from sequences, chosen by what the model offers."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloud.options import Training
from cloud.sequences import Sequences, position_batches, prefix_batches
from device.seeds import key, rng


def epoch_losses(
    model: nn.Module, data: Sequences, options: Training, *, seed: int, epoch: int
) -> Iterator[Callable[[], Tensor]]:
    """The losses of one epoch, one callable per batch.

    A model with `training_loss` (diffusion) brings its own; one with `states` learns from every position at once; any
    other module with `forward(history, candidates)` learns to put the next item above sampled ones.
    """
    numbers = rng(seed, "batches", epoch)
    generator = torch.Generator().manual_seed(key(seed, "negatives", epoch) % 2**63)
    if hasattr(model, "training_loss"):
        for history, target in prefix_batches(data, model.length, options.batch, numbers):
            h, y = torch.from_numpy(history).long(), torch.from_numpy(target).long()
            yield lambda h=h, y=y: model.training_loss(h, y, epoch=epoch, generator=generator)
    elif hasattr(model, "states"):
        for history, target in position_batches(data, model.length, options.batch, numbers):
            h, y = torch.from_numpy(history).long(), torch.from_numpy(target).long()
            yield lambda h=h, y=y: position_loss(model, h, y, options=options, generator=generator)
    else:
        for history, target in prefix_batches(data, model.length, options.batch, numbers):
            h, y = torch.from_numpy(history).long(), torch.from_numpy(target).long()
            yield lambda h=h, y=y: candidate_loss(model, h, y, options=options, generator=generator)


def position_loss(
    model: nn.Module, history: Tensor, target: Tensor, *, options: Training, generator: torch.Generator
) -> Tensor:
    """Softmax cross-entropy of the next item at every position; `target` [B, L], 0 = no target."""
    real = target > 0
    states, target = model.states(history)[real], target[real]
    table = model.item.weight
    if options.loss == "full":
        logits = states @ table.T
        return F.cross_entropy(logits[:, 1:].float(), target - 1)
    negatives = sample(model.n_items, options.negatives, generator)
    positive = (states * table[target]).sum(-1, keepdim=True)
    negative = (states @ table[negatives].T).masked_fill(target[:, None] == negatives, float("-inf"))
    logits = torch.cat([positive, negative], dim=1).float()
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def candidate_loss(
    model: nn.Module, history: Tensor, target: Tensor, *, options: Training, generator: torch.Generator
) -> Tensor:
    """Softmax cross-entropy of the next item among shared sampled items (or the catalogue), through `forward`."""
    if options.loss == "full":
        others = torch.arange(1, model.n_items + 1)
    else:
        others = sample(model.n_items, options.negatives, generator)
    candidates = torch.cat([target[:, None], others.expand(len(target), -1)], dim=1)
    logits = model(history, candidates).float()
    logits[:, 1:] = logits[:, 1:].masked_fill(candidates[:, 1:] == target[:, None], float("-inf"))
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def sample(n_items: int, count: int, generator: torch.Generator) -> Tensor:
    """Uniform item ids, with replacement."""
    return torch.randint(1, n_items + 1, (count,), generator=generator)
