"""The list that a device shows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device.model import Items, Scores


@dataclass(frozen=True, slots=True)
class Ranking:
    """What B devices show: their pools with fused scores, ties broken by pool position."""

    items: Items  # [B, C] the pool; 0 = empty slot
    fused: Scores  # [B, C]; -inf in empty slots
    pool_age: NDArray[np.int64]  # [B]

    def place(self, item: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(rank, ties) of item [B]: best position of its group of equal scores (0 = not in the pool), group size."""
        here = self.items == item[:, None]
        present = here.any(1)
        own = np.where(here, self.fused, -np.inf).max(1)[:, None]
        rank = (self.fused > own).sum(1) + 1
        ties = (self.fused == own).sum(1)
        return np.where(present, rank, 0).astype(np.int32), np.where(present, ties, 1).astype(np.int32)

    def top(self, k: int) -> Items:
        """[B, k] the k best items, best first; 0 where the pool is shorter."""
        order = np.argsort(-self.fused, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(self.items, order, axis=1)
        return np.pad(best, ((0, 0), (0, k - best.shape[1])))
