"""The sequence text format: one line per user, `user item item ...`, oldest first."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from device.errors import DataError
from simulation.data.files import lines
from simulation.data.table import Table, table_of


def load_sequence(path: Path) -> Table:
    """Reads ids separated by spaces or tabs; a user on several lines goes on where it stopped; raises DataError."""
    users: list[str] = []
    items: list[str] = []
    for number, line in lines(path):
        user, *sequence = line.split()
        if not sequence:
            raise DataError(f"{path}: line {number}: found only {user!r}, expected a user and at least one item")
        users += [user] * len(sequence)
        items += sequence
    order = pa.array(np.arange(len(items), dtype=np.float64))
    return table_of(path.name.split(".")[0], pa.array(users, pa.string()), pa.array(items, pa.string()), order=order)
