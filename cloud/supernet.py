"""Trains all subnets of an elastic device model at once: the sandwich rule with in-place distillation.

Yu and Huang, "Universally Slimmable Networks" (ICCV 2019), after Yu et al., "Slimmable Neural Networks" (ICLR 2019):
each step trains the largest, the smallest and some random subnets; the largest learns from the data, the others from
what it says in the same step. Depth and table width vary too, as in Cai et al., "Once-for-All" (ICLR 2020).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloud.losses import sample
from cloud.ranking import through_forward
from cloud.unlabelled import HIDDEN, Unlabelled
from device.errors import ConfigError
from device.models.slimming import Elastic, narrowed
from device.models.torch_model import reset
from device.subnet import SubnetSpec, smallest


@dataclass(frozen=True, slots=True)
class Lesson:
    """What all subnets answer in one step: histories, what came next, and which items compete for it.

    With `every`, T is the number of positions that have a target; without it, T = B, one per history.
    """

    history: Tensor  # [B, L] int64
    target: Tensor  # [T] int64
    every: Tensor | None  # [B, L] bool: positions with a target
    others: Tensor  # [N] int64, shared by all targets


class Supernet(nn.Module):
    """A module for `cloud.training.fit` that trains the elastic module inside it, `model`.

    A module with `states` learns at every position of a history, so it is to be trained on
    `cloud.windows.windows(data, model.length)`; one without (DIN) learns the newest target of each history, on plain
    sequences. Trained on plain sequences, the former would meet the first items of a user once per later item.

    Args:
        model: an elastic module (see `device.models.slimming`).
        subnets: those to train, the model's own `subnets()` where none are named.
        random: subnets drawn per step besides the largest and the smallest.
        negatives: items drawn per step to compete with the target; None = the whole catalogue.
        distilled: share of the largest one's answer in what the others learn from, the rest is the data. 1 = as
            published; while the largest knows little itself, the data teach faster.
        unlabelled: what is learned from items without feedback. With distilled = 0 the loss is MatchNAS's.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        subnets: Sequence[SubnetSpec] | None = None,
        random: int = 2,
        negatives: int | None = 256,
        distilled: float = 0.5,
        unlabelled: Unlabelled | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, Elastic):
            raise ConfigError(f"{type(model).__name__} has no subnets to train; see device.models.slimming:Elastic")
        specs = tuple(model.subnets() if subnets is None else subnets)
        if not specs or random < 0 or not 0 <= distilled <= 1 or (negatives is not None and negatives < 1):
            raise ConfigError(
                f"supernet: {len(specs)} subnets, random = {random}, negatives = {negatives}, distilled = {distilled}; "
                "expected one subnet, no negative number, one item, and a share from 0 to 1"
            )
        self.model: nn.Module = model
        self.specs, self.random, self.negatives, self.distilled = specs, random, negatives, distilled
        self.unlabelled = unlabelled
        self.n_items, self.length = cast(int, self.model.n_items), cast(int, self.model.length)

    def reset(self) -> None:
        """Draw all weights anew from torch's global generator."""
        reset(self.model)

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, C] of the largest subnet."""
        return cast(Tensor, self.model(history, candidates))

    def catalogue(self, history: Tensor) -> Tensor:
        """Scores [B, n_items + 1] of the largest subnet."""
        own = getattr(self.model, "catalogue", None)
        return cast(Tensor, own(history)) if own else through_forward(self.model, history)

    def training_loss(self, history: Tensor, target: Tensor, *, epoch: int, generator: torch.Generator) -> Tensor:
        """Mean loss of the subnets of one step on `history` [B, L] and the next items [B]."""
        lesson = self.lesson(history, target, generator)
        teacher = logits(self.model, lesson)
        nets, losses = [self.model], [learned(teacher)]
        for spec in self.drawn(generator):
            nets.append(narrowed(self.model, spec))
            student = logits(nets[-1], lesson)
            losses.append(self.distilled * distillation(student, teacher))
            if self.distilled < 1:
                losses[-1] = losses[-1] + (1 - self.distilled) * learned(student)
        if self.unlabelled is not None:
            guess = self.unlabelled.guess(self.model, history, target, generator)
            losses += [self.unlabelled.weight * guess.loss(net) for net in nets]
        return torch.stack(losses).sum() / len(nets)

    def drawn(self, generator: torch.Generator) -> list[SubnetSpec]:
        """The subnets of one step besides the largest: the smallest, and random ones."""
        picks = torch.randint(len(self.specs), (self.random,), generator=generator).tolist()
        return [smallest(self.specs), *(self.specs[pick] for pick in picks)]

    def lesson(self, history: Tensor, target: Tensor, generator: torch.Generator) -> Lesson:
        """What a batch of prefixes asks of all subnets."""
        if self.negatives is None:
            others = torch.arange(1, self.n_items + 1)
        else:
            others = sample(self.n_items, self.negatives, generator)
        if not hasattr(self.model, "states"):
            return Lesson(history, target, None, others)
        following = torch.cat([history[:, 1:], target[:, None]], dim=1)
        every = history != 0
        return Lesson(history, following[every], every, others)


def logits(net: nn.Module, lesson: Lesson) -> Tensor:
    """Logits [T, 1 + N] of the target, first, and of the others, where one that is the target is left out."""
    if lesson.every is None:
        candidates = torch.cat([lesson.target[:, None], lesson.others.expand(len(lesson.target), -1)], dim=1)
        scores = cast(Tensor, net(lesson.history, candidates)).float()
    else:
        states = net.states(lesson.history)[lesson.every]  # type: ignore[operator]
        table = cast(Tensor, net.item.weight)  # type: ignore[union-attr]
        wanted = (states * F.embedding(lesson.target, table)).sum(-1, keepdim=True)
        scores = torch.cat([wanted, states @ F.embedding(lesson.others, table).T], dim=1).float()
    same = F.pad(lesson.target[:, None] == lesson.others, (1, 0))
    return scores.masked_fill(same, HIDDEN)


def learned(scores: Tensor) -> Tensor:
    """Softmax cross-entropy of column 0 of logits [T, 1 + N]."""
    return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long))


def distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of softmax(student) from softmax(teacher), both [T, 1 + N]; nats.

    The teacher learns nothing from it.
    """
    wanted = F.log_softmax(teacher.detach(), dim=1)
    return F.kl_div(F.log_softmax(student, dim=1), wanted, reduction="batchmean", log_target=True)
