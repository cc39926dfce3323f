from dataclasses import dataclass, field

import numpy as np
import pytest
from loop_parts import Dot

from device.consistency import measure
from device.errors import ConfigError, ContractError
from device.fleet import Fleet
from device.fusion import Fusion
from device.messages import Replies
from device.policy import Always, Consistency, Every, Never, Random, RequestPolicy, View
from device.scoring import ModelScorer
from device.seeds import draws, rng
from device.setup import Setup

NOW = np.zeros(1)


@dataclass
class Counted:
    """What a view computes on demand; counts how often it is asked for."""

    values: np.ndarray
    calls: int = 0

    def scores(self):
        self.calls += 1
        return self.values

    def own(self):
        self.calls += 1
        return np.array([[4, 6]], np.int32)

    def state(self, history, step):
        self.calls += 1
        return np.stack([history[:, -1], step], axis=1).astype(np.float32)


def view(cloud=((3, 2, 1),), device=((3, 2, 1),), candidates=((7, 8, 9),), since=(1,), look=None):
    cloud, device = np.array(cloud, np.float32), np.array(device, np.float32)
    size = len(cloud)
    return View(
        device=np.arange(size),
        step=np.full(size, 4),
        at=np.zeros(size),
        pool_age=np.full(size, 2),
        since_request=np.array(since),
        history=np.full((size, 5), 6, np.int32),
        asked_history=np.full((size, 5), 3, np.int32),
        candidates=np.array(candidates, np.int32),
        cloud_scores=cloud,
        age=np.full(np.shape(candidates), 2),
        empty=np.zeros(size, np.int64),
        taken=np.zeros(size, np.int64),
        misses=np.zeros(size, np.int64),
        hit_rate=np.zeros(size),
        idle_s=np.zeros(size),
        reply_age_s=np.zeros(size),
        tier=np.zeros(size, np.int64),
        look=look or Counted(device),
    )


def rows(count, step=4):
    return draws(3, "policy", np.arange(count), np.full(count, step))


@pytest.mark.parametrize("policy", [Never(), Always(), Every(), Every(3), Random(), Random(0.5), Consistency()])
def test_the_built_in_policies_fit_the_contract(policy):
    assert isinstance(policy, RequestPolicy)
    urgency = policy.urgency(view(), rows(1))
    assert urgency.shape == (1,)
    assert urgency.dtype == np.float64


def test_device_scores_are_computed_when_looked_at_and_once():
    look = Counted(np.array([[1, 2, 3]], np.float32))
    seen = view(look=look)
    for policy in (Never(), Always(), Every(), Random()):
        policy.urgency(seen, rows(1))
    assert look.calls == 0
    assert Consistency().urgency(seen, rows(1)) == [1.0]  # 3 2 1 against 1 2 3: as far apart as can be
    assert look.calls == 1
    np.testing.assert_array_equal(seen.device_scores, look.values)
    assert look.calls == 1


def test_own_candidates_and_states_are_computed_when_looked_at_and_once():
    look = Counted(np.zeros((1, 3), np.float32))
    seen = view(since=(3,), look=look)
    for _ in range(2):
        assert seen.own.tolist() == [[4, 6]]
        assert seen.state.tolist() == [[6, 4]]  # after the history of step 4
        assert seen.asked_state.tolist() == [[3, 1]]  # 3 interactions before, as it was uploaded then
    assert look.calls == 3


def test_valid_is_where_a_slot_is_filled():
    np.testing.assert_array_equal(view(candidates=((7, 0, 9),)).valid, [[True, False, True]])


def test_never_and_always_whatever_the_price():
    many = view(*[((3, 2, 1),) * 4] * 2, candidates=((7, 8, 9),) * 4, since=(1, 2, 3, 4))
    for price in (-1e300, 0.0, 1e300):
        assert not (Never().urgency(many, rows(4)) > price).any()
        assert (Always().urgency(many, rows(4)) > price).all()


def test_every_third():
    several = view(*[((3, 2, 1),) * 4] * 2, candidates=((7, 8, 9),) * 4, since=(1, 2, 3, 4))
    assert (Every(3).urgency(several, rows(4)) > 0).tolist() == [False, False, True, True]
    assert (Every(1).urgency(several, rows(4)) > 0).all()


def test_every_with_a_price_between_whole_numbers():
    # Price 2.5: after 2 interactions those ask whose draw is above 0.5; after 3 all do, after 1 nobody.
    size = 2000
    for since, expected in ((1, 0.0), (2, 0.5), (3, 1.0)):
        one = view(*[((3, 2, 1),) * size] * 2, candidates=((7, 8, 9),) * size, since=(since,) * size)
        share = (Every().urgency(one, rows(size)) > 2.5).mean()
        assert abs(share - expected) < (5 * 0.5 / np.sqrt(size) if expected == 0.5 else 1e-12)


