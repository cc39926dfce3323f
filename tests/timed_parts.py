"""A loop in order of time, put together by hand from the parts of `loop_parts`: servers, prices, any cut."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from loop_parts import Sent, World

from cloud.gateway import Gateway
from simulation.in_time import live
from simulation.replay import Shard
from simulation.wire import pack_delivery, pack_wave, part_of, unpack_delivery, unpack_wave


@dataclass
class Steady:
    """The same delay for every message of a direction."""

    up_s: float = 0.0
    down_s: float = 0.0
    give_up_s: float = 20.0

    def send(self, nbytes, at, *, up, draws, devices):
        arrive = at + (self.up_s if up else self.down_s)
        return Sent(arrive, np.ones(len(at), np.int64), np.zeros((len(at), 1), bool))


@dataclass
class Timed:
    """A `World` whose cloud has servers or a tariff."""

    world: World
    servers: object = None
    tariff: object = None
    lease: object = None
    window_s: float = 0.0
    tiers: int = 1

    def __post_init__(self):
        world = self.world
        service = replace(
            world.gateway.service,
            servers=self.servers,
            tariff=self.tariff,
            window_s=self.window_s,
            carriers=[world.link] * self.tiers,
            rows=[world.rows] * self.tiers,
        )
        self.gateway = Gateway(service, world.timeline.histories, world.ledger)

    def shard(self, rows):
        """The shard of some devices; all tiers run the same."""
        setup = self.world.shard(rows[:0]).fleets[0].setup
        lived = self.world.timeline.rows(rows)
        return Shard(
            [replace(setup, lease=self.lease, tier=tier) for tier in range(self.tiers)],
            lived,
            slots=self.world.held,
            history=lived.histories.shape[1],
            codec=self.world.codec,
            shown=self.world.shown,
        )

    def run(self, cuts=None, *, backwards=False):
        """(steps, ledger); clients are cut at device numbers `cuts`, and talk in bytes."""
        lived = self.world.timeline
        cuts = cuts or [0, len(lived.devices)]
        shards = [(a, b, self.shard(np.arange(a, b))) for a, b in pairwise(cuts)]

        def exchange(number, delivery):
            waves = []
            for a, b, shard in shards:
                own = unpack_delivery(pack_delivery(part_of(delivery, a, b)))
                waves.append(unpack_wave(pack_wave(shard.wave(number, own))))
            yield from (waves[::-1] if backwards else waves)

        first = self.gateway.install([1000] * self.tiers, lived.at[:, 0])
        return live(exchange, self.gateway, first, lived), self.world.ledger.columns()
