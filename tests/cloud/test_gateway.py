from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_parts import Dot, Drawn, Scripted, World, random_timeline, timeline, truth

import cloud.memory
from cloud.gateway import Gateway
from cloud.generator import Generated
from cloud.item_rows import Rows
from device.errors import ConfigError, ContractError, WireError
from device.messages import Codec, decode_replies, decode_requests, encode_requests
from device.policy import Always, Random
from device.row_cache import needed
from device.seeds import rng
from simulation.network import Losses, SpeedLink, profile
from simulation.replay import take_in

LENGTH = 4
# (lost, delay): answered at once, before the next step, after it, long after it, or never
FATES = st.tuples(st.booleans(), st.sampled_from([0.1, 4.0, 13.0, 31.0]))


def streamed(n_items=60, cache_rows=13, **more):
    """A world whose devices hold no item table; by default room for a pool of 8 and a history of 4, and one row."""
    model = Dot(n_items)
    table = model.init(rng(1, "weights"))["table"]
    return World(n_items=n_items, model=model, rows=Rows.of(table), cache_rows=cache_rows, **more)


def delivered(world, kind):
    """(device, step-of-writing order) pairs of the ledger's rows that arrived, by part written."""
    book = world.ledger.columns()
    rows = (book["kind"] == kind) & book["delivered"]
    return book["device"][rows], book["at"][rows]


@settings(max_examples=40, deadline=None)
@given(st.lists(FATES, min_size=1, max_size=23), st.integers(0, 1000))
def test_the_cloud_knows_the_true_history_at_every_delivered_request(script, seed):
    lived = random_timeline(3, 12, 60, seed=seed)
    world = World(lived, 60, link=Scripted(script), policy=Random(0.8), seed=seed)
    seen = 0

    def look(number, shard, wave, delivery, answer):
        nonlocal seen
        arrived = set(zip(*delivered(world, "request"), strict=True))
        if wave.requests:
            upload = decode_requests(wave.requests, width=LENGTH)
        for row in range(len(wave.requests)):
            device, step = int(upload.device[row]), int(upload.step[row])
            assert step == number
            past = truth(lived, device, step, LENGTH)
            count = min(step - int(upload.received[row]), LENGTH)
            assert upload.items[row].tolist() == [0] * (LENGTH - count) + past[LENGTH - count :].tolist()
            if (device, wave.asked_at[row]) in arrived:
                seen += 1
                assert world.gateway.memory.told_step[device] == step
        for device in range(3):  # also those whose request was lost: they are known as they were
            known = truth(lived, device, int(world.gateway.memory.told_step[device]), LENGTH)
            assert world.gateway.memory.told[device].tolist() == known.tolist()

    world.live(look)
    assert seen == (world.ledger.columns()["delivered"] & (world.ledger.columns()["kind"] == "request")).sum()


def test_items_of_a_lost_reply_are_uploaded_again():
    # Messages in order: request 1 arrives, its reply is lost; the device gives up after 20 s, that is at step 3.
    world = World(random_timeline(1, 6, 60), 60, link=Scripted([(False, 0.1), (True, 0.0), *[(False, 0.1)] * 9]))
    uploads = {}

    def look(number, shard, wave, delivery, answer):
        if wave.requests:
            upload = decode_requests(wave.requests, width=LENGTH)
            uploads[number] = (int(upload.received[0]), (upload.items[0] > 0).sum())

    world.live(look)
    assert uploads == {1: (0, 1), 3: (0, 3), 4: (3, 1), 5: (4, 1), 6: (5, 1)}


@settings(max_examples=40, deadline=None)
@given(st.lists(FATES, min_size=1, max_size=23), st.sampled_from([12, 13, 17, 40]), st.integers(0, 1000))
def test_device_and_cloud_keep_the_same_book_of_streamed_rows(script, cache_rows, seed):
    lived = random_timeline(3, 12, 60, seed=seed)
    world = streamed(timeline=lived, cache_rows=cache_rows, link=Scripted(script), policy=Random(0.8), seed=seed)
    arrived_before = 0

    def look(number, shard, wave, delivery, answer):
        nonlocal arrived_before
        book, (fleet,) = world.gateway.memory.cache.held, shard.fleets
        arrived = list(zip(*delivered(world, "request"), strict=True))
        for device, _ in arrived[arrived_before:]:
            assert book[device].tolist() == fleet.cache.held[device].tolist()
        arrived_before = len(arrived)
        for device, body in zip(answer.device, answer.bodies, strict=True):
            if body:
                got = decode_replies([body])
                wanted = needed(got.items, world.gateway.memory.told[device][None])[0]
                there = set(got.row_ids[0]) | set(fleet.cache.held[device]) | {0}
                assert set(wanted.tolist()) <= there
                assert not set(got.row_ids[0][got.row_ids[0] > 0]) & set(fleet.cache.held[device])

    world.live(look)


