"""A whole loop under overload and under budgets; where prices start; what a summary says of spending and fairness."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from loop_parts import World, random_timeline, timeline
from timed_parts import Steady, Timed

from cloud.coordinator import Budget, Curve, Tariff
from cloud.service import Line
from device.errors import ConfigError, ContractError
from device.fusion import Fusion
from device.lease import Lease
from device.policy import Always, Random
from device.seeds import rng
from simulation.choosing.pricing import Pricing, around, budget_of, curve_of, expected_ratios, pricing
from simulation.config.read import check
from simulation.config.tables import ExperimentConfig
from simulation.fairness import Allowance, activity, by_group, spending
from simulation.in_time import check as check_wave
from simulation.in_time import live
from simulation.replay import Wave
from simulation.traces import TraceLink

N = 50
CLOUD_ONLY = Fusion(alpha=1.0)
TRACES = {
    "slow": "t_s,downlink_mbps\n0,0.8\n5,0.1\n9,2.0\n14,0.4\n",
    "fast": "t_s,downlink_mbps\n0,30\n3,8\n6,60\n",
}


def fleet(devices, steps, *, gap=10.0, seed=0):
    """Steps at random times, a new one of each device every `gap` seconds on average."""
    numbers = rng(seed, "items")
    lived = timeline(numbers.integers(1, N, (devices, steps)), numbers.integers(1, N, (devices, 4)))
    at = np.cumsum(rng(seed, "gaps").exponential(gap, lived.at.shape), axis=1)
    return replace(lived, at=at)


def test_under_an_offered_load_of_one_and_a_half_everybody_is_shown_a_list_at_every_step():
    """40 devices that would ask every 10 s, 0.75 s of work each on 2 servers: 40 / 10 * 0.75 / 2 = 1.5."""
    lived = fleet(40, 16)
    world = World(lived, N, policy=Always(), fusion=CLOUD_ONLY, link=Steady(0.1, 0.1), seconds=0.75)
    steps, book = Timed(world, Line(2, max_wait_s=2.0), window_s=0.9).run()
    assert len(steps["step"]) == 40 * 16
    assert (steps["shown"][:, 0] > 0).all()
    kinds = {kind: int((book["kind"] == kind).sum()) for kind in ("request", "candidates", "denial")}
    assert kinds["request"] == kinds["candidates"] + kinds["denial"] == steps["asked"].sum()
    assert kinds["denial"] > 0.1 * kinds["request"]
    # Who is denied waits before it asks again, so that what is offered falls; the servers are still busy nearly always.
    begin, end = lived.at[:, 0].max(), lived.at[:, -1].min()  # while all devices are there
    there = (book["at"] >= begin) & (book["at"] < end)
    assert book["cloud_s"][there].sum() / (2 * (end - begin)) > 0.85
    waits = steps["latency_s"][np.isfinite(steps["latency_s"])]
    assert waits.max() <= 0.1 + 2.0 + 0.75 + 0.1 + 1e-3  # nobody stands in the line for longer than allowed
    assert np.isfinite(steps["latency_s"]).sum() == kinds["candidates"]


@pytest.mark.parametrize(("trace", "ratio"), [("slow", 0.2), ("fast", 0.4)])
def test_a_byte_budget_is_met_within_two_percent(tmp_path, trace, ratio):
    """80 devices with a step every 10 s; at 20 % it is 50 s from request to request, the horizon four times that."""
    (tmp_path / "trace.csv").write_text(TRACES[trace])
    link = TraceLink(str(tmp_path / "trace.csv"), rtt_ms=80.0, jitter_ms=5.0, loss=0.02, up_mbps=1.0)
    lived, horizon = fleet(80, 260), 200.0
    world = World(lived, N, policy=Random(), fusion=CLOUD_ONLY, link=link, seconds=0.01, pool=16, shown=1)
    rate = ratio * 80 / 10 * 3600 * 75  # about 75 bytes a request
    curve = Curve.of(rng(1, "validation").random(2000))
    tariff = Tariff(Budget(bytes_per_hour=rate), (curve,), (ratio,), horizon / 3600)
    steps, book = Timed(world, tariff=tariff, lease=Lease.of(curve, ratio), window_s=10.0).run()
    start, end = 3 * horizon, lived.at[:, -1].min()
    running = ~np.isin(book["kind"], ["install", "first_list"]) & (book["at"] >= start) & (book["at"] < end)
    assert book["nbytes"][running].sum() == pytest.approx(rate * (end - start) / 3600, rel=0.02)
    assert (steps["shown"][:, 0] > 0).all()


def test_the_price_stays_within_the_budget_of_each_tier():
    """Two tiers of 50 with the same urgencies; the second may ask four times as often."""
    lived = fleet(100, 120)
    lived = replace(lived, tier=np.arange(100) % 2)
    curve = Curve.of(rng(1, "validation").random(2000))
    tariff = Tariff(Budget(requests_per_step=[0.1, 0.4]), (curve, curve), (0.2, 0.2), 1000.0)
    world = World(lived, N, policy=Random(), fusion=CLOUD_ONLY, link=Steady(0.1, 0.1), seconds=0.01, pool=6)
    timed = Timed(world, tariff=tariff, lease=Lease.of(curve, 0.2), window_s=10.0, tiers=2)
    steps, _ = timed.run()
    late = steps["step"] > 60
    tier = lived.tier[steps["device"]]
    for number, wanted in enumerate((0.1, 0.4)):
        assert steps["asked"][late & (tier == number)].mean() == pytest.approx(wanted, rel=0.1)


def test_what_a_budget_is_expected_to_pay_for():
    """Between the quartiles, 1000 s and 3000 s, are 4 of 8 steps: 7.2 an hour. 360 bytes pay for 3.6 of them at 100."""
    at = np.full((2, 5), np.inf)
    at[0], at[1, :3] = np.linspace(0, 4000, 5), [1000, 2000, 3000]
    lived = replace(random_timeline(2, 5, N), at=at)
    ledger = {
        "device": np.array([0, 0, 0, 1, 1, 1]),
        "kind": np.array(["first_list", "request", "candidates", "candidates", "candidates", "candidates"], object),
        "attempt": np.array([1, 1, 1, 1, 1, 2]),
        "nbytes": np.array([999, 20, 80, 100, 50, 50]),
        "cloud_s": np.array([0, 0, 2.0, 2.0, 2.0, 0]),
    }
    assert expected_ratios(
        Budget(bytes_per_hour=360.0), lived, ledger, devices=len(lived.devices)
    ).tolist() == pytest.approx([0.5])
    # 2 s each: 1.44 s an hour pay for 0.72 requests of 7.2.
    assert expected_ratios(
        Budget(cloud_seconds_per_hour=1.44), lived, ledger, devices=len(lived.devices)
    ).tolist() == pytest.approx([0.1])
    assert expected_ratios(Budget(requests_per_step=0.3), lived, ledger, devices=len(lived.devices)).tolist() == [0.3]
    assert expected_ratios(Budget(bytes_per_hour=1e9), lived, ledger, devices=len(lived.devices)).tolist() == [0.9]


def test_a_policy_that_prices_do_not_move_keeps_its_own():
    assert curve_of(np.array([0.3]), np.array([0.5]), 0.3).price(np.array([-5.0, 5.0])).tolist() == [0.3, 0.3]
    assert curve_of(np.array([2.0, 1.0]), np.array([0.5, 0.5]), 0.3).price(np.array([0.0])).tolist() == [0.3]


def test_curves_are_the_responses_to_prices():
    """Of 9 steps of a tier 2 or 7 are asked: (2.5 / 10, 7.5 / 10) are odds of 1 to 3 and 3 to 1."""
    device = np.repeat([0, 1], 9)
    few, many = np.arange(18) % 9 < 2, np.arange(18) % 9 < 7
    lived = {
        1.0: {"device": device, "asked": np.where(device == 0, many, few)},
        3.0: {"device": device, "asked": np.where(device == 0, few, few)},
    }
    made = pricing(Budget(bytes_per_hour=[1.0, 2.0]), lived, np.array([0, 1]), price=2.5, ratios=np.array([0.25, 0.5]))
    asked, still = made.curves
    assert asked.price(np.log([1 / 3, 1, 3])).tolist() == pytest.approx([3.0, 2.0, 1.0])
    assert still.price(np.zeros(1)).tolist() == [2.5]
    assert around(0.5) == pytest.approx([0.18243, 0.81757], abs=1e-5)  # 1 / (1 + exp(1.5)), 1 / (1 + exp(-1.5))
    assert made.lease(0).steps == 4
    assert made.lease(1).steps == 2
    again = Pricing.from_json(made.to_json())
    assert again.ratios == made.ratios
    for one, two in zip(again.curves, made.curves, strict=True):
        np.testing.assert_array_equal(one.value, two.value)


def tables(**cloud):
    return {
        "name": "x",
        "cloud": {"generator": {"class": "cloud.generators.floors:Markov"}} | cloud,
        "device": {
            "model": {"class": "device.models.sasrec:SASRec"},
            "tiers": [{"name": "new", "share": 0.5}, {"name": "old", "share": 0.5}],
        },
        "policies": [{"class": "device.policy:Random"}],
    }


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"horizon": 1.0}, "exactly one of"),
        ({"horizon": 1.0, "bytes_per_hour": 1.0, "requests_per_step": 0.1}, "exactly one of"),
        ({"horizon": 1.0, "bytes_per_hour": {"new": 1.0}}, "names tiers new; give each of new, old"),
        ({"horizon": 1.0, "bytes_per_hour": -1.0}, "above 0"),
        ({"bytes_per_hour": 1.0}, "horizon"),
    ],
)
def test_budgets_that_cannot_be(budget, words):
    with pytest.raises(ConfigError, match=words):
        check(tables(budget=budget), ExperimentConfig, "x")


def test_keys_without_effect_are_refused():
    with pytest.raises(ConfigError, match="window_s has an effect"):
        check(tables() | {"simulation": {"window_s": 1.0}}, ExperimentConfig, "x")
    priced = [{"class": "device.policy:Random", "request_ratio": 0.1}]
    with pytest.raises(ConfigError, match="no effect under"):
        check(tables(budget={"horizon": 1.0, "bytes_per_hour": 1.0}) | {"policies": priced}, ExperimentConfig, "x")
    good = check(tables(budget={"horizon": 1, "bytes_per_hour": {"old": 1, "new": 2.5}}), ExperimentConfig, "x")
    assert budget_of(good.cloud.budget, ["new", "old"]).rate.tolist() == [2.5, 1.0]


def test_clients_that_read_another_clock_are_found_out():
    wave = Wave([], np.zeros(0), {"device": np.array([0, 2])})
    with pytest.raises(ContractError, match="another timeline"):
        check_wave(wave, np.array([0, 1, 2]))
    check_wave(wave, np.array([0, 2]))


def test_how_far_the_loop_is_told():
    lived, told = fleet(4, 5), []
    for servers in (None, Line(1)):
        timed = Timed(World(lived, N, fusion=CLOUD_ONLY, seconds=0.1), servers)
        shard = timed.shard(np.arange(4))
        first = timed.gateway.install([1000], lived.at[:, 0])
        live(lambda n, d, s=shard: iter([s.wave(n, d)]), timed.gateway, first, lived, lambda *x: told.append(x))
    assert told[:5] == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    assert told[5] == (0, 5)
    assert told[-1] == (5, 5)


def frames():
    """Two devices with two steps each, an hour in all; device 1 sends more."""
    steps = pd.DataFrame(
        {
            "device": [0, 0, 1, 1], "at": [0.0, 3600.0, 0.0, 3600.0], "rank": [1, 0, 1, 1], "ties": [1, 1, 1, 1],
            "asked": [True, False, True, True],
        }
    )  # fmt: skip
    ledger = pd.DataFrame(
        {
            "device": [0, 0, 1, 1], "kind": ["install", "request", "candidates", "denial"], "at": [0.0, 1.0, 2.0, 3.0],
            "nbytes": [1000, 10, 50, 20], "attempt": [1, 1, 1, 1], "cloud_s": [0.0, 0.0, 3.0, 0.0],
        }
    )  # fmt: skip
    return steps, ledger


def test_fairness_by_hand():
    table = by_group(*frames(), np.array(["a", "b"], object))
    assert table["a"] == {"users": 1, "steps": 2, "request_ratio": 0.5, "ndcg@10": 0.5, "bytes_per_step": 5.0}
    assert table["b"] == {"users": 1, "steps": 2, "request_ratio": 1.0, "ndcg@10": 1.0, "bytes_per_step": 35.0}
    assert activity(np.array([9, 1, 5, 2, 7, 3])).tolist() == ["high", "low", "middle", "low", "high", "middle"]


def test_spending_by_hand():
    def told(budget, group=(0, 0), names=("all",)):
        return spending(*frames(), Allowance(budget, 24.0, names, np.array(group)))

    assert told(Budget(bytes_per_hour=100.0))["all"] == {"budget": 100.0, "realised": 0.8, "after_warm_up": None}
    assert told(Budget(cloud_seconds_per_hour=2.0))["all"]["realised"] == 1.5
    assert told(Budget(requests_per_step=0.5))["all"]["realised"] == 0.5  # one answered in four steps
    each = told(Budget(bytes_per_hour=[100.0, 100.0]), (0, 1), ("new", "old"))
    assert [each[name]["realised"] for name in ("new", "old")] == pytest.approx([0.1, 0.7])


def test_spending_after_the_warm_up():
    """A horizon of 1 h: from 3 h on, until a tenth of the 21 steps (every half an hour) is left, that is up to 9 h."""
    at = np.arange(21) * 1800.0
    steps = pd.DataFrame({"device": 0, "at": at, "rank": 1, "ties": 1, "asked": True})
    ledger = pd.DataFrame(
        {
            "device": 0,
            "kind": "request",
            "at": at,
            "nbytes": np.where(at < 10800, 900, 50),
            "attempt": 1,
            "cloud_s": 0.0,
        }
    )
    made = spending(steps, ledger, Allowance(Budget(bytes_per_hour=100.0), 1.0, ("all",), np.zeros(1, np.int64)))
    # 6 ... 17 are the half hours from 3 h to 8.5 h: 12 * 50 bytes in 5.5 h.
    assert made["all"]["after_warm_up"] == pytest.approx(12 * 50 / 550)
