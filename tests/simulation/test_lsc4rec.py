"""LSC4Rec's released score, its decomposition and the five fusion rules, by hand-computed numbers."""

import math

import numpy as np
import pytest

from cloud.generator import Generated
from cloud.generators.digits import DigitWriter
from device.errors import DataError
from device.model import Items, Scores
from device.seeds import Draws, draws, rng
from simulation.lag.released_score import (
    RULES,
    decompose,
    fused,
    m1,
    m2,
    m3,
    m4,
    m5,
    penalty,
    random_displacement,
    released_score,
)


def ids(*rows: list[int]) -> Items:
    return np.array(rows, np.int32)


def scores(*rows: list[float]) -> Scores:
    return np.array(rows, np.float32)


def displacement(device: Scores, items: Items) -> list[float]:
    """Of each list alone."""
    values: list[float] = released_score(device, items, batch=1).displacement.tolist()
    return values


def test_displacement_by_hand() -> None:
    """Device order 12, 10, 0, 0, 11: places 0, 1, 4 against the cloud's 2, 0, 1; zeros take places but do not count."""
    items, device = ids([10, 11, 12, 0, 0]), scores([0.5, -0.1, 0.9, 0.7, -0.2])  # what is said of zeros is not heard
    assert displacement(device, items) == [(1 + 3 + 2) / 3]


def test_the_same_order_and_the_reverse() -> None:
    items = ids([4, 3, 2, 1], [4, 3, 2, 1])
    device = scores([4, 3, 2, 1], [1, 2, 3, 4])
    assert displacement(device, items) == [0.0, 2.0]  # reversed: (3 + 1 + 1 + 3) / 4 = N / 2


def test_displacement_against_a_loop() -> None:
    numbers = rng(0, "lists")
    items = np.argsort(numbers.random((40, 12)), axis=1)[:, :9].astype(np.int32) + 1
    items[np.arange(9) >= numbers.integers(1, 10, 40)[:, None]] = 0
    device = np.where(items > 0, numbers.normal(size=(40, 9)), 0).astype(np.float32)
    for these, say, found in zip(items.tolist(), device.tolist(), displacement(device, items), strict=True):
        by_device = [i for _, i in sorted(zip(say, these, strict=True), key=lambda pair: -pair[0])]
        away = [abs(place - these.index(i)) for place, i in enumerate(by_device) if i]
        assert found == pytest.approx(sum(away) / len(away))


def test_an_empty_list_is_not_displaced() -> None:
    assert displacement(scores([0, 0]), ids([0, 0])) == [0.0]


def test_random_orders() -> None:
    """(n^2 - 1) / (3 n): 16.66 for 50 places; 3,000 random orders agree."""
    assert random_displacement(50) == pytest.approx(2499 / 150)
    items = np.tile(np.arange(1, 51, dtype=np.int32), (3000, 1))
    device = rng(0, "orders").normal(size=items.shape).astype(np.float32)
    found = np.array(displacement(device, items))
    assert abs(found.mean() - random_displacement(50)) < 4 * found.std() / math.sqrt(3000)


def test_the_released_score_by_hand() -> None:
    """Batches of 2, the last of 1. First: 9 places moved over 5 items, three empty places, so 1.8 + (4 + 0.9)^2.

    Second: nothing moved, nothing empty: 16.
    """
    items = ids([10, 11, 12, 0], [20, 21, 0, 0], [1, 2, 3, 4])
    device = scores([0.5, -0.4, 0.9, 0], [-0.1, 0.2, 0, 0], [4, 3, 2, 1])
    # list one: 12, 10, 0, 11 -> |0-2| + |1-0| + |3-1| = 5; list two: 21, 0, 0, 20 -> |0-1| + |3-0| = 4
    made = released_score(device, items, batch=2)
    assert made.displacement.tolist() == [(5 + 4) / 5, 0.0]
    assert made.invalid.tolist() == [3, 0]
    np.testing.assert_allclose(made.score, [1.8 + 24.01, 16.0])


def test_penalties() -> None:
    np.testing.assert_allclose(penalty(np.arange(4)), [16.0, 18.49, 21.16, 24.01])


def test_a_user_is_judged_by_strangers() -> None:
    """The same list has another score in other company; that is what the per-user form mends."""
    items, device = ids([1, 2, 3], [4, 5, 0], [4, 5, 6]), scores([3, 2, 1], [1, 2, 0], [1, 2, 0])
    one = released_score(device[[0, 1]], items[[0, 1]]).score
    other = released_score(device[[0, 2]], items[[0, 2]]).score
    assert one[0] != other[0]


