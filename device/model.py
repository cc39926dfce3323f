"""The device model contract. A plug-in implements two methods; everything else is optional traits."""

from collections.abc import Mapping
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Items: TypeAlias = NDArray[np.int32]  # item ids 1..n; 0 = padding, on the left; oldest first
Scores: TypeAlias = NDArray[np.float32]
Parameters: TypeAlias = Mapping[str, NDArray[np.generic]]


@runtime_checkable
class DeviceModel(Protocol):
    """Scores candidates from a history; a pure function of its parameters, batch first.

    A `torch.nn.Module` with `forward(history, candidates)` is accepted as it is (see `device.models.torch_model`).
    """

    def init(self, rng: np.random.Generator) -> Parameters:
        """Fresh parameters, the same for the same generator state."""
        ...

    def score(self, params: Parameters, history: Items, candidates: Items) -> Scores:
        """Scores [B, C] float32 of `candidates` [B, C] after `history` [B, L]; higher is better.

        Padding (0) in the history must not change a score. The score of a padding candidate is ignored.
        """
        ...


@runtime_checkable
class HasItemTable(Protocol):
    """A model whose parameter named `item_table` has one row per item id (row 0 = padding), so rows can be streamed."""

    item_table: str


@runtime_checkable
class RanksCatalogue(Protocol):
    """A model that scores all items at once, faster than candidate by candidate."""

    def catalogue(self, params: Parameters, history: Items) -> Scores:
        """[B, n + 1] float32 after `history` [B, L], equal to `score` up to rounding; column 0 is ignored."""
        ...


@runtime_checkable
class HasState(Protocol):
    """A model that shows what it made of a history; some request policies look at it."""

    def state(self, params: Parameters, history: Items) -> Scores:
        """[B, d] float32 after `history` [B, L]."""
        ...
