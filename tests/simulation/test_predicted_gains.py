"""Predicted gains beside realised ones: deciles, means and intervals, by hand and on a replay."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from loop_parts import Dot, Drawn, random_timeline, timeline

from cloud.gateway import Service
from cloud.generator import Generated
from device.errors import ContractError
from device.fusion import Fusion
from device.messages import Codec
from device.policies.fitting import summed_gain
from device.policies.metacontroller import MetaController
from device.policy import Random
from device.scoring import ModelScorer
from device.seeds import rng
from device.setup import Setup
from simulation.choosing.experience import gather
from simulation.choosing.rehearsal import Rehearsal
from simulation.network import Ideal
from simulation.remembering import Remembering
from simulation.statistics import mean_interval
from simulation.sweep.predicted_gains import calibrated, clustered_interval, deciles

N = 60


@dataclass(frozen=True)
class Says:
    """Predicts by a rule: number of the device and step -> gain."""

    rule: object
    predicts_gain: int = 2

    def urgency(self, view, draws):
        return np.array([self.rule(d, s) for d, s in zip(view.device, view.step, strict=True)], np.float64)


@dataclass
class Fixed:
    """A list per number of items known, best first."""

    lists: list = field(default_factory=lambda: [[1, 3, 5], [9, 5, 7], [8, 5, 9], [2, 4, 6]])

    def generate(self, histories, k, *, rng):
        items = np.array(self.lists, np.int32)[(histories > 0).sum(1)]
        scores = np.tile(-np.arange(3, dtype=np.float32), (len(items), 1))
        return Generated(items, scores, np.ones(len(items)), None)


def rehearsal(lived, generator, pool, tiers=1):
    length = lived.histories.shape[1]
    service = Service(
        generator=generator,
        n_items=N,
        pool=pool,
        history=length,
        upload=length,
        codec=Codec(),
        gflops=1.0,
        seconds=0.0,
        carriers=[Ideal()] * tiers,
        tier=lived.tier,
        rows=[None] * tiers,
        cache_rows=0,
        seed=5,
    )
    return Rehearsal(lived, service, [0] * tiers, slots=pool)


def setup_of(policy, *, price=np.inf, fusion=0.5, tier=0):
    scorer = ModelScorer(Dot(N), Dot(N).init(rng(1, "w")))
    return Setup(scorer, policy, Fusion(fusion), price, seed=3, tier=tier)


def test_a_replay_by_hand():
    """One user takes 3, 9, 5 and never asks; in the cloud's order, of [1, 3, 5] there remain 1, 5 after the first."""
    lived = timeline([[3, 9, 5]], [[0] * 5])
    said = {1: 0.5, 2: 0.25, 3: 7.0}
    made = calibrated(rehearsal(lived, Fixed(), 3), [setup_of(Says(lambda device, step: said[step]), fusion=1.0)])
    # Step 1: kept misses 9 and shows 5 second; fresh shows 9 first of 9, 5, 7 and then 5 first: 1 + (1 - 1/log2 3).
    # Step 2: 5 is second of 1, 5 and second of 8, 5, 9: 0, which stands for two steps. After step 3 the log ends.
    second = 1 / np.log2(3)
    assert made["decile"].tolist() == [0, 1]
    assert made["steps"].tolist() == [1, 1]
    assert made["predicted"].tolist() == [0.25, 0.5]
    np.testing.assert_allclose(made["realised"], [0, 2 - second], rtol=1e-6)
    assert np.isnan(made["low"]).all()  # one user tells nothing about others
    assert np.isnan(made["high"]).all()
    assert {name: values.dtype for name, values in made.items()} == {
        "decile": np.int32,
        "steps": np.int64,
        **dict.fromkeys(["predicted", "realised", "low", "high"], np.float64),
    }


def test_deciles_by_hand():
    # 20 steps, two per decile, those of a decile by two users; the predictions are given in falling order.
    predicted = np.arange(20, 0, -1) / 10
    realised = np.where(np.arange(20) % 2, predicted + 0.1, predicted - 0.3)
    made = deciles(predicted, realised, np.arange(20) % 2)
    np.testing.assert_allclose(made["predicted"], 0.15 + 0.2 * np.arange(10))
    np.testing.assert_allclose(made["realised"], made["predicted"] - 0.1)
    assert made["decile"].tolist() == list(range(10))
    # Lowest: user 0 gains .2 - .3 = -.1, user 1 .1 + .1 = .2: mean .05, standard error .15, t of one degree 12.7062.
    np.testing.assert_allclose([made["low"][0], made["high"][0]], [0.05 - 1.905931, 0.05 + 1.905931], rtol=1e-5)


