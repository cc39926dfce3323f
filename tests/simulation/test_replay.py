from itertools import pairwise

import numpy as np
import pytest
from loop_parts import Scripted, World, random_timeline, timeline

from cloud.gateway import nothing
from device.fusion import Fusion
from device.messages import decode_requests
from device.policy import Always, Consistency, Every, Never, Random
from simulation.data.synthetic import synthetic
from simulation.network import Losses, SpeedLink, SpeedProfile
from simulation.replay import Shard, Timeline, Wave, positions
from simulation.waves import latency, replay
from simulation.wire import pack_delivery, pack_wave, part_of, unpack_delivery, unpack_wave

N = 80
LOSSY = SpeedLink(SpeedProfile(10, 0.5, 5, 0.5, 3000, 0.5, 500, losses=Losses(0.3, 1, 8.0), source="slow and lossy"))


def counts(book):
    return {kind: int((book["kind"] == kind).sum()) for kind in ("install", "first_list", "request", "candidates")}


def test_never_sends_nothing_after_the_installation():
    steps, book = World(random_timeline(30, 6, N), N, policy=Never()).run()
    assert counts(book) == {"install": 30, "first_list": 30, "request": 0, "candidates": 0}
    assert not steps["asked"].any()
    assert np.isnan(steps["latency_s"]).all()
    assert steps["pool_age"].tolist() == [s for s in range(6) for _ in range(30)]


def test_always_sends_one_request_per_step_on_an_ideal_link():
    steps, book = World(random_timeline(30, 6, N), N, policy=Always()).run()
    assert counts(book) == {"install": 30, "first_list": 30, "request": 180, "candidates": 180}
    assert book["delivered"].all()
    assert steps["asked"].all()
    for name in ("request", "candidates"):
        rows = book["kind"] == name
        assert (np.bincount(book["device"][rows]) == 6).all()
    assert steps["pool_age"].tolist() == [0] * 180  # every list is a new one
    np.testing.assert_allclose(steps["latency_s"], 0.001, rtol=1e-3)  # 1e6 operations at 1e9 a second


@pytest.mark.parametrize("policy", [Random(), Every(), Consistency("footrule"), Consistency("rbo")])
def test_a_higher_price_means_fewer_requests(policy):
    lived = random_timeline(60, 8, N)
    prices = (0.0, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.5, 4.5, 9.0)
    asked = [int(World(lived, N, policy=policy, price=p).run()[0]["asked"].sum()) for p in prices]
    assert asked == sorted(asked, reverse=True)
    assert asked[0] > 400  # of 480 steps
    assert asked[-1] == 0
    assert len(set(asked)) >= 4


def test_every_with_steps_asks_that_often():
    steps, _ = World(random_timeline(5, 7, N), N, policy=Every(3)).run()
    assert steps["step"][steps["asked"]].tolist() == [3] * 5 + [6] * 5


def test_a_lossy_link_delivers_and_loses_what_was_sent():
    steps, book = World(random_timeline(80, 6, N), N, policy=Random(0.8), link=LOSSY).run()
    link = (book["kind"] == "request") | (book["kind"] == "candidates")
    first = link & (book["attempt"] == 1)
    second = link & (book["attempt"] == 2)
    assert set(book["attempt"][link]) == {1, 2}  # one retry
    up = book["kind"] == "request"
    assert (first & up).sum() == steps["asked"].sum()
    assert second.sum() == (first & ~book["delivered"]).sum()  # every lost first attempt is tried again, no other is
    arrived = up & book["delivered"]
    assert (first & ~up & link).sum() == arrived.sum()  # the cloud answers what it got
    usable = np.isfinite(steps["latency_s"])
    assert usable.sum() == (link & ~up & book["delivered"]).sum()
    assert steps["asked"][usable].all()
    gone = (link & ~book["delivered"]).sum()
    assert 0.2 < gone / link.sum() < 0.4  # 30% of attempts
    assert (book["delivered"].sum(), book["nbytes"][book["delivered"]].sum()) == (
        len(book["at"]) - gone,
        book["nbytes"].sum() - book["nbytes"][~book["delivered"]].sum(),
    )


