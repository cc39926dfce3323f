"""Patches in the loop: who gets which when, what they cost, and what a lost or late one leaves."""

from dataclasses import replace

import numpy as np
import pytest
from loop_parts import Drawn, Scripted, World, random_timeline, truth
from personal_parts import PersonalDot, Shift, code, personal_world
from timed_parts import Timed

from cloud.gateway import Gateway, Service, nothing
from cloud.patching import Patcher
from cloud.personalizer import Personals
from cloud.service import Line
from device.errors import ConfigError, ContractError
from device.fusion import Fusion
from device.messages import decode_replies
from device.personal_codec import decode_personal, split
from device.policy import Always, Never, Random
from simulation.network import SpeedLink, profile

N, WIRE = 60, 8 + 16  # bytes of a patch: header for small numbers, four float32


def lived(devices=30, steps=6, **more):
    return random_timeline(devices, steps, N, **more)


def same_steps(one, two):
    for name, values in two.items():
        np.testing.assert_array_equal(one[name], values, err_msg=name)


def rows(book, kind):
    return {name: values[book["kind"] == kind] for name, values in book.items()}


@pytest.mark.parametrize("more", [{}, {"own": 3}, {"update": "merge", "slots": 16, "delta": True}])
def test_without_effect_patches_change_bytes_and_nothing_else(more):
    """Codes of zero: the steps are those of the shared model, the ledger has the patches besides."""
    given = {"policy": Random(0.5), "fusion": Fusion(0.3), **more}
    shared, shared_book = World(lived(), N, model=PersonalDot(N), **given).run()
    steps, book = personal_world(lived(), N, personalizer=Shift(0.0, 0.0), **given).run()
    same_steps(steps, shared)
    others = ~np.isin(book["kind"], ["patch", "first_patch"])
    same_steps({name: values[others] for name, values in book.items()}, shared_book)
    assert rows(book, "patch")["nbytes"].tolist() == [WIRE] * len(rows(book, "candidates")["nbytes"])
    assert rows(book, "first_patch")["nbytes"].tolist() == [WIRE] * 30


def test_patches_change_what_is_shown():
    given = {"policy": Always(), "fusion": Fusion(0.0)}
    shared, _ = World(lived(), N, model=PersonalDot(N), **given).run()
    steps, _ = personal_world(lived(), N, **given).run()
    assert (steps["shown"] != shared["shown"]).any(axis=1).mean() > 0.5


class Weighed:
    """A link that notes what it carries down."""

    def __init__(self):
        self.inner, self.carried = SpeedLink(profile("4g")), []
        self.give_up_s = self.inner.give_up_s

    def send(self, nbytes, at, *, up, draws, devices):
        sent = self.inner.send(nbytes, at, up=up, draws=draws, devices=devices)
        self.carried += [] if up else (nbytes * sent.attempts).tolist()
        return sent


def test_the_ledger_holds_the_encoded_lengths_and_the_link_carries_their_sum():
    link = Weighed()
    world = personal_world(lived(), N, policy=Random(0.6), link=link)
    sent = []

    def look(number, shard, wave, delivery, answer):
        sent.extend(body for body in answer.bodies if body)

    world.live(look)
    book = world.ledger.columns()
    patches, replies = split(sent, PersonalDot.layout)
    arrived = book["delivered"] & (book["direction"] == "down")
    for kind, bodies in (("patch", patches), ("candidates", replies)):
        assert sorted(map(len, bodies)) == sorted(book["nbytes"][arrived & (book["kind"] == kind)].tolist())
    running = np.isin(book["kind"], ["patch", "candidates"])
    assert sum(link.carried) == book["nbytes"][running].sum()
    assert (~book["delivered"][running]).any()  # lost attempts are there, for both parts alike
    assert len(rows(book, "patch")["at"]) == len(rows(book, "candidates")["at"])


def test_a_device_computes_with_the_newest_patch_that_has_arrived_in_time():
    """Replies are lost or late: what is held is always what the cloud made at the step of the list in place."""
    link = Scripted([(False, 0.1), (False, 0.2), (True, 0.0), (False, 25.0), (False, 3.0)])
    world = personal_world(lived(20, 8), N, policy=Random(0.7), link=link)
    seen = set()

    def look(number, shard, wave, delivery, answer):
        (fleet,) = shard.fleets
        for device in range(20):
            step = int(fleet.received[device])
            expected = code(truth(world.timeline, device, step, 4)[None])[0]
            np.testing.assert_array_equal(fleet.personal.held["code"][device], expected)
            seen.add(step < number - 1)

    world.live(look)
    assert seen == {True, False}