def test_only_missing_rows_are_sent():
    """Lists that change by one item: after the first, one row for that and one for the item taken elsewhere."""

    @dataclass
    class Sliding:
        def generate(self, histories, k, *, rng):
            taken = (histories > 0).sum(1)  # one more at every step
            items = (taken[:, None] + np.arange(k)).astype(np.int32) + 30
            return Generated(
                items, np.tile(-np.arange(k, dtype=np.float32), (len(items), 1)), np.ones(len(items)), None
            )

    lived = timeline([[1, 2, 3]], [[0, 0, 0, 0]])
    world = streamed(timeline=lived, generator=Sliding(), cache_rows=40)
    sent = []
    world.live(lambda number, shard, wave, delivery, answer: sent.append(decode_replies(answer.bodies).row_ids[0]))
    # pool of 8: 30..37 at first; then 31..38 with history 1; 32..39 with 1, 2; 33..40 with 1, 2, 3
    assert [sorted(row.tolist()) for row in sent] == [[1, 38], [2, 39], [3, 40]]


def test_bytes_of_a_streamed_row():
    """A row of width 4 costs 4 codes, a float32 scale and one byte of id; rows cost two varints more in all."""
    lived = random_timeline(5, 3, 60)
    bodies = []
    for world in (World(lived, 60), streamed(timeline=lived)):
        bodies.append(world.install().bodies)
    for plain, rows in zip(*bodies, strict=True):
        held = decode_replies([rows]).row_ids.shape[1]
        assert held == 8 + 4  # the first list and the history, drawn without overlap
        assert len(rows) - len(plain) == 2 + held * (4 + 4 + 1)


def test_quantised_rows_by_hand():
    rows = Rows.of(np.array([[0, 0], [1.0, -0.5], [0.254, 0.0]], np.float32))
    assert rows.codes.tolist() == [[0, 0], [127, -64], [127, 0]]  # -0.5 / (1 / 127) = -63.5 -> even -64
    np.testing.assert_allclose(rows.scale[1:], [1 / 127, 0.254 / 127], rtol=1e-6)
    table = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    error = np.abs(Rows.of(table).table() - table)
    assert (error <= np.abs(table).max(1)[:, None] / 127 / 2 * 1.001).all()


def record_encoded(monkeypatch):
    """Lengths of every reply the gateway encodes, in the order of encoding, as pairs (device, bytes)."""
    lengths, real = [], cloud.memory.encode_replies

    def spy(replies, codec):
        bodies = real(replies, codec)
        lengths.extend((int(d), int(s), len(b)) for d, s, b in zip(replies.device, replies.step, bodies, strict=True))
        return bodies

    monkeypatch.setattr(cloud.memory, "encode_replies", spy)
    return lengths


@pytest.mark.parametrize("codec", [Codec(), Codec("int32", "int8"), Codec("varint", "none")])
def test_the_ledger_is_the_sum_of_the_encoded_lengths(monkeypatch, codec):
    replies = record_encoded(monkeypatch)
    lossy = SpeedLink(replace(profile("3g"), losses=Losses(0.4, retries=1, timeout_s=2.0)))
    world = World(random_timeline(40, 6, 60), 60, codec=codec, link=lossy, policy=Random(0.7))
    requests = {}

    def look(number, shard, wave, delivery, answer):
        for body in wave.requests:
            device = int(decode_requests([body], width=LENGTH).device[0])
            requests[device, number] = len(body)
        for device, body in zip(answer.device, answer.bodies, strict=True):
            assert body == b"" or len(body) == {(d, s): n for d, s, n in replies}[int(device), number]

    world.live(look)
    book = world.ledger.columns()
    up, down, first = (book["kind"] == kind for kind in ("request", "candidates", "first_list"))
    installed = book["kind"] == "install"
    assert book["nbytes"][installed].tolist() == [1000] * 40
    assert (up | down | first | installed).all()
    assert set(book["direction"][up]) == {"up"}
    assert set(book["direction"][down | first | installed]) == {"down"}
    assert book["nbytes"][first].sum() == sum(n for _, step, n in replies if step == 0)
    # Every attempt is paid for; attempts of one message are numbered 1, 2, ...; only the last can be delivered.
    for rows, sizes in ((up, requests), (down, {(d, s): n for d, s, n in replies if s > 0})):
        tries = {}
        for device, at, nbytes, attempt, arrived in zip(
            *(book[name][rows] for name in ("device", "at", "nbytes", "attempt", "delivered")), strict=True
        ):
            start = round(float(at) - 2.0 * (int(attempt) - 1), 6)  # attempt i starts (i - 1) * timeout_s later
            tries.setdefault((int(device), start), []).append((int(attempt), int(nbytes), bool(arrived)))
        assert len(tries) == len(sizes)
        lengths = {}
        for (device, _), made in tries.items():
            lengths.setdefault(device, []).append(made[0][1])
            assert [attempt for attempt, _, _ in sorted(made)] == list(range(1, len(made) + 1))
            assert len({nbytes for _, nbytes, _ in made}) == 1
            assert len(made) == 2 or sorted(made)[0][2]  # given up only after both attempts
            assert not sorted(made)[0][2] or len(made) == 1
        for device, got in lengths.items():
            assert sorted(got) == sorted(n for (d, _), n in sizes.items() if d == device)
    sent = (up.sum() + down.sum(), book["nbytes"][up | down].sum())
    parts = [((up | down) & (book["delivered"] == arrived)) for arrived in (True, False)]
    assert sent == (sum(p.sum() for p in parts), sum(book["nbytes"][p].sum() for p in parts))
    assert all(p.any() for p in parts)
    # No reply without a request that arrived, and one for each that did.
    assert (up & book["delivered"]).sum() == len([1 for _, step, _ in replies if step > 0])


