"""MovieLens as published: 100K (u.data), 1M (ratings.dat) and latest (ratings.csv)."""

from pathlib import Path
from typing import Any

from device.errors import DataError
from simulation.data.files import Layout, Wanted, read_delimited
from simulation.data.table import Table, table_of

_RATINGS = ("userId", "movieId", "rating", "timestamp")
_WANTED = Wanted(texts=("userId", "movieId"), numbers=("rating", "timestamp"))
_TITLES = Wanted(texts=("movieId",), free=("title",))


def load_movielens_100k(path: Path) -> Table:
    """Reads u.data (tab-separated, no header) and titles from u.item (Latin-1) beside it; raises DataError."""
    ratings = Layout("\t", _RATINGS, quoted=False)
    movies = Layout("|", ("movieId", "title", *(f"field{i}" for i in range(3, 25))), "latin-1", quoted=False)
    return _load(path, "u.data", ratings, "u.item", movies)


def load_movielens_1m(path: Path) -> Table:
    """Reads ratings.dat (fields apart by ::) and titles from movies.dat (Latin-1) beside it; raises DataError."""
    ratings = Layout("::", _RATINGS, "latin-1", quoted=False)
    movies = Layout("::", ("movieId", "title", "genres"), "latin-1", quoted=False)
    return _load(path, "ratings.dat", ratings, "movies.dat", movies)


def load_movielens_latest(path: Path) -> Table:
    """Reads ratings.csv and titles from movies.csv beside it (both with header, UTF-8); raises DataError."""
    return _load(path, "ratings.csv", Layout(), "movies.csv", Layout())


def _load(path: Path, ratings: str, ratings_layout: Layout, movies: str, movies_layout: Layout) -> Table:
    file = path / ratings if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{path}: no {ratings} in this folder")
    columns = read_delimited(file, ratings_layout, _WANTED)
    return table_of(
        file.absolute().parent.name,
        columns["userId"],
        columns["movieId"],
        time=columns["timestamp"],
        rating=columns["rating"],
        about=_titles(file.parent / movies, movies_layout),
    )


def _titles(file: Path, layout: Layout) -> tuple[Any, Any] | None:
    if not file.is_file():
        return None
    columns = read_delimited(file, layout, _TITLES)
    return columns["movieId"], columns["title"]
