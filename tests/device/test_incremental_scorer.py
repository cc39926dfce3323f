"""A fleet with states shows the lists of a fleet that recomputes; when states are continued, kept and thrown away."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from loop_parts import Dot, World, random_timeline, timeline

from device.errors import ContractError
from device.incremental_scorer import IncrementalScorer, aligned, incremental
from device.models.elastic import ElasticSASRec
from device.models.elastic_gru import ElasticGRU4Rec
from device.models.gru4rec import GRU4Rec
from device.models.incremental_torch import IncrementalTorch
from device.models.ttt import ETA, TTT4Rec
from device.policy import Consistency
from device.scoring import SCORING_BATCH, ModelScorer
from device.seeds import rng
from device.snapshot import arrays_of, put_back
from simulation.replay import Shard

N = 40


def loud(module):
    """Larger weights than those drawn, so that scores differ."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return module


@dataclass
class Going(World):
    """The same loop with states; its devices are those of the timeline."""

    keep: bool = True

    def shard(self, rows=None):
        made = super().shard(rows)
        if not self.keep:
            return made
        setup = replace(made.fleets[0].setup, incremental=True)
        width = made.timeline.histories.shape[1]
        return Shard([setup], made.timeline, slots=self.held, history=width, codec=self.codec, shown=self.shown)


def short(devices, steps):
    """Histories of 0 to 4 items in a window that none leaves."""
    lived = random_timeline(devices, steps, N)
    known = np.pad(lived.histories, ((0, 0), (8, 0)))
    known[np.arange(12) < 8 + np.arange(devices)[:, None] % 5] = 0
    items = lived.items.copy()
    items[::3, 3:] = 0  # some devices stop earlier
    return timeline(items, known)


@pytest.mark.parametrize(
    ("module", "lived"),
    [
        (lambda: ElasticSASRec(N, width=16, items=8, length=4), short(70, 6)),
        (lambda: ElasticSASRec(N, width=8, blocks=1, items=8, length=4), random_timeline(70, 6, N)),
        (lambda: GRU4Rec(N, width=8), short(70, 6)),
        (lambda: ElasticGRU4Rec(N, width=8, items=8), short(70, 6)),
        (lambda: TTT4Rec(N, width=8, heads=2, mini_batch=3), short(70, 6)),
        (lambda: ETA(TTT4Rec(N, width=8, heads=2, mini_batch=3), 2.0, k=10), short(20, 4)),
    ],
    ids=["elastic", "one block in a moving window", "gru", "elastic gru", "ttt", "eta"],
)
def test_a_whole_replay_is_the_same(module, lived):
    model = IncrementalTorch(loud(module()))
    seen = {}
    for keep in (True, False):
        world = Going(lived, N, model=model, policy=Consistency(), price=0.4, own=3, keep=keep)
        scores, shown = [], []

        def look(number, shard, wave, delivery, answer, scores=scores, shown=shown):
            scores.append(shard.fleets[0].device_scores.copy())
            shown.append((wave.telemetry["shown"].tolist(), wave.requests))

        world.live(look)
        seen[keep] = np.stack(scores), shown
    np.testing.assert_allclose(seen[True][0], seen[False][0], rtol=1e-5, atol=1e-5)
    assert seen[True][0].std() > 0.005
    assert seen[True][1] == seen[False][1]


class Adding:
    """The state is the sum of the embeddings; says how often it was begun and continued."""

    def __init__(self):
        self.calls = []

    def init(self, rng):
        return {"table": np.arange(N + 1, dtype=np.float32)[:, None] ** 2}

    def score(self, params, history, candidates):
        return self.score_state(params, self.start(params, history), candidates)

    def start(self, params, history):
        self.calls.append(("start", len(history)))
        return {"sum": params["table"][history].sum(1), "spare": np.zeros((len(history), 3), np.int8)}

    def advance(self, params, state, item):
        self.calls.append(("advance", len(item)))
        return {"sum": state["sum"] + params["table"][item], "spare": state["spare"]}

    def score_state(self, params, state, candidates):
        return state["sum"] * candidates.astype(np.float32)


