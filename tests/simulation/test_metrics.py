import math

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from device.errors import ConfigError, ContractError, RunError
from simulation.metrics import HR, MRR, NDCG, parse
from simulation.statistics import holm, mean_interval, paired_difference

MEASURES = [HR(1), HR(10), NDCG(1), NDCG(10), NDCG(200), MRR(), MRR(5)]
measures = st.one_of(
    st.builds(HR, st.integers(1, 300)),
    st.builds(NDCG, st.integers(1, 300)),
    st.builds(MRR, st.none() | st.integers(1, 300)),
)


@given(measures)
def test_parse_inverts_str(measure):
    assert parse(str(measure)) == measure


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("ndgc@10", "ndcg@10"),
        ("recall@20", "hr@20"),
        ("ndcg", "ndcg@10"),
        ("hr", "hr@10"),
        ("mr", "mrr"),
        ("hr@0", "hr@10"),
        ("ndcg@-5", "ndcg@10"),
        ("", "@10"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_right_one(text, right):
    with pytest.raises(ConfigError, match="did you mean") as caught:
        parse(text)
    assert right in str(caught.value)


@pytest.mark.parametrize("make", [lambda: HR(0), lambda: NDCG(True), lambda: MRR(-1), lambda: HR(2.5)])
def test_a_cutoff_is_a_whole_number_from_one(make):
    with pytest.raises(ConfigError, match="whole number >= 1"):
        make()


def test_hand_computed_values():
    rank = np.array([1, 2, 3, 10, 11, 0])
    assert HR(3).of(rank).tolist() == [1, 1, 1, 0, 0, 0]
    assert MRR().of(rank).tolist() == [1, 1 / 2, 1 / 3, 1 / 10, 1 / 11, 0]
    assert MRR(10).of(rank).tolist() == [1, 1 / 2, 1 / 3, 1 / 10, 0, 0]
    # 1 / log2(2) = 1, 1 / log2(4) = 0.5
    assert NDCG(10).of(rank).tolist() == [1, 1 / math.log2(3), 0.5, 1 / math.log2(11), 0, 0]


def test_ties_are_the_expected_value_of_a_random_order():
    # A constant scorer over 100 items: the target is anywhere in 1..100.
    assert HR(10).of([1], [100]) == pytest.approx(0.10, abs=1e-15)
    assert MRR().of([1], [100]) == pytest.approx(sum(1 / p for p in range(1, 101)) / 100, abs=1e-15)
    # Positions 9, 10, 11, 12: two of four within 10.
    assert HR(10).of([9], [4]) == pytest.approx(0.5, abs=1e-15)
    # Positions 2, 3: (1 / log2(3) + 1 / log2(4)) / 2
    assert NDCG(10).of([2], [2]) == pytest.approx((1 / math.log2(3) + 0.5) / 2, abs=1e-15)
    assert NDCG(10).of([11], [5]) == 0
    assert NDCG(10).of([0], [7]) == 0


def test_agrees_with_trec_eval_on_full_rankings():
    n_users, n_items = 2_000, 200
    generator = np.random.default_rng(3)
    scores = np.argsort(generator.random((n_users, n_items)), axis=1).astype(float)  # distinct in each row
    target = generator.integers(0, n_items, n_users)
    rank = 1 + (scores > scores[np.arange(n_users), target][:, None]).sum(1)
    names = [f"i{item}" for item in range(n_items)]
    run = {f"u{u}": dict(zip(names, scores[u].tolist(), strict=True)) for u in range(n_users)}
    truth = {f"u{u}": {f"i{target[u]}": 1} for u in range(n_users)}
    wanted = {"success_10": HR(10), "ndcg_cut_10": NDCG(10), "ndcg": NDCG(n_items), "recip_rank": MRR()}
    judged = pytrec_eval.RelevanceEvaluator(truth, {"success.10", "ndcg_cut.10", "ndcg", "recip_rank"}).evaluate(run)
    for name, measure in wanted.items():
        oracle = np.array([judged[f"u{u}"][name] for u in range(n_users)])
        assert np.abs(measure.of(rank) - oracle).max() <= 1e-12, name


@given(measures, st.integers(1, 400), st.integers(1, 400))
def test_the_expected_value_lies_between_the_worst_and_the_best_order(measure, rank, ties):
    worst, best = measure.of([rank + ties - 1])[0], measure.of([rank])[0]
    assert worst - 1e-12 <= measure.of([rank], [ties])[0] <= best + 1e-12


@given(measures, st.lists(st.tuples(st.integers(1, 60), st.integers(1, 30)), min_size=1, max_size=20))
def test_the_expected_value_is_the_mean_over_the_positions_of_the_group(measure, groups):
    rank, ties = np.array(groups).T
    slow = [measure.of(np.arange(r, r + t)).mean() for r, t in groups]
    assert measure.of(rank, ties) == pytest.approx(slow, abs=1e-12)


@given(st.sampled_from([HR, NDCG, MRR]), st.integers(1, 100), st.integers(0, 120), st.integers(1, 120))
def test_a_deeper_cutoff_never_lowers_a_value(kind, k, rank, ties):
    assert kind(k).of([rank], [ties])[0] <= kind(k + 1).of([rank], [ties])[0] + 1e-12


@pytest.mark.parametrize("measure", MEASURES)
def test_shape_and_type_are_kept(measure):
    value = measure.of(np.ones((3, 4), np.int32), np.full((3, 4), 2, np.int32))
    assert value.shape == (3, 4)
    assert value.dtype == np.float64
    assert measure.of(np.empty(0, int)).shape == (0,)


@pytest.mark.parametrize(("rank", "ties"), [([-1], [1]), ([1], [0]), ([1, 2], [1])])
def test_impossible_ranks_are_refused(rank, ties):
    with pytest.raises(ContractError, match="metrics"):
        HR(10).of(rank, ties)


def test_paired_difference_agrees_with_scipy():
    generator = np.random.default_rng(5)
    a, b = generator.random(40), generator.random(40)
    ours, oracle = paired_difference(a, b), stats.ttest_rel(a, b)
    interval = oracle.confidence_interval(0.95)
    assert (ours.t, ours.p) == pytest.approx((oracle.statistic, oracle.pvalue), abs=1e-12)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert ours.d_z == pytest.approx(ours.t / math.sqrt(40), abs=1e-12)


def test_paired_difference_by_hand():
    # Differences 1, 2, 3: mean 2, sd 1, t = 2 / (1 / sqrt 3), t(0.975, 2) = 4.302653
    found = paired_difference([2, 4, 6], [1, 2, 3])
    assert (found.mean, found.d_z, found.n) == (2, 2, 3)
    assert found.t == pytest.approx(2 * math.sqrt(3))
    assert found.high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-6)


def test_differences_without_spread_or_with_one_user():
    same = paired_difference([0.5, 0.2], [0.5, 0.2])
    assert (same.mean, same.low, same.high, same.t, same.p, same.d_z) == (0, 0, 0, 0, 1, 0)
    shifted = paired_difference([1.0, 2.0], [0.5, 1.5])
    assert (shifted.low, shifted.high, shifted.p, shifted.d_z) == (0.5, 0.5, 0, math.inf)
    one = paired_difference([1.0], [0.25])
    assert one.mean == 0.75
    assert math.isnan(one.low)
    assert math.isnan(one.p)


def test_mean_interval_agrees_with_scipy():
    x = np.random.default_rng(1).random(25)
    ours, oracle = mean_interval(x), stats.ttest_1samp(x, 0).confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 2.0]), ([], []), ([1.0, math.nan], [1.0, 1.0])])
def test_values_that_cannot_be_paired_are_refused(a, b):
    with pytest.raises(RunError):
        paired_difference(a, b)


def test_holm_by_hand():
    # Sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04, then never decreasing: .04 .06 .06 .06
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    adjusted = holm([math.nan, 0.02, 0.5])  # two tests, not three
    assert math.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx([0.04, 0.5])
