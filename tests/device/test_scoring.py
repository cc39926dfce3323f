"""A scorer's answers by hand; every call of a model has one shape."""

import numpy as np
import pytest
import torch
from loop_parts import Dot

from device.errors import ContractError
from device.models.sasrec import SASRec
from device.models.torch_model import TorchModel
from device.scoring import SCORING_BATCH, ModelScorer, batches
from device.seeds import rng


class ById:
    """The score of an item is a number from a list, whatever the history; counts calls."""

    def __init__(self, values):
        self.values, self.shapes = np.array(values, np.float32), []

    def init(self, rng):
        return {}

    def score(self, params, history, candidates):
        self.shapes.append(candidates.shape)
        return self.values[candidates]


class WholeById(ById):
    """The same through `catalogue`."""

    def catalogue(self, params, history):
        self.shapes.append(history.shape)
        return np.tile(self.values, (len(history), 1))


def scorer(made, resident=()):
    return ModelScorer(made, made.init(rng(0, "w")), np.array(resident, np.int32))


def own(made, history, k):
    history = np.array(history, np.int32)
    who = np.arange(len(history))
    return made.own(who, who, history, k)


VALUES = [99, 0.5, 2.0, -1.0, 2.0, 3.0, 0.0]  # of items 1..6; 99 is the padding's


@pytest.mark.parametrize("kind", [ById, WholeById])
def test_own_candidates_by_hand(kind):
    items, scores = own(scorer(kind(VALUES), range(1, 7)), [[0, 0, 6], [0, 5, 2]], 3)
    # Row 0 took 6: best are 5 (3.0), then 2 and 4 (2.0 both), the smaller id first. Row 1 took 5 and 2.
    assert items.tolist() == [[5, 2, 4], [4, 1, 6]]
    assert scores.tolist() == [[3.0, 2.0, 2.0], [2.0, 0.5, 0.0]]
    assert (items.dtype, scores.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize("kind", [ById, WholeById])
def test_only_resident_items_are_found_and_missing_ones_are_zero(kind):
    made = scorer(kind(VALUES), [1, 3, 4])
    items, scores = own(made, [[0, 0, 6], [1, 3, 4], [0, 4, 2]], 3)
    assert items.tolist() == [[4, 1, 3], [0, 0, 0], [1, 3, 0]]  # nothing is left of three, or two of three
    assert scores.tolist() == [[2.0, 0.5, -1.0], [0, 0, 0], [0.5, -1.0, 0]]
    items, scores = own(made, [[0, 0, 6]], 5)  # more wanted than there are
    assert items.tolist() == [[4, 1, 3, 0, 0]]
    assert scores.tolist() == [[2.0, 0.5, -1.0, 0, 0]]
    assert own(scorer(kind(VALUES)), [[0, 0, 6]], 2)[0].tolist() == [[0, 0]]  # no resident item


@pytest.mark.parametrize("kind", [ById, WholeById])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_own_candidates_of_a_broken_model_are_refused(kind, wrong):
    with pytest.raises(ContractError, match=f"{kind.__name__}.score returned NaN or infinity"):
        own(scorer(kind([0, 1, wrong, 3]), [1, 2, 3]), [[0, 1]], 2)
    assert own(scorer(kind([wrong, 1, wrong, 3]), [1, 3]), [[0, 1]], 2)[0].tolist() == [[3, 0]]  # 2 is not resident


@pytest.mark.parametrize("size", [1, 64, 65, 130])
def test_own_candidates_of_many_devices_come_in_calls_of_one_shape(size):
    model = ById(np.arange(10.0))
    history = (np.arange(size)[:, None] % 9 + 1).astype(np.int32)
    items, scores = own(scorer(model, range(1, 10)), history, 2)
    best = np.where(history[:, 0] == 9, 8, 9)
    assert items[:, 0].tolist() == best.tolist()
    assert items[:, 1].tolist() == np.where(history[:, 0] >= 8, 7, 8).tolist()
    np.testing.assert_array_equal(scores, items)
    assert set(model.shapes) == {(SCORING_BATCH, 9)}


def test_own_candidates_of_a_module_are_those_of_all_scores():
    torch.manual_seed(0)
    model = TorchModel(SASRec(40, width=8, blocks=1, length=6))
    made = scorer(model, np.arange(3, 31))
    history = rng(1, "h").integers(0, 41, (5, 6)).astype(np.int32)
    items, scores = own(made, history, 4)
    every = np.tile(np.arange(41, dtype=np.int32), (5, 1))
    known = made.scores(np.arange(5), np.arange(5), history, every)
    for row in range(5):
        free = [i for i in range(3, 31) if i not in history[row]]
        expected = sorted(free, key=lambda i: -known[row, i])[:4]
        assert items[row].tolist() == expected
        np.testing.assert_allclose(scores[row], known[row, expected], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 200])
def test_batches_cover_every_row_once_and_are_full(size):
    pairs = list(batches(size))
    assert [row for rows, _ in pairs for row in rows] == list(range(size))
    for rows, filled in pairs:
        assert len(filled) == SCORING_BATCH
        assert filled[: len(rows)].tolist() == rows.tolist()
        assert set(filled[len(rows) :]) <= {rows[0]}


@pytest.mark.parametrize("answer", ["scores", "own", "state"])
def test_an_answer_does_not_depend_on_who_else_asks(answer):
    torch.manual_seed(0)
    made = scorer(TorchModel(SASRec(40, width=16, blocks=2, length=6)), np.arange(1, 41))
    history = rng(1, "h").integers(0, 41, (150, 6)).astype(np.int32)
    pools = rng(2, "p").integers(1, 41, (150, 7)).astype(np.int32)

    def ask(rows):
        if answer == "scores":
            return made.scores(rows, rows, history[rows], pools[rows])
        return made.own(rows, rows, history[rows], 5)[1] if answer == "own" else made.state(rows, rows, history[rows])

    whole = ask(np.arange(150))
    for rows in (np.array([7]), np.arange(60, 80), np.arange(150)[::-1]):
        np.testing.assert_array_equal(ask(rows), whole[rows])


def test_the_state_is_that_of_the_module():
    torch.manual_seed(0)
    module = SASRec(40, width=8, blocks=1, length=6).eval()
    made = scorer(TorchModel(module))
    history = np.array([[0, 0, 3, 9, 1, 7]], np.int32)
    who = np.zeros(1, np.int64)
    state = made.state(who, who, history)
    assert state.shape == (1, 8)
    table = made.item_table()
    assert table.shape == (41, 8)
    candidates = np.array([[4, 5, 6]], np.int32)
    np.testing.assert_allclose(made.scores(who, who, history, candidates)[0], table[[4, 5, 6]] @ state[0], rtol=1e-4)
    assert made.state(who[:0], who[:0], history[:0]).shape[0] == 0


def test_a_model_without_a_state_is_named():
    who = np.zeros(1, np.int64)
    with pytest.raises(ContractError, match="Dot shows no state, which this policy looks at"):
        scorer(Dot(9)).state(who, who, np.ones((1, 3), np.int32))

    class Plain(torch.nn.Module):
        n_items = 9

        def forward(self, history, candidates):
            return candidates.float()

    with pytest.raises(ContractError, match="Plain shows no state"):
        scorer(TorchModel(Plain())).state(who, who, np.ones((1, 3), np.int32))


def test_the_item_table_is_the_named_array():
    assert scorer(ById(VALUES)).item_table() is None
    made = scorer(Dot(9))
    assert made.item_table() is made.params["table"]