def scorer(devices=3, length=3, model=None):
    model = model or Adding()
    made = IncrementalScorer(ModelScorer(model, model.init(rng(0)), np.arange(1, 6, dtype=np.int32)), devices, length)
    if isinstance(model, Adding):
        model.calls.clear()
    return made


def ask(made, device, step, history):
    history = np.array(history, np.int32)
    one = np.ones((len(history), 1), np.int32)
    return made.scores(np.array(device), np.array(step), history, one)[:, 0].tolist()


def test_when_a_state_is_continued():
    made = scorer(np.array([5, 7, 9]))
    calls = made.model.calls
    assert ask(made, [5, 9], [0, 4], [[0, 0, 1], [0, 2, 3]]) == [1, 4 + 9]
    assert calls == [("start", 64)]
    assert ask(made, [5, 9], [0, 4], [[0, 0, 1], [0, 2, 3]]) == [1, 13]
    assert calls == [("start", 64)]  # the same step again
    assert ask(made, [5, 9], [1, 4], [[0, 1, 2], [0, 2, 3]]) == [1 + 4, 13]
    assert calls == [("start", 64), ("advance", 64)]
    calls.clear()
    assert ask(made, [7], [3], [[1, 2, 3]]) == [14]  # a device that was not there yet
    assert ask(made, [7], [5], [[2, 3, 5]]) == [4 + 9 + 25]  # a step was left out
    assert ask(made, [7], [6], [[0, 2, 5]]) == [4 + 25]  # not what was known and one more: rows came or went
    assert ask(made, [7], [0], [[1, 2, 3]]) == [14]  # a new replay
    assert calls == [("start", 64)] * 4
    # it remembers what left the window: 1 + 4 + 9 + 16
    assert ask(made, [7], [1], [[2, 3, 4]]) == [1 + 4 + 9 + 16]
    assert calls[-1] == ("advance", 64)
    assert ask(made, [5, 9], [2, 5], [[1, 2, 3], [2, 3, 1]]) == [14, 14]  # the others stand where they stood
    assert ask(made, [5, 9], [2, 6], [[1, 2, 3], [3, 1, 4]]) == [14, 14 + 16]  # only the second one steps


def test_own_candidates_and_scores_come_from_one_step():
    made = scorer(np.arange(2))
    history = np.array([[0, 0, 5], [0, 1, 4]], np.int32)
    who = np.arange(2)
    items, scores = made.own(who, who * 0, history, 3)
    # the score is the sum times the id, here 25 and 17; what is known is left out
    assert items.tolist() == [[4, 3, 2], [5, 3, 2]]
    assert scores.tolist() == [[100, 75, 50], [85, 51, 34]]
    assert ask(made, [0, 1], [0, 0], history) == [25, 17]
    assert made.model.calls == [("start", 64)]


@pytest.mark.parametrize("size", [1, 64, 130])
def test_every_call_has_64_rows(size):
    made = scorer(np.arange(size))
    history = np.ones((size, 3), np.int32)
    assert ask(made, np.arange(size), np.zeros(size, int), history) == [3] * size
    assert ask(made, np.arange(size), np.ones(size, int), history) == [4] * size
    assert {rows for _, rows in made.model.calls} == {SCORING_BATCH}


def torch_scorer(devices, module=None):
    model = IncrementalTorch(loud(module or ElasticSASRec(N, width=16, items=8, length=6)))
    return scorer(devices, 6, model)


@pytest.mark.parametrize("kind", [ElasticSASRec, GRU4Rec, TTT4Rec])
def test_a_devices_scores_do_not_depend_on_who_shares_its_client(kind):
    module = kind(N, width=8, length=6)
    history = rng(1, "h").integers(1, N + 1, (150, 9)).astype(np.int32)
    pools = rng(2, "p").integers(1, N + 1, (150, 7)).astype(np.int32)

    def run(devices):
        made = torch_scorer(devices, module=module)
        return [
            made.scores(devices, devices * 0 + step, history[devices, step : step + 6], pools[devices])
            for step in range(3)
        ]

    torch.manual_seed(0)
    whole = run(np.arange(150))
    for devices in (np.array([7]), np.arange(60, 80)):
        for one, all_of_them in zip(run(devices), whole, strict=True):
            np.testing.assert_array_equal(one, all_of_them[devices])


