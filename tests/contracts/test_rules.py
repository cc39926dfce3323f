"""The rules that keep results honest, each with a test that would catch who breaks it."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from loop_parts import Dot, Drawn, Scripted, World, random_timeline, timeline

from cloud.gateway import nothing
from device.fusion import Fusion
from device.messages import decode_replies, decode_requests
from device.model import DeviceModel
from device.policy import Always, Consistency, Random
from simulation.metrics import HR
from simulation.network import SpeedLink, profile
from simulation.remembering import Remembering


class LastSeen:
    """The cheat: 1 for the candidate that stands last in the history, 0 for all others."""

    def init(self, rng):
        return {}

    def score(self, params, history, candidates):
        return (candidates == history[:, -1:]).astype(np.float32)


class Catalogue:
    """Offers all n items, in the same order to everybody."""

    def __init__(self, n_items):
        self.n_items = n_items

    def generate(self, histories, k, *, rng):
        made = Drawn(self.n_items).generate(np.zeros_like(histories), k, rng=rng)
        items = np.tile(np.arange(1, k + 1, dtype=np.int32), (len(histories), 1))
        return replace(made, items=items, scores=np.tile(-np.arange(k, dtype=np.float32), (len(histories), 1)))


def test_the_last_seen_item_says_nothing_about_the_next():
    """On random data a model that knows the newest item only is at chance; if `observe` came first it would be at 1."""
    n, devices, steps = 20, 1500, 4
    random = np.random.default_rng(2)
    items = np.argsort(random.random((devices, n)), axis=1)[:, : 4 + steps].astype(np.int32) + 1
    lived = timeline(items[:, 4:], items[:, :4])
    for policy in (Always(), Random(0.5)):
        world = World(lived, n, pool=n, model=LastSeen(), generator=Catalogue(n), fusion=Fusion(0.0), policy=policy)
        assert isinstance(world.model, DeviceModel)
        lived_steps, _ = world.run()
        hits = HR(1).of(lived_steps["rank"], lived_steps["ties"])
        # Chance at its best: the item taken is never one of the history, so it is one of the 16 (later 13) others.
        chance = 1 / (n - 4 - steps + 1)
        assert hits.mean() < chance + 4 * np.sqrt(chance / len(hits))
        assert (lived_steps["rank"] > 0).all()  # it was in the pool: there was something to find


@dataclass
class Watched:
    """Notes every number that reaches the model, the policy and the generator, under the wave's number."""

    wave: int = 0
    before_slate: dict = field(default_factory=dict)
    seen: dict = field(default_factory=dict)

    def note(self, who, *arrays):
        numbers = set()
        for array in arrays:
            numbers |= set(np.asarray(array).astype(np.int64).reshape(-1).tolist())
        self.seen.setdefault((self.wave, who), set()).update(numbers)


@dataclass
class WatchedModel:
    book: Watched
    inner: Dot

    def init(self, rng):
        return self.inner.init(rng)

    def score(self, params, history, candidates):
        self.book.note("model", history, candidates)
        return self.inner.score(params, history, candidates)


@dataclass
class WatchedPolicy:
    book: Watched

    def urgency(self, view, draws):
        self.book.note("policy", view.history, view.candidates)
        self.book.note("view", view.device, view.step, view.pool_age, view.since_request, view.taken)
        return Consistency().urgency(view, draws) + 0.5


@dataclass
class WatchedGenerator:
    book: Watched
    inner: Drawn

    def generate(self, histories, k, *, rng):
        self.book.note("generator", histories)
        return self.inner.generate(np.zeros_like(histories), k, rng=rng)