def test_deciles_differ_by_one_step_at_most():
    made = deciles(np.zeros(47), np.ones(47), np.arange(47))
    assert sorted(set(made["steps"].tolist())) == [4, 5]
    assert made["steps"].sum() == 47


@pytest.mark.parametrize("tiers", [1, 2])
@pytest.mark.parametrize("price", [np.inf, 0.1])
def test_who_predicts_perfectly_lies_on_the_diagonal(price, tiers):
    lived = random_timeline(30, 6, N, length=5, tier=np.arange(30) % tiers)
    replayed = rehearsal(lived, Remembering(Drawn(N)), 20, tiers)
    truth = {}  # what a request gains depends on the requests before it: it is looked up again until nothing changes
    for _ in range(8):
        oracle = Says(lambda device, step: truth.get((device, step), 0.0), 3)
        setups = [setup_of(oracle, price=price, tier=tier) for tier in range(tiers)]
        experience = gather(replayed, setups, 3)
        gain = summed_gain(experience, 3)
        pairs = [(d, s) for view in experience.views for d, s in zip(view.device, view.step, strict=True)]
        found = {pair: value for pair, value in zip(pairs, gain, strict=True) if np.isfinite(value)}
        if found == truth:
            break
        truth.update(found)
    made = calibrated(replayed, setups)
    assert made["steps"].sum() == 30 * 5
    np.testing.assert_allclose(made["predicted"], made["realised"])
    assert (np.diff(made["realised"]) >= 0).all()
    assert made["realised"][-1] > made["realised"][0] + 0.5
    assert (made["low"] <= made["realised"]).all()
    asked = replayed.run(setups)["asked"]
    assert asked.any() == (price == 0.1)


def test_one_value_per_user_has_the_usual_interval():
    values = np.random.default_rng(0).normal(size=40)
    ours, usual = clustered_interval(values, np.arange(40)[::-1] * 7), mean_interval(values)
    np.testing.assert_allclose([ours.mean, ours.low, ours.high, ours.n], [usual.mean, usual.low, usual.high, 40])


def test_a_user_who_says_the_same_ten_times_counts_once():
    values, users = np.random.default_rng(0).normal(size=40), np.arange(40)
    ours, once = clustered_interval(np.repeat(values, 10), np.repeat(users, 10)), clustered_interval(values, users)
    np.testing.assert_allclose([ours.low, ours.high, ours.n], [once.low, once.high, once.n])


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Users with effects of their own and 1 to 9 steps each."""
    random, held = np.random.default_rng(1), 0
    for _ in range(400):
        users = np.repeat(np.arange(60), random.integers(1, 10, 60))
        found = clustered_interval(random.normal(size=60)[users] + random.normal(size=len(users)), users)
        held += found.low <= 0 <= found.high
    assert 0.91 <= held / 400 <= 0.98


@pytest.mark.parametrize("policy", [Random(0.5), MetaController()])
def test_an_urgency_that_is_no_gain_is_refused(policy):
    lived = random_timeline(3, 3, N)
    with pytest.raises(ContractError, match=f"urgency of {type(policy).__name__} is not said to be a gain in NDCG@10"):
        calibrated(rehearsal(lived, Drawn(N), 5), [setup_of(policy)])


def test_horizons_must_agree_and_something_must_follow():
    two = [setup_of(Says(lambda device, step: 0.0, horizon), tier=t) for t, horizon in enumerate((2, 3))]
    lived = random_timeline(4, 3, N, tier=[0, 1, 0, 1])
    with pytest.raises(ContractError, match=r"horizons \[2, 3\]; give setups whose policies look equally far"):
        calibrated(rehearsal(lived, Drawn(N), 5, 2), two)
    last = random_timeline(4, 1, N)
    with pytest.raises(ContractError, match="calibrated: no step of this replay has a next one"):
        calibrated(rehearsal(last, Drawn(N), 5), [two[0]])
