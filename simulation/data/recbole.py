"""RecBole atomic files: NAME.inter with typed, tab-separated columns, titles in NAME.item beside it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from device.errors import DataError
from simulation.data.files import Layout, Wanted, header, read_delimited
from simulation.data.table import Table, table_of

_LAYOUT = Layout("\t", quoted=False)


def load_recbole(path: Path) -> Table:
    """Reads user_id:token, item_id:token and, where there, rating:float and timestamp:float (s); raises DataError.

    Without timestamps the order of the lines counts.
    """
    file = _the_only_inter(path) if path.is_dir() else path
    types = _types(file)
    for name in ("user_id", "item_id"):
        if types.get(name) != "token":
            raise DataError(f"{file}: line 1: no column '{name}:token'; found {', '.join(header(file, _LAYOUT))}")
    numbers = tuple(f"{name}:float" for name in ("rating", "timestamp") if types.get(name) == "float")
    columns = read_delimited(file, _LAYOUT, Wanted(texts=("user_id:token", "item_id:token"), numbers=numbers))
    time = columns.get("timestamp:float")
    return table_of(
        file.name.split(".")[0],
        columns["user_id:token"],
        columns["item_id:token"],
        time=time,
        order=pa.array(np.arange(len(columns["user_id:token"]), dtype=np.float64)) if time is None else None,
        rating=columns.get("rating:float"),
        about=_titles(file.with_suffix(".item")),
    )


def _the_only_inter(folder: Path) -> Path:
    found = sorted(folder.glob("*.inter"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise DataError(f"{folder}: expected one .inter file, found {names}; name one, or all in a pre-split")
    return found[0]


def _titles(file: Path) -> tuple[Any, Any] | None:
    """Item ids and the first column whose name ends in title."""
    types = _types(file) if file.is_file() else {}
    title = next((name for name in types if name.endswith("title")), None)
    if title is None or "item_id" not in types:
        return None
    item, title = f"item_id:{types['item_id']}", f"{title}:{types[title]}"
    columns = read_delimited(file, _LAYOUT, Wanted(texts=(item,), free=(title,)))
    return columns[item], columns[title]


def _types(file: Path) -> dict[str, str]:
    return {name: kind for name, _, kind in (column.partition(":") for column in header(file, _LAYOUT))}
