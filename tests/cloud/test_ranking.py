"""Ranks in the whole catalogue against counting by hand, with ties and with seen items hidden."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cloud.ranking import ROWS, Neural, catalogue_ranks, catalogue_scores
from device.model import Items, Scores
from device.models.din import DIN
from device.models.gru4rec import GRU4Rec
from device.models.sasrec import SASRec
from device.seeds import Draws, draws, rng

N_ITEMS = 6


class Table:
    """Scores of six items, few levels so that ties abound, drawn by each row's own random numbers."""

    def __init__(self, levels: int = 3) -> None:
        self.levels = levels
        self.sizes: list[int] = []

    def scores(self, histories: Items, rng: Draws) -> Scores:
        self.sizes.append(len(histories))
        return np.floor(rng.uniform(N_ITEMS + 1) * self.levels).astype(np.float32)

    def flops(self, histories: Items) -> None:
        return None


class Same:
    """The same scores for everybody."""

    def __init__(self, *scores: float) -> None:
        self.table = np.array(scores, np.float32)

    def scores(self, histories: Items, rng: Draws) -> Scores:
        return np.repeat(self.table[None], len(histories), axis=0)

    def flops(self, histories: Items) -> None:
        return None


def ids(*rows: list[int]) -> Items:
    return np.array(rows, np.int32)


def ranks(scorer: Same, history: list[int], target: int, *, hide_seen: bool = False) -> tuple[int, int]:
    rank, ties = catalogue_ranks(scorer, ids(history), np.array([target], np.int32), hide_seen=hide_seen)
    return int(rank[0]), int(ties[0])


def test_ranks_by_hand() -> None:
    scorer = Same(99, 5, 3, 3, 9, 1, 3)  # the score of padding does not count
    assert ranks(scorer, [0, 1], 4) == (1, 1)
    assert ranks(scorer, [0, 1], 1) == (2, 1)
    assert ranks(scorer, [0, 1], 6) == (3, 3)  # 4 and 1 are above; 2, 3, 6 are equal
    assert ranks(scorer, [0, 1], 5) == (6, 1)


def test_hidden_items_make_room() -> None:
    scorer = Same(99, 5, 3, 3, 9, 1, 3)
    assert ranks(scorer, [4, 2], 6, hide_seen=True) == (2, 2)  # 1 is above; 3 and 6 are equal
    assert ranks(scorer, [4, 6], 6, hide_seen=True) == (2, 3)  # a target that was seen before stays; 2 and 3 are equal
    assert ranks(scorer, [0, 0], 5, hide_seen=True) == (6, 1)  # padding hides nothing


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_ranks_by_brute_force(seed: int, rows: int, levels: int, hide_seen: bool) -> None:
    numbers = rng(seed, "brute force")
    history = numbers.integers(0, N_ITEMS + 1, (rows, 3)).astype(np.int32)
    target = numbers.integers(1, N_ITEMS + 1, rows).astype(np.int32)
    drawn = draws(seed, "scores", np.arange(rows))
    scores = Table(levels).scores(history, drawn)
    rank, ties = catalogue_ranks(Table(levels), history, target, hide_seen=hide_seen, rng=drawn)
    for row in range(rows):
        seen = set(history[row].tolist()) - {int(target[row])} if hide_seen else set()
        rivals = [scores[row, item] for item in range(1, N_ITEMS + 1) if item not in seen]
        own = scores[row, target[row]]
        assert rank[row] == 1 + sum(score > own for score in rivals)
        assert ties[row] == sum(score == own for score in rivals)


def test_many_rows_are_scored_in_slices_that_change_nothing() -> None:
    rows = 2 * ROWS + 7
    history, target = np.ones((rows, 2), np.int32), np.full(rows, 2, np.int32)
    drawn, scorer = draws(1, "many", np.arange(rows)), Table()
    rank, ties = catalogue_ranks(scorer, history, target, rng=drawn)
    assert scorer.sizes == [ROWS, ROWS, ROWS]  # the last call is filled up, so that its products have the same shape
    scores = Table().scores(history, drawn)[:, 1:]
    assert (rank == (scores > scores[:, 1:2]).sum(1) + 1).all()
    assert (ties == (scores == scores[:, 1:2]).sum(1)).all()