def test_a_lost_request_frees_the_device_after_the_time_to_give_up():
    # Nothing ever arrives and a device gives up after 25 s, so with 10 s a step it asks at steps 1, 4, 7.
    steps, book = World(random_timeline(4, 8, N), N, link=Scripted([(True, 0)], give_up_s=25.0)).run()
    assert steps["step"][steps["asked"]].tolist() == [1] * 4 + [4] * 4 + [7] * 4
    assert not book["delivered"][book["kind"] == "request"].any()
    assert steps["pool_age"].tolist() == [s for s in range(8) for _ in range(4)]


def test_a_late_reply_is_shown_when_it_is_usable():
    # Up 6 s, down 6 s, no time in the cloud: asked at 10, usable at 22, so the slate of 20 is old and that of 30 new.
    steps, _ = World(random_timeline(1, 6, N), N, link=Scripted([(False, 6.0)]), seconds=0.0).run()
    # Asked at step 1, waiting at 2; at 3 the list of step 1 is 2 steps old; asked there again.
    assert steps["pool_age"].tolist() == [0, 1, 1, 2, 1, 2]
    assert steps["asked"].tolist() == [True, False, True, False, True, False]
    assert steps["latency_s"][steps["asked"]].tolist() == [12.0] * 3


def test_ranks_are_places_in_the_pool_shown():
    world = World(random_timeline(40, 6, N), N, pool=30, shown=30, policy=Random(0.5))
    steps, _ = world.run()
    for item, rank, ties, shown in zip(steps["item"], steps["rank"], steps["ties"], steps["shown"], strict=True):
        assert ties == 1
        assert shown.tolist().index(item) + 1 == rank if item in shown else rank == 0
    assert (steps["rank"] > 0).sum() > 40


def test_nobody_is_shown_what_was_taken_since_the_list_was_asked_for():
    lived = random_timeline(40, 8, N)
    steps, _ = World(lived, N, pool=40, shown=40, link=Scripted([(False, 13.0), (False, 2.0)])).run()
    late = 0
    for device, step, age, shown in zip(*(steps[n] for n in ("device", "step", "pool_age", "shown")), strict=True):
        since = lived.items[device, step - 1 - age : step - 1]
        late += len(since)
        assert not set(since.tolist()) & set(shown.tolist())
    assert late > 100


