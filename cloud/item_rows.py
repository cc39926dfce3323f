"""Item embeddings as they are streamed to devices that do not hold the whole table."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device.item_tables import quantised, unquantised


@dataclass(frozen=True, slots=True)
class Rows:
    """Item embeddings as they are streamed: int8 with one float32 scale per item."""

    codes: NDArray[np.int8]  # [n_items + 1, d]
    scale: NDArray[np.float32]  # [n_items + 1]

    @classmethod
    def of(cls, table: NDArray[np.generic]) -> "Rows":
        """Of a table [n_items + 1, d]; see `device.item_tables.quantised`."""
        return cls(*quantised(table))

    def table(self) -> NDArray[np.float32]:
        """[n_items + 1, d] float32: what a device reads from the rows it received."""
        return unquantised(self.codes, self.scale)
