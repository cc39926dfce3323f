"""Successor counts by hand, against loops, and mixed with another reranker."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_parts import Dot

from cloud.sequences import Sequences
from device.check import check_device_model
from device.errors import ConfigError, ContractError
from device.messages import encode_patch
from device.model import DeviceModel, HasItemTable, RanksCatalogue
from device.models.gru4rec import GRU4Rec
from device.models.successors import Successors, WithSuccessors, followers
from device.models.torch_model import TorchModel
from device.scoring import ModelScorer
from device.seeds import rng

N = 6


def users(*lists):
    """Each user's training items, followed by one that training must not see."""
    ends = np.cumsum([len(items) + 1 for items in lists]) - 1
    starts = np.concatenate([[0], ends[:-1] + 1])
    return Sequences(np.array([i for items in lists for i in [*items, N]], np.int32), starts, ends)


def fitted(*lists, **options):
    made = Successors(N, **options)
    made.fit(users(*lists))
    return made, made.init(rng(0))


LISTS = ([1, 2, 3], [1, 2, 1, 2], [], [4], [3, 1])
# 1 -> 2 three times; 2 -> 1, 2 -> 3 and 3 -> 1 once


def test_the_most_frequent_pairs_are_installed():
    _, params = fitted(*LISTS)
    assert params["before"].tolist() == [1, 2, 2, 3]
    assert params["after"].tolist() == [2, 1, 3, 1]
    assert params["count"].tolist() == [3, 1, 1, 1]
    _, params = fitted(*LISTS, pairs=2)  # the smaller ids first among equals
    assert list(zip(params["before"].tolist(), params["after"].tolist(), strict=True)) == [(1, 2), (2, 1)]
    assert sum(array.nbytes for array in params.values()) == 2 * 10
    assert len(encode_patch(fitted(*LISTS)[1])) - len(encode_patch(params)) == 2 * 10
    assert [array.dtype for array in params.values()] == [np.int32, np.int32, np.float16]


