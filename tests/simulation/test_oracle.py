from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from schedules import best_value

from device.errors import ConfigError, ContractError
from simulation.sweep.oracle import Frontier, Rewards, best_by_budget, frontier, merged, replaced

N = np.nan


def random_case(seed):
    """Rewards in eighths and a price in sixteenths: sums are exact, and ties between schedules happen often."""
    rng = np.random.default_rng(seed)
    devices, longest = int(rng.integers(1, 4)), int(rng.integers(1, 7))
    steps = rng.integers(1, longest + 1, devices)
    single = (rng.integers(0, 9, (devices, longest, longest)) / 8).astype(np.float32)
    pairs = (rng.integers(0, 9, (devices, longest, longest, longest)) / 8).astype(np.float32)  # [d, s1, s2, t - 1]
    for d, s, t in product(range(devices), range(longest), range(1, longest + 1)):
        if s >= t or t > steps[d]:
            single[d, s, t - 1] = N
            pairs[d, :, s, t - 1] = N
    for s1, s2 in product(range(longest), repeat=2):
        if s1 >= s2 and (s1, s2) != (0, 0):
            pairs[:, s1, s2] = N
    worlds = [(replaced(single), single), (merged(steps, lambda t: pairs[:, :t, :t, t - 1]), pairs)]
    return worlds, steps, int(rng.integers(0, 12)) / 16


def earned(reward, asked_after, steps):
    """One device that asks at the end of the given steps; reward [s, t - 1] or [s1, s2, t - 1]."""
    total, made = 0.0, [0]
    for t in range(1, steps + 1):
        newest_two = tuple(([0, *made] if len(made) == 1 else made)[-2:])
        total += float(reward[(*newest_two, t - 1)] if reward.ndim == 3 else reward[made[-1], t - 1])
        made += [t] if t in asked_after else []
    return total


def enumerated(reward, steps):
    """[(requests, sum)] of every schedule, also those that ask after the last step."""
    possible = range(1, steps + 1)
    return [(k, earned(reward, asked, steps)) for k in range(steps + 1) for asked in combinations(possible, k)]


@pytest.mark.parametrize("block", range(4))
def test_the_optimum_is_that_of_enumerating_every_schedule_in_200_random_cases(block):
    for seed in range(50 * block, 50 * block + 50):
        worlds, steps, price = random_case(seed)
        for rewards, table in worlds:
            most = max(steps) + 1
            plan, by_budget = best_value(rewards, price), best_by_budget(rewards, int(most))
            assert rewards.steps.tolist() == steps.tolist()
            assert (plan.asked.sum(1) == plan.requests).all()
            for d, n in enumerate(steps):
                every = enumerated(table[d], n)
                value, requests = max(((r - price * k, k) for k, r in every), key=lambda best: (best[0], -best[1]))
                assert (plan.value[d], plan.requests[d]) == (value, requests)
                asked = (np.flatnonzero(plan.asked[d]) + 1).tolist()
                assert earned(table[d], asked, n) - price * len(asked) == value
                assert all(t < n for t in asked), "a request at the end of the last step is useless"
                budgets = [max(r for k, r in every if k <= budget) for budget in range(most + 1)]
                assert by_budget[d].tolist() == budgets


# One device, three steps. Rows: pool made at s = 0, 1, 2; columns: steps 1, 2, 3.
THREE_STEPS = np.array([[[0.5, 0.0, 0.5], [N, 0.75, 0.0], [N, N, 1.0]]], np.float32)


def test_three_steps_by_hand_with_pools_replaced():
    # Ask never:         0.5 + 0    + 0.5  = 1.0
    # after step 1:      0.5 + 0.75 + 0    = 1.25
    # after step 2:      0.5 + 0    + 1.0  = 1.5    the best single request
    # after both:        0.5 + 0.75 + 1.0  = 2.25
    rewards = replaced(THREE_STEPS)
    assert best_by_budget(rewards, 3).tolist() == [[1.0, 1.5, 2.25, 2.25]]
    # price 0.5: never 1.0, one 1.5 - 0.5 = 1.0, two 2.25 - 1.0 = 1.25
    plan = best_value(rewards, 0.5)
    assert (plan.value.tolist(), plan.requests.tolist()) == ([1.25], [2])
    assert plan.asked.tolist() == [[True, True, False]]
    # price 0.625: two requests 2.25 - 1.25 = 1.0, as never asking: ties go to fewer requests
    assert best_value(rewards, 0.625).requests.tolist() == [0]


