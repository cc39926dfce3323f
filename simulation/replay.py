"""The replay: users' real interactions are lived again, step by step, by a fleet that talks to the cloud in bytes.

A wave is one step of every device that still has one, or, where the order of time matters, the steps of a span of time
(see `simulation.in_time`). `Shard.wave` is what a Flower client does with one message, `simulation.waves` what the
server does; both know nothing of Flower.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from cloud.gateway import Delivery
from device.errors import ContractError
from device.fleet import Fleet
from device.messages import Codec, decode_replies, encode_requests
from device.model import Items
from device.ranking import Ranking
from device.setup import Setup
from simulation.data.dataset import Dataset, windows

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Timeline:
    """What D users are going to do: S steps each at most, oldest first."""

    devices: NDArray[np.int64]  # [D]
    histories: Items  # [D, L] items before the replay, left-padded
    items: Items  # [D, S] 0 = no such step
    at: NDArray[np.float64]  # [D, S] virtual seconds
    tier: NDArray[np.int64]  # [D]

    @classmethod
    def of(
        cls,
        data: Dataset,
        users: NDArray[np.int64],
        begin: NDArray[np.int64],
        end: NDArray[np.int64],
        *,
        length: int,
        tier: NDArray[np.int64],
    ) -> "Timeline":
        """Replay of positions begin[i]..end[i] (absolute) of users[i]; device i is user users[i]."""
        steps = int((end - begin).max(initial=0))
        position = begin[:, None] + np.arange(steps)
        inside = position < end[:, None]
        position = np.where(inside, position, 0)
        return cls(
            devices=np.arange(len(users)),
            histories=windows(data, users, begin, length),
            items=np.where(inside, data.item[position], 0).astype(np.int32),
            at=np.where(inside, data.at[position], np.inf),
            tier=tier,
        )

    @property
    def steps(self) -> int:
        """The longest replay."""
        return int(self.items.shape[1])

    def rows(self, rows: NDArray[np.int64]) -> "Timeline":
        """The timeline of some devices only."""
        return Timeline(self.devices[rows], self.histories[rows], self.items[rows], self.at[rows], self.tier[rows])


@dataclass(frozen=True, slots=True)
class Wave:
    """What B devices did in one step: product traffic (requests), and telemetry that only the simulator sees."""

    requests: list[bytes]
    asked_at: NDArray[np.float64]  # [requests]
    telemetry: Columns  # device, step, at, item, rank, ties, asked, pool_age, urgency [B]; shown [B, k]


class Shard:
    """The devices of one client.

    Args:
        setups: one per tier.
        timeline: of these devices only.
        slots: candidates that a pool holds.
        history: items that a device keeps, feeds its model and uploads.
        codec: of the requests.
        shown: length of the slate kept for recommendations.parquet.
        watch: called between `rank` and `observe` with a fleet, its rows and what is going to be taken; calibration
            collects scores with it.
    """

    def __init__(
        self,
        setups: Sequence[Setup],
        timeline: Timeline,
        *,
        slots: int,
        history: int,
        codec: Codec,
        shown: int = 10,
        watch: Callable[[Fleet, NDArray[np.int64], NDArray[np.int32]], None] | None = None,
    ) -> None:
        self.timeline, self.codec, self.shown, self.watch = timeline, codec, shown, watch
        self.members = [np.flatnonzero(timeline.tier == tier) for tier in range(len(setups))]
        self.fleets = [
            Fleet(setup, timeline.devices[rows], timeline.histories[rows, -history:], slots)
            for setup, rows in zip(setups, self.members, strict=True)
        ]

    def wave(self, number: int, delivery: Delivery) -> Wave:
        """Take in what arrives, then live step `number` (1 = the first) of every device that has one.

        A delivery that names the steps `due` says itself what is lived, and `number` does not matter.
        """
        waves = [self._tier_wave(*pair, number, delivery) for pair in zip(self.fleets, self.members, strict=True)]
        parts = [wave for wave in waves if wave is not None]
        if not parts:
            return Wave([], np.zeros(0), {})
        return Wave(
            [body for part in parts for body in part.requests],
            np.concatenate([part.asked_at for part in parts]),
            {k: np.concatenate([part.telemetry[k] for part in parts]) for k in parts[0].telemetry},
        )

    def _tier_wave(self, fleet: Fleet, members: NDArray[np.int64], number: int, delivery: Delivery) -> Wave | None:
        take_in(fleet, delivery)
        if delivery.due is None:
            who = np.flatnonzero(self.timeline.items[members, number - 1])
            step = np.full(len(who), number)
        else:
            who = delivery.due.rows(next_at(self.timeline.at[members], fleet.observed))
            step = fleet.observed[who] + 1
        if not len(who):
            return None
        items, at = self.timeline.items[members[who], step - 1], self.timeline.at[members[who], step - 1]
        ranking = fleet.rank(who, at)
        rank, ties = ranking.place(items)
        if self.watch:
            self.watch(fleet, who, items)
        asked, urgency = fleet.observe(who, items, rank, at)
        bodies = encode_requests(fleet.requests(who[asked]), self.codec)
        return Wave(
            bodies,
            at[asked],
            telemetry(fleet, who, (items, at, ranking, rank, ties, asked, urgency), self.shown),
        )

    def snapshot(self) -> bytes:
        """The state of all fleets."""
        return save({f"{i}.{k}": v for i, fleet in enumerate(self.fleets) for k, v in fleet.snapshot().items()})

    def restore(self, body: bytes) -> None:
        """Take over what `snapshot` returned."""
        state = load(body)
        for i, fleet in enumerate(self.fleets):
            prefix = f"{i}."
            fleet.restore({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})


def telemetry(fleet: Fleet, who: NDArray[np.int64], lived: tuple[Any, ...], shown: int) -> Columns:
    """The columns of steps.parquet for one wave of one fleet."""
    items, at, ranking, rank, ties, asked, urgency = lived
    assert isinstance(ranking, Ranking)
    return {
        "device": fleet.devices[who],
        "step": fleet.observed[who].astype(np.int32),
        "at": at,
        "item": items,
        "rank": rank,
        "ties": ties,
        "asked": asked,
        "pool_age": ranking.pool_age.astype(np.int32),
        "urgency": urgency.astype(np.float32),
        "shown": ranking.top(shown),
    }


def take_in(fleet: Fleet, delivery: Delivery) -> None:
    """Hand a fleet its part of a delivery."""
    rows, who = positions(fleet.devices, delivery.device)
    if not len(rows):
        return
    fleet.wait(who, delivery.free_at[rows])
    arrived = np.array([bool(delivery.bodies[row]) for row in rows])
    if arrived.any():
        came, usable_at = [delivery.bodies[row] for row in rows[arrived]], delivery.usable_at[rows[arrived]]
        replies = decode_replies(fleet.personal.take(who[arrived], came, usable_at) if fleet.personal else came)
        if (replies.device != fleet.devices[who[arrived]]).any():
            raise ContractError("a reply reached another device than the one it names")
        fleet.receive(who[arrived], replies, usable_at)


def positions(devices: NDArray[np.int64], wanted: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(rows of `wanted` that occur in the sorted `devices`, where they stand there)."""
    if not len(devices):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    where = np.minimum(np.searchsorted(devices, wanted), len(devices) - 1)
    rows = np.flatnonzero(devices[where] == wanted)
    return rows, where[rows]


def next_at(at: NDArray[np.float64], lived: NDArray[np.int64]) -> NDArray[np.float64]:
    """[D] times of the steps that follow `lived` [D] ones, of at [D, S]; inf = none."""
    steps = at.shape[1]
    times = at[np.arange(len(at)), np.minimum(lived, steps - 1)]
    return np.where(lived < steps, times, np.inf)