def test_scores_are_those_of_each_devices_own_patch():
    world = personal_world(lived(70), N, policy=Random(0.5), own=4)
    shard = world.live(lambda *_: None)
    (fleet,) = shard.fleets
    who = np.arange(70)
    got, (items, best) = fleet.scores(who), fleet._own(who)
    for device in range(70):
        patch = {"code": fleet.personal.held["code"][[device]]}
        history = fleet.history[[device]]
        one = world.model.score_personal(world.params, patch, history, fleet.pool.items[[device]])
        np.testing.assert_allclose(got[device], one[0], atol=1e-6)
        every = np.arange(1, N + 1, dtype=np.int32)[None]
        scores = world.model.score_personal(world.params, patch, history, every)[0]
        scores[history[0][history[0] > 0] - 1] = -np.inf
        assert items[device].tolist() == (np.argsort(-scores)[:4] + 1).tolist()
        np.testing.assert_allclose(best[device], np.sort(scores)[::-1][:4], atol=1e-6)


@pytest.mark.parametrize(("every", "expected"), [(0, 0), (1, 6), (2, 3), (4, 1)])
def test_when(every, expected):
    """Six answered requests per device."""
    world = personal_world(lived(), N, policy=Always(), every=every)
    _, book = world.run()
    assert len(rows(book, "first_patch")["at"]) == 30
    assert np.bincount(rows(book, "patch")["device"], minlength=30).tolist() == [expected] * 30


def test_who_never_asks_keeps_the_patch_of_the_installation():
    world = personal_world(lived(), N, policy=Never())
    (fleet,) = world.live(lambda *_: None).fleets
    np.testing.assert_array_equal(fleet.personal.held["code"], code(world.timeline.histories))


def test_only_the_tiers_that_take_patches_get_some():
    shift = Shift()
    world = personal_world(lived(tier=np.arange(30) % 2), N, personalizer=shift, policy=Always(), tiers=(False, True))
    service = replace(world.gateway.service, carriers=[world.link] * 2, rows=[None] * 2)
    world.gateway = Gateway(service, world.timeline.histories, world.ledger)
    first = world.gateway.install([10, 20], world.timeline.at[:, 0])
    patches, _ = split(first.bodies, PersonalDot.layout)
    assert [bool(body) for body in patches] == [bool(d % 2) for d in range(30)]
    assert shift.asked == [(15, [1] * 15)]
    assert rows(world.ledger.columns(), "first_patch")["device"].tolist() == list(range(1, 30, 2))


def test_cloud_seconds_of_patches_are_rows_of_their_own_and_delay_the_reply():
    """10^6 flops of a list and 3 x 10^6 of a patch at 1 GFLOP/s: 1 ms and 3 ms."""
    personalizer = Shift(flops=3e6)
    world = personal_world(lived(), N, personalizer=personalizer, policy=Always(), generator=Drawn(N, 1e6))
    steps, book = world.run()
    np.testing.assert_allclose(rows(book, "candidates")["cloud_s"], 0.001)
    np.testing.assert_allclose(rows(book, "patch")["cloud_s"], 0.003)
    np.testing.assert_allclose(steps["latency_s"], 0.004, rtol=1e-3)
    for kind in ("first_list", "first_patch"):
        assert (rows(book, kind)["cloud_s"] == 0).all()


def test_a_patch_without_a_cost_needs_a_declared_one():
    with pytest.raises(ConfigError, match="seconds_per_request"):
        personal_world(lived(), N, personalizer=Shift(flops=None)).install()
    world = personal_world(lived(), N, personalizer=Shift(flops=None), seconds=2.0, policy=Always())
    _, book = world.run()
    assert (rows(book, "patch")["cloud_s"] == 0).all()
    assert (rows(book, "candidates")["cloud_s"] == 2.0).all()


