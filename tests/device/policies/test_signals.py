import numpy as np
import pytest
from views import rows, view

from device.errors import ConfigError
from device.policies.signals import Misses, OutOfPool, RankGap, SinceReply
from device.policy import RequestPolicy

OWN = [[7, 1, 8, 2], [3, 7, 4, 5], [9, 8, 7, 0], [0, 0, 0, 0]]
POOL = [[7, 8, 9]] * 4


@pytest.mark.parametrize("policy", [SinceReply(), Misses(), OutOfPool(), RankGap()])
def test_they_fit_the_contract(policy):
    assert isinstance(policy, RequestPolicy)
    seen = view(own=[[7, 2]])
    urgency = policy.urgency(seen, rows(seen))
    assert urgency.shape == (1,)
    assert urgency.dtype == np.float64


def test_counts_with_a_draw_below_one():
    seen = view([[7]] * 3, pool_age=[4, 1, 0], misses=[2, 0, 3])
    draw = rows(seen).uniform()[:, 0]
    np.testing.assert_array_equal(SinceReply().urgency(seen, rows(seen)), np.add(draw, [4, 1, 0]))
    np.testing.assert_array_equal(Misses().urgency(seen, rows(seen)), np.add(draw, [2, 0, 3]))


@pytest.mark.parametrize("price", [1.25, 1.82, 4.6])
def test_a_price_gives_any_request_ratio_to_since_reply(price):
    """Price a + f: a device asks at age a with probability 1 - f, else at age a + 1, so every a + f steps."""
    devices, steps = 400, 200
    age, asked = np.ones(devices, np.int64), 0
    for step in range(1, steps + 1):
        seen = view([[7]] * devices, pool_age=age, step=[step] * devices)
        now = SinceReply().urgency(seen, rows(seen)) > price
        age, asked = np.where(now, 1, age + 1), asked + int(now.sum())
    assert asked / (devices * steps) == pytest.approx(1 / price, rel=0.02)


def test_share_of_the_own_top_that_the_pool_lacks():
    seen = view(POOL, own=OWN)
    draw = rows(seen).uniform()[:, 0]
    # Top 2: {7, 1} lacks 1 of 2; {3, 7} 1 of 2; {9, 8} none; nothing of its own: 0.
    np.testing.assert_allclose(OutOfPool(2).urgency(seen, rows(seen)), [0.5, 0.5, 0, 0] + draw / 2)
    # Top 20, of which 4, 4, 3 and 0 are there: lacks 1, 2 / 3, 4, 5 / none / nothing.
    divisor = np.array([4, 4, 3, 20])
    np.testing.assert_allclose(OutOfPool(20).urgency(seen, rows(seen)), [0.5, 0.75, 0, 0] + draw / divisor)


def test_rank_gap_counts_what_comes_before_the_first_in_the_pool():
    seen = view(POOL, own=[[7, 1, 8, 2], [3, 7, 4, 5], [1, 2, 3, 7], [1, 2, 0, 0]])
    draw = rows(seen).uniform()[:, 0]
    np.testing.assert_array_equal(RankGap(4).urgency(seen, rows(seen)), np.add(draw, [0, 1, 3, 2]))
    np.testing.assert_array_equal(RankGap(2).urgency(seen, rows(seen)), np.add(draw, [0, 1, 2, 2]))


@pytest.mark.parametrize("policy", [OutOfPool(3), RankGap(3)])
def test_padding_of_pool_and_own_list_means_nothing(policy):
    bare = view([[7, 8]], own=[[1, 7, 2]])
    padded = view([[0, 7, 0, 8]], own=[[1, 7, 2, 0, 0]])
    np.testing.assert_array_equal(policy.urgency(bare, rows(bare)), policy.urgency(padded, rows(padded)))


@pytest.mark.parametrize("policy", [OutOfPool(), RankGap()])
def test_nothing_resident_is_an_error_with_the_remedy(policy):
    with pytest.raises(ConfigError, match=f"{type(policy).__name__}: the device ranks no items.*make a share"):
        policy.urgency(view(), rows(view()))


@pytest.mark.parametrize("make", [OutOfPool, RankGap])
def test_wrong_options_are_errors_at_once(make):
    with pytest.raises(ConfigError, match="k = 0; expected 1 or more"):
        make(0)