@pytest.mark.parametrize("p", [0.0, 0.2, 1.0])
def test_random_asks_with_its_probability(p):
    size = 4000
    many = view(*[((3, 2, 1),) * size] * 2, candidates=((7, 8, 9),) * size, since=(1,) * size)
    fixed = Random(p).urgency(many, rows(size)) > 0
    assert abs(fixed.mean() - p) <= 5 * np.sqrt(p * (1 - p) / size)
    priced = Random().urgency(many, rows(size)) > 1 - p
    np.testing.assert_array_equal(fixed, priced)  # a price of 1 - p is a probability of p


def test_random_differs_by_device_and_step():
    many = view(*[((3, 2, 1),) * 5] * 2, candidates=((7, 8, 9),) * 5, since=(1,) * 5)
    numbers = np.concatenate([Random().urgency(many, rows(5, step)) for step in (1, 2)])
    assert len(np.unique(numbers)) == 10


def test_consistency_is_the_measure_of_the_two_orders():
    two = view(
        cloud=((3, 2, 1), (3, 2, 1)),
        device=((2, 3, 1), (9, 5, 0)),
        candidates=((7, 8, 9), (7, 8, 0)),
        since=(1, 1),
    )
    # Row 0: two neighbours swapped, |0-1| + |1-0| = 2 of at most floor(9 / 2) = 4. Row 1: the same order.
    assert Consistency("footrule").urgency(two, rows(2)).tolist() == [0.5, 0.0]
    # Kendall: 1 of 3 pairs.
    np.testing.assert_allclose(Consistency("kendall").urgency(two, rows(2)), [1 / 3, 0])
    overlap = Consistency("overlap", {"k": 1}).urgency(two, rows(2))
    assert np.floor(overlap).tolist() == [1, 0]  # another first item, the same; and a draw below one step of 1
    for name in ("rbo", "js", "entropy"):
        expected = measure(name)(two.cloud_scores, two.device_scores, two.valid)
        np.testing.assert_array_equal(Consistency(name).urgency(two, rows(2)), expected)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Every(0), r"steps = 0; expected 1 or more"),
        (lambda: Random(1.2), r"p = 1.2; expected a probability"),
        (lambda: Random(float("nan")), r"p = nan"),
        (lambda: Consistency("rob"), r"found 'rob'; did you mean 'rbo'"),
        (lambda: Consistency("rbo", {"q": 0.5}), r"found 'q'"),
        (lambda: Consistency("rbo", {"p": 1.5}), r"rbo.p: expected a number between 0 and 1"),
    ],
)
def test_wrong_options_are_errors_at_once(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


@dataclass
class Says:
    """A policy that answers what it is given, and keeps the views."""

    answer: object
    views: list = field(default_factory=list)

    def urgency(self, view, draws):
        self.views.append(view)
        return self.answer


def fleet(policy, price=0.0, size=2, model=None, alpha=1.0):
    model = model or Dot(30)
    setup = Setup(ModelScorer(model, model.init(rng(0, "m"))), policy, Fusion(alpha), price, seed=1, listed=5, tier=2)
    made = Fleet(setup, np.arange(size), np.ones((size, 4), np.int32), slots=3)
    everyone = np.arange(size)
    items = np.tile(np.array([11, 12, 13], np.int32), (size, 1))
    scores = np.tile(np.array([3, 2, 1], np.float32), (size, 1))
    none = np.zeros((size, 0), np.int32)
    made.receive(
        everyone,
        Replies(
            everyone, np.zeros(size, np.int64), items, scores, none, none[..., None], none, none.any(1), none.sum(1)
        ),
        np.zeros(size),
    )
    made.rank(everyone, np.zeros(size))
    return made


def step(made, taken=(21, 12), rank=(0, 2), at=1.0):
    size = len(made)
    return made.observe(np.arange(size), np.array(taken, np.int32), np.array(rank, np.int32), np.full(size, at))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (np.zeros(3), r"Says.urgency returned shape \(3,\)"),
        (np.zeros((2, 1)), r"shape \(2, 1\)"),
        (0.5, r"shape \(\)"),
        (np.array([0.5, np.nan]), "with NaN"),
    ],
)
def test_a_policy_that_breaks_the_contract_is_named(answer, words):
    with pytest.raises(ContractError, match=words):
        step(fleet(Says(answer)))


