"""The floors by hand on a toy: popularity, successor counts, the id counter and why ids are permuted."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud.generator import TopK
from cloud.generators.floors import IdCounter, Markov, Popularity
from cloud.ranking import CatalogueScorer, catalogue_ranks
from cloud.sequences import Sequences
from device.model import Items
from device.seeds import draws, rng
from simulation.data.dataset import windows
from simulation.data.read import read

N_ITEMS = 6
# Three users: 1 2 3 1 2 | 2 3 2 4 | 5. Item 6 never occurs. The 6 6 at the end belongs to nobody (a test part).
TOY = Sequences(np.array([1, 2, 3, 1, 2, 2, 3, 2, 4, 5, 6, 6], np.int32), np.array([0, 5, 9]), np.array([5, 9, 10]))


def ids(*rows: list[int]) -> Items:
    return np.array(rows, np.int32)


def lists(scorer: CatalogueScorer, history: Items, k: int, *, hide_seen: bool = False) -> list[list[int]]:
    made = TopK(scorer, hide_seen).generate(history, k, rng=draws(0, "lists", np.arange(len(history))))
    rows: list[list[int]] = made.items.tolist()
    return rows


def test_popularity_counts() -> None:
    floor = Popularity(N_ITEMS)
    floor.fit(TOY)
    scores = floor.scores(ids([0, 1], [2, 3]), draws(0, "x", np.arange(2)))
    assert scores.tolist() == [[0, 2, 4, 2, 1, 1, 0]] * 2
    assert scores.dtype == np.float32
    assert lists(floor, ids([0, 1]), 6) == [[2, 1, 3, 4, 5, 6]]  # ties by id
    assert lists(floor, ids([2, 3]), 3, hide_seen=True) == [[1, 4, 5]]
    assert floor.flops(ids([0, 1], [2, 3])).tolist() == [6.0, 6.0]


def test_markov_counts() -> None:
    floor = Markov(N_ITEMS)
    floor.fit(TOY)
    # pairs: 1>2 2>3 3>1 1>2 | 2>3 3>2 2>4; popularity 2 4 2 1 1 0 over 4 + 1
    scores = floor.scores(ids([0, 1], [1, 2], [2, 3], [0, 5], [0, 0]), draws(0, "x", np.arange(5)))
    popular = np.array([0, 2, 4, 2, 1, 1, 0]) / 5
    wanted = popular + np.array(
        [
            [0, 0, 2, 0, 0, 0, 0],
            [0, 0, 0, 2, 1, 0, 0],
            [0, 1, 1, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0],
        ]
    )
    assert scores == pytest.approx(wanted, abs=1e-6)
    # after 3: 1 and 2 once each, 2 is more popular; after 5 nothing is known, popularity decides
    assert lists(floor, ids([2, 3], [0, 5]), 4) == [[2, 1, 3, 4], [2, 1, 3, 4]]
    assert lists(floor, ids([1, 2]), 3) == [[3, 4, 2]]
    # successors of 1, 2, 3, 5 and of nothing: 1, 2, 2, 0, 0
    assert floor.flops(ids([0, 1], [1, 2], [2, 3], [0, 5], [0, 0])).tolist() == [7.0, 8.0, 8.0, 6.0, 6.0]


def test_popularity_never_outweighs_a_single_successor() -> None:
    # 1 is followed by 3 once; 2 is taken 50 times
    data = Sequences(np.array([1, 3, *[2] * 50], np.int32), np.array([0, 2]), np.array([2, 52]))
    floor = Markov(3)
    floor.fit(data)
    assert lists(floor, ids([0, 1]), 3) == [[3, 2, 1]]


def test_pairs_do_not_cross_users() -> None:
    floor = Markov(N_ITEMS)
    floor.fit(Sequences(np.array([1, 2, 3, 4], np.int32), np.array([0, 2]), np.array([2, 4])))
    assert floor.successor.tolist() == [2, 4]
    assert floor.count.tolist() == [1.0, 1.0]
    assert [(int(floor.start[i]), int(floor.start[i + 1])) for i in range(5)] == [
        (0, 0),
        (0, 1),
        (1, 1),
        (1, 2),
        (2, 2),
    ]


def test_the_id_counter_counts_upwards() -> None:
    floor = IdCounter(N_ITEMS)
    floor.fit(TOY)
    # largest id first, then down from it
    assert lists(floor, ids([1, 3], [3, 1], [0, 0], [2, 6]), 6) == [
        [4, 5, 6, 3, 2, 1],
        [4, 5, 6, 3, 2, 1],
        [1, 2, 3, 4, 5, 6],
        [6, 5, 4, 3, 2, 1],
    ]
    assert lists(floor, ids([1, 3]), 4, hide_seen=True) == [[4, 5, 6, 2]]


def hit_rate(data: Items, n_items: int) -> float:
    """Share of users whose last item is among the ten best of the id counter."""
    rank, ties = catalogue_ranks(IdCounter(n_items), data[:, :-1], data[:, -1])
    assert (ties == 1).all()
    return float((rank <= 10).mean())


def dealt_out_in_order_of_appearance(users: int, length: int, n_items: int) -> NDArray[np.int32]:
    """As in the published P5 files: reading user by user, each new item gets the next free id."""
    items = rng(0, "p5").integers(0, n_items, (users, length))
    _, first, where = np.unique(items, return_index=True, return_inverse=True)
    return (np.argsort(np.argsort(first)) + 1)[where].reshape(items.shape).astype(np.int32)


def test_the_id_counter_finds_leaking_numbers_and_is_chance_on_permuted_ones() -> None:
    users, n_items = 1000, 5000
    leaking = dealt_out_in_order_of_appearance(users, 6, 20_000)
    leaking = leaking[leaking.max(1) <= n_items]
    permuted = (rng(1, "permutation").permutation(n_items) + 1).astype(np.int32)[leaking - 1]
    assert hit_rate(leaking, n_items) > 0.5
    # chance is 10 / 5,000 = 0.002; among 800 to 1,000 users 2 hits are expected, more than 10 once in 100,000
    assert len(leaking) > 800
    assert hit_rate(permuted, n_items) < 0.0125


@pytest.mark.data
def test_floors_on_real_interactions(data_dir: Path) -> None:
    """Permuted ids tell nothing; the item taken last tells more than what is popular."""
    data = read(data_dir / "amazon-beauty", seed=1)
    users = np.flatnonzero(data.lengths >= 3)[:4000]
    ends = data.offsets[users + 1] - 1
    train = Sequences(data.item, data.offsets[:-1], np.maximum(data.offsets[1:] - 1, data.offsets[:-1]))
    hits = {}
    for floor in (Popularity(data.n_items), Markov(data.n_items), IdCounter(data.n_items)):
        floor.fit(train)
        rank, _ = catalogue_ranks(floor, windows(data, users, ends, 50), data.item[ends], hide_seen=True)
        hits[type(floor).__name__] = float((rank <= 10).mean())
    assert hits["Markov"] > hits["Popularity"] > 0.01
    assert hits["IdCounter"] < 0.005


def test_pinned_on_a_toy_fleet() -> None:
    """Successors drawn from a fixed chain: Markov beats popularity, which beats the id counter."""
    numbers = rng(5, "chain")
    follow = numbers.permutation(30) + 1
    rows = np.zeros((200, 8), np.int32)
    rows[:, 0] = numbers.zipf(1.5, 200) % 30 + 1
    for step in range(1, 8):
        random = numbers.zipf(1.5, 200) % 30 + 1
        rows[:, step] = np.where(numbers.random(200) < 0.5, follow[rows[:, step - 1] - 1], random)
    starts = np.arange(200) * 8
    data = Sequences(rows.ravel(), starts, starts + 7)
    hits = {}
    for floor in (Popularity(30), Markov(30), IdCounter(30)):
        floor.fit(data)
        rank, _ = catalogue_ranks(floor, rows[:, :-1], rows[:, -1])
        hits[type(floor).__name__] = int((rank <= 3).sum())
    assert hits["Markov"] > 1.2 * hits["Popularity"] > 2 * hits["IdCounter"]
