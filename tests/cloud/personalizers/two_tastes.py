"""Users of two opposite tastes on a circle of items, and a training of seconds.

After item i one half of the users takes i + 1, the other i - 1. A device that looks at its newest item only cannot tell
which, so without personal parameters nobody hits more than one in two; from the uploaded history the cloud can.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from device.models.sasrec import SASRec

N_ITEMS, KNOWN, WIDTH = 12, 6, 16


def batch(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Histories [B, KNOWN] and next items [B]."""
    taste = torch.randint(0, 2, (size, 1), generator=generator) * 2 - 1
    start = torch.randint(0, N_ITEMS, (size, 1), generator=generator)
    items = (start + taste * torch.arange(KNOWN + 1)) % N_ITEMS + 1
    return items[:, :-1], items[:, -1]


def backbone(length: int = 1, **options: Any) -> SASRec:
    """A device model that sees `length` items."""
    return SASRec(N_ITEMS, **{"width": WIDTH, "blocks": 1, "length": length, "dropout": 0.0, **options})


def learn(module: Any, steps: int) -> None:
    """Adam, 64 rows a step; modules without a loss of their own learn by softmax."""
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], 1e-2)
    module.train()
    for _ in range(steps):
        history, target = batch(64, generator)
        if hasattr(module, "training_loss"):
            loss = module.training_loss(history, target, epoch=0, generator=generator)
        else:
            loss = F.cross_entropy(module.catalogue(history)[:, 1:], target - 1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.eval()


def hits(module: Any) -> float:
    """Share of 500 histories whose next item is ranked first."""
    history, target = batch(500, torch.Generator().manual_seed(7))
    with torch.no_grad():
        return float((module.catalogue(history)[:, 1:].argmax(1) + 1 == target).float().mean())


def fast_step(module: Any) -> None:
    """One backward pass in bfloat16 as the trainer does it; every gradient is a number."""
    generator = torch.Generator().manual_seed(1)
    history, target = batch(8, generator)
    module.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = module.training_loss(history, target, epoch=0, generator=generator)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in module.parameters() if p.grad is not None)


@cache
def shared_hits() -> float:
    """Of a model trained without anything personal."""
    torch.manual_seed(0)
    made = backbone()
    learn(made, 60)
    return hits(made)


def untouched(module: nn.Module, steps: int = 1) -> set[str]:
    """Names of trainable parameters that a step of training leaves without a gradient, or as they were."""
    before = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    learn(module, steps)
    named = dict(module.named_parameters())
    return {
        name
        for name, old in before.items()
        if named[name].grad is None or not named[name].grad.abs().sum() or torch.equal(named[name], old)  # type: ignore[union-attr]
    }
