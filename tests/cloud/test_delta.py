"""Replies that leave out what a merged pool holds leave the device with the pool that whole replies would."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_parts import Drawn, Fixed, Scripted, World, random_timeline, timeline, truth

from device.messages import decode_replies
from device.policy import Always, Random
from device.seeds import draws

N, POOL, HISTORY, STEPS = 60, 8, 14, 10  # nothing is forgotten: the history holds all that is taken
FATES = st.tuples(st.booleans(), st.sampled_from([0.1, 4.0, 13.0, 31.0]))
SCRIPTS = st.lists(FATES, min_size=1, max_size=23)


def lives(script, seed, *, delta, slots):
    """(pools, ages, steps of the newest list, sizes of replies) of three devices after every step."""
    lived = random_timeline(3, STEPS, N, length=HISTORY, seed=seed)
    link = Scripted(script)
    world = World(
        lived, N, pool=POOL, link=link, policy=Random(0.7), seed=seed, update="merge", slots=slots, delta=delta
    )
    seen = []

    def look(number, shard, wave, delivery, answer):
        (fleet,) = shard.fleets
        items, _, _, age = fleet.candidates(np.arange(3))
        filled = [row > 0 for row in items]
        pools = [
            dict(zip(items[d, there].tolist(), age[d, there].tolist(), strict=True)) for d, there in enumerate(filled)
        ]
        seen.append((pools, fleet.pool_step.tolist(), [len(body) for body in answer.bodies]))

    world.live(look)
    return lived, seen


@settings(max_examples=40, deadline=None)
@given(SCRIPTS, st.integers(0, 1000))
def test_a_pool_with_room_is_that_of_whole_replies(script, seed):
    """Also when requests or replies are late or lost; 3 devices of 11 lists of 8 never fill 60 slots with 60 items."""
    (_, parts), (_, wholes) = (lives(script, seed, delta=delta, slots=N) for delta in (True, False))
    for (pools, steps, sizes), (expected, whole_steps, whole_sizes) in zip(parts, wholes, strict=True):
        assert [set(pool) for pool in pools] == [set(pool) for pool in expected]
        assert steps == whole_steps
        assert all(a <= b for a, b in zip(sizes, whole_sizes, strict=True))
        for pool, other in zip(pools, expected, strict=True):
            assert all(age >= other[item] for item, age in pool.items())  # as old as the first list that named it


@settings(max_examples=40, deadline=None)
@given(SCRIPTS, st.integers(0, 1000), st.sampled_from([POOL, POOL + 3, 2 * POOL, 3 * POOL]))
def test_what_the_newest_list_names_is_in_the_pool(script, seed, slots):
    """However few the slots: a reply never leaves out what the device lacks, or what would fall out of its pool."""
    lived, parts = lives(script, seed, delta=True, slots=slots)
    for number, (pools, steps, _) in enumerate(parts, start=1):
        for device, (pool, step) in enumerate(zip(pools, steps, strict=True)):
            history = truth(lived, device, step, HISTORY)
            rng = draws(seed, "generator", np.array([device]), np.array([step]))
            named = set(Drawn(N).generate(history[None], POOL, rng=rng).items[0].tolist())
            taken = set(lived.items[device, :number].tolist())
            assert named - taken <= set(pool)
            assert not set(pool) & taken
            assert len(pool) <= slots


def sent(script, lists, slots):
    """What each reply that arrives lists, by step; a device asks whenever it may, and gives up after 5 s."""
    world = World(
        timeline([list(range(51, 50 + len(lists)))], [[0] * 8]),
        N,
        pool=len(lists[0]),
        generator=Fixed(lists),
        link=Scripted(script, give_up_s=5.0),
        policy=Always(),
        update="merge",
        delta=True,
        slots=slots,
    )
    seen = {}

    def look(number, shard, wave, delivery, answer):
        for body in answer.bodies:
            if body:
                listed = decode_replies([body]).items[0]
                seen[number] = listed[listed > 0].tolist()

    world.live(look)
    return seen


def test_only_what_is_missing_is_sent():
    lists = [[1, 2, 3], [2, 4, 1], [4, 5, 1], [5, 4, 1]]
    assert sent([(False, 0.1)], lists, slots=12) == {1: [4], 2: [5], 3: []}


def test_what_a_lost_reply_would_have_brought_is_sent_again():
    lists = [[1, 2, 3], [2, 4, 1], [4, 5, 1], [5, 4, 1]]
    # The request of step 1 arrives, its reply with 4 is lost; the device asks again at step 2.
    assert sent([(False, 0.1), (True, 0.0), *[(False, 0.1)] * 9], lists, slots=12) == {2: [4, 5], 3: []}


def test_what_fell_out_of_a_small_pool_is_sent_again():
    lists = [[1, 2, 3], [4, 5, 6], [1, 7, 8]]
    # 4 slots: 4, 5, 6, 1; then 7 and 8 would push 1 out, so it is sent with them: 1, 7, 8, 4.
    assert sent([(False, 0.1)], lists, slots=4) == {1: [4, 5, 6], 2: [1, 7, 8]}