def test_the_order_of_arrival_does_not_matter():
    answers = []
    for order in (np.arange(6), np.array([3, 0, 5, 1, 4, 2])):
        world = World(random_timeline(6, 2, 60), 60, link=SpeedLink(profile("3g")), policy=Always())
        shard = world.shard()
        wave = shard.wave(1, world.install())
        answer = world.gateway.answer([wave.requests[i] for i in order], wave.asked_at[order])
        answers.append((answer, world.ledger.columns(), world.gateway.memory.told.tolist()))
    (one, book, told), (two, other_book, other_told) = answers
    assert one.bodies == two.bodies
    assert one.device.tolist() == two.device.tolist() == list(range(6))
    np.testing.assert_array_equal(one.usable_at, two.usable_at)
    np.testing.assert_array_equal(one.free_at, two.free_at)
    assert told == other_told
    for name in book:
        np.testing.assert_array_equal(book[name], other_book[name], err_msg=name)


def asked(world):
    """The requests of the first wave and their times."""
    wave = world.shard().wave(1, world.install())
    return wave.requests, wave.asked_at


def test_times_of_an_answer_by_hand():
    # up 4 s, cloud 1e6 operations at 1e9 a second, down 13 s
    world = World(random_timeline(1, 2, 60), 60, link=Scripted([(False, 4.0), (False, 13.0)]))
    answer = world.gateway.answer(*asked(world))
    assert answer.usable_at.tolist() == pytest.approx([10 + 4 + 0.001 + 13])
    assert answer.free_at.tolist() == answer.usable_at.tolist()
    declared = World(random_timeline(1, 2, 60), 60, link=Scripted([(False, 4.0), (False, 13.0)]), seconds=0.5)
    assert declared.gateway.answer(*asked(declared)).usable_at.tolist() == pytest.approx([10 + 4 + 0.5 + 13])


@pytest.mark.parametrize("script", [[(True, 0.0)], [(False, 1.0), (True, 0.0)]])
def test_a_lost_message_frees_the_device_after_the_time_to_give_up(script):
    world = World(random_timeline(1, 2, 60), 60, link=Scripted(script, give_up_s=7.0))
    answer = world.gateway.answer(*asked(world))
    assert answer.bodies == [b""]
    assert np.isinf(answer.usable_at).all()
    assert answer.free_at.tolist() == [17.0]  # asked at 10


def test_requests_of_a_lost_message_teach_the_cloud_nothing():
    world = World(random_timeline(1, 2, 60), 60, link=Scripted([(True, 0.0)]))
    before = world.gateway.memory.told.tolist()
    world.gateway.answer(*asked(world))
    assert world.gateway.memory.told.tolist() == before
    assert world.gateway.memory.told_step.tolist() == [0]


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_an_altered_request_is_refused(data):
    world = World(random_timeline(2, 2, 60), 60)
    bodies, at = asked(world)
    told = world.gateway.memory.told.copy()
    body = bodies[1]
    if data.draw(st.booleans()):
        body = body[: data.draw(st.integers(0, len(body) - 1))]
    else:
        bit = data.draw(st.integers(0, 8 * len(body) - 1))
        body = (int.from_bytes(body, "little") ^ (1 << bit)).to_bytes(len(body), "little")
    rows = len(world.ledger.columns()["at"])
    with pytest.raises(WireError):
        world.gateway.answer([bodies[0], body], at)
    np.testing.assert_array_equal(world.gateway.memory.told, told)
    assert len(world.ledger.columns()["at"]) == rows  # refused before anything is written down


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_an_altered_reply_is_refused_by_the_device(data):
    world = World(random_timeline(2, 2, 60), 60)
    shard = world.shard()
    first = world.install()
    body = first.bodies[1]
    if data.draw(st.booleans()):
        body = body[: data.draw(st.integers(1, len(body) - 1))]  # of length 0 it would be one that did not arrive
    else:
        bit = data.draw(st.integers(0, 8 * len(body) - 1))
        body = (int.from_bytes(body, "little") ^ (1 << bit)).to_bytes(len(body), "little")
    with pytest.raises(WireError):
        take_in(shard.fleets[0], replace(first, bodies=[first.bodies[0], body]))


