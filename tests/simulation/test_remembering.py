"""Lists made once per (device, step) are the same lists at the same cost as lists made every time."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cloud.generator import CandidateGenerator, Generated, TopK
from device.model import Items
from device.seeds import Draws, draws
from simulation.remembering import Remembering


class Drawn:
    """Lists and costs from each row's random numbers and history; counts how often each row was asked for."""

    def __init__(self, *, costs: bool = True) -> None:
        self.costs = costs
        self.asked: list[int] = []

    def generate(self, histories: Items, k: int, *, rng: Draws) -> Generated:
        self.asked += rng.keys.tolist()
        number = rng.uniform(k)
        seconds: NDArray[np.float64] | None = number[:, 0] + histories.sum(1) if self.costs else None
        items = (number * 90).astype(np.int32) + 1
        return Generated(items, -number.astype(np.float32), number[:, 1] * 1e6 if self.costs else None, seconds)


def history(devices: NDArray[np.int64], steps: NDArray[np.int64]) -> Items:
    """What the cloud knows: the same for a device at a step."""
    return np.stack([devices + 1, steps + 1], axis=1).astype(np.int32)


def ask(generator: CandidateGenerator, pairs: list[tuple[int, int]], seed: int = 0, k: int = 3) -> Generated:
    devices, steps = np.array(pairs, np.int64).reshape(-1, 2).T
    return generator.generate(history(devices, steps), k, rng=draws(seed, "generator", devices, steps))


def same(one: Generated, other: Generated) -> bool:
    return all(
        (a is None and b is None) or (a is not None and b is not None and a.dtype == b.dtype and (a == b).all())
        for a, b in ((getattr(one, name), getattr(other, name)) for name in ("items", "scores", "flops", "seconds"))
    )


pair = st.tuples(st.integers(0, 5), st.integers(0, 3))
batch = st.lists(pair, min_size=1, max_size=6, unique=True)


@given(st.lists(batch, min_size=1, max_size=8), st.booleans())
def test_remembered_lists_are_the_lists(batches: list[list[tuple[int, int]]], costs: bool) -> None:
    inner = Drawn(costs=costs)
    remembering = Remembering(inner)
    for pairs in batches:
        assert same(ask(remembering, pairs), ask(Drawn(costs=costs), pairs))
    assert len(inner.asked) == len({one for pairs in batches for one in pairs})  # once per (device, step)
    assert len(set(inner.asked)) == len(inner.asked)


def test_costs_are_charged_every_time() -> None:
    inner = Drawn()
    remembering = Remembering(inner)
    first, second = ask(remembering, [(1, 1), (2, 1)]), ask(remembering, [(2, 1)])
    assert len(inner.asked) == 2
    assert first.seconds is not None
    assert second.seconds is not None
    assert second.seconds.tolist() == first.seconds[1:].tolist()
    assert second.seconds[0] > 0


def test_another_seed_is_another_list() -> None:
    remembering = Remembering(Drawn())
    assert not same(ask(remembering, [(1, 1)], seed=0), ask(remembering, [(1, 1)], seed=1))


def test_nobody_asks() -> None:
    remembering = Remembering(Drawn())
    ask(remembering, [(1, 1)])
    assert ask(remembering, []).items.shape == (0, 3)


def test_the_same_request_twice_in_one_batch() -> None:
    inner = Drawn()
    remembering = Remembering(inner)
    assert same(ask(remembering, [(1, 1), (1, 1), (2, 1)]), ask(Drawn(), [(1, 1), (1, 1), (2, 1)]))
    assert same(ask(remembering, [(3, 1), (2, 1)]), ask(Drawn(), [(3, 1), (2, 1)]))
    assert len(inner.asked) == 3


@given(st.lists(st.tuples(batch, st.integers(2, 6)), min_size=1, max_size=8), st.booleans())
def test_lists_of_several_lengths(batches: list[tuple[list[tuple[int, int]], int]], costs: bool) -> None:
    inner = Drawn(costs=costs)
    remembering = Remembering(inner)
    for pairs, k in batches:
        made = ask(remembering, pairs, k=k)
        assert made.items.shape == (len(pairs), k)
        assert same(made, ask(Drawn(costs=costs), pairs, k=k))
    assert len(inner.asked) == len({(one, k) for pairs, k in batches for one in pairs})


def test_a_list_that_is_too_long_is_not_hidden() -> None:
    """Who asked sees it as it is and can refuse it."""

    class Long(Drawn):
        def generate(self, histories: Items, k: int, *, rng: Draws) -> Generated:
            return super().generate(histories, k + 2, rng=rng)

    assert ask(Remembering(Long()), [(1, 1)]).items.shape == (1, 5)


class Nested(Drawn):
    """A shorter list is the beginning of a longer one."""

    nested = True

    def generate(self, histories: Items, k: int, *, rng: Draws) -> Generated:
        made = super().generate(histories, 9, rng=rng)
        return Generated(made.items[:, :k], made.scores[:, :k], made.flops, made.seconds)


@given(st.lists(st.tuples(batch, st.integers(2, 6)), min_size=1, max_size=8))
def test_lists_that_begin_alike_are_made_once_at_full_length(batches: list[tuple[list[tuple[int, int]], int]]) -> None:
    inner = Nested()
    remembering = Remembering(inner, longest=6)
    for pairs, k in batches:
        assert same(ask(remembering, pairs, k=k), ask(Nested(), pairs, k=k))
    assert len(inner.asked) == len({one for pairs, _ in batches for one in pairs})


def test_generators_that_do_not_say_so_are_asked_for_each_length() -> None:
    inner = Drawn()
    remembering = Remembering(inner, longest=6)
    assert same(ask(remembering, [(1, 1)], k=3), ask(Drawn(), [(1, 1)], k=3))
    assert same(ask(remembering, [(1, 1)], k=5), ask(Drawn(), [(1, 1)], k=5))
    assert len(inner.asked) == 2


def test_the_best_of_a_catalogue_begin_alike() -> None:
    """TopK says that its lists are nested; they are, also where scores are equal."""
    made = TopK(Flat())
    rows = np.array([[1, 2], [0, 3]], np.int32)
    rng = draws(0, "generator", np.arange(2), np.arange(2))
    short, long = (made.generate(rows, k, rng=rng) for k in (3, 7))
    assert made.nested
    np.testing.assert_array_equal(short.items, long.items[:, :3])
    np.testing.assert_array_equal(short.scores, long.scores[:, :3])


class Flat:
    """Many equal scores."""

    def scores(self, histories: Items, rng: Draws) -> NDArray[np.float32]:
        return np.tile(np.array([0, 1, 2, 2, 2, 1, 2, 0, 1, 1, 2], np.float32), (len(histories), 1))

    def flops(self, histories: Items) -> NDArray[np.float64]:
        return np.zeros(len(histories))
