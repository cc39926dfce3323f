"""Scores computed once for all replays are those of the model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from loop_parts import Dot, World, random_timeline

from cloud.delivery import nothing
from device.models.din import DIN
from device.models.elastic import ElasticSASRec
from device.models.gru4rec import GRU4Rec
from device.models.incremental_torch import IncrementalTorch
from device.models.sasrec import SASRec
from device.models.torch_model import TorchModel
from device.policy import Consistency
from device.scoring import ModelScorer
from device.seeds import rng
from simulation.replay import Shard
from simulation.sweep.sharing import SharedScores, shared

N, LENGTH, DEVICES, STEPS = 50, 6, 9, 7
SIZES = {"sasrec": lambda: SASRec(N, width=8, blocks=2, length=LENGTH), "gru4rec": lambda: GRU4Rec(N, width=8)}


def asks(inner):
    """A scorer that answers like `inner` and counts the rows it is asked about."""

    class Counting(ModelScorer):
        __slots__ = ()

        def own(self, device, step, history, k):
            counts["own"] += len(device)
            return ModelScorer.own(self, device, step, history, k)

        def state(self, device, step, history):
            counts["state"] += len(device)
            return ModelScorer.state(self, device, step, history)

    counts = {"own": 0, "state": 0}
    return Counting(inner.model, inner.params, inner.resident), counts


def model_scorer(module):
    torch.manual_seed(3)
    model = TorchModel(module)
    params = {k: v + rng(0, k).normal(0, 0.3, v.shape).astype(np.float32) for k, v in model.init(rng(0, "m")).items()}
    params["item.weight"][0] = 0
    return ModelScorer(model, params, np.arange(1, N + 1, 2, dtype=np.int32))


@pytest.fixture(scope="module")
def lives():
    """Histories [D, STEPS + 1, L] of devices after 0, 1, ... steps."""
    lived = random_timeline(DEVICES, STEPS, N, length=LENGTH)
    everything = np.concatenate([lived.histories, lived.items], axis=1)
    return np.stack([everything[:, s : s + LENGTH] for s in range(STEPS + 1)], axis=1)


@pytest.mark.parametrize("name", SIZES)
def test_shared_answers_are_the_models(name, lives):
    inner, counts = asks(model_scorer(SIZES[name]()))
    made = shared(inner, DEVICES, STEPS, lives[:, 0])
    assert isinstance(made, SharedScores)
    counts.update(own=0, state=0)
    draws = np.random.default_rng(1)
    for _ in range(12):  # in any order, devices and steps again and again, other candidates every time
        device, step = draws.permutation(DEVICES)[:5], draws.integers(0, STEPS + 1, 5)
        history, pools = lives[device, step], draws.integers(1, N + 1, (5, 11)).astype(np.int32)
        for answer in ("scores", "state", "own"):
            more = {"scores": (pools,), "own": (4,), "state": ()}[answer]
            got = getattr(made, answer)(device, step, history, *more)
            expected = getattr(ModelScorer, answer)(inner, device, step, history, *more)
            for one, other in zip(np.atleast_1d(got), np.atleast_1d(expected), strict=True):
                np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)
        assert np.ptp(made.scores(device, step, history, pools)) > 0.1
    assert max(counts.values()) <= DEVICES * (STEPS + 1)  # once per device and step; what is expected is not counted


def test_nothing_is_computed_twice(lives):
    inner, counts = asks(model_scorer(SASRec(N, width=8, blocks=1, length=LENGTH)))
    made = shared(inner, DEVICES, STEPS, lives[:, 0])
    counts.update(own=0, state=0)
    everyone, pools = np.arange(DEVICES), np.ones((DEVICES, 3), np.int32)
    for _ in range(3):
        for step in range(STEPS + 1):
            steps = np.full(DEVICES, step)
            made.scores(everyone, steps, lives[:, step], pools)
            made.state(everyone, steps, lives[:, step])
            made.own(everyone, steps, lives[:, step], 4)
    assert counts == {"own": DEVICES * (STEPS + 1), "state": DEVICES * (STEPS + 1)}
    six, _ = made.own(everyone, everyone * 0, lives[:, 0], 6)  # another number is another list
    four, _ = made.own(everyone, everyone * 0, lives[:, 0], 4)
    np.testing.assert_array_equal(six[:, :4], four)
    assert (six[:, 4:] != 0).all()


class Listwise(torch.nn.Module):
    """A score that depends on the other candidates, although it shows states and names a table."""

    item_table = "item.weight"

    def __init__(self):
        super().__init__()
        self.n_items, self.item = N, torch.nn.Embedding(N + 1, 8, padding_idx=0)

    def states(self, history):
        return self.item(history).cumsum(1)

    def forward(self, history, candidates):
        scores = torch.einsum("bd,bcd->bc", self.states(history)[:, -1], self.item(candidates))
        return scores - scores.mean(1, keepdim=True)


class OtherState(Listwise):
    """Shows a state of another width than its table."""

    def states(self, history):
        return self.item(history)[..., :5]

    def forward(self, history, candidates):
        return torch.einsum("bd,bcd->bc", self.item(history).mean(1), self.item(candidates))


@pytest.mark.parametrize("module", [lambda: DIN(N, width=8, length=LENGTH), Listwise, OtherState])
def test_other_models_are_asked_themselves(module, lives):
    inner = model_scorer(module())
    assert shared(inner, DEVICES, STEPS, lives[:, 0]) is inner


def test_a_model_without_states_or_table_is_asked_itself(lives):
    dot = Dot(N)
    inner = ModelScorer(dot, dot.init(rng(0, "m")))
    assert shared(inner, DEVICES, STEPS, lives[:, 0]) is inner
    sasrec = model_scorer(SASRec(N, width=8, length=LENGTH))
    assert shared(sasrec, DEVICES, STEPS, lives[:0, 0]) is sasrec  # nothing to try it on


def test_a_replay_with_shared_scores_decides_the_same():
    lived = random_timeline(30, 6, N, length=LENGTH)
    columns = []
    for share in (False, True):
        model = TorchModel(SASRec(N, width=8, blocks=1, length=LENGTH))
        world = World(lived, N, model=model, policy=Consistency("rbo"), price=0.3, own=3)
        shard = world.shard()
        (fleet,) = shard.fleets
        if share:
            fleet.scorer = shared(fleet.setup.scorer, 30, 6, lived.histories)
            assert isinstance(fleet.scorer, SharedScores)
        delivery, waves = world.install(), []
        for number in range(1, 7):
            wave = shard.wave(number, delivery)
            waves.append(wave.telemetry)
            delivery = world.gateway.answer(wave.requests, wave.asked_at)
        columns.append({k: np.concatenate([w[k] for w in waves]) for k in waves[0]})
    assert 20 < columns[0]["asked"].sum() < 160
    for name, values in columns[0].items():
        np.testing.assert_array_equal(columns[1][name], values, err_msg=name)


class Looks:
    """Asks at every third step, and keeps what it saw."""

    def __init__(self):
        self.seen = []

    def urgency(self, view, draws):
        self.seen.append((view.device_scores, view.state, view.asked_state, view.own))
        return (view.step % 3 == 0).astype(np.float64)


@pytest.mark.parametrize("module", [lambda: GRU4Rec(N, width=8), lambda: ElasticSASRec(N, width=8, items=8, length=4)])
def test_states_that_go_on_are_shared_as_a_fleet_has_them(module, monkeypatch):
    """Items leave the window from the first step on, so whoever read the window again would see something else."""
    monkeypatch.setattr("simulation.sweep.sharing.PORTION", 7)
    lived = random_timeline(30, 6, N, length=LENGTH)
    lived.items[::4, 4:] = 0  # some stop earlier
    seen = {}
    for how in ("fleet", "shared", "recomputed"):
        model, looks = IncrementalTorch(module()), Looks()
        world = World(lived, N, model=model, policy=looks, price=0.5, own=3)
        world.params = {k: v + rng(0, k).normal(0, 0.3, v.shape).astype(np.float32) for k, v in world.params.items()}
        setup = replace(world.shard().fleets[0].setup, incremental=how != "recomputed")
        if how == "shared":
            scorer = shared(setup.scorer, 30, 6, lived.histories, going_on=lived.items)
            assert isinstance(scorer, SharedScores)
            setup = replace(setup, scorer=scorer)
        shard = Shard([setup], lived, slots=8, history=LENGTH, codec=world.codec)
        delivery = world.install()
        for number in range(1, 7):
            wave = shard.wave(number, delivery)
            delivery = world.gateway.answer(wave.requests, wave.asked_at) if wave.requests else nothing()
        seen[how] = looks.seen
    assert len(seen["fleet"]) == 6
    for one, other, third in zip(*seen.values(), strict=True):
        for mine, theirs in zip(one, other, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
        assert np.abs(one[1] - third[1]).max() > 1e-3
    assert np.abs(seen["fleet"][-1][2] - seen["recomputed"][-1][2]).max() > 1e-3