def test_the_device_asks_where_urgency_exceeds_the_price():
    asked, urgency = step(fleet(Says(np.array([0.4, 0.6])), price=0.4))
    assert asked.tolist() == [False, True]  # equal to the price is not above it
    assert urgency.tolist() == [0.4, 0.6]


def test_what_a_policy_sees_after_an_interaction():
    policy = Says(np.array([-1.0, -1.0]))
    made = fleet(policy)
    step(made)
    (seen,) = policy.views
    assert seen.device.tolist() == [0, 1]
    assert seen.step.tolist() == seen.pool_age.tolist() == seen.since_request.tolist() == [1, 1]
    assert seen.history.tolist() == [[1, 1, 1, 21], [1, 1, 1, 12]]
    assert seen.candidates.tolist() == [[11, 12, 13], [11, 0, 13]]  # what was taken is out of the pool
    # 3, 2, 1 standardised: mean 2, variance 2/3
    np.testing.assert_allclose(seen.cloud_scores[:, [0, 2]], [[1.5**0.5, -(1.5**0.5)]] * 2, rtol=1e-6)
    assert seen.taken.tolist() == [0, 2]
    assert seen.at.tolist() == [1.0, 1.0]
    assert seen.asked_history.tolist() == [[1, 1, 1, 1]] * 2  # nothing was asked for since the start
    assert seen.age[:, [0, 2]].tolist() == [[1, 1]] * 2
    assert seen.empty.tolist() == [2, 2]  # 3 candidates where 5 are listed
    assert seen.misses.tolist() == [1, 0]
    assert seen.hit_rate.tolist() == [0.0, pytest.approx(0.2)]
    assert seen.idle_s.tolist() == [0.0, 0.0]
    assert seen.reply_age_s.tolist() == [1.0, 1.0]
    assert seen.tier.tolist() == [2, 2]
    assert seen.own.shape == (2, 0)
    np.testing.assert_array_equal(seen.device_scores, made.scores(np.arange(2)))


def test_what_a_policy_sees_after_several_interactions():
    policy = Says(np.array([1.0, -1.0]))
    made = fleet(policy)
    step(made)  # device 0 asks with 21 as its newest item
    made.rank(np.arange(2), np.full(2, 4.0))
    step(made, taken=(22, 23), rank=(1, 0), at=4.0)
    seen = policy.views[-1]
    assert seen.asked_history.tolist() == [[1, 1, 1, 21], [1, 1, 1, 1]]
    assert seen.since_request.tolist() == [1, 2]
    assert seen.misses.tolist() == [1, 1]
    # hits 0 then 1: 0.8 * 0 + 0.2; hits 1 then 0: 0.8 * 0.2
    np.testing.assert_allclose(seen.hit_rate, [0.2, 0.16])
    assert seen.idle_s.tolist() == [3.0, 3.0]
    assert seen.reply_age_s.tolist() == [4.0, 4.0]
    assert seen.age.tolist() == [[2, 2, 2]] * 2


def test_since_request_starts_again_at_a_request_and_waiting_devices_are_not_asked():
    policy = Says(np.array([1.0, -1.0]))
    made = fleet(policy)
    asked, _ = step(made)
    assert asked.tolist() == [True, False]
    made.wait(np.array([0]), np.array([5.0]))
    policy.answer = np.array([-1.0])
    asked, urgency = step(made, at=2.0)
    assert policy.views[-1].device.tolist() == [1]
    assert np.isnan(urgency).tolist() == [True, False]
    assert not asked.any()
    policy.answer = np.array([-1.0, -1.0])
    step(made, at=5.0)  # free again at exactly this time
    assert policy.views[-1].since_request.tolist() == [2, 3]
    assert policy.views[-1].step.tolist() == [3, 3]


@dataclass
class CountingModel:
    """Dot that counts the rows it really scored for somebody: calls of 64 rows each."""

    inner: Dot
    calls: int = 0

    def init(self, rng):
        return self.inner.init(rng)

    def score(self, params, history, candidates):
        self.calls += 1
        return self.inner.score(params, history, candidates)


def test_the_reranker_runs_only_for_those_who_look():
    model = CountingModel(Dot(30))
    step(fleet(Every(3), model=model))
    assert model.calls == 0  # alpha = 1 needs no device scores, nor does this policy
    step(fleet(Consistency(), model=model))
    assert model.calls == 1
    made = fleet(Consistency(), model=model, alpha=0.5)
    step(made)
    assert model.calls == 3  # for the slate, and after the interaction
    made.rank(np.arange(2), np.full(2, 1.5))
    assert model.calls == 3  # nothing has changed since the policy looked
