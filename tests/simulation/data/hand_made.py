"""Small data sets and files for the tests of this folder."""

import gzip

import numpy as np

from simulation.data.clock import Clock, drawn, spread
from simulation.data.dataset import Dataset

DAY = 86400.0

# three events of one user, two of another; 7's times are out of order in the file
EVENTS = [("7", "b", 5, 30), ("7", "a", 3, 10), ("7", "c", 4, 20), ("12", "a", 2, 5), ("12", "c", 1, 6)]
REVIEW = '{{"reviewerID": "{}", "asin": "{}", "overall": {}.0, "unixReviewTime": {}, "reviewText": "x, \\u00e9"}}\n'
EXPECTED = {"7": ["a", "c", "b"], "12": ["a", "c"]}


def dataset(sequences, times=None, clock=None):
    """Item ids (1-based) per user and, where given, recorded times per user."""
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in sequences])]).astype(np.int64)
    item = np.array([i for s in sequences for i in s], np.int32)
    n = int(item.max(initial=1))
    if times is None:
        at, tied = drawn(Clock(), 1, offsets), np.zeros(len(item), np.bool_)
    else:
        at, tied = spread(clock or Clock(), 1, offsets, np.array([t for s in times for t in s], np.float64))
    return Dataset(
        name="hand",
        users=np.array([f"u{i}" for i in range(len(sequences))], dtype=object),
        items=np.array([f"i{i}" for i in range(1, n + 1)], dtype=object),
        offsets=offsets,
        item=item,
        at=at,
        titles=None,
        timed=times is not None,
        tied=tied,
        session=None,
    )


def put(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def canonical(folder, rows=EVENTS):
    body = "".join(f"{u},{i},{t},{r}\n" for u, i, r, t in rows)
    put(folder / "interactions.csv.gz", "user_id,item_id,timestamp,rating\n" + body)
    put(folder / "items.csv.gz", 'item_id,title,categories\na,"A, the first",x|y\nb,,\nc,C,\nz,never seen,\n')
    return folder


def names(data):
    """External item ids per external user id."""
    return {
        user: data.items[data.item[low:high] - 1].tolist()
        for user, low, high in zip(data.users, data.offsets[:-1], data.offsets[1:], strict=True)
    }
