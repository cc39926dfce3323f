"""Prices that give a wanted share of steps with a request."""

import numpy as np
import pytest
from loop_parts import Dot, Drawn, Scripted, random_timeline, service

from device.fusion import Fusion
from device.policy import Always, Consistency, Every, Never, Random
from device.scoring import ModelScorer
from device.seeds import rng
from device.setup import Setup
from simulation.choosing import price_search
from simulation.choosing.price_search import adjusted_price, find_prices, search
from simulation.choosing.rehearsal import Rehearsal

N = 80


def validation(devices=50, steps=8, link=None, seconds=None, seed=0):
    lived = random_timeline(devices, steps, N, seed=seed)
    made = service(lived, Drawn(N), N, pool=30, link=link, seconds=seconds)
    return Rehearsal(lived, made, [1000], slots=30)


def setups(policy, price=0.0, fusion=None):
    model = Dot(N)
    return [Setup(ModelScorer(model, model.init(rng(1, "w"))), policy, fusion or Fusion(), price, seed=3)]


def ratio_at(replayed, policy, price):
    return replayed.run(setups(policy, price))["asked"].mean()


@pytest.mark.parametrize("wanted", [0.1, 0.5])
@pytest.mark.parametrize("policy", [Random(), Every(), Consistency("footrule"), Consistency("rbo")])
def test_the_price_gives_the_wanted_ratio(policy, wanted):
    replayed = validation()
    price = find_prices(replayed, setups(policy), [wanted])[0]
    assert abs(ratio_at(replayed, policy, price) - wanted) < 0.02  # of 400 steps


@pytest.mark.parametrize("policy", [Random(), Every(), Consistency()])
def test_the_price_allows_for_waiting(policy):
    # A reply takes 12 s of steps of 10 s: after a request one step passes in waiting, so at most half can be asked.
    replayed = validation(link=Scripted([(False, 6.0)]), seconds=0.0)
    price = find_prices(replayed, setups(policy), [0.3])[0]
    assert abs(ratio_at(replayed, policy, price) - 0.3) < 0.02
    out_of_reach = find_prices(replayed, setups(policy), [0.9])[0]
    assert ratio_at(replayed, policy, out_of_reach) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("policy", [Random(), Every(), Consistency("rbo")])
def test_several_ratios_share_their_replays(policy, monkeypatch):
    ratios = [0.5, 0.1, 0.3, 0.1, 0.05]
    replayed, seen, real = validation(), [], Rehearsal.run

    def spy(self, setups, *arguments, **named):
        seen.append(setups[0].price)
        return real(self, setups, *arguments, **named)

    monkeypatch.setattr(Rehearsal, "run", spy)
    prices = find_prices(replayed, setups(policy), ratios)
    assert len(seen) == len(set(seen))  # no price is tried twice
    together = len(seen)
    alone = []
    for ratio in ratios:
        seen.clear()
        find_prices(replayed, setups(policy), [ratio])[0]
        alone.append(len(seen))
    assert together < sum(alone)
    assert prices[1] == prices[3]
    order = np.argsort(ratios)
    assert (np.diff(np.array(prices)[order]) <= 0).all()  # more requests at a lower price
    for price, ratio in zip(prices, ratios, strict=True):
        assert abs(ratio_at(replayed, policy, price) - ratio) < 0.02


def test_no_ratio_needs_no_price():
    assert find_prices(validation(5, 3), setups(Random()), []) == []


@pytest.mark.parametrize("policy", [Never(), Always()])
def test_a_policy_without_a_scale_has_no_price(policy):
    assert find_prices(validation(5, 3), setups(policy), [0.3])[0] == 0.0


@pytest.mark.parametrize("ratio", [0.05, 0.3])
@pytest.mark.parametrize("other", [Fusion(0.0), Fusion(1.0, "rank")])
def test_a_price_is_adjusted_after_a_small_change(ratio, other):
    replayed = validation()
    [before] = find_prices(replayed, setups(Consistency("rbo")), [ratio])
    price = adjusted_price(replayed, setups(Consistency("rbo"), fusion=other), ratio, before)
    assert abs(replayed.run(setups(Consistency("rbo"), price, other))["asked"].mean() - ratio) < 0.02


@pytest.mark.parametrize("wrong", [0.9, 0.999, 2.0, -1.0])
def test_a_price_that_is_far_off_is_found_anew(wrong):
    replayed = validation()
    price = adjusted_price(replayed, setups(Random()), 0.3, wrong)
    assert abs(ratio_at(replayed, Random(), price) - 0.3) < 0.02


def test_a_price_that_is_still_right_costs_one_replay(monkeypatch):
    replayed, seen, real = validation(), [], Rehearsal.run
    [price] = find_prices(replayed, setups(Random()), [0.3])
    monkeypatch.setattr(Rehearsal, "run", lambda self, made: seen.append(made[0].price) or real(self, made))
    assert adjusted_price(replayed, setups(Random()), 0.3, price) == price
    assert seen == [price]


def test_a_wider_tolerance_needs_fewer_replays(monkeypatch):
    replayed, seen, real = validation(), [], Rehearsal.run
    monkeypatch.setattr(Rehearsal, "run", lambda self, made: seen.append(made[0].price) or real(self, made))
    counts = []
    for tolerance in (price_search.TOLERANCE, 0.5):
        seen.clear()
        find_prices(replayed, setups(Consistency("rbo")), [0.05, 0.2], tolerance)
        counts.append(len(seen))
    assert counts[1] < counts[0]


@pytest.mark.parametrize("shape", [1.0, 0.3, 3.0])
@pytest.mark.parametrize("ratio", [0.02, 0.1, 0.5, 0.8])
def test_a_price_is_found_in_few_replays(shape: float, ratio: float) -> None:
    """Urgencies u ** shape are seen; what is asked falls off otherwise: (1 - u) ** 1.5 for the price's quantile u."""
    urgencies = np.linspace(0, 1, 2001) ** shape
    tried = {-1.0: 1.0, 2.0: 0.0}

    def asked(price: float) -> float:
        if price not in tried:
            tried[price] = float((1 - np.clip(price, 0, 1) ** (1 / shape)) ** 1.5)
        return tried[price]

    price = search(asked, tried, ratio, urgencies)
    assert asked(price) == pytest.approx(ratio, rel=0.02)
    assert len(tried) <= 2 + 4


def test_a_ratio_beyond_reach_takes_the_lowest_price() -> None:
    tried = {0.0: 0.5, 1.0: 0.0}
    assert search(lambda price: tried[price], tried, 0.7, np.linspace(0, 1, 11)) == 0.0
