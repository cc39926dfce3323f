"""Reads a file or folder of interactions, whatever its layout."""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path

from device.errors import ConfigError, DataError
from simulation.data.amazon import (
    ASIN,
    load_amazon_2014,
    load_amazon_2014_ratings,
    load_amazon_2018,
    load_amazon_2023,
)
from simulation.data.build import build, select
from simulation.data.canonical import find, load_canonical
from simulation.data.clock import DEFAULT, Clock
from simulation.data.dataset import Dataset
from simulation.data.files import existing, first_line
from simulation.data.movielens import load_movielens_1m, load_movielens_100k, load_movielens_latest
from simulation.data.outside import set_aside
from simulation.data.recbole import load_recbole
from simulation.data.sequence import load_sequence
from simulation.data.table import Table

FORMATS: Mapping[str, Callable[[Path], Table]] = {
    "canonical": load_canonical,
    "movielens-100k": load_movielens_100k,
    "movielens-1m": load_movielens_1m,
    "movielens-latest": load_movielens_latest,
    "amazon-2014": load_amazon_2014,
    "amazon-2014-ratings": load_amazon_2014_ratings,
    "amazon-2018": load_amazon_2018,
    "amazon-2023": load_amazon_2023,
    "recbole": load_recbole,
    "sequence": load_sequence,
}


def read(
    path: str | Path,
    *,
    seed: int,
    format: str = "auto",
    permute_ids: bool = True,
    k_core: int = 0,
    min_rating: float | None = None,
    clock: Clock = DEFAULT,
    limit_users: int | None = None,
    stream: bool = False,
) -> Dataset:
    """The data set of a file or folder; raises DataError for what cannot be read, ConfigError for what cannot be done.

    `format` is "auto" or a name in FORMATS. Item ids are a permutation of the sorted external ids drawn with the
    seed, or the order of first appearance in the file. Filters apply in this order: ratings, k-core, a sample of users
    that does not depend on the seed. Recorded times stay; `clock` spreads events of one recorded time and stands in
    where none exist. `stream` keeps what the users outside the sample click as `Dataset.outside`.
    """
    table = load(Path(path), format=format)
    table = select(table, min_rating=min_rating, core=k_core, limit_users=None if stream else limit_users)
    data = build(table, seed=seed, permute_ids=permute_ids, clock=clock)
    return set_aside(data, limit_users) if stream else data


def load(path: Path, *, format: str = "auto") -> Table:
    """The interactions as the file holds them; raises DataError, and ConfigError for an unknown format."""
    existing(path)
    if format != "auto" and format not in FORMATS:
        near = difflib.get_close_matches(format, FORMATS, n=1) or list(FORMATS)
        raise ConfigError(f"data format {format!r} is unknown; did you mean {near[0]!r}? known: {', '.join(FORMATS)}")
    table = FORMATS[detect(path) if format == "auto" else format](path)
    if not len(table.user):
        raise DataError(f"{path}: holds no interactions")
    return table


def detect(path: Path) -> str:
    """The name of the format, by file names and first line; raises DataError with what was looked for."""
    found = _by_folder(path) if path.is_dir() else _by_name(path) or _by_line(path, first_line(path))
    if found is None:
        raise DataError(f"{path}: no known format; name one of {', '.join(FORMATS)}")
    return found


def _by_folder(folder: Path) -> str | None:
    if find(folder, "interactions"):
        return "canonical"
    marks = {"u.data": "movielens-100k", "ratings.dat": "movielens-1m", "ratings.csv": "movielens-latest"}
    named = next((name for file, name in marks.items() if (folder / file).is_file()), None)
    return named or ("recbole" if any(folder.glob("*.inter")) else None)


def _by_name(path: Path) -> str | None:
    ends = {".parquet": "canonical", ".inter": "recbole", "u.data": "movielens-100k", ".json": "amazon-2014"}
    name = path.name.removesuffix(".gz")
    return next((known for end, known in ends.items() if name.endswith(end)), None)


def _by_line(path: Path, line: str) -> str | None:
    columns = line.split(",")
    _check_header(path, line)
    signs = (
        ({"user_id", "item_id"} <= set(columns), "canonical"),
        ({"userId", "movieId"} <= set(columns), "movielens-latest"),
        ({"user_id", "parent_asin"} <= set(columns), "amazon-2023"),
        (line.startswith("{"), "amazon-2014"),
        (line.startswith("user_id:token"), "recbole"),
        (len(line.split("::")) == 4, "movielens-1m"),
        (len(columns) == 1 and len(line.split()) > 1, "sequence"),
    )
    known = next((name for sign, name in signs if sign), None)
    return known or (_by_asin(path, columns) if len(columns) == 4 else None)


def _check_header(path: Path, line: str) -> None:
    """DataError for a header of ours with another separator, or without one of its columns: never data by mistake."""
    for separator, name in (("\t", "tabs"), (";", "semicolons"), ("|", "bars"), (" ", "spaces")):
        if {"user_id", "item_id"} <= set(line.split(separator)):
            raise DataError(f"{path}: line 1: columns are separated by {name}; expected commas, so convert the file")
    words = {word.strip().lower() for word in line.split(",")}
    if "," in line and words & {"user", "userid", "user_id"} and not {"user_id", "item_id"} <= words:
        known = ({"userid", "movieid"}, {"user_id", "parent_asin"})
        if not any(columns <= words for columns in known):
            raise DataError(
                f"{path}: line 1: found columns {line}; expected user_id,item_id and timestamp or order; rename them"
            )


def _by_asin(path: Path, fields: list[str]) -> str:
    first, second = (ASIN.fullmatch(field) is not None for field in fields[:2])
    if first == second:
        formats = "amazon-2018 (item first) or amazon-2014-ratings (user first)"
        raise DataError(f"{path}: line 1: found {fields[0]!r}, {fields[1]!r}; which is the item? name {formats}")
    return "amazon-2018" if first else "amazon-2014-ratings"
