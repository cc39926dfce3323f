"""The k best of the catalogue against numpy's argsort: ties by id, seen items left out, short lists padded."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cloud.generator import CandidateGenerator, TopK, top_k
from device.model import Items, Scores
from device.seeds import Draws, draws, rng

N_ITEMS = 8


class Table:
    """Scores drawn by each row's own random numbers, on few levels."""

    def __init__(self, hidden: tuple[int, ...] = ()) -> None:
        self.hidden = hidden

    def scores(self, histories: Items, rng: Draws) -> Scores:
        scores = np.floor(rng.uniform(N_ITEMS + 1) * 3).astype(np.float32)
        scores[:, list(self.hidden)] = -np.inf
        return scores

    def flops(self, histories: Items) -> NDArray[np.float64]:
        return np.asarray(7.0 * (histories > 0).sum(1))


def ids(*rows: list[int]) -> Items:
    return np.array(rows, np.int32)


def test_ties_come_in_the_order_of_their_ids() -> None:
    values = np.array([[1, 5, 2, 5, 2, 2]], np.float32)
    for k, columns in ((1, [1]), (2, [1, 3]), (3, [1, 3, 2]), (4, [1, 3, 2, 4]), (6, [1, 3, 2, 4, 5, 0])):
        best, order = top_k(values, k)
        assert order.tolist() == [columns]  # at the edge of the list too: 2 comes in before 4, and 4 before 5
        assert best.tolist() == values[:, columns].tolist()


levels = st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0])


@given(st.lists(st.lists(levels, min_size=7, max_size=7), min_size=1, max_size=4), st.integers(1, 9))
def test_top_k_is_a_stable_argsort(rows: list[list[float]], k: int) -> None:
    values = np.array(rows, np.float32)
    best, order = top_k(values, k)
    wanted = np.argsort(-values, axis=1, kind="stable")[:, :k]
    assert (order == wanted).all()
    assert (best == np.take_along_axis(values, wanted, axis=1)).all()


def test_a_list_is_the_argsort_of_the_scores() -> None:
    history, drawn = np.zeros((300, 3), np.int32), draws(0, "lists", np.arange(300))  # more than one slice
    made = TopK(Table()).generate(history, 4, rng=drawn)
    scores = Table().scores(history, drawn)[:, 1:]
    wanted = np.argsort(-scores, axis=1, kind="stable")[:, :4]
    assert (made.items == wanted + 1).all()
    assert (made.scores == np.take_along_axis(scores, wanted, axis=1)).all()
    assert made.items.dtype == np.int32
    assert made.scores.dtype == np.float32
    assert made.seconds is None
    assert isinstance(TopK(Table()), CandidateGenerator)


def test_the_uploaded_history_is_left_out_or_kept() -> None:
    history = rng(0, "history").integers(0, N_ITEMS + 1, (50, 3)).astype(np.int32)
    drawn = draws(0, "lists", np.arange(50))
    hidden = TopK(Table()).generate(history, 5, rng=drawn)
    assert not any(set(items) & set(seen) - {0} for items, seen in zip(hidden.items, history, strict=True))
    assert (hidden.items > 0).all()  # 8 items, at most 3 seen: 5 are left
    shown = TopK(Table(), hide_seen=False).generate(history, 5, rng=drawn)
    assert any(set(items) & set(seen) - {0} for items, seen in zip(shown.items, history, strict=True))
    assert shown.flops is not None
    assert (shown.flops == 7.0 * (history > 0).sum(1)).all()


def test_what_may_not_be_recommended_leaves_empty_places_at_the_end() -> None:
    made = TopK(Table(hidden=(2, 4, 6, 8))).generate(ids([0, 1], [3, 5]), 4, rng=draws(0, "lists", np.arange(2)))
    assert sorted(made.items[0].tolist()) == [0, 3, 5, 7]
    assert sorted(made.items[1].tolist()) == [0, 0, 1, 7]
    assert (made.items[:, -1] == 0).all()
    assert (made.scores[made.items == 0] == 0).all()


def test_a_list_does_not_depend_on_who_else_asks() -> None:
    history, drawn = np.ones((6, 2), np.int32), draws(0, "lists", np.arange(6))
    together = TopK(Table()).generate(history, 4, rng=drawn)
    some = np.array([4, 1])
    apart = TopK(Table()).generate(history[some], 4, rng=drawn[some])
    assert (apart.items == together.items[some]).all()
    assert (apart.scores == together.scores[some]).all()


@pytest.mark.parametrize("k", [N_ITEMS, N_ITEMS + 1, pytest.param(N_ITEMS + 5)])
def test_a_list_longer_than_the_catalogue_is_padded(k: int) -> None:
    made = TopK(Table()).generate(ids([0, 1]), k, rng=draws(0, "lists", np.arange(1)))
    assert made.items.shape == made.scores.shape == (1, k)
    assert sorted(made.items[0, :7].tolist()) == [2, 3, 4, 5, 6, 7, 8]
    assert not made.items[0, 7:].any()
