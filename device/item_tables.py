"""Item tables in fewer bytes: rows rounded to int8, and sums of code vectors fitted to a trained table.

Codes are residual quantisation: k-means on the rows, then on what is left of them, and so on, as TIGER's semantic codes
are (Rajput et al., NeurIPS 2023), but of the item embeddings themselves and without an autoencoder.

Relative error (Frobenius norm of the difference by that of the table) of 20,000 items with 32 numbers each. "random" is
standard normal, "clustered" is 200 normal centres plus noise of 0.3:

    kind    bytes      random  clustered
    int8      720,036  0.005   0.005
    code8     225,568  0.28    0.09
    code4     112,784  0.53    0.18
    code2      56,392  0.73    0.24

Row 0, the padding, belongs to no code and is read as zeroes.
"""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from device.seeds import rng

Arrays: TypeAlias = dict[str, NDArray[np.generic]]
Floats: TypeAlias = NDArray[np.float64]
Shapes: TypeAlias = dict[str, tuple[tuple[int, ...], int]]
ENTRIES = 256  # code vectors of a codebook: a code is one byte
SHARING = 16  # items per code vector at least, so that a small table's codebooks stay smaller than the table
ROUNDS = 15  # of Lloyd's algorithm
CHUNK = 8192  # rows whose distances are held at once


def quantised(table: NDArray[np.generic]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(codes [n, e], scale [n]) of a table [n, e]: the largest magnitude of a row becomes 127."""
    values = np.asarray(table, np.float32)
    scale = np.maximum(np.abs(values).max(1), np.float32(1e-12)) / np.float32(127)
    return np.rint(values / scale[:, None]).astype(np.int8), scale


def unquantised(codes: NDArray[np.generic], scale: NDArray[np.generic]) -> NDArray[np.float32]:
    """[n, e]: the table that a device reads from what `quantised` gives."""
    read: NDArray[np.float32] = np.asarray(codes, np.float32) * np.asarray(scale, np.float32)[:, None]
    return read


def coded(table: NDArray[np.generic], books: int) -> Arrays:
    """`codes` [n, K] uint8, `books` [K, E, e] int8 and `scale` [K] float32 of a table [n + 1, e], K = `books`.

    An item is the sum over k of `books[k, codes[item - 1, k]] * scale[k]`. Equal for equal tables.
    """
    vectors = np.asarray(table[1:], np.float32)
    codes, found = residual_codes(vectors, books, entries=entries_of(len(vectors)))
    rounded, scale = quantised(found.reshape(books, -1))
    return {"codes": codes, "books": rounded.reshape(found.shape), "scale": scale}


def uncoded(arrays: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    """[n + 1, e]: the table that a device reads from what `coded` gives."""
    books = arrays["books"]
    read = unquantised(books.reshape(len(books), -1), arrays["scale"]).reshape(books.shape)
    return _with_padding(summed(arrays["codes"], read))


def coded_shapes(rows: int, columns: int, books: int) -> Shapes:
    """(shape, bytes of a number) of what `coded` gives for a table [rows, columns]."""
    entries = entries_of(rows - 1)
    return {"codes": ((rows - 1, books), 1), "books": ((books, entries, columns), 1), "scale": ((books,), 4)}


def entries_of(n_items: int) -> int:
    """Code vectors of each codebook: 256 from 4,096 items on, fewer below."""
    return min(ENTRIES, max(1, n_items // SHARING))


def residual_codes(
    vectors: NDArray[np.float32], books: int, *, entries: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """(codes [n, K], codebooks [K, E, e]) of vectors [n, e]: k-means K times, each of what those before left over.

    No further codebook makes the squared error larger. With one and at most E different vectors (by more
    than a millionth of the largest) there is no error.
    """
    left = vectors.astype(np.float64)
    codes = np.zeros((len(vectors), books), np.uint8)
    made = np.zeros((books, entries, vectors.shape[1]), np.float32)
    for book in range(books):
        codes[:, book], centres = clustered(left, entries, rng(0, "item codes", book))
        made[book] = centres
        left = left - made[book][codes[:, book]]
    return codes, made


def summed(codes: NDArray[np.generic], books: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, e]: for each item the sum of its code vectors, in order of the codebooks."""
    made = np.zeros((len(codes), books.shape[2]), np.float32)
    for book, column in zip(books, codes.T, strict=True):
        made += book[column]
    return made


def clustered(vectors: Floats, count: int, draw: np.random.Generator) -> tuple[NDArray[np.int64], Floats]:
    """(cluster [n], centres [count, e], each the mean of its vectors) by k-means; zeroes where no cluster is needed."""
    centres = _spread(vectors, count, draw)
    found = np.full(len(vectors), -1)
    for _ in range(ROUNDS):
        before, found = found, nearest(vectors, centres)
        if (before == found).all():
            break
        sizes = np.bincount(found, minlength=count)[:, None]
        centres = np.where(sizes > 0, _sums(vectors, found, count) / np.maximum(sizes, 1), centres)
    return found, centres


def nearest(vectors: Floats, centres: Floats) -> NDArray[np.int64]:
    """[n] the nearest centre of each vector, the first of equals."""
    half = (centres**2).sum(1) / 2
    parts = [vectors[at : at + CHUNK] @ centres.T for at in range(0, len(vectors), CHUNK)]
    return np.concatenate([(part - half).argmax(1) for part in parts])


def _spread(vectors: Floats, count: int, draw: np.random.Generator) -> Floats:
    """First centres by k-means++ (Arthur and Vassilvitskii, SODA 2007)."""
    centres = np.zeros((count, vectors.shape[1]))
    squares = (vectors**2).sum(1)
    tiny = 1e-13 * float(squares.max())  # below, a distance is rounding
    weight = np.ones(len(vectors))
    for place in range(count):
        chosen = _drawn(weight, draw)
        centres[place] = vectors[chosen]
        distance = squares - 2 * vectors @ centres[place] + squares[chosen]
        distance[distance <= tiny] = 0
        weight = distance if place == 0 else np.minimum(weight, distance)
        if not weight.any():
            break
    return centres


def _drawn(weight: Floats, draw: np.random.Generator) -> int:
    """A place by weight, never one of weight 0."""
    total = np.cumsum(weight)
    return int(np.searchsorted(total, draw.random() * total[-1], side="right"))


def _sums(rows: Floats, group: NDArray[np.int64], count: int) -> Floats:
    """[count, e] the sum of the rows [n, e] of each group."""
    return np.stack([np.bincount(group, column, count) for column in rows.T], axis=1)


def _with_padding(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([np.zeros((1, rows.shape[1]), np.float32), rows])