def test_scores_by_hand():
    made, params = fitted(*LISTS, own=2.0, smoothing=3.0)
    history = np.array([[2, 5, 1, 3, 2, 5, 2]], np.int32)
    # before: 2 -> 5 twice on the device, at 2 each; 2 -> 1 and 2 -> 3 once each in the table; 3 / 6 for every item
    total = 2 * 2 + 2 + 3
    expected = [math.log((c + 0.5) / total) for c in (1, 0, 1, 0, 4, 0)]
    scores = made.score(params, history, np.array([[1, 2, 3, 4, 5, 6]], np.int32))
    assert scores.dtype == np.float32
    assert scores[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert np.exp(scores).sum() == pytest.approx(1)
    empty = made.score(params, history * 0, np.array([[1, 6]], np.int32))
    assert empty[0].tolist() == pytest.approx([math.log(1 / 6)] * 2)
    items, scores = made.candidates(params, history, 4)
    assert items.tolist() == [[0, 0, 0, 0]]  # 5, 1 and 3 are known
    items, scores = made.candidates(params, np.array([[0, 0, 2]], np.int32), 3)
    assert items.tolist() == [[1, 3, 0]]
    assert scores[0].tolist() == pytest.approx([math.log(1.5 / 5)] * 2 + [0], abs=1e-6)


def test_what_followed_the_newest_item():
    history = np.array([[0, 2, 5, 2, 2], [0, 0, 0, 0, 0], [0, 0, 3, 1, 3]], np.int32)
    assert followers(history).tolist() == [[0, 5, 0, 2], [0, 0, 0, 0], [0, 0, 1, 0]]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_catalogue_is_score_over_all_ids_and_counts_are_those_of_loops(data):
    sequence = st.lists(st.integers(1, N), max_size=8)
    lists = data.draw(st.lists(sequence, min_size=1, max_size=4))
    made, params = fitted(*lists, pairs=data.draw(st.integers(0, 9)), own=1.5)
    past = data.draw(st.lists(sequence, min_size=1, max_size=3))
    history = np.array([[0] * (8 - len(items)) + items for items in past], np.int32)
    every = np.tile(np.arange(N + 1, dtype=np.int32), (len(past), 1))
    scores = made.score(params, history, every)
    np.testing.assert_allclose(made.catalogue(params, history)[:, 1:], scores[:, 1:], atol=1e-6)
    table = {
        (b, a): float(c) for b, a, c in zip(*(params[k].tolist() for k in ("before", "after", "count")), strict=True)
    }
    for row, items in enumerate(past):
        for candidate in range(1, N + 1):
            newest = items[-1] if items else 0
            own = [after for before, after in pairwise(items) if before == newest]
            counts = 1.5 * own.count(candidate) + table.get((newest, candidate), 0)
            total = 1.5 * len(own) + sum(c for (before, _), c in table.items() if before == newest)
            assert scores[row, candidate] == pytest.approx(math.log((counts + 1 / N) / (total + 1)), abs=1e-5)


@pytest.mark.parametrize("pairs", [0, 100])
def test_the_conformance_kit_passes(pairs):
    made = Successors(50, pairs=pairs)
    made.fit(Sequences(rng(0, "s").integers(1, 51, 200).astype(np.int32), np.array([0, 90]), np.array([90, 200])))
    check_device_model(made, n_items=50).raise_on_failure()
    mixed = WithSuccessors(TorchModel(GRU4Rec(50, width=8)), made, weight=0.5)
    check_device_model(mixed, n_items=50).raise_on_failure()


def test_it_is_a_source_of_candidates_through_a_scorer():
    made, params = fitted(*LISTS)
    assert isinstance(made, DeviceModel)
    assert isinstance(made, RanksCatalogue)
    scorer = ModelScorer(made, params, np.arange(1, N + 1, dtype=np.int32))
    who = np.zeros(1, np.int64)
    items, _ = scorer.own(who, who, np.array([[0, 4, 2]], np.int32), 2)
    assert items.tolist() == [[1, 3]]


def test_mixed_scores_are_weighted_sums():
    made, params = fitted(*LISTS)
    inner = TorchModel(GRU4Rec(N, width=4))
    mixed = WithSuccessors(inner, made, weight=0.25)
    weights = inner.init(rng(1))
    both = mixed.joined(weights, params)
    history, pool = np.array([[0, 1, 2], [3, 1, 1]], np.int32), np.array([[1, 2, 3], [6, 5, 4]], np.int32)
    expected = inner.score(weights, history, pool) + 0.25 * made.score(params, history, pool)
    np.testing.assert_allclose(mixed.score(both, history, pool), expected, atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(mixed.catalogue(both, history), pool, 1), expected, atol=1e-6)
    np.testing.assert_array_equal(mixed.state(both, history), inner.state(weights, history))
    assert isinstance(mixed, HasItemTable)
    assert both[mixed.item_table] is weights["item.weight"]
    fresh = mixed.init(rng(1))
    assert fresh.keys() == both.keys()
    other = {name: array * 2 for name, array in both.items()}
    assert np.abs(mixed.score(other, history, pool) - expected).max() > 1e-3


def test_mixed_with_a_model_that_ranks_no_catalogue():
    made, params = fitted(*LISTS)
    inner = Dot(N)
    mixed = WithSuccessors(inner, made, weight=1.0)
    both = mixed.joined(inner.init(rng(1)), params)
    history, pool = np.array([[0, 1, 2]], np.int32), np.arange(1, N + 1, dtype=np.int32)[None]
    np.testing.assert_allclose(mixed.catalogue(both, history)[:, 1:], mixed.score(both, history, pool), atol=1e-6)
    with pytest.raises(ContractError, match="Dot shows no state"):
        mixed.state(both, history)


@pytest.mark.parametrize("options", [{"pairs": -1}, {"own": -1.0}, {"smoothing": 0.0}])
def test_impossible_numbers_are_refused(options):
    with pytest.raises(ConfigError, match="successors: pairs"):
        Successors(N, **options)
