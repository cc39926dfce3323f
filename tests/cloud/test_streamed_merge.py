"""Merged pools of devices that hold no item table: no candidate without its row, and one book on both sides."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_parts import Dot, Drawn, Scripted, World, random_timeline, timeline, truth

from cloud.generator import Generated
from cloud.item_rows import Rows
from device.fusion import Fusion
from device.messages import decode_replies
from device.policy import Always, Random
from device.seeds import draws, rng

N, POOL, LENGTH, STEPS = 60, 6, 4, 12
EVERYONE = np.arange(3)
FATES = st.tuples(st.booleans(), st.sampled_from([0.1, 4.0, 13.0, 31.0]))
SCRIPTS = st.lists(FATES, min_size=1, max_size=23)
PROMPT = [(False, 0.1)]
ROWS = Rows.of(Dot(N).init(rng(1, "weights"))["table"])


class Int8(Dot):
    """The same model with its whole table installed as int8."""

    def init(self, rng):
        return {"table": ROWS.table()}


def world(*, streamed, script, seed=0, room=0, slots=2 * POOL, **more):
    """Three devices with merged pools; the cache has `room` beyond the pool and the history."""
    parts = {"rows": ROWS, "cache_rows": slots + LENGTH + room} if streamed else {"model": Int8(N)}
    lived = random_timeline(3, STEPS, N, length=LENGTH, seed=seed)
    usual = {"timeline": lived, "policy": Random(0.7), "pool": POOL, "fusion": Fusion(0.5)}
    return World(n_items=N, link=Scripted(script), seed=seed, update="merge", slots=slots, **parts, **(usual | more))


def pools(made):
    """Per wave and device {item: age} of what is held."""
    seen = []

    def look(number, shard, wave, delivery, answer):
        (fleet,) = shard.fleets
        items, _, _, age = fleet.candidates(EVERYONE)
        seen.append(
            [
                dict(zip(row[row > 0].tolist(), years[row > 0].tolist(), strict=True))
                for row, years in zip(items, age, strict=True)
            ]
        )

    made.live(look)
    return seen


@settings(max_examples=30, deadline=None)
@given(SCRIPTS, st.integers(0, 1000), st.sampled_from([0, 1, 5, 40]), st.booleans(), st.sampled_from([POOL, 9, 12]))
def test_the_books_agree_and_every_candidate_has_its_row(script, seed, room, delta, slots):
    """However late or lost requests and replies are, and however little room there is."""
    made = world(streamed=True, script=script, seed=seed, room=room, delta=delta, slots=slots)
    before = 0

    def look(number, shard, wave, delivery, answer):
        nonlocal before
        (fleet,), memory = shard.fleets, made.gateway.memory
        assert fleet.cache.knows(EVERYONE, fleet.pool.items).all()
        book = made.ledger.columns()
        arrived = book["device"][(book["kind"] == "request") & book["delivered"]]
        for device in arrived[before:]:
            assert memory.cache.held[device].tolist() == fleet.cache.held[device].tolist()
            if delta:  # what the cloud leaves out is there, or was taken
                held = set(memory.held[device].tolist()) - {0}
                taken = set(made.timeline.items[device, :number].tolist())
                assert held - taken <= set(fleet.pool.items[device].tolist())
        before = len(arrived)

    made.live(look)


@settings(max_examples=30, deadline=None)
@given(SCRIPTS, st.integers(0, 1000), st.sampled_from([0, 1, 3, 6, 40]))
def test_what_is_not_older_than_the_room_is_held(script, seed, room):
    """The pool is that of a device with the whole table, less some candidates whose age exceeds the room."""
    whole, part = (pools(world(streamed=s, script=script, seed=seed, room=room)) for s in (False, True))
    for wave, other in zip(part, whole, strict=True):
        for pool, expected in zip(wave, other, strict=True):
            assert pool.items() <= expected.items()
            assert all(expected[item] > room for item in expected.keys() - pool.keys())


@settings(max_examples=30, deadline=None)
@given(SCRIPTS, st.integers(0, 1000), st.sampled_from([POOL, POOL + 3]))
def test_the_newest_list_is_whole_under_delta_replies(script, seed, slots):
    """Also where rows fall out: what the pool would lose with its row is sent again."""
    made = world(streamed=True, script=script, seed=seed, delta=True, slots=slots)

    def look(number, shard, wave, delivery, answer):
        (fleet,) = shard.fleets
        for device, step in enumerate(fleet.pool_step.tolist()):
            past = truth(made.timeline, device, step, LENGTH)
            row = draws(seed, "generator", np.array([device]), np.array([step]))
            named = set(Drawn(N).generate(past[None], POOL, rng=row).items[0].tolist())
            taken = set(made.timeline.items[device, :number].tolist())
            assert named - taken <= set(fleet.pool.items[device].tolist())

    made.live(look)


@pytest.mark.parametrize("delta", [False, True])
def test_slates_are_those_of_the_whole_table(delta):
    """Who asks at every step and is answered before the next knows every row of its history."""
    runs = [world(streamed=s, script=PROMPT, room=40, policy=Always(), delta=delta).run() for s in (True, False)]
    (steps, ledger), (expected, other) = runs
    for name in ("shown", "rank", "ties", "asked"):
        np.testing.assert_array_equal(steps[name], expected[name], err_msg=name)
    assert (steps["rank"] > 0).any()
    assert ledger["nbytes"].sum() > other["nbytes"].sum()  # the rows are paid for


class Fixed:
    """A list per number of items known."""

    def __init__(self, lists):
        self.lists = np.array(lists, np.int32)

    def generate(self, histories, k, *, rng):
        items = self.lists[(histories > 0).sum(1)]
        scores = np.tile(-np.arange(items.shape[1], dtype=np.float32), (len(items), 1))
        return Generated(items, scores, np.ones(len(items)), None)


@pytest.mark.parametrize("delta", [False, True])
def test_bytes_by_hand(delta):
    """One device that takes 51, 52, 53 from outside of its pool; one-byte ids, rows of width 4.

    A reply without rows has 2 + 3 + 3n + 4 = 9 + 3n bytes for n candidates; R > 0 rows cost 2 + R (1 + 4 + 4) more.
    """
    lists = [[1, 2, 3], [2, 4, 1], [3, 4, 1], [3, 1, 2]]
    made = World(
        timeline([[51, 52, 53]], [[0] * 4]),
        N,
        rows=ROWS,
        cache_rows=40,
        pool=3,
        generator=Fixed(lists),
        link=Scripted(PROMPT),
        update="merge",
        slots=6,
        delta=delta,
    )
    sent, ids = [], []

    def look(number, shard, wave, delivery, answer):
        sent.extend(map(len, answer.bodies))
        ids.extend(decode_replies([body]).row_ids[0].tolist() for body in answer.bodies)

    made.live(look)
    # 4 and 51 are new; then 52, for 3 of the first list is held still; then 53.
    assert ids == [[4, 51], [52], [53]]
    listed = [1, 0, 0] if delta else [3, 3, 3]
    assert sent == [9 + 3 * n + 2 + 9 * r for n, r in zip(listed, [2, 1, 1], strict=True)]
    book = made.ledger.columns()
    assert book["nbytes"][book["kind"] == "candidates"].tolist() == sent
