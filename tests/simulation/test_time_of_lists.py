"""Wherever lists are made for a device at a step, the generator is told the same time: when the request leaves."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from loop_parts import Dot, Drawn, Scripted, random_timeline, service

from cloud.generator import Generated
from cloud.service import Line
from device.fusion import Fusion
from device.model import Items
from device.policy import Always, Random
from device.scoring import ModelScorer
from device.seeds import Draws, draws, rng
from device.setup import Setup
from simulation.choosing.experience import gather
from simulation.choosing.rehearsal import Rehearsal
from simulation.metrics import NDCG
from simulation.remembering import Remembering
from simulation.sweep.bounds import hindsight

N, DEVICES, STEPS = 40, 5, 6


@dataclass
class Watch:
    """A timed generator that notes at what times it was asked, by (seed, device, step)."""

    said: dict[int, set[float]] = field(default_factory=dict)

    def generate(self, histories: Items, k: int, *, rng: Draws) -> Generated:
        raise AssertionError("asked without a time")

    def generate_at(self, histories: Items, k: int, *, at: np.ndarray, rng: Draws) -> Generated:
        assert at.shape == (len(histories),)
        for one, when in zip(rng.keys.tolist(), at.tolist(), strict=True):
            self.said.setdefault(one, set()).add(when)
        return Drawn(N).generate(histories, k, rng=rng)

    def times(self) -> dict[tuple[int, int], set[float]]:
        """By (device, step); a device that is left out of a replay has inf."""
        key = {
            int(draws(5, "generator", np.array([d]), np.array([s])).keys[0]): (d, s)
            for d in range(DEVICES)
            for s in range(STEPS + 1)
        }
        return {key[one]: found - {np.inf} for one, found in self.said.items()}


def rehearsal(watch, **more):
    lived = random_timeline(DEVICES, STEPS, N)
    gaps = np.random.default_rng(3).uniform(1, 50, lived.at.shape)
    lived = replace(lived, at=np.cumsum(gaps, axis=1))
    return Rehearsal(lived, service(lived, watch, N, pool=8, **more), [0], slots=8)


def setup(policy, price=0.0):
    return Setup(ModelScorer(Dot(N), Dot(N).init(rng(0, "m"))), policy, Fusion(0.5), price, seed=1)


def expected(world, *, steps=STEPS):
    """Step s is asked for when its item was taken; the first list at the time of the first step."""
    at = world.timeline.at
    return {(d, s): {float(at[d, max(s - 1, 0)])} for d in range(DEVICES) for s in range(steps + 1)}


SLOW = Scripted([(False, 3.0), (False, 0.4)])
LOSSY = Scripted([(False, 0.1), (True, 0.0), (False, 0.2)], give_up_s=1.0)


@pytest.mark.parametrize(
    "more",
    [{}, {"link": SLOW}, {"link": LOSSY}, {"seconds": 2.0}, {"servers": Line(1), "seconds": 3.0}],
    ids=["ideal", "slow", "lossy", "seconds", "servers"],
)
def test_a_replay(more):
    watch = Watch()
    world = rehearsal(watch, **more)
    world.run([setup(Always())])
    found, wanted = watch.times(), expected(world)
    assert len(found) > DEVICES  # more than the first lists
    assert found == {one: wanted[one] for one in found}
    if not more:
        assert found == wanted


def test_experience():
    watch = Watch()
    world = rehearsal(watch)
    gather(world, [setup(Random(), 0.5)], 3)
    assert watch.times() == expected(world)


def test_bounds():
    watch = Watch()
    world = rehearsal(watch)
    for part in hindsight(world, [setup(Always())], NDCG(10)):
        assert len(part.device)
    found, wanted = watch.times(), expected(world)
    assert found == {one: wanted[one] for one in found}
    assert len(found) >= DEVICES * STEPS


def test_all_of_them_share_remembered_lists():
    watch = Watch()
    world = rehearsal(Remembering(watch))
    world.run([setup(Always())])
    made = sum(len(found) for found in watch.said.values())
    assert made == DEVICES * (STEPS + 1)
    gather(world, [setup(Random(), 0.5)], 3)
    list(hindsight(world, [setup(Always())], NDCG(10)))
    assert sum(len(found) for found in watch.said.values()) == made  # every one of them had been made


def test_remembered_lists_belong_to_their_time():
    watch = Watch()
    kept = Remembering(watch)
    keys = draws(5, "generator", np.array([0]), np.array([1]))
    for at in (10.0, 20.0, 10.0):
        kept.generate_at(np.ones((1, 3), np.int32), 4, at=np.array([at]), rng=keys)
    assert watch.times() == {(0, 1): {10.0, 20.0}}
    plain = Remembering(Drawn(N))
    first = plain.generate(np.ones((1, 3), np.int32), 4, rng=keys)
    later = plain.generate_at(np.ones((1, 3), np.int32), 4, at=np.array([7.0]), rng=keys)
    assert np.array_equal(first.items, later.items)
    assert len(plain._place) == 1  # the time does not matter to this generator
    with pytest.raises(AssertionError, match="without a time"):
        kept.generate(np.ones((1, 3), np.int32), 4, rng=keys)
