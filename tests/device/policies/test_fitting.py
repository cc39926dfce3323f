"""What policies with small networks share: descent by hand, and what it keeps."""

import numpy as np
import pytest

from device.policies.fitting import Plan, descend
from device.seeds import rng

START = {"w": np.zeros(1, np.float32)}


def climb(network, rows):
    """A loss with the gradient -1 everywhere, on which a step of Adam is as long as the rate."""
    return -network["w"].sum()


def reached(plan, *, loss=climb, judge=None):
    """w after passes of 3 batches."""
    return float(descend(START, loss, rows=3 * plan.batch, plan=plan, rng=rng(0, "w"), judge=judge)["w"][0])


def test_every_step_is_as_long_as_the_rate():
    assert reached(Plan(10, 4, 0.01)) == pytest.approx(30 * 0.01, rel=1e-5)


def test_a_falling_rate():
    # 3 steps at each of .01 * (1, .75, .5, .25).
    assert reached(Plan(4, 4, 0.01, falling=True)) == pytest.approx(3 * 0.025, rel=1e-5)


def test_decay_pulls_to_0_before_every_step():
    # 0 + .5; .5 * (1 - .5 * .4) + .5 = .9; .9 * .8 + .5 = 1.22.
    assert reached(Plan(1, 4, 0.5, decay=0.4)) == pytest.approx(1.22, rel=1e-5)


def test_the_judge_picks_the_pass():
    # .03 a pass: .12 lies nearest to .1, .18 to .19 and the last to 5.
    for goal, expected in ((0.11, 0.12), (0.19, 0.18), (5.0, 0.3)):
        found = reached(Plan(10, 4, 0.01), judge=lambda network, goal=goal: (network["w"] - goal).abs().sum())
        assert found == pytest.approx(expected, rel=1e-5)


def test_a_pass_sees_every_row_once_in_another_order():
    seen = []

    def note(network, rows):
        seen.append(rows)
        return network["w"].sum()

    descend(START, note, rows=10, plan=Plan(2, 4), rng=rng(0, "w"))
    assert [len(rows) for rows in seen] == [4, 4, 2, 4, 4, 2]
    first, second = np.concatenate(seen[:3]), np.concatenate(seen[3:])
    assert sorted(first) == sorted(second) == list(range(10))
    assert (first != second).any()


def test_what_was_given_stays_as_it_was():
    reached(Plan(1, 4))
    assert START["w"].tolist() == [0.0]
