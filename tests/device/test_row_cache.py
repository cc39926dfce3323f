import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.errors import ConfigError
from device.row_cache import RowCache, distinct, member


def ids(*rows):
    return np.array(rows, np.int32)


def test_what_is_needed_comes_first_and_the_oldest_fall_out():
    cache = RowCache(2, 4)
    both = np.arange(2)
    cache.need(both, ids([1, 2, 3], [7, 0, 0]))
    assert cache.held.tolist() == [[1, 2, 3, 0], [7, 0, 0, 0]]
    cache.need(np.array([0]), ids([4, 2]))  # 2 moves to the front, 3 falls out
    assert cache.held.tolist() == [[4, 2, 1, 3], [7, 0, 0, 0]]
    cache.need(np.array([0]), ids([9, 8]))
    assert cache.held.tolist() == [[9, 8, 4, 2], [7, 0, 0, 0]]


def test_what_does_not_fit_is_cut_at_the_end():
    cache = RowCache(1, 2)
    cache.need(np.array([0]), ids([5, 6, 7]))
    assert cache.held.tolist() == [[5, 6]]
    assert cache.knows(np.array([0]), ids([5, 7, 0])).tolist() == [[True, False, True]]


def test_knows_is_asked_per_device():
    cache = RowCache(3, 2)
    cache.need(np.array([2]), ids([4]))
    assert cache.knows(np.array([0, 2]), ids([4], [4])).tolist() == [[False], [True]]


def test_a_capacity_below_one_is_refused():
    with pytest.raises(ConfigError, match="capacity = 0"):
        RowCache(3, 0)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 6),
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5, unique=True), min_size=1, max_size=12),
)
def test_it_is_a_list_with_the_newest_in_front(capacity, needs):
    cache, oracle = RowCache(3, capacity), []
    for need in needs:
        cache.need(np.array([1]), ids(need))
        oracle = (need + [item for item in oracle if item not in need])[:capacity]
        assert [item for item in cache.held[1].tolist() if item] == oracle
    assert not cache.held[[0, 2]].any()


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(st.integers(0, 5), min_size=6, max_size=6), min_size=1, max_size=5))
def test_distinct_keeps_the_first_of_each_id(rows):
    for got, row in zip(distinct(ids(*rows)).tolist(), rows, strict=True):
        kept = list(dict.fromkeys(item for item in row if item))
        assert got == kept + [0] * (6 - len(kept))


def test_member_in_slices_is_member_in_one():
    random = np.random.default_rng(1)
    some, among = (
        random.integers(0, 50, (300, 120)).astype(np.int32),
        random.integers(0, 50, (300, 130)).astype(np.int32),
    )
    assert 4_000_000 < 300 * 120 * 130  # so that more than one slice is needed
    expected = np.array([np.isin(a, b) for a, b in zip(some, among, strict=True)])
    np.testing.assert_array_equal(member(some, among), expected)
