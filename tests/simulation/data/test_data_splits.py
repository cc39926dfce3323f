"""Splits and the leakage audit, against hand-made numbers and slow oracles."""

import numpy as np
import pytest
from hand_made import DAY, dataset, names, put
from hypothesis import given, settings
from hypothesis import strategies as st

from device.errors import ConfigError, DataError
from simulation.data.audit import leakage_audit
from simulation.data.dataset import Split
from simulation.data.splits import global_time, leave_last, pre_split


def test_leave_last_by_hand():
    # lengths 6, 4, 2, 1 with 3 test steps, 1 validation, 1 training: 6 -> 2+1+3, 4 -> 1+1+2, 2 and 1 -> all train
    data = dataset([[1] * 6, [1] * 4, [1] * 2, [1]])
    split = leave_last(data, 3)
    assert split.train_end.tolist() == [2, 7, 12, 13]
    assert split.valid_end.tolist() == [3, 8, 12, 13]
    assert split.part().tolist() == [0, 0, 1, 2, 2, 2, 0, 1, 2, 2, 0, 0, 0]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(1, 4), st.integers(0, 3), st.integers(0, 3))
def test_leave_last_gives_every_user_what_fits(lengths, test, validation, min_train):
    data = dataset([[1] * length for length in lengths])
    split = leave_last(data, test, validation, min_train)
    for u, length in enumerate(lengths):
        steps = min(test, length - validation - min_train)
        sizes = (length - steps - validation, validation, steps) if steps >= 1 else (length, 0, 0)
        bounds = (data.offsets[u], split.train_end[u], split.valid_end[u], data.offsets[u + 1])
        assert tuple(np.diff(bounds)) == sizes


@pytest.mark.parametrize("wrong", [{"test": 0}, {"test": 1, "validation": -1}, {"test": 1, "min_train": -1}])
def test_leave_last_refuses_negative_numbers(wrong):
    with pytest.raises(ConfigError, match="leave_last"):
        leave_last(dataset([[1, 2]]), **wrong)


def test_global_time_in_seconds_and_quantiles():
    data = dataset([[1, 2, 3], [1, 2], [3]], [[0, 10, 20], [10, 30], [40]])
    for split in (global_time(data, 10, 30), global_time(data, 0.2, 0.7)):  # quantiles: 10 and 25
        assert split.train_end.tolist() == [1, 3, 5]
        assert split.valid_end.tolist() == [3, 4, 5]


def test_global_time_keeps_tied_events_together():
    data = dataset([[1, 2, 3]], [[0, DAY, DAY]])
    between = float(data.at[1] + data.at[2]) / 2
    assert global_time(data, between, between).train_end.tolist() == [3]


@pytest.mark.parametrize("times", [(5, 4), (0.5, 4), (0.5, 1.0)])
def test_global_time_refuses_mixed_up_times(times):
    with pytest.raises(ConfigError, match="global_time"):
        global_time(dataset([[1, 2]]), *times)


def test_a_split_whose_parts_overlap_is_refused():
    data = dataset([[1, 2], [3, 4]])
    with pytest.raises(DataError, match="user 'u1' overlap"):
        Split(data, np.array([1, 4]), np.array([2, 3]))


def test_leakage_audit_by_hand():
    # test: u0 item 3 at 20 (tied with 20 before), u1 item 9 at 30; training: u0 item 1 at 0, u1 items 1 at 5, 3 at 25
    data = dataset([[1, 2, 3], [1, 3, 2, 9]], [[0, 20, 20], [5, 25, 26, 30]])
    audit = leakage_audit(leave_last(data, 1))
    assert audit == {
        "train_events": 3,
        "validation_events": 2,
        "test_events": 2,
        "test_items_unseen": 1 / 2,  # item 9
        "train_after_first_test": 1 / 3,  # 25 is later than 20
        "test_before_other_train": 1 / 2,  # u0 at 20 against u1's 25; u1 at 30 has only u0's 0
        "test_tied": 1 / 2,
    }


def test_audit_of_data_without_times_says_so():
    audit = leakage_audit(leave_last(dataset([[1, 2, 3], [1, 2, 1]]), 1))
    assert audit["test_items_unseen"] == 1 / 2  # both train on item 1; the test items are 3 and 1
    assert [audit[k] for k in ("train_after_first_test", "test_before_other_train", "test_tied")] == [None] * 3


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=5).map(sorted), min_size=1, max_size=5))
def test_audit_agrees_with_comparing_all_pairs(times):
    data = dataset([[1 + t % 3 for t in user] for user in times], times)
    split = leave_last(data, 2, 0)
    part, owner, recorded = split.part(), data.owner, data.recorded
    train, test = np.flatnonzero(part == 0), np.flatnonzero(part == 2)
    audit = leakage_audit(split)
    if not len(test):
        assert audit["test_before_other_train"] is None
        return
    later = [any(recorded[j] > recorded[i] and owner[j] != owner[i] for j in train) for i in test]
    assert audit["test_before_other_train"] == np.mean(later)
    assert audit["test_items_unseen"] == np.mean([data.item[i] not in data.item[train] for i in test])


def test_pre_split_files_are_joined_per_user(tmp_path):
    train = put(tmp_path / "train.csv", "user_id,item_id,timestamp\nu,a,1\nv,a,2\nu,b,3\n")
    valid = put(tmp_path / "valid.csv", "user_id,item_id,timestamp\nu,c,3\n")
    test = put(tmp_path / "test.csv", "user_id,item_id,timestamp\nu,d,4\nv,c,9\n")
    split = pre_split(train, valid, test, seed=1)
    assert names(split.data) == {"u": ["a", "b", "c", "d"], "v": ["a", "c"]}
    assert split.part().tolist() == [0, 0, 1, 2, 0, 2]
    with pytest.raises(DataError, match=r"valid.csv: user 'u' has an event at 3, before"):
        pre_split(train, test, valid, seed=1)
    with pytest.raises(DataError, match="1 users without training events, first 'v'"):
        pre_split(valid, valid, test, seed=1)


def test_pre_split_sequences_have_no_times(tmp_path):
    parts = [put(tmp_path / f"{n}.txt", text) for n, text in (("a", "u 1 2\nv 3\n"), ("b", "v 4\n"), ("c", "u 5\n"))]
    split = pre_split(*parts, seed=1)
    assert names(split.data) == {"u": ["1", "2", "5"], "v": ["3", "4"]}
    assert split.part().tolist() == [0, 0, 2, 0, 1]
