"""The bounds' worlds are those of the real replay, over replays longer than the history that devices keep."""

import tracemalloc
from dataclasses import dataclass, replace

import numpy as np
import pytest
from loop_parts import Dot, Drawn, service, timeline
from schedules import best_value

from device.fusion import Fusion, FusionByAge
from device.policy import Always
from device.scoring import ModelScorer
from device.seeds import rng
from device.setup import Setup
from simulation.choosing.rehearsal import Rehearsal
from simulation.metrics import NDCG
from simulation.sweep import bounds
from simulation.sweep.bounds import RATIO, VALUE, bound, hindsight

N, POOL, STEPS, KEPT = 16, 8, 12, 3  # devices keep 3 items, so they forget what they took four steps ago
MINMAX = Fusion(0.4, "minmax")
BY_AGE = FusionByAge(1.0, tuple(np.linspace(1, 0, 13)), tuple(np.linspace(0.3, 0, 13)))
CLOUD_AND_DEVICE = FusionByAge(0.2, (1.0,) * 13, (0.0,) * 13)


def rehearsal(devices=30, *, slots=POOL, seed=0, tiers=1):
    """Users of one to 12 steps in a small catalogue: they take items of old lists, and the same item again."""
    numbers = np.random.default_rng(seed)
    items = numbers.integers(1, N + 1, (devices, STEPS))
    items[np.arange(STEPS) >= numbers.integers(1, STEPS + 1, devices)[:, None]] = 0
    tier = np.arange(devices) % tiers
    lived = timeline(items, numbers.integers(1, N + 1, (devices, KEPT)), tier=tier)
    cloud = service(lived, Drawn(N), N, pool=POOL)
    cloud = replace(cloud, carriers=cloud.carriers * tiers, rows=cloud.rows * tiers)
    return Rehearsal(lived, cloud, [0] * tiers, slots=slots)


def fleet(tiers=1, **more):
    model = Dot(N)
    scorer = ModelScorer(model, model.init(rng(1, "weights")))
    return [Setup(scorer, Always(), MINMAX, 0.0, seed=3, tier=tier, **more) for tier in range(tiers)]


@dataclass
class Planned:
    """Asks where a plan [D, S] says so."""

    plan: np.ndarray

    def urgency(self, view, draws):
        return self.plan[view.device, view.step - 1].astype(float)


def lived(world, setups, fusion, plan):
    """[D, S] NDCG@10 of a real replay that asks at the end of the steps of `plan` [D, S]; NaN = no such step."""
    steps = world.run([replace(s, policy=Planned(plan), price=0.5, fusion=fusion) for s in setups])
    values = np.full(world.timeline.items.shape, np.nan)
    values[steps["device"], steps["step"] - 1] = NDCG(10).of(steps["rank"], steps["ties"])
    return values


def promised(found, rewards, plan):
    """[D, S] what the bound says of a plan, one list held at a time."""
    out = np.full(plan.shape, np.nan)
    newest = np.zeros(len(plan), np.int64)
    for t in range(1, rewards.longest + 1):
        earned = rewards.at(t)[np.arange(len(newest[found.device])), newest[found.device], 0]
        out[found.device, t - 1] = np.where(found.steps >= t, earned, np.nan)
        newest = np.where(plan[:, t - 1], t, newest)
    return out


