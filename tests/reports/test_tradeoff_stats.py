import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from device.errors import RunError
from reports import tradeoff_stats as stats

UNIT = st.floats(0.0, 1.0, width=32)


def test_recovered_is_a_share_of_the_difference():
    # (.06 - .04) / (.08 - .04) = .5; (.10 - .04) / .04 = 1.5; (.03 - .04) / .04 = -.25
    found = stats.recovered([0.06, 0.10, 0.03], 0.04, 0.08)
    np.testing.assert_allclose(found, [0.5, 1.5, -0.25])
    assert np.isnan(stats.recovered(0.06, 0.04, 0.04))  # nothing to recover


def test_resamples_are_paired_and_repeatable():
    values = np.array([[0.0, 1.0, 10.0], [1.0, 3.0, 12.0], [2.0, 5.0, 14.0]])  # columns: x, 2 x + 1, 2 x + 10
    drawn = stats.resampled_means(values, seed=4, resamples=200)
    assert drawn.shape == (200, 3)
    np.testing.assert_allclose(drawn[:, 1], 2 * drawn[:, 0] + 1)  # the same users in every column
    np.testing.assert_allclose(drawn[:, 2] - drawn[:, 1], 9.0)
    np.testing.assert_array_equal(drawn, stats.resampled_means(values, seed=4, resamples=200))
    assert (drawn != stats.resampled_means(values, seed=5, resamples=200)).any()
    # every mean is a third of an integer from 0 (0 + 0 + 0) to 6 (2 + 2 + 2)
    assert set(np.rint(3 * drawn[:, 0])) == set(range(7))


def test_resamples_spread_like_the_standard_error():
    values = np.random.default_rng(0).normal(size=(400, 1))
    drawn = stats.resampled_means(values, seed=1)
    assert drawn.std() == pytest.approx(values.std() / np.sqrt(400), rel=0.08)  # sd of 1,000 draws: 2.2 % error
    found = stats.interval(float(values.mean()), drawn[:, 0], 400)
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)


@pytest.mark.parametrize("values", [np.empty((0, 2)), np.array([[np.nan]])])
def test_a_bootstrap_needs_values(values):
    with pytest.raises(RunError, match="bootstrap"):
        stats.resampled_means(values, seed=0)


def test_values_are_read_between_the_neighbouring_points():
    cost, value = np.array([0.3, 0.1, 0.2]), np.array([0.9, 0.5, 0.6])  # in any order
    # .22 is a fifth of the way from .2 to .3: .8 * .6 + .2 * .9 = .66
    np.testing.assert_allclose(stats.weights_at(cost, 0.22), [0.2, 0.0, 0.8], atol=1e-12)
    assert value @ stats.weights_at(cost, 0.22) == pytest.approx(0.66)
    for place, expected in zip(cost, value, strict=True):
        assert value @ stats.weights_at(cost, place) == pytest.approx(expected)


def test_a_policy_is_not_read_where_it_does_not_reach():
    cost = np.array([0.1, 0.2])
    np.testing.assert_array_equal(stats.weights_at(cost, 0.21), [0.0, 1.0])  # .2 >= .21 * .95 = .1995: the last holds
    np.testing.assert_array_equal(stats.weights_at(cost, 0.0953), [1.0, 0.0])  # .1 <= .0953 * 1.05 = .100065
    for at in (0.0, 0.09, 0.211, 1.0):  # .211 * .95 = .20045
        assert np.isnan(stats.weights_at(cost, at)).all()


def test_equal_costs_share_and_unknown_costs_are_left_out():
    cost = np.array([0.2, np.nan, 0.1, 0.2])
    np.testing.assert_allclose(stats.weights_at(cost, 0.15), [0.25, 0.0, 0.5, 0.25])
    np.testing.assert_allclose(stats.weights_at(cost[:1], 0.2), [1.0])
    assert np.isnan(stats.weights_at(np.array([np.nan]), 0.2)).all()


@settings(deadline=None)  # a busy machine
@given(arrays(float, 5, elements=UNIT), UNIT)
def test_weights_read_a_straight_line_exactly(cost, at):
    weights = stats.weights_at(cost, at)
    if np.isnan(weights).any():
        assert not cost.min() <= at <= cost.max()
        return
    assert weights.sum() == pytest.approx(1.0)
    assert (weights >= 0).all()
    inside = np.clip(at, cost.min(), cost.max())
    assert (3 * cost + 2) @ weights == pytest.approx(3 * inside + 2, abs=1e-6)


