"""Interactions as a file holds them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from device.errors import DataError
from simulation.data.files import floats


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """N interactions in file order; `user` and `item` index the sorted external ids."""

    name: str
    users: NDArray[np.object_]  # [U], numbers in numeric order, other ids in text order
    items: NDArray[np.object_]  # [n]
    user: NDArray[np.int64]  # [N]
    item: NDArray[np.int64]  # [N]
    time: NDArray[np.float64] | None  # [N] Unix seconds
    order: NDArray[np.float64] | None  # [N] position within the user; breaks ties where there are times too
    rating: NDArray[np.float64] | None = None  # [N]
    session: NDArray[np.int64] | None = None  # [N]
    titles: NDArray[np.object_] | None = None  # [n], "" = unknown
    categories: NDArray[np.object_] | None = None  # [n], "|" lists


def coded(column: Any) -> tuple[NDArray[np.object_], NDArray[np.int64]]:
    """Sorted distinct texts and the index of each row's text, out of an Arrow string column."""
    encoded = column.dictionary_encode()
    found = encoded.dictionary.to_numpy(zero_copy_only=False).astype(object)
    order = np.array(_sorted(found.tolist()), np.int64)
    rank = np.empty(len(found), np.int64)
    rank[order] = np.arange(len(found))
    return found[order], rank[encoded.indices.to_numpy(zero_copy_only=False)]


def lookup(ids: NDArray[np.object_], keys: Any, values: Any) -> NDArray[np.object_]:
    """[n] object: the value (text) of the first key equal to each id, "" where there is none. Arrow string columns."""
    known = dict(zip(reversed(keys.to_pylist()), reversed(values.to_pylist()), strict=True))
    return np.array([known.get(name) or "" for name in ids], dtype=object)


def table_of(
    name: str, user: Any, item: Any, *, time: Any = None, order: Any = None, rating: Any = None, about: Any = None
) -> Table:
    """The table of Arrow columns: ids as strings, numbers as float64; `about` is a pair (item ids, titles), or None."""
    users, user = coded(user)
    items, item = coded(item)
    titles = None if about is None else lookup(items, *about)
    return Table(
        name=name,
        users=users,
        items=items,
        user=user,
        item=item,
        time=None if time is None else floats(time),
        order=None if order is None else floats(order),
        rating=None if rating is None else floats(rating),
        titles=titles if titles is not None and any(titles) else None,
    )


def sessions(column: Any) -> NDArray[np.int64]:
    """[N] int64 session numbers: the numbers in the file, or an index of the sorted texts."""
    try:
        numbers: NDArray[np.int64] = pc.cast(column, "int64").to_numpy(zero_copy_only=False).astype(np.int64)
    except ValueError:
        return coded(column)[1]
    return numbers


def merged(name: str, tables: list[Table]) -> tuple[Table, NDArray[np.int8]]:
    """One table of several with common ids, and the number of the table each row is from [N]; titles of the first."""
    if len({table.time is None for table in tables}) > 1 or len({table.session is None for table in tables}) > 1:
        raise DataError(f"{name}: the parts differ in their columns; all need timestamps (and sessions), or none")
    part = np.repeat(np.arange(len(tables)), [len(table.user) for table in tables]).astype(np.int8)
    users, user = coded(_column(np.concatenate([table.users[table.user] for table in tables])))
    items, item = coded(_column(np.concatenate([table.items[table.item] for table in tables])))

    def joined(parts: list[NDArray[Any] | None]) -> NDArray[Any] | None:
        present = [values for values in parts if values is not None]
        return np.concatenate(present) if len(present) == len(parts) else None

    known: dict[str, str] = {}
    for table in reversed(tables):
        if table.titles is not None:
            known.update((i, t) for i, t in zip(table.items, table.titles, strict=True) if t)
    return Table(
        name=name,
        users=users,
        items=items,
        user=user,
        item=item,
        time=joined([table.time for table in tables]),
        order=joined([table.order for table in tables]),
        rating=joined([table.rating for table in tables]),
        session=joined([table.session for table in tables]),
        titles=np.array([known.get(i, "") for i in items], dtype=object) if known else None,
    ), part


def _sorted(texts: list[str]) -> list[int]:
    if all(text.isascii() and text.isdigit() and len(text) < 19 for text in texts):
        return sorted(range(len(texts)), key=lambda i: (int(texts[i]), texts[i]))
    return sorted(range(len(texts)), key=texts.__getitem__)


def _column(texts: NDArray[np.object_]) -> Any:
    return pa.array(texts, pa.string())