@pytest.mark.parametrize("cuts", [[0, 5, 12], [0, 1, 2, 11, 12]])
def test_servers_turn_away_without_patches_and_any_cut_gives_the_same(cuts):
    """One server, 4 s a list, 2 s a patch, nobody waits: most are turned away, and a denial brings no patch."""

    def made():
        shift = Shift(flops=2e9)
        world = personal_world(lived(12, 3), N, personalizer=shift, policy=Always(), generator=Drawn(N, 4e9))
        timed = Timed(world, servers=Line(1, 0.0))
        service = replace(timed.gateway.service, personalization=world.gateway.service.personalization)
        timed.gateway = Gateway(service, world.timeline.histories, world.ledger)
        return timed

    steps, book = made().run()
    other_steps, other_book = made().run(cuts, backwards=True)
    same_steps(other_steps, steps)
    same_steps(other_book, book)
    assert len(rows(book, "denial")["at"]) > 12
    assert len(rows(book, "patch")["at"]) == len(rows(book, "candidates")["at"]) == 3  # one per wave of all
    served = np.sort(rows(book, "candidates")["at"])
    assert (np.diff(served) > 5.99).all()  # the server is busy with list and patch


class Wrong:
    """A personalizer that answers one thing."""

    layout = PersonalDot.layout

    def __init__(self, patches, flops=None):
        self.patches, self.flops = patches, flops

    def personalize(self, histories, tiers, *, rng):
        return Personals(self.patches, np.zeros(len(histories)) if self.flops is None else self.flops, None)


@pytest.mark.parametrize(
    ("patches", "flops", "about"),
    [
        ({"other": np.zeros((30, 4), np.float32)}, None, "its layout"),
        ({"code": np.zeros((29, 4), np.float32)}, None, "one row per device"),
        ({"code": np.zeros((30, 4))}, None, "float32"),
        ({"code": np.full((30, 4), np.nan, np.float32)}, None, "NaN"),
        ({"code": np.zeros((30, 4), np.float32)}, np.full(30, -1.0), "number >= 0"),
    ],
)
def test_wrong_patches_are_refused(patches, flops, about):
    with pytest.raises(ContractError, match=about):
        personal_world(lived(), N, personalizer=Wrong(patches, flops)).install()


def test_a_patch_for_another_device_is_refused():
    world = personal_world(lived(), N)
    shard, first = world.shard(), world.install()
    swapped = replace(first, bodies=[first.bodies[1], first.bodies[0], *first.bodies[2:]])
    with pytest.raises(ContractError, match="another device"):
        shard.wave(1, swapped)


@pytest.mark.parametrize("number", [1, 3])
def test_a_restored_fleet_goes_on_as_it_was(number):
    """The snapshot holds patches in place and those on their way."""
    link = Scripted([(False, 0.1), (False, 12.0), (True, 0.0)])
    world = personal_world(lived(), N, policy=Random(0.6), link=link)
    shard, delivery = world.shard(), world.install()
    for wave in range(1, 7):
        got = shard.wave(wave, delivery)
        if wave == number:
            body, old = shard.snapshot(), shard
            shard = world.shard()
            shard.restore(body)
            for name, values in old.fleets[0].personal.held.items():
                np.testing.assert_array_equal(shard.fleets[0].personal.held[name], values)
            assert {"personal.coming.code", "personal.usable_at"} <= shard.fleets[0].snapshot().keys()
            copies = [old.wave(wave + 1, nothing()), shard.wave(wave + 1, nothing())]
            same_steps(copies[1].telemetry, copies[0].telemetry)
            return
        delivery = world.gateway.answer(got.requests, got.asked_at) if got.requests else nothing()


def test_a_service_without_personalization_makes_none():
    plain: Service = World(lived(), N).gateway.service
    patcher, who = Patcher(plain), np.arange(3)
    assert patcher.next(who, who, lived().histories[:3]).bodies == [b""] * 3
    assert patcher.split([b"ab"]) == ([b""], [b"ab"])


def test_first_replies_are_repriced_behind_their_patches():
    world = personal_world(lived(), N)
    gateway = world.gateway
    first = world.install()
    patches, replies = split(first.bodies, PersonalDot.layout)
    prices = np.full(30, 0.25, np.float32)
    priced = [
        body
        for d in range(30)
        for body in gateway.memory.replies(
            np.array([d]), np.array([0]), gateway.memory.lists(np.array([d]), np.array([0])), prices[:1]
        )
    ]
    gateway.desk.price = lambda device: np.full(len(device), 0.75, np.float32)
    left = gateway.leaving(replace(first, bodies=[a + b for a, b in zip(patches, priced, strict=True)]))
    after, told = split(left.bodies, PersonalDot.layout)
    assert after == patches
    assert decode_replies(told).price.tolist() == [0.75] * 30
    assert decode_personal(after, PersonalDot.layout).device.tolist() == list(range(30))
    assert decode_replies(replies).price is None
