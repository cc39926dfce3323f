"""Scores over the whole catalogue, in slices of bounded memory, and the ranks of held-out items in them."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from device.errors import ContractError
from device.model import Items, Scores
from device.seeds import Draws, draws

ROWS = 256  # histories scored at once: a [256, 20,000] float32 block is 20 MB


class CatalogueScorer(Protocol):
    """Scores every item for at most ROWS histories at once."""

    def scores(self, histories: Items, rng: Draws) -> Scores:
        """[B, n_items + 1] float32 after `histories` [B, L]; -inf = not to be recommended; column 0 is ignored."""
        ...

    def flops(self, histories: Items) -> NDArray[np.float64] | None:
        """[B] floating-point operations of one request each; None = unknown."""
        ...


class Neural:
    """A torch module with `catalogue(history)`, with `catalogue_scores(history, noise)` (diffusion), or just `forward`.

    It has `n_items` and `length`, and `flops(length, candidates)` where its cost is known.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module.eval()

    def scores(self, histories: Items, rng: Draws) -> Scores:
        """[B, n_items + 1] float32; the padding that all rows share is cut off first."""
        used = histories[:, -max(longest(histories), 1) :][:, -self.module.length :]
        with torch.inference_mode():
            history = torch.from_numpy(np.ascontiguousarray(used)).long()
            if hasattr(self.module, "catalogue"):
                return self.module.catalogue(history).float().numpy()
            if not hasattr(self.module, "noise_shape"):
                return through_forward(self.module, history).float().numpy()
            shape = self.module.noise_shape(history.shape[1])
            noise = torch.from_numpy(rng.normal(int(np.prod(shape))).astype(np.float32)).view(-1, *shape)
            return self.module.catalogue_scores(history, noise).float().numpy()

    def flops(self, histories: Items) -> NDArray[np.float64] | None:
        """[B] by each history's own length."""
        if not hasattr(self.module, "flops"):
            return None
        counts = np.clip((histories > 0).sum(1), 1, self.module.length)
        if hasattr(self.module, "noise_shape"):
            return np.array([self.module.flops(int(n)) for n in counts])
        return np.array([self.module.flops(int(n), self.module.n_items) for n in counts])


def through_forward(module: nn.Module, history: torch.Tensor) -> torch.Tensor:
    """Scores [B, n_items + 1] of a reranker that knows only `forward(history, candidates)`, 1,024 items at a time."""
    parts = torch.arange(module.n_items + 1).split(1024)
    return torch.cat([module(history, part.expand(len(history), -1)) for part in parts], dim=1)


def longest(histories: Items) -> int:
    """Number of columns from the first that is not all padding."""
    used = np.flatnonzero((histories > 0).any(0))
    return histories.shape[1] - int(used[0]) if len(used) else 0


def catalogue_scores(scorer: CatalogueScorer, histories: Items, rng: Draws) -> Iterator[tuple[slice, Scores]]:
    """Yield (rows, scores [b, n_items + 1]) over `histories` [B, L]; padding scores -inf."""
    for start in range(0, len(histories), ROWS):
        rows = slice(start, min(start + ROWS, len(histories)))
        scores = scorer.scores(histories[rows], rng[rows])
        scores[:, 0] = -np.inf
        if np.isnan(scores).any():
            raise ContractError(f"{type(scorer).__name__}: scores of the catalogue are NaN; did its training diverge?")
        yield rows, scores


def catalogue_ranks(
    scorer: CatalogueScorer,
    histories: Items,
    targets: NDArray[np.int32],
    *,
    hide_seen: bool = False,
    rng: Draws | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rank of each target in the whole catalogue: (best position 1.., number of items tied with it), both [B].

    With `hide_seen` all items of `histories` leave the ranking, the target excepted.
    """
    rank, ties = np.zeros(len(targets), np.int64), np.ones(len(targets), np.int64)
    rng = rng or draws(0, "ranks", np.arange(len(targets)))
    for rows, scores in catalogue_scores(scorer, histories, rng):
        target = targets[rows].astype(np.int64)[:, None]
        own = np.take_along_axis(scores, target, axis=1)
        if hide_seen:
            np.put_along_axis(scores, histories[rows].astype(np.int64), -np.inf, axis=1)
            np.put_along_axis(scores, target, own, axis=1)
        rank[rows] = (scores > own).sum(1) + 1
        ties[rows] = (scores == own).sum(1)
    return rank, ties