def test_a_reply_for_another_device_is_refused():
    world = World(random_timeline(2, 2, 60), 60)
    first = world.install()
    with pytest.raises(ContractError, match="another device"):
        take_in(world.shard().fleets[0], replace(first, bodies=first.bodies[::-1]))


def test_a_request_is_not_a_reply():
    world = World(random_timeline(2, 2, 60), 60)
    shard = world.shard()
    first = world.install()
    requests, at = asked(world)
    with pytest.raises(WireError, match="kind"):
        take_in(shard.fleets[0], replace(first, bodies=requests))
    with pytest.raises(WireError, match="kind"):
        world.gateway.answer(first.bodies, at)


@dataclass
class Makes:
    """A generator that changes what Drawn made."""

    change: object

    def generate(self, histories, k, *, rng):
        return self.change(Drawn(60).generate(histories, k, rng=rng))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda g: replace(g, items=g.items[:, :3]), r"items \(2, 3\) and scores \(2, 8\)"),
        (lambda g: replace(g, items=g.items[:1], scores=g.scores[:1]), r"items \(1, 8\)"),
        (lambda g: replace(g, items=np.tile(g.items, 2), scores=np.tile(g.scores, 2)), r"items \(2, 16\)"),
        (lambda g: replace(g, scores=np.where(g.items > 0, np.nan, 0).astype("f4")), "NaN or infinite"),
        (lambda g: replace(g, scores=np.full_like(g.scores, -np.inf)), "NaN or infinite"),
    ],
)
def test_a_generator_that_breaks_the_contract_is_named(change, words):
    world = World(random_timeline(2, 2, 60), 60, generator=Makes(change))
    with pytest.raises(ContractError, match=words) as caught:
        world.install()
    assert "Makes.generate" in str(caught.value)


def test_a_list_that_costs_nothing_is_refused():
    world = World(random_timeline(2, 2, 60), 60, generator=Drawn(60, flops=None))
    with pytest.raises(ConfigError, match="does not say what a list costs"):
        world.install()
    declared = World(random_timeline(2, 2, 60), 60, generator=Drawn(60, flops=None), seconds=0.1)
    assert all(declared.install().bodies)


def test_a_generator_that_knows_its_seconds_is_believed():
    generator = Makes(lambda g: replace(g, seconds=np.full(len(g.items), 2.5)))
    world = World(random_timeline(1, 2, 60), 60, generator=generator)
    assert world.gateway.answer(*asked(world)).usable_at.tolist() == pytest.approx([12.5])


def test_two_tiers_have_their_own_links_and_installations():
    lived = random_timeline(4, 2, 60, tier=[0, 1, 0, 1])
    world = World(lived, 60)
    service = replace(
        world.gateway.service, carriers=[Scripted([(False, 1.0)]), Scripted([(False, 5.0)])], rows=[None, None]
    )
    gateway = Gateway(service, lived.histories, world.ledger)
    gateway.install([100, 900], lived.at[:, 0])
    book = world.ledger.columns()
    assert book["nbytes"][book["kind"] == "install"].tolist() == [100, 900, 100, 900]
    requests, at = asked(World(random_timeline(4, 2, 60), 60))
    waits = gateway.answer(requests, at).usable_at - at
    np.testing.assert_allclose(waits, [2.001, 10.001, 2.001, 10.001])


def test_what_the_gateway_reads_is_what_the_device_encoded():
    """The ledger's bytes are lengths of bodies, not of anything the simulator knows besides."""
    world = World(random_timeline(3, 2, 60), 60)
    requests, at = asked(world)
    world.gateway.answer(requests, at)
    book = world.ledger.columns()
    assert book["nbytes"][book["kind"] == "request"].tolist() == [len(body) for body in requests]
    again = encode_requests(decode_requests(requests, width=LENGTH), Codec())
    assert again == requests
