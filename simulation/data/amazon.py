"""Amazon reviews as published: 2014 (JSON lines or ratings), 2018 (ratings) and 2023 (ratings with header)."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from device.errors import DataError
from simulation.data.files import Layout, Wanted, lines, read_delimited
from simulation.data.table import Table, table_of

ASIN = re.compile(r"B[0-9A-Z]{9}|[0-9]{9}[0-9X]")
_KEYS = (("reviewerID", str), ("asin", str), ("unixReviewTime", int | float), ("overall", int | float))
_LONGEST_LITERAL = 1_000_000  # characters of a line handed to ast.literal_eval, whose memory grows with them
_META_KEYS = ("parent_asin", "asin")


def load_amazon_2014(path: Path) -> Table:
    """Reads review lines (.json, .json.gz: reviewerID, asin, overall, unixReviewTime in seconds); raises DataError.

    The 2018 edition's review lines have the same keys. Titles come from the meta_ file of the category beside it.
    """
    values: tuple[list[Any], ...] = ([], [], [], [])
    for number, record in _records(path):
        for place, (key, kind) in zip(values, _KEYS, strict=True):
            found = record.get(key)
            if not isinstance(found, kind) or isinstance(found, bool) or found == "":
                raise DataError(f"{path}: line {number}, key {key!r}: found {found!r}, expected {_spoken(kind)}")
            place.append(found)
    user, item = (pa.array(texts, pa.string()) for texts in values[:2])
    time, rating = (pa.array([float(x) for x in numbers], pa.float64()) for numbers in values[2:])
    return table_of(_stem(path), user, item, time=time, rating=rating, about=_titles(path))


def load_amazon_2014_ratings(path: Path) -> Table:
    """Reads ratings without header: user, item, rating, Unix seconds (ratings_*.csv of 2014); raises DataError."""
    return _ratings(path, Layout(names=("user", "item", "rating", "timestamp")), "user", "item")


def load_amazon_2018(path: Path) -> Table:
    """Reads ratings without header: item, user, rating, Unix seconds (the 2018 order); raises DataError."""
    return _ratings(path, Layout(names=("item", "user", "rating", "timestamp")), "user", "item")


def load_amazon_2023(path: Path) -> Table:
    """Reads ratings with header: user_id, parent_asin, rating, timestamp in milliseconds; raises DataError."""
    return _ratings(path, Layout(), "user_id", "parent_asin", per_second=1000.0)


def _ratings(path: Path, layout: Layout, user: str, item: str, per_second: float = 1.0) -> Table:
    columns = read_delimited(path, layout, Wanted(texts=(user, item), numbers=("rating", "timestamp")))
    time = pc.divide(columns["timestamp"], per_second)
    return table_of(_stem(path), columns[user], columns[item], time=time, rating=columns["rating"], about=_titles(path))


def _titles(path: Path) -> tuple[Any, Any] | None:
    """Item ids and titles of meta_<category>.json[l][.gz] beside the file, the category being part of its name."""
    for file in sorted(path.absolute().parent.glob("meta_*.json*")):
        if _stem(file).removeprefix("meta_") in _stem(path):
            pairs = [_titled(file, number, record) for number, record in _records(file)]
            return pa.array([p[0] for p in pairs], pa.string()), pa.array([p[1] for p in pairs], pa.string())
    return None


def _titled(file: Path, number: int, record: dict[str, Any]) -> tuple[str, str]:
    asin = next((record[key] for key in _META_KEYS if key in record), None)
    if not isinstance(asin, str):
        raise DataError(f"{file}: line {number}, key 'asin': found {asin!r}, expected an id")
    title = record.get("title")
    return asin, title if isinstance(title, str) else ""


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """One object per line: JSON, or the Python literals of the 2014 metadata."""
    for number, line in lines(path):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = _literal(line)
        if not isinstance(record, dict):
            raise DataError(f"{path}: line {number}: found {line[:60]!r}, expected one JSON object per line")
        yield number, record


def _literal(line: str) -> Any:
    if len(line) > _LONGEST_LITERAL:
        return None
    try:
        return ast.literal_eval(line)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None


def _spoken(kind: Any) -> str:
    return "an id" if kind is str else "a number"


def _stem(path: Path) -> str:
    return path.name.split(".")[0]
