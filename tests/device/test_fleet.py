import gc
import sys
from dataclasses import replace

import numpy as np
import pytest
from loop_parts import Dot, World, random_timeline

from cloud.gateway import nothing
from cloud.item_rows import Rows
from device.errors import ContractError
from device.fleet import Fleet
from device.fusion import Fusion
from device.messages import Codec, Replies, encode_requests
from device.policy import Always, Consistency, Never
from device.ranking import Ranking
from device.row_cache import needed
from device.scoring import SCORING_BATCH, ModelScorer
from device.seeds import rng
from device.setup import Setup

CLOUD = Fusion(1.0, "minmax")


def fleet(size=1, *, policy=None, fusion=CLOUD, pool=4, history=None, cache_rows=0, model=None):
    model = model or Dot(60)
    params = model.init(rng(0, "m"))
    if cache_rows:
        params = {"table": Rows.of(params["table"]).table()}
    setup = Setup(ModelScorer(model, params), policy or Always(), fusion, 0.0, seed=1, cache_rows=cache_rows)
    history = np.zeros((size, 5), np.int32) if history is None else np.array(history, np.int32)
    return Fleet(setup, 10 + np.arange(size), history, pool)


def reply(made, who, items, *, step=0, usable_at=0.0, scores=None, denied=False, rows=True):
    """Hand `who` one list, best first."""
    size = len(who)
    items = np.tile(np.array(items, np.int32), (size, 1))
    scores = np.tile(np.arange(items.shape[1], 0, -1, dtype=np.float32) if scores is None else scores, (size, 1))
    ids = np.zeros((size, 0), np.int32) if made.cache is None or not rows else needed(items, made.asked_history[who])
    sent = Rows.of(Dot(60).init(rng(0, "m"))["table"])
    replies = Replies(
        made.devices[who],
        np.full(size, step),
        items,
        scores.astype(np.float32),
        ids,
        sent.codes[ids],
        sent.scale[ids],
        np.full(size, denied),
        np.zeros(size, np.float32),
    )
    made.receive(np.array(who), replies, np.full(size, usable_at))


def rank(made, at):
    return made.rank(np.arange(len(made)), np.full(len(made), float(at)))


def observe(made, item, at):
    size = len(made)
    return made.observe(
        np.arange(size), np.full(size, item, np.int32), np.zeros(size, np.int32), np.full(size, float(at))
    )


def test_a_late_reply_is_installed_when_usable_and_not_before():
    made = fleet()
    reply(made, [0], [1, 2, 3, 4])
    assert rank(made, 0).items.tolist() == [[1, 2, 3, 4]]
    observe(made, 50, 0)
    reply(made, [0], [5, 6, 7, 8], step=1, usable_at=20.0)
    for at, pool in ((10.0, [1, 2, 3, 4]), (19.999, [1, 2, 3, 4]), (20.0, [5, 6, 7, 8]), (30.0, [5, 6, 7, 8])):
        assert rank(made, at).items.tolist() == [pool]


def test_items_taken_since_the_request_are_left_out_of_a_late_list():
    made = fleet(history=[[21, 22, 23, 24, 25]])
    reply(made, [0], [1, 2, 3, 4])
    rank(made, 0)
    observe(made, 50, 0)  # the request of step 1 is made here
    reply(made, [0], [50, 6, 7, 25], step=1, usable_at=25.0)
    rank(made, 10)
    observe(made, 6, 10)
    rank(made, 20)
    observe(made, 7, 20)
    ranking = rank(made, 30)
    # 6 and 7 were taken after the request; 50 and 25 before it, so the cloud offered them on purpose.
    assert ranking.items.tolist() == [[50, 0, 0, 25]]
    assert np.isneginf(ranking.fused[0, 1:3]).all()
    assert ranking.pool_age.tolist() == [2]


def test_pool_age_counts_from_the_history_the_list_was_made_of():
    made = fleet()
    reply(made, [0], [1, 2, 3, 4])
    ages = []
    for step in range(6):
        ages.append(int(rank(made, step).pool_age[0]))
        observe(made, 40 + step, step)
        if step == 2:
            reply(made, [0], [5, 6, 7, 8], step=3, usable_at=4.0)
    assert ages == [0, 1, 2, 3, 1, 2]  # the list of 3 interactions is installed at time 4, when 4 have been observed


def test_what_was_taken_leaves_the_pool():
    made = fleet()
    reply(made, [0], [1, 2, 3, 4])
    rank(made, 0)
    observe(made, 3, 0)
    assert rank(made, 1).items.tolist() == [[1, 2, 0, 4]]


