"""Dataset, windows, clock and k-core, against hand-made numbers and slow oracles."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hand_made import DAY, dataset
from hypothesis import given
from hypothesis import strategies as st

from device.errors import ConfigError, DataError
from simulation.data.clock import Clock, drawn, spread
from simulation.data.dataset import windows
from simulation.data.kcore import k_core


def test_windows_are_the_items_before_the_end_padded_on_the_left():
    data = dataset([[1, 2, 3], [4, 5]])
    got = windows(data, [0, 0, 0, 1, 1], [0, 2, 3, 3, 5], 2)
    assert got.tolist() == [[0, 0], [1, 2], [2, 3], [0, 0], [4, 5]]
    assert got.dtype == np.int32


@given(
    st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=6),
    st.integers(1, 8),
    st.randoms(use_true_random=False),
)
def test_windows_equal_slicing(sequences, length, random):
    data = dataset(sequences)
    users = [random.randrange(len(sequences)) for _ in range(10)]
    cuts = [random.randint(0, len(sequences[u])) for u in users]
    expected = [([0] * length + sequences[u][:c])[-length:] for u, c in zip(users, cuts, strict=True)]
    assert windows(data, users, data.offsets[users] + cuts, length).tolist() == expected


@pytest.mark.parametrize(("user", "end"), [(0, 4), (1, 2), (1, 6)])
def test_windows_refuse_an_end_of_another_user(user, end):
    with pytest.raises(DataError, match=f"end {end} is outside the events of user index {user}"):
        windows(dataset([[1, 2, 3], [4, 5]]), [user], [end], 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item": np.array([0, 1, 2], np.int32)}, "item ids must lie in 1..3"),
        ({"item": np.array([1, 2, 4], np.int32)}, "item ids must lie in 1..3"),
        ({"at": np.array([1.0, 1.0, 2.0])}, "event 1 has 1.0 after 1.0"),
        ({"at": np.array([1.0, np.nan, 2.0])}, "finite"),
        ({"offsets": np.array([0, 2], np.int64)}, "offsets must run from 0 to 3"),
        ({"tied": np.array([True, False, False])}, "first event cannot be tied"),
        ({"titles": np.array(["a"], dtype=object)}, "1 titles for 3 items"),
        ({"session": np.zeros(2, np.int64)}, "session has 2 entries for 3 events"),
    ],
)
def test_arrays_that_disagree_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        replace(dataset([[1, 2, 3]]), **change)


def test_content_hash_is_of_the_content_only():
    data = dataset([[1, 2, 3], [3, 1]], [[0, 0, 5], [1, 2]])
    same = replace(data, name="other", item=data.item.copy())
    assert same.content_hash() == data.content_hash()
    bumped = data.at.copy()
    bumped[-1] = np.nextafter(bumped[-1], np.inf)
    changes = [
        {"at": bumped},
        {"timed": False},
        {"tied": np.zeros(5, np.bool_)},
        {"session": np.zeros(5, np.int64)},
        {"titles": np.array(["a", "b", "c"], dtype=object)},
        {"items": np.array(["i1", "i2", "j3"], dtype=object)},
        {"users": np.array(["u", "0u1"], dtype=object)},
        {"offsets": np.array([0, 4, 5], np.int64), "at": np.arange(5.0), "tied": np.zeros(5, np.bool_)},
    ]
    hashes = {replace(data, **change).content_hash() for change in changes}
    assert len(hashes | {data.content_hash()}) == len(changes) + 1


@given(st.integers(0, 5), st.integers(1, 4))
def test_content_hash_changes_with_any_event(place, item):
    data = dataset([[1, 2, 3], [4, 2, 1]])
    other = data.item.copy()
    other[place] = item
    assert (replace(data, item=other).content_hash() == data.content_hash()) == (other[place] == data.item[place])


def test_drawn_gaps_have_the_stated_median_and_spread():
    offsets = np.arange(0, 200_001, 20)
    at = drawn(Clock(median_s=20.0, sigma=0.5), 3, offsets).reshape(-1, 20)
    gaps = np.diff(at, axis=1, prepend=0.0)
    assert np.median(gaps) == pytest.approx(20.0, rel=0.01)
    assert np.log(gaps).std() == pytest.approx(0.5, rel=0.01)


def test_drawn_times_of_a_user_do_not_depend_on_the_others():
    few = drawn(Clock(), 5, np.array([0, 3, 7]))
    many = drawn(Clock(), 5, np.array([0, 900, 904, 910]))
    assert few[:3].tolist() == many[:3].tolist()
    assert few[3:].tolist() == many[900:904].tolist()
    assert drawn(Clock(), 6, np.array([0, 3]))[0] != few[0]


def test_tied_days_are_spread_by_the_drawn_gaps_and_recorded_times_stay():
    data = dataset([[1, 2, 3, 4, 5]], [[0, 0, 0, DAY, DAY]])
    gaps = Clock().gaps_us(1, np.zeros(5, np.int64), np.arange(5)) / 1e6
    assert data.tied.tolist() == [False, True, True, False, True]
    assert data.at == pytest.approx([0, gaps[1], gaps[1] + gaps[2], DAY, DAY + gaps[4]])
    assert data.recorded.tolist() == [0, 0, 0, DAY, DAY]


def test_gaps_that_do_not_fit_are_shrunk_to_fit():
    # three events at 10 and the next at 11: they take (3 - 1) / 3 of that second, whatever the gaps
    data = dataset([[1, 2, 3, 4]], [[10, 10, 10, 11]], Clock(median_s=100.0, sigma=0.0))
    assert data.at == pytest.approx([10, 10 + 1 / 3, 10 + 2 / 3, 11])


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=12).map(sorted), min_size=1, max_size=5),
    st.sampled_from([1.0, DAY, 1e-6, 1e-7]),
    st.sampled_from([0.0, 1.4e9]),
)
def test_the_clock_increases_strictly_and_keeps_first_records(times, unit, origin):
    recorded = [[origin + unit * t for t in user] for user in times]
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in times])]).astype(np.int64)
    flat = np.array([t for user in recorded for t in user], np.float64)
    at, tied = spread(Clock(), 9, offsets, flat)
    for user, (low, high) in enumerate(pairwise(offsets)):
        assert (np.diff(at[low:high]) > 0).all()
        assert tied[low:high].tolist() == [i > 0 and t == recorded[user][i - 1] for i, t in enumerate(recorded[user])]
    if unit >= 1:
        assert at[~tied].tolist() == flat[~tied].tolist()


@pytest.mark.parametrize("wrong", [{"median_s": 0.0}, {"sigma": -1.0}, {"median_s": float("nan")}])
def test_a_clock_that_cannot_run_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Clock(**wrong)


def test_k_core_by_hand():
    # item 2 occurs once; without it user 1 has one event left, then item 1 has only user 0's two
    user, item = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 2, 0, 0])
    core = k_core(user, item, user_k=2, item_k=2)
    assert core.keep.tolist() == [True, True, False, False, False, True, True]
    assert (core.users, core.items, core.events) == ((3, 2), (3, 1), (7, 4))


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=40), st.integers(1, 4), st.integers(1, 4))
def test_k_core_is_the_largest_set_that_is_one(pairs, user_k, item_k):
    user, item = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    kept = list(range(len(pairs)))
    while True:  # one user or item at a time: any order of removal ends in the same core
        low = [
            e
            for e in kept
            if sum(user[k] == user[e] for k in kept) < user_k or sum(item[k] == item[e] for k in kept) < item_k
        ][:1]
        if not low:
            break
        kept.remove(low[0])
    assert np.flatnonzero(k_core(user, item, user_k=user_k, item_k=item_k).keep).tolist() == kept
