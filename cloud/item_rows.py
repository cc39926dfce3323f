"""Item embeddings as they are streamed to devices that do not hold the whole table."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Rows:
    """Item embeddings as they are streamed: int8 with one float32 scale per item."""

    codes: NDArray[np.int8]  # [n_items + 1, d]
    scale: NDArray[np.float32]  # [n_items + 1]

    @classmethod
    def of(cls, table: NDArray[np.generic]) -> "Rows":
        """Quantise a table [n_items + 1, d]: the largest magnitude of a row becomes 127."""
        values = np.asarray(table, np.float32)
        scale = np.maximum(np.abs(values).max(1), np.float32(1e-12)) / np.float32(127)
        return cls(np.rint(values / scale[:, None]).astype(np.int8), scale)

    def table(self) -> NDArray[np.float32]:
        """[n_items + 1, d] float32: what a device reads from the rows it received."""
        return self.codes * self.scale[:, None]