def test_waiting_devices_are_not_asked_and_are_free_at_the_given_time():
    made = fleet(2)
    reply(made, [0, 1], [1, 2, 3, 4])
    rank(made, 0)
    made.wait(np.array([1]), np.array([7.0]))
    for at, expected in ((5.0, [True, False]), (6.999, [True, False]), (7.0, [True, True])):
        asked, urgency = observe(made, 50, at)
        assert asked.tolist() == expected
        assert np.isnan(urgency).tolist() == [not e for e in expected]


def test_a_denied_reply_leaves_the_pool_alone():
    made = fleet()
    reply(made, [0], [1, 2, 3, 4])
    rank(made, 0)
    reply(made, [0], [9, 9, 9, 9], step=1, denied=True)
    assert rank(made, 1).items.tolist() == [[1, 2, 3, 4]]
    assert made.received.tolist() == [0]


def test_a_list_shorter_than_the_pool_leaves_empty_slots_and_a_longer_one_is_refused():
    made = fleet()
    reply(made, [0], [1, 2])
    ranking = rank(made, 0)
    assert ranking.items.tolist() == [[1, 2, 0, 0]]
    assert ranking.top(3).tolist() == [[1, 2, 0]]
    with pytest.raises(ContractError, match="lists 5 candidates, the pool has 4"):
        reply(made, [0], [1, 2, 3, 4, 5])


def test_place_counts_ties_and_top_breaks_them_by_position():
    fused = np.array([[0.5, 0.9, 0.5, 0.5, -np.inf]], np.float32)
    ranking = Ranking(np.array([[11, 12, 13, 14, 0]], np.int32), fused, np.zeros(1, np.int64))
    for item, expected in ((12, (1, 1)), (11, (2, 3)), (13, (2, 3)), (14, (2, 3)), (99, (0, 1))):
        place, ties = ranking.place(np.array([item], np.int32))
        assert (int(place[0]), int(ties[0])) == expected
    assert ranking.top(7).tolist() == [[12, 11, 13, 14, 0, 0, 0]]


def test_the_slate_is_the_fusion_of_cloud_and_device():
    made = fleet(fusion=Fusion(0.25, "minmax"), history=[[0, 0, 3, 4, 5]])
    reply(made, [0], [1, 2, 6, 7])
    ranking = rank(made, 0)
    table = made.setup.scorer.params["table"].astype(np.float64)
    device = table[[1, 2, 6, 7]] @ table[[3, 4, 5]].mean(0)
    device = (device - device.min()) / (device.max() - device.min())
    cloud = (np.array([4, 3, 2, 1]) - 1) / 3
    np.testing.assert_allclose(ranking.fused[0], 0.25 * cloud + 0.75 * device, rtol=1e-4, atol=1e-5)


def test_requests_hold_what_the_cloud_has_not_confirmed():
    made = fleet(history=[[0, 0, 0, 91, 92]])
    reply(made, [0], [1, 2, 3, 4])
    rank(made, 0)
    for step, item in enumerate((31, 32), start=1):
        observe(made, item, step)
        upload = made.requests(np.array([0]))
        assert upload.items[upload.items > 0].tolist() == [31, 32][:step]
        assert (int(upload.device[0]), int(upload.step[0]), int(upload.first[0])) == (10, step, 0)
    reply(made, [0], [5, 6, 7, 8], step=2, usable_at=3.0)
    rank(made, 3)
    observe(made, 33, 3)
    upload = made.requests(np.array([0]))
    assert upload.items.tolist() == [[0, 0, 0, 0, 33]]
    assert (int(upload.received[0]), int(upload.first[0])) == (2, 2)
    for item in range(34, 41):
        observe(made, item, item)
    upload = made.requests(np.array([0]))  # 8 items since, of which the device keeps 5
    assert upload.items.tolist() == [[36, 37, 38, 39, 40]]
    assert (int(upload.step[0]), int(upload.first[0])) == (10, 5)
    assert len(encode_requests(upload, Codec())[0]) == 2 + 4 + 5 + 4  # head, four varints, five ids, CRC32


class Whole:
    """Scores that depend on the whole batch, as the last bits of a matrix product do."""

    def __init__(self):
        self.shapes = []

    def init(self, rng):
        return {}

    def score(self, params, history, candidates):
        self.shapes.append((history.shape, candidates.shape))
        return candidates.astype(np.float32) + 1e-3 * len(candidates)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 130])
