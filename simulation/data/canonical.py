"""The canonical layout: interactions.csv[.gz] or .parquet, beside it items.csv[.gz] or .parquet."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from device.errors import DataError
from simulation.data.files import Layout, Wanted, floats, header, parquet_names, read_delimited, read_parquet
from simulation.data.table import Table, lookup, sessions, table_of

SUFFIXES = (".parquet", ".csv", ".csv.gz")
_LATEST_S = 1e11  # the year 5138


def find(folder: Path, stem: str) -> Path | None:
    """The file of that stem in a folder, Parquet before CSV."""
    return next((folder / (stem + end) for end in SUFFIXES if (folder / (stem + end)).is_file()), None)


def load_canonical(path: Path) -> Table:
    """Reads a folder or one file with user_id, item_id and timestamp (Unix seconds) or order; raises DataError.

    Optional columns: session_id, rating, title. Titles and categories also come from the items file of the folder.
    """
    file = find(path, "interactions") if path.is_dir() else path
    if file is None:
        raise DataError(f"{path}: no interactions.csv, .csv.gz or .parquet in this folder")
    names = _names(file)
    clocks = [name for name in ("timestamp", "order") if name in names]
    if not clocks:
        raise DataError(f"{file}: neither a column 'timestamp' nor 'order'; found {', '.join(names)}")
    numbers = (*clocks, *(name for name in ("rating",) if name in names))
    free = tuple(name for name in ("session_id", "title", "categories") if name in names)
    columns = _read(file, Wanted(texts=("user_id", "item_id"), numbers=numbers, free=free))
    latest = np.abs(floats(columns["timestamp"])).max(initial=0.0) if "timestamp" in columns else 0.0
    if latest > _LATEST_S:
        raise DataError(f"{file}: column 'timestamp': {latest:.0f} is not Unix seconds; is it milliseconds?")
    table = table_of(
        path.name if path.is_dir() else path.name.split(".")[0],
        columns["user_id"],
        columns["item_id"],
        time=columns.get("timestamp"),
        order=columns.get("order"),
        rating=columns.get("rating"),
    )
    return replace(
        table,
        session=sessions(columns["session_id"]) if "session_id" in columns else None,
        titles=_about(path, table.items, columns, "title"),
        categories=_about(path, table.items, columns, "categories"),
    )


def _about(path: Path, items: Any, columns: Mapping[str, Any], name: str) -> Any:
    """[n] texts of a column of the items file, else of the interactions; None where all are empty."""
    beside = path.name.startswith("interactions.")
    file = find(path if path.is_dir() else path.parent, "items") if path.is_dir() or beside else None
    if file is not None and name in _names(file):
        columns = _read(file, Wanted(texts=("item_id",), free=(name,)))
    if name not in columns:
        return None
    texts = lookup(items, columns["item_id"], columns[name])
    return texts if any(texts) else None


def _names(file: Path) -> tuple[str, ...]:
    if file.suffix == ".parquet":
        return parquet_names(file)
    return header(file, Layout())


def _read(file: Path, wanted: Wanted) -> Mapping[str, Any]:
    if file.suffix != ".parquet":
        return read_delimited(file, Layout(), wanted)
    columns = read_parquet(file, wanted)
    return {name: pc.fill_null(column, "") if name in wanted.free else column for name, column in columns.items()}
