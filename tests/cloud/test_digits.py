"""Ids written by digits: pieces and their combinations by hand, lists that lose their invalid ids, independent rows."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.generator import Generated, check_lists
from cloud.generators.digits import DigitWriter, compact, cut, joined, recombined, repeats
from device.errors import ConfigError
from device.model import Items
from device.seeds import Draws, draws, rng

N_ITEMS = 12_101


class Random:
    """Lists of distinct ids all over a catalogue of a prime size; row i depends on its own draws only."""

    def __init__(self, n_items: int = N_ITEMS, empty: int = 0) -> None:
        self.n_items, self.empty = n_items, empty

    def generate(self, histories: Items, k: int, *, rng: Draws) -> Generated:
        step = rng.bits(2)
        start, stride = step[:, :1] % np.uint64(self.n_items), 1 + step[:, 1:] % np.uint64(self.n_items - 1)
        items = ((start + stride * np.arange(k, dtype=np.uint64)) % np.uint64(self.n_items)).astype(np.int32) + 1
        items[:, k - self.empty :] = 0
        scores = np.where(items > 0, -np.arange(k), 0).astype(np.float32)
        return Generated(items, scores, np.full(len(items), 7.0), None)


def ids(*rows: list[int]) -> Items:
    return np.array(rows, np.int32)


def written(rows: int, **options: float) -> Items:
    made = DigitWriter(Random(), N_ITEMS, **options).generate(
        np.zeros((rows, 3), np.int32), 50, rng=draws(3, "lists", np.arange(rows))
    )
    return made.items


def test_pieces_by_hand() -> None:
    front, middle, end = cut(ids([0, 7, 42, 305, 1234, 90_001, 120_560]))
    assert front.tolist() == [[0, 0, 0, 0, 0, 9, 12]]
    assert middle[0].tolist() == [[0, 0, 0, 3, 12, 0, 5]]
    assert middle[1].tolist() == [[0, 0, 0, 1, 2, 2, 2]]
    assert end[0].tolist() == [[0, 7, 42, 5, 34, 1, 60]]
    assert end[1].tolist() == [[0, 1, 2, 2, 2, 2, 2]]


@given(st.lists(st.integers(1, 2**31 - 1), min_size=1, max_size=20))
def test_pieces_joined_are_the_id(values: list[int]) -> None:
    whole = np.array(values, np.int32)
    assert joined(*cut(whole)).tolist() == values


def test_all_combinations_as_strings() -> None:
    """Against the released rule written with strings: F x S x T, F with "0" beside the list's own."""
    items = ids([305, 1234, 90_001, 7, 0])
    front, middle, end = {"0", "9"}, {"3", "12", "00"}, {"05", "34", "01", "7"}
    wanted = sorted(int("".join(parts)) for parts in product(front, middle, end))
    assert len(wanted) == 24
    got = recombined(items, 40, draws(0, "x", [1]))
    assert sorted(got[0].tolist()) == sorted([*wanted, *[0] * 16])
    legal = recombined(items, 40, draws(0, "x", [1]), n_items=N_ITEMS)[0]
    assert sorted(legal[legal > 0].tolist()) == [i for i in wanted if 1 <= i <= N_ITEMS]
    few = recombined(items, 5, draws(0, "x", [1]))[0].tolist()
    assert few == got[0, :5].tolist()  # in random order: the first of them
    assert few != sorted(few)
    assert few != recombined(items, 5, draws(0, "x", [2]))[0].tolist()


def test_ids_of_two_digits_have_nothing_to_recombine() -> None:
    assert not recombined(ids([42, 7, 99]), 4, draws(0, "x", [1])).any()


def test_repeats_and_compact() -> None:
    values = ids([5, 3, 5, 0, 3, 5])
    assert repeats(values).tolist() == [[False, False, True, False, True, True]]
    assert compact(np.array([[False, True, True, False, True, False]]), values).tolist() == [[3, 5, 3, 0, 0, 0]]


def test_no_errors_leave_the_lists_alone() -> None:
    plain = Random().generate(np.zeros((20, 3), np.int32), 50, rng=draws(3, "lists", np.arange(20)))
    assert (written(20, garbled=0.0, heavy_share=0.0) == plain.items).all()


