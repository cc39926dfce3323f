"""Going on from a state equals reading the whole history, for any schedule of steps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from device.errors import ContractError
from device.incremental import Incremental, OnDemand, RanksFromState, ShowsState, state_bytes
from device.model import HasItemTable
from device.models.din import DIN
from device.models.elastic import ElasticSASRec
from device.models.elastic_gru import ElasticGRU4Rec
from device.models.gru4rec import GRU4Rec
from device.models.incremental_torch import IncrementalTorch
from device.models.sasrec import SASRec
from device.models.ttt import ETA, TTT4Rec
from device.seeds import rng

N_ITEMS, LENGTH, LONG = 30, 5, 40
"""ElasticSASRec looks back LENGTH items per block; the others have no end, so their recomputation gets LONG items."""

KINDS = {
    "gru4rec": lambda: GRU4Rec(N_ITEMS, width=8, layers=2, length=LONG),
    "elastic gru4rec": lambda: ElasticGRU4Rec(N_ITEMS, width=8, items=4, length=LONG),
    "elastic sasrec": lambda: ElasticSASRec(N_ITEMS, width=16, items=8, length=LENGTH),
    "one block": lambda: ElasticSASRec(N_ITEMS, width=8, blocks=1, items=8, length=LENGTH),
    "ttt": lambda: TTT4Rec(N_ITEMS, width=16, heads=2, length=LONG, mini_batch=4),
    "ttt mlp": lambda: TTT4Rec(N_ITEMS, width=8, blocks=2, heads=1, inner="mlp", length=LONG, mini_batch=3),
    "ttt online": lambda: TTT4Rec(N_ITEMS, width=8, heads=2, length=LONG, mini_batch=1),
    "eta": lambda: ETA(TTT4Rec(N_ITEMS, width=16, heads=2, length=LONG, mini_batch=4), 1.5, k=10),
}


def made(kind):
    """(model, params) with weights ten times larger than those drawn, so that a mistake shows."""
    torch.manual_seed(3)
    module = KINDS[kind]()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return IncrementalTorch(module), {name: tensor.numpy() for name, tensor in module.state_dict().items()}


MADE = {}


def kept(kind):
    """`made`, once."""
    if kind not in MADE:
        MADE[kind] = made(kind)
    return MADE[kind]


def padded(lists, length):
    return np.array([[0] * (length - len(items)) + list(items) for items in lists], np.int32)


@pytest.mark.parametrize("kind", KINDS)
def test_the_traits_are_found(kind):
    model, _ = kept(kind)
    assert isinstance(model, Incremental)
    assert isinstance(model, RanksFromState)
    assert isinstance(model, ShowsState)
    assert isinstance(model, HasItemTable)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_any_schedule_of_steps_equals_recomputation(kind, data):
    """Some devices step, others do not; they begin with histories shorter than, as long as and longer than LENGTH."""
    model, params = kept(kind)
    sizes = data.draw(st.lists(st.sampled_from([0, 1, 3, LENGTH, LENGTH + 1, 12]), min_size=3, max_size=3))
    numbers = np.random.default_rng(data.draw(st.integers(0, 99)))
    lived = [numbers.integers(1, N_ITEMS + 1, size).tolist() for size in sizes]
    pool = numbers.integers(1, N_ITEMS + 1, (3, 6)).astype(np.int32)
    state = {k: np.array(v) for k, v in model.start(params, padded(lived, 12)).items()}
    for who in data.draw(st.lists(st.sets(st.sampled_from([0, 1, 2]), min_size=1), max_size=10)):
        rows = np.array(sorted(who))
        items = numbers.integers(1, N_ITEMS + 1, len(rows)).astype(np.int32)
        after = model.advance(params, {name: values[rows] for name, values in state.items()}, items)
        for name, values in state.items():
            values[rows] = after[name]
        for row, item in zip(rows, items, strict=True):
            lived[row].append(int(item))
    history = padded(lived, 22)
    scores = model.score_state(params, state, pool)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, model.score(params, history, pool), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        model.catalogue_state(params, state), model.catalogue(params, history), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(model.shown(params, state), model.state(params, history), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_matters_what_is_stepped(kind):
    model, params = kept(kind)
    start = model.start(params, np.array([[1, 2, 3]] * 2, np.int32))
    pool = np.array([[4, 5, 6]] * 2, np.int32)
    scores = model.score_state(params, model.advance(params, start, np.array([7, 8], np.int32)), pool)
    assert np.abs(scores[0] - scores[1]).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_no_row_depends_on_the_others(kind):
    model, params = kept(kind)
    history = np.random.default_rng(0).integers(0, N_ITEMS + 1, (5, 8)).astype(np.int32)
    history[:3, :6] = 0
    items, pool = np.arange(1, 6, dtype=np.int32), np.ones((5, 1), np.int32)
    together = model.score_state(params, model.advance(params, model.start(params, history), items), pool)
    for row in range(5):
        one = slice(row, row + 1)
        alone = model.advance(params, model.start(params, history[one]), items[one])
        np.testing.assert_allclose(model.score_state(params, alone, pool[one]), together[one], rtol=1e-5, atol=1e-6)


def test_a_ring_is_right_after_thousands_of_items():
    """Positions grow without end; their angles must not lose digits. The last 9 items are all that two blocks see."""
    model, params = kept("elastic sasrec")
    state = dict(model.start(params, np.array([[5, 6, 7]], np.int32)))
    items = np.random.default_rng(1).integers(1, N_ITEMS + 1, 9).astype(np.int32)
    state["position"] = state["position"] + 10**6 * LENGTH
    for item in items:
        state = model.advance(params, state, item[None])
    pool = np.arange(1, 9, dtype=np.int32)[None]
    np.testing.assert_allclose(
        model.score_state(params, state, pool), model.score(params, items[None], pool), rtol=1e-5, atol=1e-5
    )


def test_bytes_of_a_device_by_hand():
    # keys and values, 2 blocks x 5 places x 2 x 16 numbers = 320; last 8 numbers; filled, position: two int64
    model, params = kept("elastic sasrec")
    assert state_bytes(model.start(params, np.ones((3, 4), np.int32))) == 4 * (320 + 8) + 16
    # two layers of 8 and the last state of 8
    model, params = kept("gru4rec")
    assert state_bytes(model.start(params, np.ones((3, 4), np.int32))) == 4 * 24
    # the paper's size, 4 heads of 16: weights 4 x (16 x 16 + 16) = 1,088 and as many gradients; last 64; one place
    published = IncrementalTorch(TTT4Rec(N_ITEMS))
    assert state_bytes(published.start(published.init(rng(0)), np.ones((1, 1), np.int32))) == 4 * (2 * 1088 + 64) + 8


def test_other_parameters_are_taken_up():
    model, params = made("gru4rec")
    state = model.start(params, np.array([[1, 2]], np.int32))
    pool = np.array([[3, 4]], np.int32)
    before = model.score_state(params, state, pool)
    other = {name: array * 2 for name, array in params.items()}
    assert (
        np.abs(model.score_state(other, model.start(other, np.array([[1, 2]], np.int32)), pool) - before).max() > 0.01
    )
    np.testing.assert_array_equal(model.score_state(params, state, pool), before)


def test_what_cannot_be_exact_is_refused_with_the_cure():
    with pytest.raises(ContractError, match=r"SASRec counts positions from the newest item.*ElasticSASRec"):
        IncrementalTorch(SASRec(N_ITEMS))
    with pytest.raises(ContractError, match=r"DIN cannot go on from a state; give it item_table, begin\(history\)"):
        IncrementalTorch(DIN(N_ITEMS))


def test_on_demand_makes_only_what_is_asked_for():
    asked = []
    held = OnDemand(["a", "b"], lambda name: asked.append(name) or name.upper())
    assert (held["b"], list(held), len(held), asked) == ("B", ["a", "b"], 2, ["b"])
    with pytest.raises(KeyError):
        held["c"]