def test_front_of_five_points():
    cost = np.array([0.0, 0.1, 0.1, 0.3, np.nan])
    value = np.array([0.4, 0.5, 0.45, 0.5, 0.9])
    # 2 is worth less than 1 at its cost; 3 is worth no more than 1 and costs more; 4 has no cost
    assert stats.on_front(cost, value).tolist() == [True, True, False, False, False]
    rows = np.stack([value, [0.6, 0.5, 0.45, 0.7, 0.9]])
    assert stats.on_front(cost, rows)[1].tolist() == [True, False, False, True, False]
    assert stats.on_front(np.array([0.1, 0.1]), np.array([0.5, 0.5])).tolist() == [True, True]  # neither is better


@settings(deadline=None)  # a busy machine
@given(arrays(float, 7, elements=UNIT), arrays(float, 7, elements=UNIT))
def test_the_front_is_what_the_definition_says(cost, value):
    def beaten(i):
        no_worse = [j for j in range(7) if cost[j] <= cost[i] and value[j] >= value[i]]
        return any(cost[j] < cost[i] or value[j] > value[i] for j in no_worse)

    assert stats.on_front(cost, value).tolist() == [not beaten(i) for i in range(7)]


def test_hypervolume_of_a_staircase():
    cost, value = np.array([0.5, 0.2, 0.4]), np.array([0.9, 0.5, 0.3])
    # to (1, .1): from .2 to .5 (the point at .4 adds nothing) .3 * (.5 - .1) = .12; from .5 to 1 .5 * .8 = .4
    assert stats.hypervolume(cost, value, worst_cost=1.0, worst_value=0.1) == pytest.approx(0.52)
    # per row its own reference; one step of .3 * .1 + .5 * .5 = .28 above .4, nothing above 1
    rows = stats.hypervolume(cost, np.stack([value] * 2), worst_cost=1.0, worst_value=np.array([0.4, 1.0]))
    np.testing.assert_allclose(rows, [0.28, 0.0], atol=1e-12)
    unknown = stats.hypervolume(np.array([np.nan, 2.0]), np.ones(2), worst_cost=1.0, worst_value=0.0)
    assert unknown == 0.0


@settings(deadline=None)  # a busy machine
@given(arrays(float, 6, elements=UNIT), arrays(float, 6, elements=UNIT))
def test_hypervolume_comes_from_the_front_alone_and_grows_with_points(cost, value):
    whole = stats.hypervolume(cost, value, worst_cost=1.0, worst_value=0.2)
    front = stats.on_front(cost, value)
    assert stats.hypervolume(cost[front], value[front], worst_cost=1.0, worst_value=0.2) == pytest.approx(whole)
    assert stats.hypervolume(cost[:-1], value[:-1], worst_cost=1.0, worst_value=0.2) <= whole + 1e-12


def test_area_over_the_range_that_all_lines_cover():
    cost, value = np.array([0.1, 0.3, 0.5]), np.array([0.4, 0.6, 0.6])
    knots = stats.common_knots(cost, np.array([0.2, 0.4]), np.array([0.0, 1.0]))
    np.testing.assert_allclose(knots, [0.2, 0.3, 0.4])
    # .5 at .2, .6 at .3, .6 at .4: .1 * .55 + .1 * .6 = .115
    assert stats.areas(cost, value, knots) == pytest.approx(0.115)
    np.testing.assert_allclose(stats.areas(cost, np.stack([value, 2 * value]), knots), [0.115, 0.23])
    assert stats.common_knots(cost, np.array([0.6, 0.7])).size == 0
    assert stats.common_knots(cost, np.array([np.nan])).size == 0


def test_differences_are_corrected_together():
    a, b = np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0, 1.0])
    # differences 1, 0, 2: mean 1, sd 1, d_z 1, t = sqrt 3, two-sided p with 2 degrees of freedom .22540
    (first, p_first), (second, p_second) = stats.holm_differences([(a, b), (a, a)])
    assert (first.mean, first.d_z, first.n) == (1.0, 1.0, 3)
    assert first.p == pytest.approx(0.22540, abs=1e-5)
    assert p_first == pytest.approx(2 * first.p)
    assert (second.mean, p_second) == (0.0, 1.0)