def test_devices_with_fewer_steps_drop_out():
    lived = timeline([[1, 2, 3, 4], [5, 6, 0, 0], [7, 0, 0, 0]])
    steps, book = World(lived, N, policy=Always()).run()
    assert list(zip(steps["step"].tolist(), steps["device"].tolist(), strict=True)) == [
        (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (3, 0), (4, 0),
    ]  # fmt: skip
    assert np.isfinite(steps["at"]).all()
    assert counts(book)["request"] == 7


def test_columns_do_not_depend_on_how_the_fleet_is_cut_or_the_order_of_clients():
    lived = random_timeline(40, 6, N)
    results = []
    for cuts, backwards in (([0, 40], False), ([0, 1, 17, 40], False), ([0, 13, 13, 40], True)):
        world = World(lived, N, policy=Consistency(), price=0.6, link=LOSSY)
        shards = [(a, b, world.shard(np.arange(a, b))) for a, b in pairwise(cuts)]

        def exchange(number, delivery, shards=shards, backwards=backwards):
            waves = [shard.wave(number, part_of(delivery, a, b)) for a, b, shard in shards]
            yield from (waves[::-1] if backwards else waves)

        waves = list(replay(exchange, world.gateway, world.install(), lived.steps))
        book = world.ledger.columns()
        results.append([{k: np.concatenate([w[k] for w in waves]) for k in waves[0]}, book])
    for other in results[1:]:
        for table, expected in zip(other, results[0], strict=True):
            for name, values in expected.items():
                np.testing.assert_array_equal(table[name], values, err_msg=name)
    assert 20 < results[0][0]["asked"].sum() < 200


def test_the_snapshot_of_a_shard_with_two_tiers_and_an_empty_one():
    lived = random_timeline(7, 4, N, tier=[0, 2, 0, 2, 2, 0, 0])
    world = World(random_timeline(7, 4, N), N, policy=Random(0.5))
    (setup,) = (fleet.setup for fleet in world.shard().fleets)
    shard, other = (Shard([setup] * 3, lived, slots=8, history=4, codec=world.codec) for _ in range(2))
    first = world.install()
    shard.wave(1, first)
    other.restore(shard.snapshot())
    assert other.snapshot() == shard.snapshot()
    one, two = shard.wave(2, nothing()), other.wave(2, nothing())
    assert one.requests == two.requests
    assert sorted(one.telemetry["device"].tolist()) == list(range(7))


def test_envelopes_bring_back_what_was_put_in():
    world = World(random_timeline(5, 3, N), N, policy=Random(0.5), link=Scripted([(False, 1.0), (True, 0.0)]))
    shard, first = world.shard(), world.install()
    wave = shard.wave(1, unpack_delivery(pack_delivery(first)))
    back = unpack_wave(pack_wave(wave))
    assert back.requests == wave.requests
    assert back.telemetry.keys() == wave.telemetry.keys()
    for name in wave.telemetry:
        np.testing.assert_array_equal(back.telemetry[name], wave.telemetry[name])
    np.testing.assert_array_equal(back.asked_at, wave.asked_at)
    answer = world.gateway.answer(wave.requests, wave.asked_at)
    again = unpack_delivery(pack_delivery(answer))
    assert again.bodies == answer.bodies
    assert b"" in again.bodies
    for name in ("device", "usable_at", "free_at"):
        np.testing.assert_array_equal(getattr(again, name), getattr(answer, name))
    for empty in (nothing(), part_of(first, 3, 3)):
        assert unpack_delivery(pack_delivery(empty)).bodies == []
    assert unpack_wave(pack_wave(Wave([], np.zeros(0), {}))).telemetry == {}


def test_part_of_and_positions():
    world = World(random_timeline(6, 2, N), N)
    first = world.install()
    parts = [part_of(first, a, b) for a, b in ((0, 2), (2, 2), (2, 6))]
    assert [p.device.tolist() for p in parts] == [[0, 1], [], [2, 3, 4, 5]]
    assert [body for p in parts for body in p.bodies] == first.bodies
    rows, where = positions(np.array([2, 5, 9]), np.array([1, 5, 9, 10, 2]))
    assert (rows.tolist(), where.tolist()) == ([1, 2, 4], [1, 2, 0])
    assert [a.tolist() for a in positions(np.zeros(0, np.int64), np.array([1]))] == [[], []]


def test_latency_is_that_of_those_who_asked():
    world = World(random_timeline(3, 2, N), N, link=Scripted([(False, 2.0), (False, 2.0), (True, 0.0)]))
    wave = world.shard().wave(1, world.install())
    delivery = world.gateway.answer(wave.requests, wave.asked_at)  # the third request is lost
    got = latency(wave.telemetry, delivery)
    # Replies: 2 s, 2 s; with the cloud's millisecond.
    np.testing.assert_allclose(got, [4.001, 4.001, np.nan], rtol=1e-5)
    upload = decode_requests(wave.requests, width=4)
    assert upload.device.tolist() == [0, 1, 2]


def test_a_timeline_of_a_data_set():
    data = synthetic(seed=1, users=5, items=40, topics=4, length=10)
    users = np.array([4, 1])
    begin, end = data.offsets[users] + np.array([6, 9]), data.offsets[users + 1]
    made = Timeline.of(data, users, begin, end, length=8, tier=np.zeros(2, np.int64))
    first, second = (data.item[data.offsets[u] : data.offsets[u + 1]].tolist() for u in users)
    assert made.items.tolist() == [first[6:], [*second[9:], 0, 0, 0]]
    assert made.histories.tolist() == [[0, 0, *first[:6]], second[1:9]]
    assert made.devices.tolist() == [0, 1]
    assert np.isfinite(made.at).tolist() == [[True] * 4, [True, False, False, False]]
    assert made.at[0].tolist() == data.at[begin[0] : end[0]].tolist()
    assert made.rows(np.array([1])).items.tolist() == made.items[1:].tolist()


def test_the_fusion_decides_the_slate_but_not_the_requests_of_the_built_in_policies():
    lived = random_timeline(30, 6, N)
    runs = [World(lived, N, policy=Consistency(), price=0.6, fusion=Fusion(a)).run() for a in (0.0, 1.0)]
    np.testing.assert_array_equal(runs[0][0]["asked"], runs[1][0]["asked"])
    for name, values in runs[0][1].items():
        np.testing.assert_array_equal(values, runs[1][1][name])
    assert (runs[0][0]["shown"] != runs[1][0]["shown"]).any()
