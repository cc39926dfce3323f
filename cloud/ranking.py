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

ROWS = 64  # histories scored at once


class CatalogueScorer(Protocol):
    """Scores every item for ROWS histories at once."""

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
        """[B, n_items + 1] float32 after the newest `length` items."""
        used = histories[:, -self.module.length :]
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


def catalogue_scores(
    scorer: CatalogueScorer, histories: Items, rng: Draws
) -> Iterator[tuple[NDArray[np.int64], Scores]]:
    """Yield (rows, scores [b, n_items + 1]) until all rows of `histories` [B, L] have had their turn; padding is -inf.

    Every call of the scorer has ROWS rows, and as many columns as a row's own length rounded up to a power of two: the
    last bits of a matrix product depend on its shape, so a list must not depend on who else asks (as on devices).
    """
    lengths = (histories > 0).sum(1)
    widths = np.minimum(2 ** np.ceil(np.log2(np.maximum(lengths, 8))).astype(np.int64), histories.shape[1])
    for width in np.unique(widths):
        members = np.flatnonzero(widths == width)
        for start in range(0, len(members), ROWS):
            rows = members[start : start + ROWS]
            filled = np.concatenate([rows, np.full(ROWS - len(rows), rows[0])])
            scores = scorer.scores(np.ascontiguousarray(histories[filled, -width:]), rng[filled])[: len(rows)]
            scores[:, 0] = -np.inf
            if np.isnan(scores).any():
                raise ContractError(f"{type(scorer).__name__}: catalogue scores are NaN; did its training diverge?")
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
