"""Conversion to canonical Parquet, and what a file of interactions holds."""

import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from device.errors import DataError
from simulation.data.audit import leakage_audit
from simulation.data.build import build, select
from simulation.data.clock import DEFAULT
from simulation.data.dataset import Dataset
from simulation.data.read import detect, load
from simulation.data.splits import leave_last
from simulation.data.table import Table


def convert(
    path: str | Path,
    target: str | Path,
    *,
    seed: int,
    format: str = "auto",
    k_core: int = 0,
    min_rating: float | None = None,
    limit_users: int | None = None,
) -> Path:
    """Writes the folder `target` with interactions.parquet and items.parquet, complete or not at all; returns it.

    Rows keep the order of the file and times stay as recorded, so reading the folder gives the data set that reading
    `path` with the same filters gives. Raises DataError where the target exists already.
    """
    folder = Path(target)
    if folder.exists():
        raise DataError(f"{folder}: exists already; name a new folder or remove it first")
    table = load(Path(path), format=format)
    table = select(table, min_rating=min_rating, core=k_core, limit_users=limit_users)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        pyarrow.parquet.write_table(_interactions(table), unfinished / "interactions.parquet")
        pyarrow.parquet.write_table(_items(table), unfinished / "items.parquet")
        unfinished.chmod(0o755)
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return folder


def inspect(path: str | Path, *, format: str = "auto") -> dict[str, Any]:
    """Counts, times, lengths and the leakage audit of leave-last-one, all fit for JSON; raises DataError."""
    source = Path(path)
    table = load(source, format=format)
    data = build(table, seed=0, permute_ids=True, clock=DEFAULT)
    return {
        "path": str(source),
        "format": detect(source) if format == "auto" else format,
        "users": data.n_users,
        "items": data.n_items,
        "events": data.n_events,
        "density": data.n_events / (data.n_users * data.n_items),
        "repeated_pairs": data.n_events - len(np.unique(data.owner * (data.n_items + 1) + data.item)),
        "events_per_user": _spread(data.lengths),
        "events_per_item": _spread(np.bincount(data.item, minlength=data.n_items + 1)[1:]),
        "timed": data.timed,
        "times": _times(data),
        "titled_items": 0 if data.titles is None else int(sum(bool(title) for title in data.titles)),
        "sessions": None if data.session is None else len(np.unique(data.session)),
        "ratings": None if table.rating is None else {"min": table.rating.min(), "max": table.rating.max()},
        "audit": {"split": "leave_last(test=1, validation=1)", **leakage_audit(leave_last(data, 1))},
        "content_hash": data.content_hash(),
    }


def _interactions(table: Table) -> Any:
    columns = {
        "user_id": pa.array(table.users[table.user], pa.string()),
        "item_id": pa.array(table.items[table.item], pa.string()),
        "timestamp": table.time,
        "order": table.order,
        "rating": table.rating,
        "session_id": table.session,
    }
    return pa.table({name: values for name, values in columns.items() if values is not None})


def _items(table: Table) -> Any:
    columns = {"item_id": table.items, "title": table.titles, "categories": table.categories}
    return pa.table({name: pa.array(v, pa.string()) for name, v in columns.items() if v is not None})


def _spread(counts: Any) -> dict[str, float]:
    return {
        "min": int(counts.min()),
        "median": float(np.median(counts)),
        "mean": float(counts.mean()),
        "max": int(counts.max()),
    }


def _times(data: Dataset) -> dict[str, Any] | None:
    if not data.timed:
        return None
    first, last = float(data.at.min()), float(data.recorded.max())
    return {
        "first": first,
        "last": last,
        "first_utc": datetime.fromtimestamp(first, UTC).isoformat(),
        "last_utc": datetime.fromtimestamp(last, UTC).isoformat(),
        "tied": float(data.tied.mean()),
    }
