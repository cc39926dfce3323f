"""Planted users of two opposite tastes, which a device that sees one item cannot always tell apart."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NEUTRAL, OWN = 1, 6  # item 1 is everybody's; 2..7 are taken by one taste, 8..13 by the other
ITEMS = 1 + 2 * OWN


def users(count: int, generator: torch.Generator, *, puzzled: bool = False) -> tuple[Tensor, Tensor]:
    """(histories [count, 5], next items [count]): items of the user's taste, three in ten neutral.

    `puzzled`: the newest item is neutral and the next is not, so only older items tell what comes.
    """
    taste = torch.randint(2, (count, 1), generator=generator)
    own = torch.randint(2, 2 + OWN, (count, 6), generator=generator) + OWN * taste
    items = torch.where(torch.rand(count, 6, generator=generator) < 0.3, NEUTRAL, own)
    if puzzled:
        items[:, 4], items[:, 5] = NEUTRAL, own[:, 5]
    return items[:, :5], items[:, 5]


def loss(scores: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of catalogue scores [B, n + 1]."""
    return F.cross_entropy(scores[:, 1:], target - 1)


def learn(parameters: Iterable[nn.Parameter], value: Callable[[], Tensor], steps: int) -> None:
    """A few steps down."""
    optimizer = torch.optim.AdamW([p for p in parameters if p.requires_grad], 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        value().backward()
        optimizer.step()


def pretrained(device: nn.Module, steps: int = 60) -> nn.Module:
    """`device` after learning, without any patch, from all users."""
    generator = torch.Generator().manual_seed(1)

    def value() -> Tensor:
        history, target = users(64, generator)
        return loss(device.catalogue(history), target)

    learn(device.parameters(), value, steps)
    return device.eval()


def losses(method: nn.Module, steps: int = 60) -> tuple[float, float]:
    """(of the shared model, of the personalised one) on puzzled users, after `steps` of the method's own loss."""
    generator = torch.Generator().manual_seed(2)

    def value() -> Tensor:
        return method.training_loss(*users(64, generator), epoch=0, generator=generator)

    learn(method.train().parameters(), value, steps)
    history, target = users(500, torch.Generator().manual_seed(3), puzzled=True)
    method.eval()
    with torch.inference_mode():
        return loss(method.device.catalogue(history), target).item(), loss(method.catalogue(history), target).item()
