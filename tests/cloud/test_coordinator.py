"""Budgets held in a simulated fleet whose devices learn prices from replies only, and what a price may never do."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from cloud.coordinator import ODDS_CAP, Budget, Coordinator, Curve, Lease, Spending
from device.errors import ConfigError, ContractError
from device.seeds import rng

HOURS = 0.1  # of one wave
DEVICES, ACTIVE, DELAY = 200, 0.5, 2
MEAN_BYTES = 199.5  # of integers(100, 300)


def spending(answered=0.0, denied=0.0, nbytes=0.0, seconds=0.0, steps=0.0, hours=0.0):
    each = np.broadcast_arrays(*map(np.atleast_1d, (answered, denied, nbytes, seconds, steps)))
    return Spending(*(np.array(a, np.float64) for a in each), hours)


def validation(scale=0.01, n=5_000):
    return rng(1, "validation").gamma(2, scale, n)


@dataclass
class World:
    """How urgent devices become (a factor) at wave w."""

    kind: str

    def factor(self, w):
        if self.kind == "drifting":  # twice as urgent within a run, and up and down on the way
            return 2 ** (w / 4000) * 1.3 ** np.sin(2 * np.pi * w / 1000)
        return 1.5 if self.kind == "bursty" and w % 490 < 70 else 1.0


def live(coordinator, world, *, waves, lease, scale=0.01, seed=0, measure="nbytes"):
    """Spending [waves] of a fleet in which every device has its own price, changed by replies only."""
    numbers = rng(seed, "fleet", world.kind)
    liking = np.exp(0.3 * numbers.normal(size=DEVICES))
    price, since = np.full(DEVICES, coordinator.price[0]), np.zeros(DEVICES, np.int64)
    free, inbox, spent = np.zeros(DEVICES), [[] for _ in range(waves + DELAY)], np.zeros(waves)
    for w in range(waves):
        for who, told in inbox[w]:
            price[who], since[who] = told, 0
        here = np.flatnonzero(numbers.random(DEVICES) < ACTIVE)
        since[here] += 1
        urgency = numbers.gamma(2, scale, len(here)) * world.factor(w) * liking[here]
        asks = here[(urgency > lease.price(price[here], since[here])) & (free[here] <= w)]
        free[asks] = w + DELAY
        inbox[w + DELAY].append((asks, coordinator.price[0]))
        nbytes = numbers.integers(100, 300, len(asks))
        shut = coordinator.shut[0]
        done = spending(
            answered=0 if shut else len(asks),
            denied=len(asks) if shut else 0,
            nbytes=20 * len(asks) if shut else nbytes.sum(),
            steps=len(here),
            hours=HOURS,
        )
        spent[w] = getattr(done, measure)[0]
        coordinator.report(done)
    return spent


def bytes_per_hour(ratio):
    return ratio * DEVICES * ACTIVE * MEAN_BYTES / HOURS


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("kind", ["stationary", "drifting", "bursty"])
def test_a_byte_budget_is_met_within_two_percent(kind, ratio):
    budget, horizon, waves = bytes_per_hour(ratio), 20.0, 6000  # 30 horizons: half a purse is less than 2 percent
    curve = Curve.of(validation())
    fleet = Coordinator(Budget(bytes_per_hour=budget), [curve], start=ratio, horizon=horizon)
    spent = live(fleet, World(kind), waves=waves, lease=Lease.of(curve, ratio))
    warm = int(3 * horizon / HOURS)
    assert spent[warm:].sum() / (budget * HOURS * (waves - warm)) == pytest.approx(1, abs=0.02)
    allowed = budget * HOURS * np.arange(1, waves + 1)
    assert (np.cumsum(spent) <= allowed + spent.max()).all()  # no spike ever overdraws by more than one wave


def test_a_wrong_start_and_a_wrong_curve_are_made_up_for():
    """Urgencies are three times those of validation, and it starts asking ten times as often as it may."""
    ratio, curve, world = 0.1, Curve.of(validation()), World("stationary")
    fleet = Coordinator(Budget(requests_per_step=ratio), [curve], start=0.9, horizon=15_000.0)
    spent = live(fleet, world, waves=3000, lease=Lease.of(curve, ratio), scale=0.03, measure="answered")
    assert spent[1000:].sum() / (ratio * DEVICES * ACTIVE * 2000) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("unit", [1e-6, 70.0])
def test_the_unit_of_urgencies_does_not_matter(unit):
    spent = []
    for scale in (0.01, 0.01 * unit):
        curve = Curve.of(validation() * (scale / 0.01))
        fleet = Coordinator(Budget(bytes_per_hour=bytes_per_hour(0.1)), [curve], start=0.1, horizon=15.0)
        spent.append(live(fleet, World("bursty"), waves=300, lease=Lease.of(curve, 0.1), scale=scale))
    assert_allclose(spent[0].sum(), spent[1].sum(), rtol=0.02)


def test_more_budget_gives_no_fewer_requests():
    totals, curve = [], Curve.of(validation())
    for ratio in (0.03, 0.06, 0.12, 0.24, 0.48):
        fleet = Coordinator(Budget(bytes_per_hour=bytes_per_hour(ratio)), [curve], start=0.1, horizon=15.0)
        totals.append(live(fleet, World("drifting"), waves=600, lease=Lease.of(curve, 0.1), measure="answered").sum())
    assert (np.diff(totals) > 0).all()


def test_without_a_lease_devices_that_heard_a_high_price_stay_silent():
    """After a scare (200 waves of tenfold urgency that end for good), the lease brings the fleet back."""

    class Scare(World):
        def factor(self, w):
            return 10.0 if w < 200 else 0.3

    share, curve = [], Curve.of(validation())
    for falls in (True, False):
        fleet = Coordinator(Budget(bytes_per_hour=bytes_per_hour(0.2)), [curve], start=0.2, horizon=15.0)
        lease = Lease.of(curve, 0.2) if falls else Lease(0, 0.0)
        spent = live(fleet, Scare("scare"), waves=1500, lease=lease)
        share.append(spent[700:].sum() / (bytes_per_hour(0.2) * HOURS * 800))
    assert share[0] == pytest.approx(1, abs=0.1)  # 80 hours, in which half a purse (7.5 hours) may be spent besides
    assert share[1] < 0.5


def test_first_report_by_hand():
    """Budget 10 per hour, horizon 4: full = 40. One hour, 6 bytes: banked 10, level 4, error 4 / 40 - 1/2 = -0.4.

    push = (10 - 6) / 10 = 0.4; odds += (4 * 0.4 + 4 * -0.4) * 0.25 = 0. A second hour with nothing spent: banked 10,
    level 14, error -0.15; flow = (10, 6) / e^4 + (10, 0), push = 1 - 6 / (10 + 10 e^4); odds += push - 0.15.
    """
    fleet = Coordinator(Budget(bytes_per_hour=10.0), [Curve.of(validation())], start=0.5, horizon=4.0)
    fleet.report(spending(answered=2, nbytes=6, hours=1.0))
    assert_allclose(fleet.level, [4])
    assert_allclose(fleet.odds, [0], atol=1e-12)
    fleet.report(spending(hours=1.0))
    assert_allclose(fleet.level, [14])
    assert_allclose(fleet.odds, [0.85 - 6 * np.exp(-4) / (10 + 10 * np.exp(-4))])


def test_what_was_not_spent_for_long_is_forgone():
    fleet = Coordinator(Budget(cloud_seconds_per_hour=2.0), [Curve.of(validation())], start=0.1, horizon=24.0)
    fleet.report(spending(hours=1000.0))
    assert_allclose(fleet.level, [48])
    fleet.report(spending(answered=1, seconds=50.0))
    assert fleet.shut.tolist() == [True]


def test_tiers_have_prices_of_their_own():
    curve = Curve.of(validation())
    fleet = Coordinator(Budget(requests_per_step=[0.1, 0.1]), [curve, curve], start=0.1, horizon=100.0)
    fleet.report(spending(answered=[30, 1], steps=[100, 100], hours=1.0))
    assert fleet.price[0] > fleet.price[1]
    assert fleet.shut.tolist() == [True, False]
    assert fleet.of_tier(fleet.shut, np.array([1, 0, 1])).tolist() == [False, True, False]
    whole = Coordinator(Budget(requests_per_step=0.1), [curve], start=0.1, horizon=100.0)
    whole.report(spending(answered=[30, 1], steps=[100, 100], hours=1.0))
    assert_allclose(whole.level, [10 - 31])  # 200 * 0.1 = 20, of which the purse holds 10
    assert whole.of_tier(whole.price, np.array([1, 0])).tolist() == [whole.price[0]] * 2


amounts = st.floats(0, 1e9)
reports = st.lists(st.tuples(amounts, amounts, amounts, st.floats(0, 1e4)), max_size=40)


@settings(deadline=None)
@given(reports, st.floats(1e-3, 1e6), st.floats(1e-2, 1e4), st.floats(0.001, 0.999))
def test_prices_stay_finite_and_within_bounds(history, rate, horizon, start):
    curve = Curve.of(validation(n=200))
    fleet = Coordinator(Budget(bytes_per_hour=rate), [curve], start=start, horizon=horizon)
    low, high = curve.price(np.array([ODDS_CAP, -ODDS_CAP]))
    for answered, denied, nbytes, hours in history:
        fleet.report(spending(answered=answered, denied=denied, nbytes=nbytes, hours=hours))
        assert low <= fleet.price[0] <= high
        assert np.isfinite(fleet.level).all()


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 3)), max_size=60), st.floats(0.1, 50), st.floats(0.1, 50))
def test_spending_never_exceeds_the_allowance_by_more_than_one_wave(history, rate, horizon):
    fleet = Coordinator(Budget(bytes_per_hour=rate), [Curve.of(validation(n=50))], start=0.5, horizon=horizon)
    spent = allowed = worst = 0.0
    for wanted, hours in history:
        shut = fleet.shut[0]
        nbytes = 0.0 if shut else wanted
        fleet.report(spending(answered=not shut, denied=shut, nbytes=nbytes, hours=hours))
        spent, allowed, worst = spent + nbytes, allowed + rate * hours, max(worst, wanted)
        assert spent <= allowed + worst + 1e-6


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50).filter(lambda v: max(v) - min(v) > 1e-3))
def test_the_curve_falls_and_goes_on_beyond_what_was_seen(urgencies):
    curve = Curve.of(np.array([*urgencies, np.nan, np.inf]))
    price = curve.price(np.linspace(-30, 30, 301))
    assert (np.diff(price) <= 1e-6).all()
    assert price[0] > max(urgencies) > min(urgencies) > price[-1]


def test_the_curve_gives_the_wanted_ratio():
    seen = validation()
    ratio = np.array([0.02, 0.1, 0.5, 0.9])
    price = Curve.of(seen).price(np.log(ratio / (1 - ratio)))
    assert_allclose((seen > price[:, None]).mean(axis=1), ratio, rtol=0.05)


def test_a_lease_holds_and_then_falls():
    lease = Lease(3, 0.5)
    assert_allclose(lease.price(np.full(4, 2.0), np.array([0, 3, 4, 9])), [2, 2, 1.5, -1])


def test_refusals():
    curve = Curve.of(validation())
    with pytest.raises(ConfigError, match="0 budgets"):
        Budget()
    with pytest.raises(ConfigError, match="2 budgets"):
        Budget(requests_per_step=0.1, bytes_per_hour=3.0)
    with pytest.raises(ConfigError, match="above 0"):
        Budget(bytes_per_hour=[1.0, 0.0])
    with pytest.raises(ConfigError, match="all the same"):
        Curve.of(np.full(5, np.inf))
    with pytest.raises(ConfigError, match="start"):
        Coordinator(Budget(bytes_per_hour=1.0), [curve], start=0.0, horizon=1.0)
    with pytest.raises(ConfigError, match="horizon"):
        Coordinator(Budget(bytes_per_hour=1.0), [curve], start=0.1, horizon=np.inf)
    with pytest.raises(ConfigError, match="2 price curves"):
        Coordinator(Budget(bytes_per_hour=1.0), [curve, curve], start=0.1, horizon=1.0)
    fleet = Coordinator(Budget(bytes_per_hour=[1.0, 2.0]), [curve, curve], start=0.1, horizon=1.0)
    with pytest.raises(ContractError, match="of 2 tiers"):
        fleet.report(spending(nbytes=[1, 2, 3], hours=1.0))
    with pytest.raises(ContractError, match="finite"):
        fleet.report(spending(nbytes=[1, -2], hours=1.0))