@pytest.mark.parametrize("hide_seen", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_any_schedule_earns_step_by_step_what_the_bound_says(seed, hide_seen):
    world, setups = rehearsal(seed=seed), fleet(hide_seen=hide_seen)
    (found,) = hindsight(world, setups, NDCG(10))
    (rewards,) = found.replaced_rewards([MINMAX])
    numbers = np.random.default_rng(seed)
    plans = [numbers.random(world.timeline.items.shape) < share for share in (0.0, 0.1, 0.3, 1.0)]
    for plan in plans:
        np.testing.assert_allclose(promised(found, rewards, plan), lived(world, setups, MINMAX, plan), atol=1e-6)


def test_what_was_taken_stays_hidden_longer_than_the_device_remembers():
    """Users take an item of the first list at step 1; that list never shows it again, also five steps later."""
    world = rehearsal()
    (found,) = hindsight(world, fleet(), NDCG(10))
    taken = world.timeline.items[found.device, 0]
    first = (found.items[:, 0] == taken[:, None]).any(1)
    assert (found.steps[first] > KEPT + 2).sum() >= 3
    until = found.shown_until()
    for t in range(1, found.items.shape[1] + 1):
        items, _ = found.fused(t, [MINMAX], until)
        there = (items[:, 0] == taken[:, None]).any(1)
        assert there[first].all() if t == 1 else not there.any()


def test_two_lists_earn_what_a_replay_with_merged_pools_earns():
    world, setups = rehearsal(slots=2 * POOL), fleet(update="merge")
    (found,) = hindsight(replace(world, slots=POOL), fleet(), NDCG(10))
    (rewards,) = found.merged_rewards([BY_AGE])
    for newer in range(1, STEPS):
        plan = np.zeros(world.timeline.items.shape, bool)
        plan[:, newer - 1] = True
        values = lived(world, setups, BY_AGE, plan)[found.device]
        for t in range(1, STEPS + 1):
            there = found.steps >= t
            said = rewards.at(t)[there, 0, newer if t > newer else 0]
            np.testing.assert_allclose(said, values[there, t - 1], atol=1e-6)


@pytest.mark.parametrize("price", [0.02, 0.2])
def test_the_optimum_can_be_lived(price):
    world, setups = rehearsal(seed=4), fleet()
    (found,) = hindsight(world, setups, NDCG(10))
    (rewards,) = found.replaced_rewards([MINMAX])
    best = best_value(rewards, price)
    plan = np.zeros(world.timeline.items.shape, bool)
    plan[found.device] = best.asked
    values = np.nansum(lived(world, setups, MINMAX, plan), axis=1)[found.device]
    np.testing.assert_allclose(values - price * plan.sum(1)[found.device], best.value, atol=1e-5)
    assert 0 < best.requests.sum() < found.steps.sum() / 2


@pytest.mark.parametrize("pairs", [False, True])
def test_the_bound_of_several_fusions_is_the_best_of_each(pairs):
    world, setups = rehearsal(seed=5), fleet()
    fusions = [BY_AGE, CLOUD_AND_DEVICE] if pairs else [MINMAX, Fusion(0.9), Fusion(0.0)]
    lines = [bound(hindsight(world, setups, NDCG(10)), [one], pairs=pairs, ratios=[0.1]) for one in fusions]
    best = bound(hindsight(world, setups, NDCG(10)), fusions, pairs=pairs, ratios=[0.1])
    assert best[RATIO][-1] == max(line[RATIO][-1] for line in lines)
    for ratio in (0.0, 0.1):
        wanted = max(np.interp(ratio, line[RATIO], line[VALUE]) for line in lines)
        assert np.interp(ratio, best[RATIO], best[VALUE]) == pytest.approx(wanted, abs=1e-12)
    assert best[VALUE][-1] == pytest.approx(max(line[VALUE][-1] for line in lines), abs=1e-12)
    assert len({float(line[VALUE][0]) for line in lines}) == len(lines)


@pytest.mark.parametrize("pairs", [False, True])
def test_portions_of_devices_change_nothing(pairs, monkeypatch):
    world, setups = rehearsal(tiers=2), fleet(2)
    fusions = [BY_AGE, CLOUD_AND_DEVICE] if pairs else [MINMAX, Fusion(0.9)]
    whole = bound(hindsight(world, setups, NDCG(10)), fusions, pairs=pairs, ratios=[0.1])
    monkeypatch.setattr(bounds, "BYTES", 4 * 8 * POOL * STEPS)  # lists of four devices that live longest
    parts = list(hindsight(world, setups, NDCG(10)))
    assert len(parts) > 4
    assert len(list(parts[0].chunks(pairs=pairs, fusions=2))) == 4  # what is computed takes more: one device at a time
    assert sorted(np.concatenate([part.device for part in parts])) == list(range(30))
    cut = bound(iter(parts), fusions, pairs=pairs, ratios=[0.1])
    for name in (RATIO, VALUE):
        np.testing.assert_array_equal(cut[name], whole[name])


@pytest.mark.parametrize("pairs", [False, True])
def test_memory_keeps_to_its_bound(pairs, monkeypatch):
    world, setups = rehearsal(400), fleet()
    monkeypatch.setattr(bounds, "BYTES", 1 << 17)
    parts = list(hindsight(world, setups, NDCG(10)))
    assert all(part.items.nbytes + part.cloud.nbytes <= 1 << 17 for part in parts)
    peaks = {}
    for size in (1 << 20, 1 << 30):
        monkeypatch.setattr(bounds, "BYTES", size)
        (whole,) = hindsight(world, setups, NDCG(10))
        tracemalloc.start()
        try:
            bound([whole], [BY_AGE] * 3, pairs=pairs, ratios=[])
            peaks[size] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peaks[1 << 20] < 1 << 20 < peaks[1 << 30] / 2
