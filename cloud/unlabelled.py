"""What a supernet learns from items that nobody was seen to choose: confident guesses of its largest subnet.

MatchNAS (Huang et al., WWW 2024, arXiv 2402.13525) trains a supernet with little labelled data on
min_W E[L^l_A + L^u_A + sum_i (L^l_i + L^u_i)]: A is the largest subnet, i are drawn ones, l is labelled data, and in u
all learn the pseudo-labels of A. It classifies images. Reconstructed here, for it does not follow from that:

* Labelled is a history and the next item that was taken. Unlabelled is the same history and items that this user is
  not known to have chosen: which of these would it have been? So what was taken never competes with a pseudo-label.
* A guess counts above a threshold, and the others count as a loss of 0, as in FixMatch (Sohn et al., NeurIPS 2020).
  FixMatch's 0.95 is for ten classes; the default here is lower.
* As there, who guesses sees all: the whole history, without dropout. Who learns sees a part of it, with dropout. Else
  the largest subnet would learn nothing but to be surer of itself.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from device.errors import ConfigError

HIDDEN = -1e9  # logit of an item that is left out: no probability, and finite, so that 0 times it is 0


@dataclass(frozen=True, slots=True)
class Guess:
    """What the largest subnet says that B users would have taken from N items that they are not known to want."""

    history: Tensor  # [B, L] int64, what the learners see
    candidates: Tensor  # [N] int64, the same for all
    chosen: Tensor  # [B, N] bool: known to be wanted, so no part of the question
    label: Tensor  # [B] int64, a column
    confident: Tensor  # [B] bool

    def loss(self, net: nn.Module) -> Tensor:
        """Softmax cross-entropy of `net` on the confident guesses, summed, over B (Sohn et al., eq. 4)."""
        scores = answers(net, self.history, self.candidates, self.chosen)
        each = F.cross_entropy(scores, self.label, reduction="none")
        return (each * self.confident).sum() / max(len(each), 1)


@dataclass(frozen=True, slots=True)
class Unlabelled:
    """The unlabelled part of MatchNAS's loss, for `cloud.supernet.Supernet`.

    Args:
        threshold: probability among the candidates from which on a guess counts.
        candidates: items that are drawn per step, uniformly, without those of a user's own history.
        weight: of this part beside the labelled one; the paper has 1.
        dropped: share of a history's items that the learners do not see; its newest one they always do.
    """

    threshold: float = 0.5
    candidates: int = 100
    weight: float = 1.0
    dropped: float = 0.2

    def __post_init__(self) -> None:
        shares = 0 < self.threshold <= 1 and 0 <= self.dropped < 1
        if not shares or self.candidates < 2 or not 0 < self.weight < float("inf"):
            raise ConfigError(
                f"{self}: expected a threshold in (0, 1], 2 candidates or more, a finite weight > 0 and dropped in "
                "[0, 1); leave the whole part out where nothing is to be learned from unlabelled items"
            )

    def guess(self, model: nn.Module, history: Tensor, target: Tensor, generator: torch.Generator) -> Guess:
        """The largest subnet's guesses after `history` [B, L], whose next item was `target` [B]; no gradient."""
        drawn = torch.randperm(cast(int, model.n_items), generator=generator)[: self.candidates] + 1
        known = torch.cat([history, target[:, None]], dim=1)
        chosen = (drawn[None, :, None] == known[:, None, :]).any(2)
        training = model.training
        with torch.no_grad():
            scores = answers(model.eval(), history, drawn, chosen)
        model.train(training)
        share, label = torch.softmax(scores, dim=1).max(1)
        confident = (share >= self.threshold) & ((~chosen).sum(1) > 1)  # one item to choose from teaches nothing
        return Guess(thinned(history, self.dropped, generator), drawn, chosen, label, confident)


def answers(net: nn.Module, history: Tensor, candidates: Tensor, chosen: Tensor) -> Tensor:
    """Logits [B, N] of `candidates` [N] after `history` [B, L]; those of `chosen` [B, N] are HIDDEN."""
    scores = cast(Tensor, net(history, candidates.expand(len(history), -1))).float()
    return scores.masked_fill(chosen, HIDDEN)


def thinned(history: Tensor, dropped: float, generator: torch.Generator) -> Tensor:
    """`history` [B, L] without a share of its items, drawn one by one, those left moved together; the newest stays."""
    keep = torch.rand(history.shape, generator=generator) >= dropped
    keep[:, -1:] = True
    left = history * keep
    return left.gather(1, (left != 0).long().argsort(dim=1, stable=True))