def test_decomposition_by_hand() -> None:
    """Four batches of one list: scores 16, 18, 16 + 8/3 and 18.49 + 0; the shares let 1, 1, 2 and 4 of them ask."""
    items = ids([1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 0])
    device = scores([3, 2, 1], [2, 1, 3], [1, 2, 3], [3, 2, 1])
    # moves: none; order 3, 1, 2 -> 2 + 1 + 1 = 4; reversed -> 2 + 0 + 2 = 4; none, one empty
    made = decompose(items, device, batch=1, shares=(0.1, 0.25, 0.5, 1.0))
    assert [t.invalid for t in made.thresholds] == [1, 1, 0, 0]
    np.testing.assert_allclose([t.score for t in made.thresholds], [18.49, 18.49, 16 + 4 / 3, 16])
    np.testing.assert_allclose([t.displacement for t in made.thresholds], [0, 0, 4 / 3, 0])
    np.testing.assert_allclose(
        [t.penalty + t.displacement for t in made.thresholds], [t.score for t in made.thresholds]
    )
    assert made.batches == 4
    assert made.mean_displacement == pytest.approx(2 / 3)
    assert made.random == pytest.approx(8 / 9)
    # scores less their mean (x - 17.2892): -1.2892, 0.0442, 0.0442, 1.2008; displacement less 2/3: -2/3, 2/3, 2/3, -2/3
    x, y = np.array([-1.28917, 0.04417, 0.04417, 1.20083]), np.array([-2, 2, 2, -2]) / 3
    assert made.with_displacement == pytest.approx(x @ y / math.sqrt((x @ x) * (y @ y)), abs=1e-4)
    text = made.markdown()
    assert "| 10% | 18.490 | 1 | 18.49 | 0.00 |" in text
    assert "4 batches" in text


def test_the_score_follows_the_count_of_invalid_generations() -> None:
    """Random orders, lists with invalid ids: thresholds fall on penalties, what is left is a random displacement."""

    class Any50:
        def generate(self, histories: Items, k: int, *, rng: Draws) -> Generated:
            first, stride = (rng.bits(2)[:, [i]] % np.uint64(12_100) for i in (0, 1))
            items = (first + (stride + np.uint64(1)) * np.arange(k, dtype=np.uint64)) % np.uint64(12_101) + np.uint64(1)
            return Generated(items.astype(np.int32), np.zeros(items.shape, np.float32), None, None)

    users = 16 * 600
    writer = DigitWriter(Any50(), 12_101, garbled=0.0023, heavy_share=0.00625, heavy=0.4)
    lists = writer.generate(np.zeros((users, 1), np.int32), 50, rng=draws(1, "lists", np.arange(users)))
    made = decompose(lists.items, rng(0, "device").normal(size=lists.items.shape).astype(np.float32))
    assert made.with_invalid > 0.9
    assert made.with_displacement < 0.3
    assert [t.invalid for t in made.thresholds][-1] == 0
    assert made.thresholds[0].invalid >= 2
    for t in made.thresholds:
        assert abs(t.displacement - made.random) < 1.2


def test_a_constant_half_has_no_correlation() -> None:
    made = decompose(ids([1, 2], [1, 2]), scores([2, 1], [1, 2]), batch=1)
    assert math.isnan(made.with_invalid)
    assert made.with_displacement == pytest.approx(1.0)


def test_nothing_to_decompose() -> None:
    with pytest.raises(DataError, match="no lists"):
        decompose(np.zeros((0, 3), np.int32), np.zeros((0, 3), np.float32))


def test_fusion_rules_by_hand() -> None:
    rank, p = np.array([[0, 1, 2, 3]]), np.array([[0.2, 0.95, 0.05, 0.6]])
    np.testing.assert_allclose(m1(rank, p), [[0, -1, -2, -3]])
    np.testing.assert_allclose(m2(rank, p), [[0.5, 0.25 + 0.45, 0 - 0.45, -0.25]])  # .3 and .1 are not sure enough
    np.testing.assert_allclose(m3(rank, p), [[-0.3, -0.25 + 0.45, -0.5 - 0.45, -0.75 + 0.1]])
    np.testing.assert_allclose(m4(rank, p), [[-0.6, -0.25 + 0.9, -0.5 - 0.9, -0.75 + 0.2]])
    np.testing.assert_allclose(m5(rank, p), p)


def test_logits_become_probabilities() -> None:
    device = scores([0.0, math.log(3), -math.log(4), 900.0])
    np.testing.assert_allclose(fused(device, "m5"), [[0.5, 0.75, 0.2, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(fused(device, "m4"), [[0, -0.25 + 0.5, -0.5 - 0.6, -0.75 + 1]], rtol=1e-6)
    assert set(RULES) == {"m1", "m2", "m3", "m4", "m5"}
