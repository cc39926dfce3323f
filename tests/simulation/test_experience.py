"""Both branches of a validation step, kept and fresh, are what replays would have shown."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from loop_parts import Dot, Drawn, Fixed, random_timeline, service, timeline

from device.fusion import OWN, Fusion, FusionByAge
from device.messages import Codec
from device.policy import Never, Random
from device.scoring import ModelScorer
from device.seeds import rng
from device.setup import Setup
from simulation.choosing.experience import CloudOrder, gather, together
from simulation.choosing.rehearsal import Rehearsal
from simulation.metrics import NDCG
from simulation.network import Ideal
from simulation.remembering import Remembering

N = 60
MISS = 0.0


def gain(place):
    """NDCG@10 of the item in that place."""
    return 1 / np.log2(place + 1)


def rehearsal(lived, generator, *, pool, slots=None, delta=False, codec=None):
    held = slots or pool
    made = service(lived, generator, N, pool=pool, codec=codec or Codec(), delta_slots=held if delta else 0)
    return Rehearsal(lived, made, [0], slots=held)


def toy(update):
    """One user takes 3, 9, 5; the cloud lists these after 0, 1, 2 and 3 items."""
    lists = [[1, 3, 5], [9, 5, 7], [8, 5, 9], [2, 4, 6]]
    lived = timeline([[3, 9, 5]], [[0] * 5])
    setup = Setup(ModelScorer(Dot(N), Dot(N).init(rng(0, "m"))), Never(), Fusion(1.0), 0.0, seed=1, update=update)
    return gather(rehearsal(lived, Fixed(lists), pool=3, slots=6), [setup], 3)


def test_a_replaced_pool_by_hand():
    lived = toy("replace")
    # After step 1 (3 was taken) the pool is 1, 5. Kept: 9 is missed; 5 is second of 1, 5.
    # Fresh: 9 is first of 9, 5, 7; then it is gone and 5 is first of 5, 7.
    # After step 2 the pool is still 1, 5: kept, 5 is second; fresh, it is second of 8, 5, 9.
    nan = np.nan
    np.testing.assert_allclose(lived.kept, [[MISS, gain(2), nan], [gain(2), nan, nan], [nan] * 3], rtol=1e-6)
    np.testing.assert_allclose(lived.fresh, [[1, 1, nan], [gain(2), nan, nan], [nan] * 3], rtol=1e-6)
    assert lived.kept.dtype == lived.fresh.dtype == np.float32
    assert [one.step.tolist() for one in lived.views] == [[1], [2], [3]]
    assert [one.candidates[0].tolist() for one in lived.views] == [[1, 0, 5, 0, 0, 0]] * 2 + [[1, 0, 0, 0, 0, 0]]


def test_a_merged_pool_by_hand():
    lived = toy("merge")
    nan = np.nan
    np.testing.assert_allclose(lived.kept, [[MISS, gain(2), nan], [gain(2), nan, nan], [nan] * 3], rtol=1e-6)
    # After step 1: 9, 5, 7, 1 with standardised scores h, 0, -h and h of the old list: 9 and 1 share the first places.
    both = (gain(1) + gain(2)) / 2
    # Then 1 (h) leads 5 (0). After step 2: 8, 5, 9, 1 with h, 0, -h, h: 5 is third.
    np.testing.assert_allclose(lived.fresh, [[both, gain(2), nan], [gain(3), nan, nan], [nan] * 3], rtol=1e-6)
    # Shown without reranking: the kept pool in the cloud's order.
    np.testing.assert_allclose(lived.shown[:2, 0], [MISS, gain(2)], rtol=1e-6)


@dataclass
class Once:
    """Asks at one step of one device only."""

    device: int
    step: int

    def urgency(self, view, draws):
        return np.where((view.device == self.device) & (view.step == self.step), 1.0, -1.0)


BY_AGE = FusionByAge(1.0, [0.9, 0.7, 0.5] + [0.3] * 10, [0.2, 0.1] + [0.0] * 11)
WAYS = {
    "replace": {},
    "merge": {"update": "merge"},
    "by age": {"update": "merge", "fusion": BY_AGE},
    "own": {"update": "merge", "fusion": BY_AGE, "own": 4},
    "seen again": {"update": "merge", "hide_seen": False},
    "delta": {"update": "merge", "fusion": BY_AGE},
}


def setup_of(policy, fusion=None, **more):
    model = Dot(N)
    scorer = ModelScorer(model, model.init(rng(1, "w")), np.arange(1, N + 1, dtype=np.int32))
    return Setup(scorer, policy, fusion or Fusion(0.5), 0.0, seed=3, **more)


def rewards(columns, device, after):
    """NDCG@10 of the steps of a device after `after`."""
    rows = np.flatnonzero((columns["device"] == device) & (columns["step"] > after))
    return NDCG(10).of(columns["rank"][rows], columns["ties"][rows])


@pytest.mark.parametrize("codec", [Codec(), Codec("varint", "int8"), Codec("varint", "none")])
@pytest.mark.parametrize("way", WAYS)
def test_a_real_request_gives_the_reward_that_was_promised(way, codec):
    # What was taken 4 steps ago is forgotten; a cloud that leaves out what is held does not offer it again, though.
    lived = random_timeline(12, 6, N, length=12 if way == "delta" else 3)
    slots = 50 if way != "replace" else None
    replayed = rehearsal(lived, Remembering(Drawn(N)), pool=20, slots=slots, delta=way == "delta", codec=codec)
    experience = gather(replayed, [setup_of(Never(), **WAYS[way])], 5)
    views = {(d, s): i for i, (d, s) in enumerate(
        (d, int(v.step[0])) for v in experience.views for d in v.device.tolist()
    )}  # fmt: skip
    never = replayed.run([setup_of(Never(), **WAYS[way])])
    different = 0
    for device, step in ((0, 1), (3, 2), (7, 3), (11, 5), (2, 1), (5, 2), (8, 1), (9, 2), (10, 3)):
        row = views[device, step]
        forced = replayed.run([setup_of(Once(device, step), **WAYS[way])])
        assert forced["asked"].sum() == 1
        for columns, promised in ((forced, experience.fresh[row]), (never, experience.kept[row])):
            real = rewards(columns, device, step)[:5]
            np.testing.assert_allclose(promised[: len(real)], real, rtol=1e-5, atol=1e-6)
            assert np.isnan(promised[len(real) :]).all()
        different += (experience.fresh[row] != experience.kept[row]).any()
    assert different >= 3


def test_experience_under_requests_promises_what_another_request_gives():
    """The pools of a policy that asks itself are those from which both branches start."""
    lived = random_timeline(8, 6, N, length=5)
    replayed = rehearsal(lived, Remembering(Drawn(N)), pool=20, slots=50)

    @dataclass
    class Also:
        """Random, and one more."""

        device: int
        step: int
        plus: float

        def urgency(self, view, draws):
            here = (view.device == self.device) & (view.step >= self.step)
            usual = Random(0.5).urgency(view, draws)
            return np.where(here, np.where(view.step == self.step, self.plus, -1.0), usual)

    experience = gather(replayed, [setup_of(Random(0.5), update="merge")], 3)
    pairs = [(d, int(v.step[0])) for v in experience.views for d in v.device.tolist()]
    for device, step in ((1, 2), (4, 3), (6, 4)):
        row = pairs.index((device, step))
        for plus, promised in ((1.0, experience.fresh[row]), (-1.0, experience.kept[row])):
            columns = replayed.run([setup_of(Also(device, step, plus), update="merge")])
            real = rewards(columns, device, step)[:3]
            np.testing.assert_allclose(promised[: len(real)], real, rtol=1e-5, atol=1e-6)


def test_views_show_what_was_seen_then_and_not_later():
    """A fleet moves on; what a view computes on demand was computed before."""
    lived = random_timeline(5, 4, N, length=5)
    setup = setup_of(Random(0.5), update="merge", own=3)
    experience = gather(rehearsal(lived, Drawn(N), pool=10, slots=20), [setup], 2)
    for one in experience.views:
        scores = setup.scorer.scores(one.device, one.step, one.history, one.candidates)
        np.testing.assert_allclose(one.device_scores[one.valid], scores[one.valid], rtol=1e-5)
        own, _ = setup.scorer.own(one.device, one.step, one.history, 3)
        np.testing.assert_array_equal(one.own, own)
        for device, step, pool in zip(one.device, one.step, one.candidates, strict=True):
            assert not set(pool.tolist()) & set(lived.items[device, :step].tolist())


def test_several_experiences_as_one():
    lived = random_timeline(5, 4, N, length=5)
    parts = [gather(rehearsal(lived, Drawn(N), pool=10), [setup_of(Random(p))], 2) for p in (0.0, 0.5)]
    both = together(parts)
    assert both.views == [*parts[0].views, *parts[1].views]
    for name in ("kept", "fresh", "shown"):
        np.testing.assert_array_equal(getattr(both, name), np.concatenate([getattr(p, name) for p in parts]))
    assert sum(len(one.device) for one in both.views) == len(both.kept)


def test_two_tiers_have_their_own_setups():
    lived = random_timeline(6, 3, N, length=5, tier=[0, 1, 0, 1, 1, 0])
    replayed = rehearsal(lived, Drawn(N), pool=20)
    replayed = replace(
        replayed, service=replace(replayed.service, carriers=[Ideal()] * 2, rows=[None] * 2), model_bytes=[0, 0]
    )
    setups = [replace(setup_of(Never()), tier=0), replace(setup_of(Never(), fusion=Fusion(1.0)), tier=1)]
    experience = gather(replayed, setups, 2)
    assert len(experience.kept) == 6 * 3
    for one in experience.views:
        assert set(lived.tier[one.device]) == {int(one.tier[0])}


def test_the_clouds_order_by_hand():
    cloud = np.array([[0.0, 2.0, -5.0, 1.0, 0.0, 7.0]], np.float32)
    age = np.array([[1, 1, 0, 300, OWN, 0]])
    valid = np.array([[True] * 5 + [False]])
    fused = CloudOrder()(cloud, cloud, valid, age)
    # The newest list's only candidate, then those of age 1 by score, then the old one, the device's own at the end.
    assert np.argsort(-fused[0]).tolist() == [2, 1, 0, 3, 4, 5]
    assert np.isneginf(fused[0, 5])
    close = CloudOrder()(
        np.array([[1.0, 1.001]], np.float32), cloud[:, :2], np.ones((1, 2), bool), np.full((1, 2), 200)
    )
    assert close[0, 1] > close[0, 0]  # also when both are old
