"""Cooperative training without the two flaws of the released loss: on lists as they are served, compared inside a list.

As released, the target is put into a list that mostly lacks it, so that what comes from the generator is nearly always
wrong: the reranker learns to tell the generator's items from others and turns its order round. And entries are judged
one by one, one right among a hundred: a reranker that scores by a dot product has no number to say "seldom" with but
the directions that its order is made of. Both were measured, see reports/results/lsc4rec.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cloud.lessons import Made, Step
from cloud.options import Training
from cloud.sequences import bucketed
from device.errors import DataError
from device.model import Items
from device.seeds import rng


@dataclass(frozen=True, slots=True)
class FromFound:
    """Softmax cross-entropy of the target among the candidates of a frozen generator, where these hold it."""

    made: Made

    @property
    def about(self) -> dict[str, object]:
        """Kind and options."""
        made = self.made
        return {"lessons": "found", "newest": made.recent.newest, "history": made.history, "beams": made.beams}

    def losses(self, model: nn.Module, options: Training, *, seed: int, epoch: int) -> Iterator[Step]:
        """One callable per batch of users; DataError where no list holds its target."""
        length, recent = cast(int, model.length), self.made.recent
        users, targets = recent.drawn(seed=seed, epoch=epoch)
        data, items = recent.data, self.made.lists(users, targets, seed=seed)
        right = items == data.items[targets][:, None]
        found = np.flatnonzero(right.any(1))
        if not len(found):
            raise DataError("found: none of the generator's lists holds its target; raise beams")
        sizes = np.minimum(targets[found] - data.starts[users[found]], length)
        for batch in bucketed(sizes, options.batch, rng(seed, "batches", epoch)):
            rows = found[batch]
            history = recent.histories(users[rows], targets[rows], length)
            yield partial(list_loss, model, history, items[rows], place=right[rows].argmax(1))


def list_loss(model: nn.Module, history: Items, candidates: Items, *, place: NDArray[np.int64]) -> Tensor:
    """Mean softmax cross-entropy of the candidate at `place` [B] of each list [B, C]; empty places do not count."""
    logits = model(torch.from_numpy(history).long(), torch.from_numpy(candidates).long()).float()
    return F.cross_entropy(logits.masked_fill(torch.from_numpy(candidates == 0), -torch.inf), torch.from_numpy(place))