def test_every_call_of_the_model_has_the_same_number_of_rows(size):
    model = Whole()
    made = fleet(size, model=model)
    pool = np.arange(size * 4, dtype=np.int32).reshape(size, 4) + 1
    scores = made.setup.scorer.scores(made.devices, made.observed, made.history, pool)
    assert set(model.shapes) == {((SCORING_BATCH, 5), (SCORING_BATCH, 4))}
    assert len(model.shapes) == -(-size // SCORING_BATCH)
    np.testing.assert_allclose(scores, pool + 1e-3 * SCORING_BATCH, rtol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda candidates: np.zeros((len(candidates), 1), np.float32), r"score returned \(64, 1\)"),
        (lambda candidates: candidates.tolist(), "score returned <class 'list'>"),
        (lambda candidates: np.where(candidates == 2, np.nan, 1.0).astype(np.float32), "NaN or infinity"),
        (lambda candidates: np.where(candidates == 2, np.inf, 1.0).astype(np.float32), "NaN or infinity"),
    ],
)
def test_a_device_model_that_breaks_the_contract_is_named(wrong, words):
    class Broken(Whole):
        def score(self, params, history, candidates):
            return wrong(candidates)

    made = fleet(model=Broken(), fusion=Fusion(0.0))
    reply(made, [0], [1, 2, 3, 4])
    with pytest.raises(ContractError, match=words) as caught:
        rank(made, 0)
    assert "Broken" in str(caught.value)


def test_nan_for_an_empty_slot_is_nobodys_business():
    class Hollow(Whole):
        def score(self, params, history, candidates):
            return np.where(candidates == 0, np.nan, candidates).astype(np.float32)

    made = fleet(model=Hollow(), fusion=Fusion(0.0))
    reply(made, [0], [1, 2])
    assert rank(made, 0).top(4).tolist() == [[2, 1, 0, 0]]


def test_needed_rows_are_the_list_then_the_newest_history_each_once():
    candidates = np.array([[7, 3, 0], [1, 2, 3]], np.int32)
    history = np.array([[0, 3, 9, 8], [1, 2, 3, 2]], np.int32)
    assert needed(candidates, history).tolist() == [[7, 3, 8, 9, 0, 0, 0], [1, 2, 3, 0, 0, 0, 0]]


class Recording(Dot):
    """Dot that keeps the histories it was given."""

    def __init__(self, n_items):
        super().__init__(n_items)
        self.histories = []

    def score(self, params, history, candidates):
        self.histories.append(history[0].tolist())
        return super().score(params, history, candidates)


def test_history_items_without_an_embedding_are_hidden_from_the_model():
    model = Recording(60)
    made = fleet(model=model, fusion=Fusion(0.0), history=[[0, 0, 0, 41, 42]], cache_rows=9)
    reply(made, [0], [1, 2, 3, 4])
    rank(made, 0)
    assert model.histories[-1] == [0, 0, 0, 41, 42]  # the first list brought the rows of the history
    observe(made, 50, 0)  # not in the pool: its embedding never came
    observe(made, 2, 1)  # in the pool
    rank(made, 2)
    assert model.histories[-1] == [0, 0, 41, 42, 2]
    reply(made, [0], [5, 6, 7, 8], step=2, usable_at=3.0)  # made from a history with 50 and 2 in it
    rank(made, 3)
    assert model.histories[-1] == [0, 41, 42, 50, 2]


def test_a_reply_without_a_row_that_is_needed_is_refused():
    made = fleet(history=[[0, 0, 0, 41, 42]], cache_rows=9)
    reply(made, [0], [1, 2, 3, 4], rows=False)
    with pytest.raises(ContractError, match="lacks item rows"):
        rank(made, 0)


def test_a_streamed_row_with_other_values_is_refused():
    made = fleet(cache_rows=9)
    made.setup.scorer.params["table"][3] += 1
    sent = Rows.of(Dot(60).init(rng(0, "m"))["table"])
    ids = np.array([[1, 2, 3, 4]], np.int32)
    flat = np.zeros(1, np.float32)
    replies = Replies(
        made.devices,
        np.zeros(1, int),
        ids,
        np.ones((1, 4), np.float32),
        ids,
        sent.codes[ids],
        sent.scale[ids],
        flat > 0,
        flat,
    )
    with pytest.raises(ContractError, match="differ from the table"):
        made.receive(np.array([0]), replies, np.zeros(1))


def test_what_was_taken_may_be_shown_again_where_items_repeat():
    made = fleet()
    made.setup = replace(made.setup, hide_seen=False)
    reply(made, [0], [1, 2, 3, 4])
    for _ in range(3):  # the item stays in the pool, at its place
        shown = rank(made, 0)
        assert shown.items.tolist() == [[1, 2, 3, 4]]
        observe(made, 2, 0)


