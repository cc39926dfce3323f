"""Small parts from which tests put the loop together by hand: models, generators, links, timelines, a driver."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from cloud.gateway import Delivery, Gateway, Service, nothing
from cloud.generator import Generated
from cloud.ledger import Ledger
from device.fusion import Fusion
from device.messages import Codec
from device.policy import Always
from device.scoring import ModelScorer
from device.seeds import rng
from device.setup import Setup
from simulation.network import Ideal
from simulation.replay import Shard, Timeline
from simulation.waves import replay


class Dot:
    """Scores by the product of a candidate's embedding and the mean embedding of the history."""

    item_table = "table"

    def __init__(self, n_items, width=4):
        self.n_items, self.width = n_items, width

    def init(self, rng):
        table = rng.normal(size=(self.n_items + 1, self.width)).astype(np.float32)
        table[0] = 0
        return {"table": table}

    def score(self, params, history, candidates):
        table = params["table"]
        mean = table[history].sum(1) / np.maximum((history != 0).sum(1), 1)[:, None].astype(np.float32)
        return np.einsum("bd,bcd->bc", mean, table[candidates])


class Drawn:
    """k items of 1..n drawn anew for every request, those of the history left out, with falling scores."""

    def __init__(self, n_items, flops=1e6):
        self.n_items, self.flops = n_items, flops

    def generate(self, histories, k, *, rng):
        score = rng.uniform(self.n_items + 1).astype(np.float32)
        np.put_along_axis(score, histories.astype(np.int64), -1, axis=1)
        score[:, 0] = -1
        order = np.argsort(-score, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(score, order, axis=1)
        items = np.where(best >= 0, order, 0).astype(np.int32)
        flops = None if self.flops is None else np.full(len(items), self.flops)
        return Generated(items, np.where(best >= 0, best, 0), flops, None)


class Fixed:
    """A list per number of items known, best first."""

    def __init__(self, lists):
        self.lists = np.array(lists, np.int32)

    def generate(self, histories, k, *, rng):
        items = self.lists[(histories > 0).sum(1)]
        scores = np.tile(-np.arange(items.shape[1], dtype=np.float32), (len(items), 1))
        return Generated(items, scores, np.ones(len(items)), None)


@dataclass(frozen=True)
class Sent:
    """What became of messages."""

    arrive_at: np.ndarray
    attempts: np.ndarray
    attempt_lost: np.ndarray


@dataclass
class Scripted:
    """One attempt per message; the script says (lost, delay in seconds) message by message, over and over."""

    script: list
    give_up_s: float = 20.0
    sent: int = 0

    def send(self, nbytes, at, *, up, draws, devices):
        said = [self.script[(self.sent + i) % len(self.script)] for i in range(len(at))]
        self.sent += len(at)
        lost = np.array([s[0] for s in said], bool)
        arrive = np.where(lost, np.inf, at + np.array([s[1] for s in said], float))
        return Sent(arrive, np.ones(len(at), np.int64), lost[:, None])


def timeline(items, histories=None, *, gap=10.0, tier=None):
    """A timeline whose device d takes items[d, s] (0 = no such step) at (s + 1) * gap + d / 1000 seconds."""
    items = np.asarray(items, np.int32)
    devices = np.arange(len(items))
    histories = np.zeros((len(items), 4), np.int32) if histories is None else np.asarray(histories, np.int32)
    at = (np.arange(items.shape[1]) + 1.0)[None] * gap + devices[:, None] / 1000
    tier = np.zeros(len(items), np.int64) if tier is None else np.asarray(tier, np.int64)
    return Timeline(devices, histories, items, np.where(items > 0, at, np.inf), tier)


def random_timeline(devices, steps, n_items, *, length=4, seed=0, **more):
    """Distinct random items per device, history and steps together."""
    order = np.argsort(np.random.default_rng(seed).random((devices, n_items)), axis=1).astype(np.int32) + 1
    return timeline(order[:, length : length + steps], order[:, :length], **more)


def service(lived, generator, n_items, *, pool, link=None, **more):
    """A cloud that keeps as long histories as the devices of a timeline do, one tier unless `more` says otherwise."""
    length = lived.histories.shape[1]
    given = {
        "history": length,
        "upload": length,
        "codec": Codec(),
        "gflops": 1.0,
        "seconds": 0.0,
        "carriers": [link or Ideal()],
        "rows": [None],
        "cache_rows": 0,
        "seed": 5,
    }
    return Service(generator=generator, n_items=n_items, pool=pool, tier=lived.tier, **(given | more))


@dataclass
class World:
    """One policy's loop over a timeline, without Flower."""

    timeline: Timeline
    n_items: int
    pool: int = 8
    policy: object = field(default_factory=Always)
    price: float = 0.0
    model: object = None
    generator: object = None
    link: object = field(default_factory=Ideal)
    fusion: Fusion = field(default_factory=Fusion)
    codec: Codec = field(default_factory=Codec)
    rows: object = None
    cache_rows: int = 0
    seconds: float | None = None
    shown: int = 5
    seed: int = 3
    update: str = "replace"
    slots: int | None = None
    delta: bool = False
    own: int = 0
    resident: object = None
    installed: object = ()

    def __post_init__(self):
        self.model = self.model or Dot(self.n_items)
        self.params = self.model.init(rng(1, "weights"))
        if self.rows is not None:  # devices compute with what is streamed
            self.params = self.params | {"table": self.rows.table()}
        self.ledger = Ledger()
        offered = service(
            self.timeline,
            self.generator or Drawn(self.n_items),
            self.n_items,
            pool=self.pool,
            link=self.link,
            codec=self.codec,
            seconds=self.seconds,
            rows=[self.rows],
            cache_rows=self.cache_rows,
            seed=self.seed,
            delta_slots=self.held if self.delta else 0,
            installed=np.array(self.installed, np.int32),
        )
        self.gateway = Gateway(offered, self.timeline.histories, self.ledger)

    @property
    def held(self):
        """Candidates that a device's pool holds."""
        return self.slots or self.pool

    def shard(self, rows=None):
        """The shard of some devices (all)."""
        resident = np.arange(1, self.n_items + 1) if self.resident is None else np.asarray(self.resident)
        setup = Setup(
            scorer=ModelScorer(self.model, self.params, resident.astype(np.int32)),
            policy=self.policy,
            fusion=self.fusion,
            price=self.price,
            seed=self.seed,
            cache_rows=self.cache_rows,
            installed=np.array(self.installed, np.int32),
            update=self.update,
            own=self.own,
        )
        lived = self.timeline if rows is None else self.timeline.rows(rows)
        return Shard(
            [setup],
            lived,
            slots=self.held,
            history=lived.histories.shape[1],
            codec=self.codec,
            shown=self.shown,
        )

    def install(self) -> Delivery:
        """The first installation of a model of 1000 bytes."""
        return self.gateway.install([1000], self.timeline.at[:, 0])

    def run(self):
        """(steps, ledger) of the whole replay through `simulation.waves.replay`."""
        shard = self.shard()
        waves = list(replay(lambda n, d: iter([shard.wave(n, d)]), self.gateway, self.install(), self.timeline.steps))
        return {k: np.concatenate([w[k] for w in waves]) for k in waves[0]}, self.ledger.columns()

    def live(self, look: Callable):
        """The same loop by hand; look(number, shard, wave, delivery, answer) after every wave."""
        shard, delivery = self.shard(), self.install()
        for number in range(1, self.timeline.steps + 1):
            wave = shard.wave(number, delivery)
            answer = self.gateway.answer(wave.requests, wave.asked_at) if wave.requests else nothing()
            look(number, shard, wave, delivery, answer)
            delivery = answer
        return shard


def truth(timeline, device, step, length):
    """The last `length` items that `device` knows after `step` observed interactions, 0-padded on the left."""
    past = np.concatenate([timeline.histories[device], timeline.items[device, :step]])
    return np.concatenate([np.zeros(length, np.int32), past])[-length:]
