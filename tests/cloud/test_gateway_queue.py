"""The gateway with finite servers and prices: times by hand, against a line that knows everything, and its books."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from loop_parts import Dot, Scripted, World, random_timeline
from timed_parts import Steady, Timed

from cloud.coordinator import Budget, Curve, Tariff
from cloud.gateway import Delivery, merged, nothing
from cloud.item_rows import Rows
from cloud.queueing import Servers
from cloud.service import Line
from device.errors import ContractError
from device.lease import Lease
from device.messages import decode_replies, repriced
from device.policy import Always, Random
from device.seeds import draws, rng
from simulation.network import Losses, SpeedLink, profile
from simulation.replay import take_in

N = 60
FLAT = Tariff(Budget(bytes_per_hour=1e9), (Curve(np.array([-9.0, 9.0]), np.array([1.0, 0.0])),), (0.5,), 1.0)


def spread_out(devices, steps, *, seed=0, gap=10.0):
    """A random timeline whose steps come at random times."""
    lived = random_timeline(devices, steps, N, seed=seed)
    at = np.cumsum(rng(seed, "gaps").exponential(gap, lived.at.shape), axis=1)
    return replace(lived, at=at)


def rows(book, kind):
    return {name: values[book["kind"] == kind] for name, values in book.items()}


def test_three_devices_and_one_server_by_hand():
    """Asked at 10, 10.001 and 10.002 s; 1 s up, 4 s of work each, 2 s down: begun at 11, 15 and 19."""
    world = World(random_timeline(3, 3, N), N, link=Steady(1.0, 2.0), seconds=4.0)
    steps, book = Timed(world, Line(1)).run()
    first = steps["step"] == 1
    np.testing.assert_allclose(steps["latency_s"][first], [7, 15 + 4 + 2 - 10.001, 19 + 4 + 2 - 10.002], rtol=1e-6)
    # At their second steps, 20 to 20.002 s, only device 0 has its reply (17 s): it shows and asks, the others wait.
    second = steps["step"] == 2
    assert steps["pool_age"][second].tolist() == [0, 1, 1]
    assert steps["asked"][second].tolist() == [True, False, False]
    # Device 0's arrives at 21 s, when the server is at work until 23 s; the others ask at 30 s and wait for nobody.
    np.testing.assert_allclose(rows(book, "candidates")["at"][:4], [15, 19, 23, 27])
    assert rows(book, "candidates")["cloud_s"].tolist() == [4.0] * 7  # device 0 asks three times
    assert book["cloud_s"][book["kind"] != "candidates"].tolist() == [0.0] * (len(book["at"]) - 7)


def test_a_denial_by_hand():
    """The third would wait 19 - 11.002 = 7.998 s, 2.998 s more than the limit."""
    lived = random_timeline(3, 3, N)
    steps, book = Timed(World(lived, N, link=Steady(1.0, 2.0), seconds=4.0), Line(1, max_wait_s=5.0)).run()
    denied = rows(book, "denial")
    assert denied["device"].tolist() == [2]
    assert denied["at"].tolist() == pytest.approx([11.002])  # turned away on arrival
    assert denied["nbytes"].tolist() == [2 + 3 + 4 + 4]  # head, three varints, retry_after, checksum
    assert np.isnan(steps["latency_s"][(steps["device"] == 2) & (steps["step"] == 1)]).all()
    retry = 2.998 * (1 + 0.5 * draws(3, "retry", np.array([2]), np.array([1])).uniform()[0, 0])
    assert 13.002 + retry < 20  # told at 13.002 s; so at its second step it may ask
    mine = steps["device"] == 2
    assert steps["asked"][mine].tolist() == [True, True, False]
    assert steps["pool_age"][mine].tolist() == [0, 1, 2]  # the first list goes on being shown
    assert (steps["shown"][:, 0] > 0).all()


@pytest.mark.parametrize("servers", [1, 3])
def test_served_as_if_all_requests_had_been_known_at_once(servers):
    """Two loops: one learns of requests wave by wave, the other is a line that sees all arrivals together."""
    lossy = SpeedLink(replace(profile("3g"), losses=Losses(0.2, retries=0)))
    world = World(spread_out(15, 20), N, link=lossy, policy=Random(0.5), seconds=3.0)
    steps, book = Timed(world, Line(servers)).run()
    sent, asked = rows(book, "candidates"), steps["asked"]
    got = {k: v[sent["attempt"] == 1] for k, v in sent.items()}
    begun = got["at"] - got["cloud_s"]
    assert steps["asked"].sum() > len(begun) > 60  # some requests were lost on the way
    order = np.argsort(begun, kind="stable")
    device, begun = got["device"][order], begun[order]
    assert asked.any()
    # Arrivals are not in the ledger; carry the same requests again over the same links.
    asks = {k: v[asked] for k, v in steps.items()}
    again = rows(book, "request")
    nbytes = {
        (d, round(at, 6)): n
        for d, at, n, a in zip(*(again[k] for k in ("device", "at", "nbytes", "attempt")), strict=True)
        if a == 1
    }
    size = np.array([nbytes[d, round(at, 6)] for d, at in zip(asks["device"], asks["at"], strict=True)])
    carried = lossy.send(
        size,
        asks["at"],
        up=True,
        draws=draws(3, "link up", asks["device"], asks["step"]),
        devices=draws(3, "link", asks["device"]),
    )
    here = np.isfinite(carried.arrive_at)
    start = Servers(servers).serve(carried.arrive_at[here], np.full(here.sum(), 3.0), tie=asks["device"][here])
    best = np.argsort(start, kind="stable")
    assert asks["device"][here][best].tolist() == device.tolist()
    np.testing.assert_allclose(start[best], begun)


@pytest.mark.parametrize("window", [1.0, 3.0])
def test_a_window_up_to_the_service_time_changes_nothing(window):
    results = []
    for width in (0.0, window):
        world = World(spread_out(15, 20), N, link=Steady(0.3, 0.2), policy=Random(0.5), seconds=3.0)
        results.append(Timed(world, Line(2), window_s=width).run())
    for one, two in zip(*results, strict=True):
        for name in one:
            if name not in ("kind", "direction"):
                np.testing.assert_array_equal(np.sort(one[name], axis=0), np.sort(two[name], axis=0), err_msg=name)


def test_enough_servers_are_as_good_as_none():
    """One server per device never makes anybody wait, so the loop in order of time decides as the plain one."""
    lived = spread_out(12, 10)
    plain, other = (World(lived, N, link=Steady(0.5, 0.7), policy=Random(0.6), seconds=2.0) for _ in range(2))
    steps, book = plain.run()
    timed, timed_book = Timed(other, Line(12)).run()
    for name, values in steps.items():
        np.testing.assert_array_equal(timed[name], values, err_msg=name)
    for kind in ("request", "candidates"):
        one, two = rows(book, kind), rows(timed_book, kind)
        order = [np.lexsort((r["device"], r["at"])) for r in (one, two)]
        for name in ("device", "at", "nbytes", "cloud_s"):
            np.testing.assert_array_equal(one[name][order[0]], two[name][order[1]])


FATES = st.tuples(st.booleans(), st.sampled_from([0.1, 4.0, 13.0, 31.0]))


@settings(max_examples=12, deadline=None)
@given(st.lists(FATES, min_size=1, max_size=23), st.sampled_from([12, 13, 17]), st.integers(0, 1000))
def test_denials_and_losses_leave_the_books_of_both_sides_equal(script, cache_rows, seed):
    """A device that gets a list whose rows it neither holds nor received refuses it loudly."""
    model = Dot(N)
    table = Rows.of(model.init(rng(1, "weights"))["table"])
    world = World(
        spread_out(4, 10, seed=seed),
        N,
        model=model,
        rows=table,
        cache_rows=cache_rows,
        link=Scripted(script),
        policy=Random(0.8),
        seconds=8.0,
        seed=seed,
    )
    timed = Timed(world, Line(1, max_wait_s=3.0))
    steps, book = timed.run()
    assert (steps["shown"][:, 0] > 0).all()
    requests = book["kind"] == "request"
    answered = np.isin(book["kind"], ["candidates", "denial"])
    assert (requests & book["delivered"]).sum() == answered.sum()
    assert len(timed.gateway.desk.room) == 0


@settings(max_examples=10, deadline=None)
@given(st.lists(FATES, min_size=1, max_size=23), st.integers(0, 1000))
@example([(True, 0.1)], 78)  # a pool that nearly all was taken from shows empty places
def test_merged_pools_and_delta_replies_survive_denials(script, seed):
    world = World(
        spread_out(4, 10, seed=seed),
        N,
        update="merge",
        slots=20,
        delta=True,
        link=Scripted(script),
        policy=Random(0.8),
        seconds=8.0,
        seed=seed,
    )
    steps, _ = Timed(world, Line(1, max_wait_s=3.0)).run()
    for shown in steps["shown"]:
        real = shown[shown != 0]
        assert len(set(real.tolist())) == len(real)


def test_a_priced_reply_has_four_bytes_more_and_tells_the_price():
    lived = random_timeline(4, 2, N)
    plain = World(lived, N).install().bodies
    timed = Timed(World(lived, N), tariff=FLAT)
    first = timed.gateway.install([1000], lived.at[:, 0])
    assert [len(b) for b in first.bodies] == [len(b) + 4 for b in plain]
    assert decode_replies(first.bodies).price.tolist() == [0.5] * 4  # even odds lie in the middle of the curve
    assert decode_replies(plain).price is None
    other = repriced(first.bodies, np.arange(4, dtype=np.float32))
    told = decode_replies(other)
    assert told.price.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(told.items, decode_replies(plain).items)
    book = timed.world.ledger.columns()
    assert book["nbytes"][book["kind"] == "first_list"].tolist() == [len(b) for b in first.bodies]


def test_a_first_list_leaves_with_the_price_of_its_moment():
    """Device 1 starts an hour after device 0; meanwhile nothing was spent, so the price has fallen."""
    lived = random_timeline(2, 3, N)
    lived = replace(lived, at=np.array([[10.0, 1800.0, 3600.0], [3700.0, 3800.0, 3900.0]]))
    timed = Timed(World(lived, N, policy=Random(0.0)), tariff=FLAT, lease=Lease(1000, 0.0))
    shards = []
    real = timed.shard
    timed.shard = lambda rows: shards.append(real(rows)) or shards[-1]
    timed.run()
    told = shards[0].fleets[0].prices.told
    assert told[0] == 0.5
    assert told[1] < 0.45


def test_a_device_asks_where_its_urgency_exceeds_the_price_that_it_was_told():
    lived = random_timeline(30, 12, N)
    timed = Timed(World(lived, N, policy=Random()), tariff=FLAT, lease=Lease(1000, 0.0))
    steps, book = timed.run()
    # Nothing is scarce: the price goes down from 0.5, and what is asked exceeds it.
    assert (steps["urgency"][steps["asked"]] > 0.3).all()
    assert 0.4 < steps["asked"].mean() < 0.8
    assert not (book["kind"] == "denial").any()


def test_an_overdrawn_purse_turns_requests_away_until_it_is_filled_again():
    """1000 bytes an hour for 30 devices that always ask: replies stop, lists go on being shown, and nobody is lost."""
    tariff = replace(FLAT, budget=Budget(bytes_per_hour=1000.0), curves=(Curve.flat(0.0),))
    timed = Timed(World(random_timeline(30, 12, N), N, policy=Always()), tariff=tariff, lease=Lease(5, 0.0))
    steps, book = timed.run()
    kinds = {kind: (book["kind"] == kind).sum() for kind in ("request", "candidates", "denial")}
    assert kinds["request"] == kinds["candidates"] + kinds["denial"]
    assert kinds["denial"] > kinds["candidates"] > 0
    assert (steps["shown"][:, 0] > 0).all()
    assert len(steps["step"]) == 30 * 12
    assert steps["asked"].sum() < 30 * 12  # who was turned away comes back later, not at every step


def test_the_plain_loop_refuses_servers():
    timed = Timed(World(random_timeline(2, 2, N), N), Line(1))
    with pytest.raises(ContractError, match="in order of time"):
        timed.gateway.answer([], np.zeros(0))


def test_a_lease_and_a_price_belong_together():
    lived = random_timeline(2, 2, N)
    priced = Timed(World(lived, N), tariff=FLAT).gateway.install([1000], lived.at[:, 0])
    with pytest.raises(ContractError, match="neither"):
        take_in(World(lived, N).shard().fleets[0], priced)


def test_of_two_deliveries_to_a_device_the_newer_counts():
    one = Delivery(np.array([1, 4]), [b"a", b"b"], np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    two = Delivery(np.array([4, 0]), [b"c", b"d"], np.array([5.0, 6.0]), np.array([7.0, 8.0]))
    both = merged(one, two)
    assert both.device.tolist() == [0, 1, 4]
    assert both.bodies == [b"d", b"a", b"c"]
    assert both.usable_at.tolist() == [6, 1, 5]
    assert merged(nothing(), nothing()).bodies == []