def test_a_snapshot_holds_everything():
    world = World(random_timeline(9, 6, 60), 60, policy=Consistency(), price=0.5, fusion=Fusion(0.5), seconds=15.0)
    seen = []

    def look(number, shard, wave, delivery, answer):
        seen.append((wave, shard.snapshot(), answer))

    world.live(look)
    for number in range(1, 6):
        later = world.shard()
        later.restore(seen[number - 1][1])
        wave = later.wave(number + 1, seen[number - 1][2])
        assert wave.requests == seen[number][0].requests
        for name, values in seen[number][0].telemetry.items():
            np.testing.assert_array_equal(wave.telemetry[name], values, err_msg=name)
        assert later.snapshot() == seen[number][1]
    assert any(wave.requests for wave, _, _ in seen)


def test_a_snapshot_of_another_fleet_is_refused():
    with pytest.raises(ContractError, match="another size or setup"):
        fleet(2).restore(fleet(3).snapshot())
    with pytest.raises(ContractError, match="another size or setup"):
        fleet(2).restore(fleet(2, cache_rows=9).snapshot())


def test_a_snapshot_of_a_streamed_fleet_holds_its_cache():
    made, other = fleet(2, cache_rows=9), fleet(2, cache_rows=9)
    reply(made, [0, 1], [1, 2, 3, 4])
    rank(made, 0)
    other.restore(made.snapshot())
    assert made.cache.held.any()
    np.testing.assert_array_equal(other.cache.held, made.cache.held)
    other.cache.held[:] = 0
    assert made.cache.held.any()  # restored by value


def lived(devices, policy=None):
    """A world after two waves, ready for the third."""
    world = World(random_timeline(devices, 3, 60), 60, policy=policy or Never(), fusion=Fusion(0.5))
    shard = world.shard()
    shard.wave(1, world.install())
    return shard, nothing()


def test_five_thousand_devices_leave_no_objects_of_their_own_behind():
    shard, idle = lived(5000, Always())
    gc.collect()
    before = len(gc.get_objects())
    wave = shard.wave(2, idle)
    gc.collect()
    assert len(gc.get_objects()) - before < 1000
    assert len(wave.requests) == 5000