def test_garbled_lists_hold_valid_ids_only_and_their_empty_places_are_the_invalid_ones() -> None:
    rows = 64
    inner = Random()
    made = DigitWriter(inner, N_ITEMS, garbled=0.5).generate(
        np.zeros((rows, 3), np.int32), 50, rng=draws(3, "lists", np.arange(rows))
    )
    check_lists(inner, made, rows=rows, pool=50, n_items=N_ITEMS)
    empty = (made.items == 0).sum(1)
    assert 1 < empty.mean() < 10
    assert empty.max() < 50
    assert (np.diff((made.items > 0).astype(int), axis=1) <= 0).all()  # all at the end
    assert (made.scores[made.items == 0] == 0).all()
    assert made.flops is not None
    assert made.flops.tolist() == [7.0] * rows
    for items, scores in zip(made.items, made.scores, strict=True):
        assert (np.diff(scores[items > 0]) < 0).all()  # places keep their scores


def test_an_id_that_exists_stays_as_a_wrong_answer() -> None:
    """A catalogue of all ids of four digits: no combination of ids of four digits leaves it, only repeats are lost."""
    inner = Random(9_001)
    history, requests = np.zeros((200, 3), np.int32), draws(3, "lists", np.arange(200))
    right = inner.generate(history, 20, rng=requests).items
    made = DigitWriter(inner, 9_999, garbled=0.2).generate(history, 20, rng=requests)
    new = (made.items > 0) & ~(made.items[:, :, None] == right[:, None, :]).any(-1)
    share = new.sum() / right.size
    assert 0.1 < share < 0.2  # the rest of the garbled fifth spells ids of the list again
    assert made.items.max() <= 9_999


@pytest.mark.parametrize("parts", [1, 7])
def test_a_list_does_not_depend_on_who_else_asks(parts: int) -> None:
    writer = DigitWriter(Random(), N_ITEMS, garbled=0.1, heavy_share=0.3, heavy=0.9)
    history, requests = np.zeros((40, 3), np.int32), draws(3, "lists", np.arange(40))
    whole = writer.generate(history, 30, rng=requests)
    for some in np.array_split(rng(0, "order").permutation(40), parts):
        again = writer.generate(history[some], 30, rng=requests[some])
        assert (again.items == whole.items[some]).all()
        assert (again.scores == whole.scores[some]).all()
    other = writer.generate(history, 30, rng=draws(4, "lists", np.arange(40)))
    assert (other.items != whole.items).any()


def test_heavy_requests_hold_most_of_the_invalid_ids() -> None:
    """The same expected number of errors, spread over all requests or held by few of them."""
    even = (written(2000, garbled=0.02) == 0).sum(1)
    few = (written(2000, garbled=0.0, heavy_share=0.04, heavy=0.5) == 0).sum(1)
    assert abs(even.sum() - few.sum()) < 0.25 * even.sum()
    assert (few > 0).mean() < 0.06 < (even > 0).mean()
    assert few.max() > 2 * even.max()


def test_which_requests_are_heavy_says_nothing_about_which_places_are() -> None:
    """Half of the requests, half of their places: the first place is garbled in a quarter of all requests."""
    history, requests = np.zeros((2000, 3), np.int32), draws(3, "lists", np.arange(2000))
    right = Random().generate(history, 2, rng=requests).items
    wrong = DigitWriter(Random(), 10**9, garbled=0.0, heavy_share=0.5, heavy=0.5).generate(history, 2, rng=requests)
    # A garbled id of two donors is its old self in an eighth of the cases: 0.25 * 7 / 8 = 0.219.
    assert abs((wrong.items[:, 0] != right[:, 0]).mean() - 0.219) < 0.04


def test_the_released_counts_per_batch_of_16() -> None:
    """The options named in the documentation give what the released quantiles show: at least one invalid id in about a
    third of the batches, two in a tenth, three in a twentieth."""
    items = written(16_000, garbled=0.0023, heavy_share=0.00625, heavy=0.4)
    per_batch = (items == 0).sum(1).reshape(-1, 16).sum(1)
    for most, share, margin in ((1, 0.33, 0.05), (2, 0.11, 0.03), (3, 0.055, 0.02)):
        assert abs((per_batch >= most).mean() - share) < margin, most


def test_empty_places_of_the_wrapped_generator_stay_empty() -> None:
    made = DigitWriter(Random(empty=4), N_ITEMS, garbled=1.0).generate(
        np.zeros((30, 3), np.int32), 10, rng=draws(3, "lists", np.arange(30))
    )
    assert (made.items[:, 6:] == 0).all()
    assert (made.items[:, :3] > 0).any()


def test_a_probability_is_a_probability() -> None:
    with pytest.raises(ConfigError, match=r"heavy = 1\.5"):
        DigitWriter(Random(), 9, heavy=1.5)