def test_what_is_taken_reaches_nobody_before_the_slate_is_fixed():
    """Every device takes items that nobody else has (1000 + ...), so that each of them can be told when seen."""
    devices, steps, n = 6, 5, 30
    marked = (1000 + 10 * np.arange(devices)[:, None] + np.arange(1, steps + 1)).astype(np.int32)
    book = Watched()
    world = World(
        timeline(marked, np.full((devices, 4), 7)),
        1100,
        model=WatchedModel(book, Dot(1100)),
        generator=WatchedGenerator(book, Drawn(n)),
        policy=WatchedPolicy(book),
        fusion=Fusion(0.5),
        link=Scripted([(False, 0.1), (False, 6.0)]),
    )
    shard = world.shard()
    (fleet,) = shard.fleets
    slates = {}
    real = fleet.rank

    def rank(who, at):
        ranking = real(who, at)
        slates[book.wave] = set().union(*(book.seen.get((book.wave, w), set()) for w in ("model", "policy")))
        return ranking

    fleet.rank = rank
    delivery = world.install()
    for number in range(1, steps + 1):
        book.wave = number
        wave = shard.wave(number, delivery)
        past, present = set(marked[:, : number - 1].flat), set(marked[:, number - 1])
        later = set(marked[:, number:].flat)
        assert slates[number]
        assert not slates[number] & (present | later)
        assert not set(wave.telemetry["shown"].flat) & (present | later)
        # Now the device has observed: its policy and its request may know the item, but none of the later ones.
        assert present & book.seen[number, "policy"]
        for who in ("model", "policy", "view"):
            assert not book.seen[number, who] & later
        delivery = world.gateway.answer(wave.requests, wave.asked_at) if wave.requests else nothing()
        if wave.requests:
            uploaded = set(decode_requests(wave.requests, width=4).items.flat)
            assert uploaded & present
            assert not uploaded & later
            assert not book.seen[number, "generator"] & later
            assert not set(decode_replies([b for b in delivery.bodies if b]).items.flat) & (past | present | later)


@pytest.mark.parametrize("step", [1, 3, 5])
def test_another_choice_changes_nothing_before_it_is_observed(step):
    """The same world but for what is taken at one step: all slates and requests up to that slate are the same bytes."""
    lived = random_timeline(30, 5, 60)
    items = lived.items.copy()
    items[:, step - 1] = np.roll(items[:, step - 1], 1)
    slates, uploads = [], []
    for one in (lived, replace(lived, items=items)):
        shown, sent = [], []
        world = World(one, 60, policy=Consistency(), price=0.5, link=SpeedLink(profile("3g")))
        world.live(
            lambda number, shard, wave, delivery, answer, shown=shown, sent=sent: (
                shown.append((wave.telemetry["shown"].tolist(), wave.telemetry["pool_age"].tolist())),
                sent.append(wave.requests),
            )
        )
        slates.append(shown)
        uploads.append(sent)
    assert slates[0][:step] == slates[1][:step]
    assert uploads[0][: step - 1] == uploads[1][: step - 1]
    if step < 5:
        assert slates[0][step:] != slates[1][step:]  # and afterwards it does matter


def test_what_will_be_taken_is_not_in_the_installation():
    lived = random_timeline(10, 4, 60)
    other = replace(lived, items=np.roll(lived.items, 1, axis=0))
    assert World(lived, 60).install().bodies == World(other, 60).install().bodies


def test_nothing_is_free():
    """Every list a device ever shows was paid for: no more lists than delivered transfers, no transfer of no bytes."""
    steps, book = World(random_timeline(40, 6, 60), 60, policy=Random(0.6), link=SpeedLink(profile("3g"))).run()
    assert (book["nbytes"] > 0).all()
    for device in range(40):
        mine = steps["device"] == device
        age, number = steps["pool_age"][mine], steps["step"][mine]
        made_at = set((number - 1 - age).tolist()) - {0}
        replies = (book["device"] == device) & (book["kind"] == "candidates") & book["delivered"]
        assert len(made_at) <= replies.sum()


def test_a_list_is_the_same_for_every_policy_and_charged_to_each():
    """Lists made once for several policies are those that would have been made for one alone, at the same cost."""
    lived = random_timeline(20, 5, 60)
    shared = Remembering(Drawn(60))
    for policy in (Always(), Random(0.5), Always()):
        alone_steps, alone_book = World(lived, 60, policy=policy).run()
        steps, book = World(lived, 60, policy=policy, generator=shared).run()
        for mine, expected in ((steps, alone_steps), (book, alone_book)):
            for name, values in expected.items():
                np.testing.assert_array_equal(mine[name], values, err_msg=name)


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    lived = random_timeline(20, 5, 60)
    runs = [World(lived, 60, policy=Random(0.5), seed=seed).run()[0] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0]["asked"], runs[1]["asked"])
    np.testing.assert_array_equal(runs[0]["shown"], runs[1]["shown"])
    assert (runs[0]["asked"] != runs[2]["asked"]).any()
    assert (runs[0]["shown"] != runs[2]["shown"]).any()