def python_calls(devices):
    """Calls of Python and C functions during one wave without requests."""
    shard, idle = lived(devices)
    count = 0

    def see(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(see)
    try:
        shard.wave(2, idle)
    finally:
        sys.setprofile(None)
    return count


def test_a_wave_takes_the_same_calls_for_any_number_of_devices():
    few, many = python_calls(SCORING_BATCH), python_calls(5000)
    batches = -(-5000 // SCORING_BATCH)
    assert many - few < 60 * batches  # what is called per batch of the model; 5,000 devices take no step each
    assert 60 * batches < 5000


def merging(slots, **more):
    """A fleet of one whose pool keeps what newer lists do not name."""
    made = fleet(pool=slots, **more)
    made.setup = replace(made.setup, update="merge")
    return made


def pool(made):
    """(items, cloud scores, ages) of the first device's filled slots."""
    who = np.array([0])
    items, cloud, _, age = made.candidates(who)
    filled = items[0] != 0
    return items[0, filled].tolist(), cloud[0, filled].tolist(), age[0, filled].tolist()


def test_three_lists_merged_by_hand():
    made = merging(7)
    high = 1.5**0.5  # 3, 2, 1 standardised: high, 0, -high
    reply(made, [0], [1, 2, 3])
    rank(made, 0)
    assert pool(made) == ([1, 2, 3], pytest.approx([high, 0, -high]), [0, 0, 0])
    observe(made, 50, 0)
    reply(made, [0], [4, 2, 5], step=1, usable_at=1.0)
    rank(made, 1)
    # The new list first; of the old one what it does not name. 2 is now as the new list has it.
    assert pool(made) == ([4, 2, 5, 1, 3], pytest.approx([high, 0, -high, high, -high]), [0, 0, 0, 1, 1])
    observe(made, 4, 1)
    observe(made, 3, 2)  # two are taken, and leave their places
    assert pool(made) == ([2, 5, 1], pytest.approx([0, -high, high]), [2, 2, 3])
    reply(made, [0], [6, 7, 8], step=3, usable_at=3.0)
    ranking = rank(made, 3)
    assert pool(made) == ([6, 7, 8, 2, 5, 1], pytest.approx([high, 0, -high, 0, -high, high]), [0, 0, 0, 2, 2, 3])
    assert ranking.pool_age.tolist() == [0]
    # Of the constant fusion with all weight on the cloud: 6 and 1 are tied at the top, the newer first.
    assert ranking.top(2).tolist() == [[6, 1]]


def test_a_merged_pool_drops_what_is_oldest():
    made = merging(5)
    for step, items in enumerate(([1, 2, 3], [4, 5, 6], [7, 1, 8])):
        reply(made, [0], items, step=step, usable_at=step)
        rank(made, step)
        observe(made, 50 + step, step)
    # 4, 5, 6, 1, 2 after the second list; 1 is listed again, then 4 and 5 still fit.
    assert pool(made)[0] == [7, 1, 8, 4, 5]
    assert pool(made)[2] == [1, 1, 1, 2, 2]


def test_what_was_taken_never_comes_back_into_a_merged_pool():
    made = merging(6)
    reply(made, [0], [1, 2, 3])
    rank(made, 0)
    observe(made, 2, 0)
    reply(made, [0], [4, 3, 5], step=1, usable_at=25.0)  # asked for at step 1, comes two steps later
    observe(made, 4, 10)
    observe(made, 1, 20)
    rank(made, 25)
    assert pool(made)[0] == [3, 5]  # 4 was on its way, 1 and 2 were held
    assert pool(made)[2] == [2, 2]


def test_an_empty_reply_leaves_a_merged_pool_as_it_is():
    made = merging(5)
    reply(made, [0], [1, 2, 3])
    rank(made, 0)
    observe(made, 50, 0)
    reply(made, [0], [0, 0, 0], step=1, usable_at=1.0)
    ranking = rank(made, 1)
    assert pool(made)[0] == [1, 2, 3]
    assert pool(made)[2] == [1, 1, 1]
    assert ranking.pool_age.tolist() == [0]  # the cloud knows the newest history and had nothing else to say
    assert made.received.tolist() == [1]


def test_rows_of_a_merged_fleet_do_not_mix():
    """Many devices with their own lists and choices end like fleets of one."""
    random = np.random.default_rng(0)
    lists = [np.argsort(random.random((6, 30)), axis=1)[:, :4].astype(np.int32) + 1 for _ in range(4)]
    taken = random.integers(1, 31, (4, 6)).astype(np.int32)

    def end(devices):
        made = fleet(len(devices), pool=7)
        made.setup = replace(made.setup, update="merge")
        for step in range(4):
            none = np.zeros((len(devices), 0), np.int32)
            replies = Replies(
                made.devices,
                np.full(len(devices), step),
                lists[step][devices],
                np.tile(np.arange(4, 0, -1, dtype=np.float32), (len(devices), 1)),
                none,
                none[..., None].astype(np.int8),
                none.astype(np.float32),
                none.any(1),
                none.sum(1).astype(np.float32),
            )
            made.receive(np.arange(len(devices)), replies, np.full(len(devices), float(step)))
            rank(made, step)
            observe(made, taken[step, devices], step)
        return made.pool.items, made.pool.cloud, made.pool.made

    whole = end(np.arange(6))
    for device in range(6):
        for one, all_ in zip(end(np.array([device])), whole, strict=True):
            np.testing.assert_array_equal(one[0], all_[device])


def test_own_candidates_join_the_pool_once():
    model = Dot(60)
    made = fleet(model=model, fusion=Fusion(0.0), history=[[0, 0, 11, 12, 13]])
    scorer = ModelScorer(model, model.init(rng(0, "m")), np.arange(1, 61, dtype=np.int32))
    made.setup = replace(made.setup, scorer=scorer, own=3)
    made = Fleet(made.setup, made.devices, made.history, 4)
    who = np.zeros(1, np.int64)
    best, scores = scorer.own(who, who, made.history, 3)
    listed = [best[0, 1], 1, 2, 3]  # the second best is in the cloud's list too
    reply(made, [0], listed)
    ranking = rank(made, 0)
    assert ranking.items.tolist() == [[*listed, best[0, 0], 0, best[0, 2]]]
    _, cloud, device, age = made.candidates(who)
    assert age.tolist() == [[0, 0, 0, 0, -1, -1, -1]]
    assert cloud[0, 4:].tolist() == [0, 0, 0]
    np.testing.assert_allclose(device[0, [4, 6]], scores[0, [0, 2]], rtol=1e-5)
    assert ranking.top(2).tolist() == [best[0, :2].tolist()]  # all weight on the device
    observe(made, int(best[0, 0]), 0)
    after = rank(made, 1).items[0]
    assert best[0, 0] not in after  # and it is not found again
    assert (after[4:] != 0).sum() >= 2