def test_among_equal_values_the_fewest_requests_win_though_their_list_is_newer():
    table = np.array([[[0, 0, 1, 0], [N, 1, 0, 0], [N, N, 1, 0.5], [N, N, N, 1]]], np.float32)
    # price 0.5: after 1 and 2 1 + 1 + 0.5 - 1 = 1.5; after 3 alone 0 + 1 + 1 - 0.5 = 1.5; after 1, 2, 3 3 - 1.5 = 1.5;
    # never 1; after 1 alone 0.5; after 2 alone 1; after 1 and 3 1; after 2 and 3 1
    plan = best_value(replaced(table), 0.5)
    assert (plan.value[0], plan.asked[0].tolist()) == (1.5, [False, False, True, False])


def test_three_steps_by_hand_with_two_lists_merged():
    # Step 1 has list 0 alone: 0.5. Step 2: list 0 alone 0, lists 0 + 1 0.75.
    # Step 3: list 0 alone 0.5, lists 0 + 1 0.625, 0 + 2 1.0, 1 + 2 0.875.
    tables = [[[0.5]], [[0.0, 0.75], [N, N]], [[0.5, 0.625, 1.0], [N, N, 0.875], [N, N, N]]]
    rewards = merged(np.array([3]), lambda t: np.array([tables[t - 1]], np.float32))
    # never 0.5 + 0 + 0.5 = 1.0; after 1: 0.5 + 0.75 + 0.625 = 1.875; after 2: 0.5 + 0 + 1.0 = 1.5; both: 2.125
    assert best_by_budget(rewards, 2).tolist() == [[1.0, 1.875, 2.125]]
    assert best_value(rewards, 0.125).asked.tolist() == [[True, True, False]]  # 2.125 - 0.25 = 1.875 > 1.75
    assert best_value(rewards, 0.25).asked.tolist() == [[True, False, False]]  # 1.625 both ways: fewer requests


def test_the_fleets_frontier_by_hand():
    # Device 0 is THREE_STEPS: sums 1, 1.5, 2.25 over 3 steps. One request lies below the line from 0 to 2 requests, so
    # the majorant rises by (2.25 - 1) / 2 = 0.625 per request, in means over 3 steps by 0.625 / 3 = 0.2083.
    # Device 1 has 2 steps: never 0.25 + 0 = 0.25, one request 0.25 + 0.5 = 0.75, in means by 0.5 / 2 = 0.25.
    other = [[0.25, 0.0, N], [N, 0.5, N], [N, N, N]]
    rewards = replaced(np.concatenate([THREE_STEPS, np.array([other], np.float32)]))
    curve = frontier([(best_by_budget(rewards, 2), rewards.steps)])
    # 5 steps in all; device 1 asks first though its sum rises by less: its mean rises by more
    assert curve.request_ratio.tolist() == [0.0, 1 / 5, 3 / 5]
    assert prices_of(curve, rewards.steps) == pytest.approx([0.25, 0.625 / 3])
    # never (1 / 3 + 0.25 / 2) / 2 = 0.229167; + 0.25 / 2 = 0.354167; + 2 x 0.208333 / 2 = 0.5625
    assert curve.mean_reward == pytest.approx([0.229167, 0.354167, 0.5625], abs=1e-6)
    assert curve.at(np.array([0.1, 0.4, 0.9])) == pytest.approx([0.291667, 0.458333, 0.5625], abs=1e-6)
    assert curve.at(0.2) == pytest.approx(0.354167, abs=1e-6)


def prices_of(curve: Frontier, steps):
    """What a request gains between two points, in means over a user's steps: from there the later one is optimal."""
    gained = np.diff(curve.mean_reward) * len(steps)
    return gained / (np.diff(curve.request_ratio) * steps.sum())


def mean_of(plan, price, steps):
    return float(((plan.value + price * plan.requests) / steps).mean())


@pytest.mark.parametrize("seed", range(20))
def test_every_point_of_the_frontier_is_what_one_price_gives(seed):
    worlds, steps, _ = random_case(seed)
    for rewards, _table in worlds:
        curve = frontier([(best_by_budget(rewards, rewards.longest - 1), steps)])
        price_of = prices_of(curve, steps)
        for point, low in enumerate([*price_of, 0.0]):
            upper = price_of[point - 1] if point else low + 1.0
            if upper - low < 1e-9:  # two prices that differ in their last bits only
                continue
            price = (low + upper) / 2 * steps
            plan = best_value(rewards, price)
            assert plan.requests.sum() / steps.sum() == pytest.approx(curve.request_ratio[point])
            assert mean_of(plan, price, steps) == pytest.approx(curve.mean_reward[point])


