"""Item tables made of few shared rows, fitted to a trained table: sums of code vectors, and sums of hashed buckets.

Codes are residual quantisation: k-means on the rows, then on what is left of them, and so on, as TIGER's semantic codes
are (Rajput et al., NeurIPS 2023), but of the item embeddings themselves and without an autoencoder. Buckets are hash
embeddings with two hash functions (Svenstrup et al., NeurIPS 2017) without importance weights.

Relative error (Frobenius norm of the difference by that of the table) of 20,000 items with 32 numbers each. "random" is
standard normal, "clustered" is 200 normal centres plus noise of 0.3:

    kind    bytes      random  clustered
    int8      720,036  0.005   0.005
    code8     225,568  0.28    0.09
    code4     112,784  0.53    0.18
    code2      56,392  0.73    0.24
    hash2   1,280,008  0.71    0.71
    hash4     640,008  0.87    0.86
    hash8     320,008  0.94    0.93

So buckets fitted afterwards are hopeless whatever the table: a share b of the rows explains a share b of its square, as
the hash knows nothing of which items are alike. The papers train them. They stay as the lower bound of what sharing
rows does, counted honestly.

Row 0, the padding, belongs to no code and no bucket and is read as zeroes.
"""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from device.seeds import draws, rng

Arrays: TypeAlias = dict[str, NDArray[np.generic]]
Floats: TypeAlias = NDArray[np.float64]
Shapes: TypeAlias = dict[str, tuple[tuple[int, ...], int]]
ENTRIES = 256  # code vectors of a codebook: a code is one byte
SHARING = 16  # items per code vector at least, so that a small table's codebooks stay smaller than the table
ROUNDS = 15  # of Lloyd's algorithm
SWEEPS = 50  # of conjugate gradients; about 20 are enough for eight items per bucket
CHUNK = 8192  # rows whose distances are held at once


def coded(table: NDArray[np.generic], books: int) -> Arrays:
    """`codes` [n, K] uint8, `books` [K, E, e] int8 and `scale` [K] float32 of a table [n + 1, e], K = `books`.

    An item is the sum over k of `books[k, codes[item - 1, k]] * scale[k]`. Equal for equal tables.
    """
    vectors = np.asarray(table[1:], np.float32)
    codes, found = residual_codes(vectors, books, entries=entries_of(len(vectors)))
    scale = np.maximum(np.abs(found).max((1, 2)), np.float32(1e-12)) / np.float32(127)
    return {"codes": codes, "books": np.rint(found / scale[:, None, None]).astype(np.int8), "scale": scale}


def uncoded(arrays: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    """[n + 1, e]: the table that a device reads from what `coded` gives."""
    steps = np.asarray(arrays["books"], np.float32)
    return _with_padding(summed(arrays["codes"], steps * np.asarray(arrays["scale"], np.float32)[:, None, None]))


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


def hashed(table: NDArray[np.generic], share: int) -> Arrays:
    """`buckets` [ceil(n / share), e] float32 and `seeds` [2] int32 of a table [n + 1, e].

    An item is the sum of the two buckets that the hash functions of the seeds give its id. The buckets are those with
    the least squared error. Equal for equal tables.
    """
    wanted = np.asarray(table[1:], np.float64)
    seeds = rng(0, "item buckets").integers(2**31, size=2, dtype=np.int32)
    count = buckets_of(len(wanted), share)
    first, second = (places(seed, len(wanted), count) for seed in seeds.tolist())
    return {"buckets": fitted(wanted, first, second, count).astype(np.float32), "seeds": seeds}


def unhashed(arrays: Mapping[str, NDArray[np.generic]], rows: int) -> NDArray[np.float32]:
    """[rows, e]: the table that a device reads from what `hashed` gives."""
    buckets = np.asarray(arrays["buckets"], np.float32)
    first, second = (places(seed, rows - 1, len(buckets)) for seed in arrays["seeds"].tolist())
    return _with_padding(buckets[first] + buckets[second])


def hashed_shapes(rows: int, columns: int, share: int) -> Shapes:
    """(shape, bytes of a number) of what `hashed` gives for a table [rows, columns]."""
    return {"buckets": ((buckets_of(rows - 1, share), columns), 4), "seeds": ((2,), 4)}


def buckets_of(n_items: int, share: int) -> int:
    """One bucket per `share` items, one at least."""
    return max(1, -(-n_items // share))


def places(seed: int, n_items: int, buckets: int) -> NDArray[np.int64]:
    """[n] the bucket of each item 1..n by the hash function of a seed."""
    words = draws(seed, "item bucket", np.arange(1, n_items + 1)).bits(1)[:, 0]
    return (words % np.uint64(buckets)).astype(np.int64)


def fitted(wanted: Floats, first: NDArray[np.int64], second: NDArray[np.int64], count: int) -> Floats:
    """Buckets x [count, e] with the least squared error of x[first] + x[second], by conjugate gradients per column."""

    def back(rows: Floats) -> Floats:
        return _sums(rows, first, count) + _sums(rows, second, count)

    tiny = np.finfo(np.float64).tiny
    found = np.zeros((count, wanted.shape[1]))
    left = back(wanted)
    way, size = left, (left**2).sum(0)
    enough = 1e-16 * size
    for _ in range(SWEEPS):
        if (size <= enough).all():
            break
        moved = back(way[first] + way[second])
        step = size / np.maximum((way * moved).sum(0), tiny)
        found, left = found + step * way, left - step * moved
        before, size = size, (left**2).sum(0)
        way = left + size / np.maximum(before, tiny) * way
    return found


def _sums(rows: Floats, group: NDArray[np.int64], count: int) -> Floats:
    """[count, e] the sum of the rows [n, e] of each group."""
    return np.stack([np.bincount(group, column, count) for column in rows.T], axis=1)


def _with_padding(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.concatenate([np.zeros((1, rows.shape[1]), np.float32), rows])
