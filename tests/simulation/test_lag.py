"""The lag protocol in a world where the cloud is exactly as wrong as it is late."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud.generator import TopK
from device.errors import ConfigError
from device.model import Items, Scores
from device.seeds import Draws
from simulation.data.dataset import Dataset, Split
from simulation.lag.protocol import LAGS, Lagged, lag_table, lagged, lagged_lists, ranked
from simulation.statistics import paired_difference


def ids(*rows: list[int]) -> Items:
    return np.array(rows, np.int32)


def test_lag_cuts_the_newest() -> None:
    histories = ids([0, 1, 2, 3], [0, 0, 0, 9])
    assert lagged(histories, 0).tolist() == histories.tolist()
    assert lagged(histories, 1).tolist() == [[0, 0, 1, 2], [0, 0, 0, 0]]
    assert lagged(histories, 8).tolist() == [[0] * 4] * 2
    with pytest.raises(ConfigError, match="lag = -1"):
        lagged(histories, -1)


class Successor:
    """Scores of item i after item j: n_items - (i - j - 1) mod n_items, so the next ids in turn are the best."""

    def __init__(self, n_items: int) -> None:
        self.n_items = n_items

    def scores(self, histories: Items, rng: Draws) -> Scores:
        away = (np.arange(self.n_items + 1)[None] - histories[:, -1:] - 1) % self.n_items
        return (self.n_items - away).astype(np.float32)

    def flops(self, histories: Items) -> NDArray[np.float64] | None:
        return None


def world(*, users: int = 70, length: int = 12, n_items: int = 300) -> Split:
    """Every user walks through the catalogue from an item of its own; the last two items are tested."""
    item = (3 * np.arange(users)[:, None] + np.arange(length)) % n_items + 1
    offsets = np.arange(users + 1) * length
    data = Dataset(
        name="walks",
        users=np.array([f"u{i}" for i in range(users)], object),
        items=np.array([f"i{i}" for i in range(n_items)], object),
        offsets=offsets,
        item=item.reshape(-1).astype(np.int32),
        at=np.arange(users * length, dtype=np.float64),
        titles=None,
        timed=True,
        tied=np.zeros(users * length, np.bool_),
        session=None,
    )
    ends = offsets[1:].copy()
    ends[5] += 2  # a user without test items
    return Split(data, np.minimum(ends - 3, offsets[1:]), np.minimum(ends - 2, offsets[1:]))


def fresh(histories: Items, candidates: Items) -> Scores:
    """A reranker that knows the rule and the newest item: the next one gets the highest score."""
    assert len(histories) == 64
    return (3 - (candidates - histories[:, -1:] - 1) % 300).astype(np.float32)


def made(split: Split, k: int, pool: int = 10) -> Lagged:
    return lagged_lists(TopK(Successor(300)), fresh, split, k=k, length=5, pool=pool, seed=1)


def test_empty_places_come_last() -> None:
    scores = np.array([[3.0, 2, 2, 9], [3, 2, 1, 0], [3, 3, 3, 0]])
    lists = ranked(scores, ids([5, 6, 7, 0], [5, 6, 7, 8], [5, 6, 7, 8]))
    rank, ties = lists.place(np.array([7, 9, 5], np.int32))
    assert rank.tolist() == [2, 0, 1]  # the empty place with score 9 comes last
    assert ties.tolist() == [2, 1, 3]


def test_the_lag_moves_the_target_down_the_list_by_as_much() -> None:
    """The cloud k items behind lists the target at place k + 1; the device, which is not behind, puts it first."""
    split = world()
    table = lag_table([made(split, k) for k in LAGS])
    assert table.lags == LAGS == (0, 1, 2, 4, 8)
    assert len(table.users) == 69
    assert 5 not in table.users
    for k in LAGS:
        assert (table.of(k, "m1", "ndcg@10") == 1 / math.log2(k + 2)).all()
        assert (table.of(k, "m1", "hr@5") == (k < 5)).all()
        assert (table.of(k, "m5", "ndcg@5") == 1).all()
    assert table.recall.tolist() == np.ones((5, 69)).tolist()
    gain = table.gain(2, "m5", "ndcg@10")
    assert gain.mean == pytest.approx(0.5)
    assert gain == paired_difference(np.ones(69), np.full(69, 0.5))
    assert "| 2 | m1 | 1.0000 | 1.0000 [1.0000, 1.0000] |" in table.markdown()
    assert table.markdown().count("\n") == 2 + 5 * 5


def test_a_list_too_old_no_longer_holds_the_target() -> None:
    table = lag_table([made(world(), k, pool=4) for k in (2, 4)])
    assert table.lags == (2, 4)
    assert table.recall.mean(1).tolist() == [1.0, 0.0]
    assert (table.values[1] == 0).all()


def test_the_cloud_sees_as_many_items_as_without_lag() -> None:
    seen: list[Items] = []

    class Watched(Successor):
        def scores(self, histories: Items, rng: Draws) -> Scores:
            seen.append(histories)
            return super().scores(histories, rng)

    lists = lagged_lists(TopK(Watched(300)), fresh, world(), k=2, length=5, pool=4, seed=1)
    # User 0 walks 1..12; its target is 12, the device knows 7..11, the cloud 5..9 (and TopK pads no further).
    assert lists.targets[0] == 12
    assert seen[0][0].tolist() == [5, 6, 7, 8, 9]
    assert lists.items[0].tolist() == [10, 11, 12, 13]
    assert lists.device_scores[0].tolist() == [3 - 298, 3 - 299, 3, 2]