@pytest.mark.parametrize("seed", range(20))
def test_no_allocation_of_requests_to_users_lies_above_the_frontier(seed):
    worlds, steps, _ = random_case(seed)
    for rewards, table in worlds:
        curve = frontier([(best_by_budget(rewards, rewards.longest - 1), steps)])
        users = [enumerated(table[d], n) for d, n in enumerate(steps)]
        best = [[max(r for k, r in users[d] if k == asked) for asked in range(n)] for d, n in enumerate(steps)]
        for asked in product(*(range(n) for n in steps)):
            mean = np.mean([best[d][k] / steps[d] for d, k in enumerate(asked)])
            assert mean <= curve.at(sum(asked) / steps.sum()) + 1e-9
        assert (np.diff(curve.request_ratio) > 0).all()
        assert (np.diff(prices_of(curve, steps)) < 1e-12).all()


@pytest.mark.parametrize("seed", range(10))
def test_a_fleet_cut_into_parts_has_the_same_frontier(seed):
    """Each part knows budgets up to its own longest device only."""
    rng = np.random.default_rng(seed)
    steps = np.sort(rng.integers(1, 8, 9))[::-1]
    table = rng.random((9, 7, 7)).astype(np.float32)
    made, step = np.arange(7)[:, None], np.arange(1, 8)
    table[~((made < step) & (step <= steps[:, None, None]))] = N

    def part(rows):
        longest = steps[rows].max()
        return best_by_budget(replaced(table[rows, :longest, :longest]), longest - 1), steps[rows]

    whole, cut = frontier([part(slice(0, 9))]), frontier([part(slice(*ends)) for ends in ((0, 2), (2, 3), (3, 9))])
    for name in ("request_ratio", "mean_reward"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name))


@st.composite
def tables(draw):
    """Any float32 rewards of replaced pools, ragged."""
    steps = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    longest = max(steps)
    unit = st.floats(0, 1, width=32)
    flat = draw(st.lists(unit, min_size=len(steps) * longest**2, max_size=len(steps) * longest**2))
    table = np.array(flat, np.float32).reshape(len(steps), longest, longest)
    made, step = np.arange(longest)[:, None], np.arange(1, longest + 1)
    return np.where((made < step) & (step <= np.array(steps)[:, None, None]), table, np.float32(N))


prices = st.floats(0, 2)


def best_of_both(table):
    """A merged pool that earns what the better of its two lists would."""
    steps = (~np.isnan(table[:, 0])).sum(1)
    return merged(steps, lambda t: np.maximum(table[:, :t, None, t - 1], table[:, None, :t, t - 1]))


@given(tables(), prices)
def test_budget_and_price_are_dual(table, price):
    for rewards in (replaced(table), best_of_both(table)):
        budgets = best_by_budget(rewards, rewards.longest)
        assert (np.diff(budgets, axis=1) >= 0).all()
        dual = (budgets - price * np.arange(budgets.shape[1])).max(axis=1)
        np.testing.assert_allclose(best_value(rewards, price).value, dual, atol=1e-12)


@given(tables())
def test_two_lists_of_which_the_better_counts_are_worth_no_less_than_one(table):
    one, two = replaced(table), best_of_both(table)
    assert (best_by_budget(two, 3) >= best_by_budget(one, 3)).all()


@given(tables())
def test_devices_do_not_depend_on_their_company(table):
    budgets = best_by_budget(replaced(table), 3)
    for d in range(len(table)):
        assert best_by_budget(replaced(table[d : d + 1]), 3)[0].tolist() == budgets[d].tolist()


def test_each_step_is_asked_for_once_and_in_order():
    called = []

    def at(t):
        called.append(t)
        return np.zeros((2, t, t), np.float32)

    best_by_budget(merged(np.array([4, 2]), at), 2)
    assert called == [1, 2, 3, 4]


def test_what_cannot_be_is_refused_with_its_place():
    rewards = replaced(THREE_STEPS)
    with pytest.raises(ConfigError, match="-1 requests"):
        best_by_budget(rewards, -1)
    with pytest.raises(ContractError, match=r"\(3, 3\)"):
        replaced(THREE_STEPS[0])
    with pytest.raises(ContractError, match="at least one step"):
        replaced(np.full((1, 2, 2), N, np.float32))
    hole = THREE_STEPS.copy()
    hole[0, 1, 2] = N
    with pytest.raises(ContractError, match=r"step 3.*\[0, 1, 0\]"):
        best_by_budget(replaced(hole), 1)
    with pytest.raises(ContractError, match=r"shape \(1, 1, 1\); expected \(1, 2, 2\)"):
        best_by_budget(Rewards(np.array([2]), lambda t: np.zeros((1, 1, 1), np.float32), True), 1)