def test_the_state_and_a_look_back():
    made = torch_scorer(np.arange(3))
    history = rng(1, "h").integers(1, N + 1, (3, 9)).astype(np.int32)
    who = np.arange(3)
    states = [made.state(who, who * 0 + step, history[:, step : step + 6]) for step in range(3)]
    assert states[0].shape == (3, 8)
    expected = made.inner.state(who, who * 0, history[:, :6])
    np.testing.assert_allclose(states[0], expected, atol=1e-5)
    # a policy looks at what the last request knew, of two devices: nothing of what is kept is lost
    mixed = made.state(who, np.array([0, 0, 2]), np.stack([history[0, :6], history[1, :6], history[2, 2:8]]))
    np.testing.assert_allclose(mixed, [expected[0], expected[1], states[2][2]], atol=1e-5)
    assert made.step.tolist() == [2, 2, 2]
    np.testing.assert_array_equal(made.state(who, who * 0 + 2, history[:, 2:8]), states[2])
    # what a device marked it gives back, though its window no longer says so: the first item left it long ago
    made.mark(who[:2], who[:2] * 0 + 2, history[:2, 2:8])
    made.scores(who, who * 0 + 3, history[:, 3:9], history[:, :1])
    again = made.state(who, who * 0 + 2, history[:, 2:8])
    np.testing.assert_array_equal(again[:2], states[2][:2])
    assert np.abs(made.inner.state(who, who, history[:, 2:8])[:2] - states[2][:2]).max() > 1e-4
    assert made.device_bytes == sum(values[:1].nbytes for values in made.held.values()) + 8 * 4
    with pytest.raises(ContractError, match="Adding shows no state"):
        scorer(np.arange(3)).state(who, who, history[:, :3])


def test_an_interrupted_run_goes_on_bit_for_bit():
    history = rng(1, "h").integers(1, N + 1, (4, 9)).astype(np.int32)
    pools, who = rng(2, "p").integers(1, N + 1, (4, 7)).astype(np.int32), np.arange(4)
    straight, stopped = torch_scorer(who), torch_scorer(who)
    for step in range(2):
        straight.scores(who, who * 0 + step, history[:, step : step + 6], pools)
    saved = {name: array.copy() for name, array in arrays_of({"scorer.": straight}).items()}
    names = ["devices", "history", "marked", "marked_step", "step"]
    assert sorted(name for name in saved if "held" not in name) == [f"scorer.{name}" for name in names]
    put_back(arrays_of({"scorer.": stopped}), saved)
    last = [made.scores(who, who * 0 + 2, history[:, 2:8], pools) for made in (straight, stopped)]
    np.testing.assert_array_equal(*last)


def test_who_keeps_states():
    who = np.arange(2)
    assert isinstance(incremental(ModelScorer(Adding(), Adding().init(rng(0))), who, 3), IncrementalScorer)
    assert incremental(scorer(who), who, 3) is None  # no model, so whoever made it keeps the states
    with pytest.raises(ContractError, match="Dot keeps no state; give it start, advance and score_state"):
        IncrementalScorer(ModelScorer(Dot(N), Dot(N).init(rng(0))), who, 3)
    broken = Adding()
    broken.score_state = lambda params, state, candidates: state["sum"] * np.nan + candidates
    with pytest.raises(ContractError, match="NaN or infinity"):
        ask(scorer(who, model=broken), [0], [0], [[1, 2, 3]])


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
def test_memory_begins_at_a_multiple_of_64(dtype):
    for size in (1, 3, 7):
        made = aligned((2, size), np.dtype(dtype))
        assert (made.ctypes.data % 64, made.shape, made.dtype, made.any()) == (0, (2, size), np.dtype(dtype), False)