def test_slices_cover_all_rows_and_padding_is_never_ranked() -> None:
    parts = list(catalogue_scores(Table(), np.ones((ROWS + 1, 2), np.int32), draws(0, "x", np.arange(ROWS + 1))))
    assert [part.tolist() for part, _ in parts] == [list(range(ROWS)), [ROWS]]
    assert all(np.isneginf(scores[:, 0]).all() for _, scores in parts)


def test_a_list_does_not_depend_on_who_else_asks() -> None:
    """Bitwise, with matrix products: alone, in a small and in a large company of other lengths."""
    torch.manual_seed(0)
    scorer = Neural(SASRec(400, width=48, length=30))
    history = np.where(np.arange(30) >= 30 - np.arange(150)[:, None] % 31, np.arange(30) + 1, 0).astype(np.int32)
    drawn = draws(0, "x", np.arange(150))

    def scores(rows: list[int]) -> np.ndarray:
        out = np.empty((len(rows), 401), np.float32)
        for part, values in catalogue_scores(scorer, history[rows], drawn[np.array(rows)]):
            out[part] = values
        return out

    whole = scores(list(range(150)))
    for rows in ([7], [3, 149, 20], list(range(40, 120))):
        np.testing.assert_array_equal(scores(rows), whole[rows])


def test_no_rows_no_ranks() -> None:
    rank, ties = catalogue_ranks(Table(), np.zeros((0, 3), np.int32), np.zeros(0, np.int32))
    assert len(rank) == len(ties) == 0


@pytest.mark.parametrize("kind", [SASRec, GRU4Rec, DIN])
def test_a_module_scores_the_same_with_more_padding_and_from_its_newest_items(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    scorer = Neural(kind(N_ITEMS, width=4, length=3))
    drawn = draws(0, "x", np.arange(2))
    wide = ids([0, 0, 0, 0, 2, 5], [0, 0, 1, 2, 3, 4])
    got = scorer.scores(wide, drawn)
    assert got.shape == (2, N_ITEMS + 1)
    assert got.dtype == np.float32
    assert got == pytest.approx(scorer.scores(wide[:, 3:], drawn), abs=1e-6)  # the newest `length` count, no others
    assert np.isfinite(scorer.scores(np.zeros((2, 4), np.int32), drawn)).all()


def test_a_module_is_charged_by_the_length_it_reads() -> None:
    module = SASRec(N_ITEMS, width=4, length=3)
    cost = Neural(module).flops(ids([0, 0, 0, 0], [0, 0, 0, 5], [1, 2, 3, 4]))
    assert cost is not None
    # an empty history costs what one item costs; four items are cut to three
    assert cost.tolist() == [module.flops(1, 6), module.flops(1, 6), module.flops(3, 6)]


class Plain(nn.Module):
    """A reranker that knows `forward` only: item i scores i, less what the history sums up to."""

    n_items, length = 2000, 3

    def forward(self, history: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
        return (candidates - history.sum(1, keepdim=True)).float()


def test_a_plain_reranker_is_asked_for_every_item() -> None:
    scores = Neural(Plain()).scores(ids([0, 0, 1, 2], [9, 1, 2, 3]), draws(0, "x", np.arange(2)))
    # more than one slice of 1,024 items; the history is cut to its newest three
    assert scores.tolist() == [[i - 3.0 for i in range(2001)], [i - 6.0 for i in range(2001)]]
    assert Neural(Plain()).flops(ids([0, 1])) is None  # unknown, not free


class Noisy(nn.Module):
    """A module that scores from noise: the next item is what the noise says."""

    n_items, length = N_ITEMS, 3

    def noise_shape(self, length: int) -> tuple[int, int]:
        return (length, N_ITEMS + 1)

    def catalogue_scores(self, history: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return noise.sum(1)

    def flops(self, length: int) -> float:
        return 10.0 * length


def test_noise_follows_the_row_and_not_the_batch() -> None:
    drawn, history = draws(3, "noise", np.arange(4)), np.ones((4, 3), np.int32)
    scorer = Neural(Noisy())
    together = scorer.scores(history, drawn)
    apart = [scorer.scores(history[i : i + 1], drawn[slice(i, i + 1)])[0] for i in range(4)]
    assert (together == np.stack(apart)).all()
    assert len(np.unique(together)) == together.size
    assert scorer.flops(ids([0, 0, 1], [1, 2, 3])) == pytest.approx([10.0, 30.0])
