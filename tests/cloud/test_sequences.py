"""Windows and batches: every target (or user) exactly once, the right history before it, padding never a target."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.sequences import Sequences, bucketed, position_batches, prefix_batches
from device.seeds import rng

lengths = st.lists(st.integers(0, 9), max_size=12)


def numbered(sizes: list[int], gap: int = 2) -> Sequences:
    """Users of these lengths, `gap` foreign items after each (validation, test); the item at position p is p + 1."""
    starts = np.cumsum([0, *[size + gap for size in sizes]])[:-1].astype(np.int64)
    total = sum(sizes) + gap * len(sizes)
    return Sequences(np.arange(1, total + 1, dtype=np.int32), starts, starts + np.array(sizes, np.int64))


def owner(data: Sequences, item: int) -> int:
    """The user who owns the item, by its position; -1 for a foreign one."""
    inside = np.flatnonzero((data.starts <= item - 1) & (item - 1 < data.ends))
    return int(inside[0]) if len(inside) else -1


def test_windows_by_hand() -> None:
    data = numbered([3, 2], gap=1)  # items 1 2 3 | 4 foreign | 5 6 | 7 foreign
    assert data.lengths.tolist() == [3, 2]
    assert data.flat().tolist() == [1, 2, 3, 5, 6]
    got = data.windows(np.array([0, 0, 1, 1]), np.array([3, 1, 6, 4]), 2)
    assert got.tolist() == [[2, 3], [0, 1], [5, 6], [0, 0]]
    assert got.dtype == np.int32


@given(lengths, st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
def test_prefix_batches_cover_every_target_once(sizes: list[int], length: int, batch: int, seed: int) -> None:
    data = numbered(sizes)
    targets = []
    for history, target in prefix_batches(data, length, batch, rng(seed, "test")):
        assert len(history) == len(target) <= batch
        assert history.dtype == target.dtype == np.int32
        assert history[:, 0].any()  # cut to the longest of the batch
        for row, item in zip(history, target, strict=True):
            first = max(data.starts[owner(data, int(item))] + 1, item - length)
            assert row[row > 0].tolist() == list(range(first, item))  # the newest `length` items before, no others
            assert not row[: len(row) - (item - first)].any()
        targets += target.tolist()
    wanted = [p + 1 for a, b in zip(data.starts, data.ends, strict=True) for p in range(a + 1, b)]
    assert sorted(targets) == wanted


@given(lengths, st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
def test_position_batches_cover_every_user_once(sizes: list[int], length: int, batch: int, seed: int) -> None:
    data = numbered(sizes)
    users = []
    for history, target in position_batches(data, length, batch, rng(seed, "test")):
        assert history.shape == target.shape
        assert 1 <= history.shape[1] <= length
        assert history[:, 0].any()
        assert ((target > 0) == (history > 0)).all()  # padding is never a target, every real item has one
        for row, after in zip(history, target, strict=True):
            real = row > 0
            assert (after[real] == row[real] + 1).all()  # items are consecutive: the target is the next one
            (user,) = {owner(data, int(item)) for item in [*row[real], *after[real]]}
            assert real.sum() == min(sizes[user] - 1, length)
            users.append(user)
    assert sorted(users) == [u for u, size in enumerate(sizes) if size >= 2]


def test_a_long_user_is_seen_at_its_end_and_in_the_middle() -> None:
    data = numbered([30])
    last = [int(target[0, -1]) for s in range(60) for _, target in position_batches(data, 5, 4, rng(s, "long"))]
    assert last.count(30) > 20  # half of all epochs end with the newest item
    assert len(set(last)) > 10  # the others anywhere
    assert min(last) >= 6  # and always with a full window


def test_the_same_generator_gives_the_same_batches() -> None:
    data = numbered([4, 9, 2, 7, 5, 3])
    first, again, other = (
        [pair[1].tolist() for pair in prefix_batches(data, 4, 3, rng(s, "batches"))] for s in (1, 1, 2)
    )
    assert first == again
    assert first != other


@given(st.lists(st.integers(1, 50), max_size=300), st.integers(1, 5), st.integers(0, 9))
def test_buckets_are_a_partition_of_the_rows(sizes: list[int], batch: int, seed: int) -> None:
    batches = bucketed(np.array(sizes, np.int64), batch, rng(seed, "buckets"))
    assert sorted(int(i) for rows in batches for i in rows) == list(range(len(sizes)))
    assert all(1 <= len(rows) <= batch for rows in batches)


@pytest.mark.parametrize("batch", [4, 16])
def test_buckets_save_padding(batch: int) -> None:
    sizes = rng(0, "sizes").integers(1, 51, 32 * batch)
    padded = sum(int(sizes[rows].max()) * len(rows) for rows in bucketed(sizes, batch, rng(0, "buckets")))
    # 32 sorted batches over sizes 1..50: a batch spans about 50 / 32 = 1.6 sizes, not 25.5
    assert padded < sizes.sum() + 2.5 * len(sizes)
