"""A share of the item rows is installed, the others are streamed: what that costs, and what it gives."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_parts import Dot, Scripted, World, random_timeline

from cloud.item_rows import Rows
from device.fusion import Fusion
from device.messages import decode_replies
from device.policy import Always, Random
from device.row_cache import RowCache
from device.seeds import rng

N, POOL, LENGTH, STEPS = 60, 6, 4, 10
EVERYONE = np.arange(3)
FATES = st.tuples(st.booleans(), st.sampled_from([0.1, 4.0, 13.0, 31.0]))
ROWS = Rows.of(Dot(N).init(rng(1, "weights"))["table"])
SHARE = np.arange(1, N + 1, 4)  # a quarter of the catalogue


def world(**more):
    """Three devices that hold a quarter of the rows and look for candidates of their own there."""
    usual = {
        "rows": ROWS,
        "cache_rows": POOL + LENGTH,
        "policy": Random(0.7),
        "fusion": Fusion(0.0),
        "own": 5,
        "resident": SHARE,
        "installed": SHARE,
    }
    lived = random_timeline(3, STEPS, N, length=LENGTH, seed=2)
    return World(lived, N, pool=POOL, **(usual | more))


def test_installed_rows_are_known_and_take_no_room():
    cache = RowCache(1, 2, np.array([5, 7], np.int32))
    one = np.zeros(1, np.int64)
    cache.need(one, np.array([[5, 1, 7, 2]], np.int32))
    assert cache.held.tolist() == [[1, 2]]
    known = cache.knows(one, np.array([[5, 7, 1, 2, 3, 6, 8, 60, 0]], np.int32))
    assert known.tolist() == [[True, True, True, True, False, False, False, False, True]]


@settings(max_examples=15, deadline=None)
@given(st.lists(FATES, min_size=1, max_size=17), st.sampled_from(["replace", "merge"]))
def test_no_installed_row_is_streamed_and_nothing_is_ranked_without_its_row(script, update):
    made = world(link=Scripted(script), update=update)
    first = decode_replies(made.install().bodies)
    assert not np.isin(first.row_ids, SHARE).any()
    made = world(link=Scripted(script), update=update)

    def look(number, shard, wave, delivery, answer):
        (fleet,) = shard.fleets
        items, _, _, age = fleet.candidates(EVERYONE)
        assert fleet.cache.knows(EVERYONE, items).all()
        assert np.isin(items[(age == -1) & (items != 0)], SHARE).all()
        assert ((age == -1) & (items != 0)).any()
        for body in answer.bodies:
            assert not body or not np.isin(decode_replies([body]).row_ids, SHARE).any()

    made.live(look)


@pytest.mark.parametrize("update", ["replace", "merge"])
def test_who_holds_all_rows_shows_what_a_resident_table_shows(update):
    """And the same bytes leave the cloud: nothing is streamed."""

    class Int8(Dot):
        def init(self, rng):
            return {"table": ROWS.table()}

    everything = np.arange(1, N + 1)
    whole = world(installed=everything, resident=everything, update=update, link=Scripted([(True, 0), (False, 13.0)]))
    plain = world(
        installed=(),
        resident=everything,
        rows=None,
        cache_rows=0,
        model=Int8(N),
        update=update,
        link=Scripted([(True, 0), (False, 13.0)]),
    )
    (steps, ledger), (expected, other) = whole.run(), plain.run()
    for name in ("shown", "rank", "ties", "asked"):
        np.testing.assert_array_equal(steps[name], expected[name], err_msg=name)
    np.testing.assert_array_equal(ledger["nbytes"], other["nbytes"])


def test_a_share_saves_bytes_of_replies():
    few, none = (world(own=0, installed=i, policy=Always()).run()[1] for i in (SHARE, ()))
    listed = [sent["nbytes"][sent["kind"] == "candidates"].sum() for sent in (few, none)]
    assert listed[0] < listed[1]
