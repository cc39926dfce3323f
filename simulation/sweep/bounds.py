"""The exact bounds of a sweep: what every possible list would have earned at every later step, then the optimum.

Lists are those that an always-asking device gets over a link that takes no time. They bound policies that hold the same
pools (one list of [cloud] pool, or the two newest) under one of the fusions that the bound is given: at every request
ratio it is the best of these fusions' frontiers. Others can do better.

Devices are independent, so they are treated in portions, longest replays first: besides what the replay itself keeps,
about BYTES for the lists held at a time, as much for what is computed from them, and 8 bytes per step of the fleet and
fusion. The reranker scores each list once per step, for all fusions.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from device.fleet import Fleet
from device.fusion import Fuses
from device.model import Items, Scores
from device.policy import Always
from device.ranking import Ranking
from device.row_cache import member
from device.setup import Setup
from simulation.choosing.experience import taken_so_far
from simulation.choosing.rehearsal import Rehearsal
from simulation.metrics import Measure
from simulation.network import Ideal
from simulation.replay import Columns
from simulation.sweep.oracle import Counts, Rewards, Values, best_by_budget, frontier, merged, replaced

REPLACED, MERGED = "optimum, pools replaced", "optimum, two lists merged"
BYTES = 1 << 27
"""Memory for one portion of devices; a single device may need more."""
POINTS = 60  # of a bound's line
RATIO, VALUE = "ratio", "value"


@dataclass(frozen=True, slots=True)
class Lists:
    """Collects what some of the devices hold at each step."""

    row: NDArray[np.int64]  # [devices of the fleet] where each stands below
    items: Items  # [D, S, C]
    cloud: Scores

    def see(self, fleet: Fleet, who: NDArray[np.int64], taken: NDArray[np.int32]) -> None:
        """See calibration.Watches."""
        where = self.row[fleet.devices[who]], fleet.observed[who]
        self.items[where], self.cloud[where] = fleet.pool.items[who], fleet.pool.cloud[who]


@dataclass(frozen=True, slots=True)
class Hindsight:
    """All lists of some devices of one tier, and what came of them: D devices, S steps, C candidates."""

    rehearsal: Rehearsal
    setup: Setup
    device: NDArray[np.int64]  # [D]
    items: Items  # [D, S, C] the list made at step s = 0..S-1
    cloud: Scores  # [D, S, C]
    measure: Measure

    @property
    def steps(self) -> Counts:
        """[D] steps lived."""
        return lived_steps(self.rehearsal)[self.device]

    def chunks(self, *, pairs: bool, fusions: int = 1) -> Iterator["Hindsight"]:
        """As many devices at a time as their rewards under some fusions take BYTES, of two lists merged or of one."""
        width, known = self.items.shape[2], self.rehearsal.service.upload

        def work(steps: int) -> int:
            one: int = steps * (64 * width + 32 * known) + (20 + 4 * fusions) * steps**2
            return one + steps * 64 * width + steps**2 * width + (22 + 2 * fusions) * steps**3 if pairs else one

        steps = self.steps
        for rows in portions(steps, work):
            longest = int(steps[rows[0]])
            yield replace(
                self, device=self.device[rows], items=self.items[rows, :longest], cloud=self.cloud[rows, :longest]
            )

    def shown_until(self) -> NDArray[np.int32]:
        """[D, S, C] the last step that shows each list's candidate: where the user takes it the device drops it."""
        last = self.items.shape[1]
        until = np.full(self.items.shape, last, np.int32)
        if self.setup.hide_seen:
            for t in range(last, 0, -1):
                np.copyto(until[:, :t], t, where=self.items[:, :t] == self._taken(t)[:, None, None])
        return until

    def fused(self, t: int, fusions: Sequence[Fuses], until: NDArray[np.int32]) -> tuple[Items, Iterator[Scores]]:
        """(items [D, t, C] of the lists made at 0..t-1 as step t shows them, their scores under each of the fusions).

        `until`: see `shown_until`.
        """
        shape = (len(self.device), t, self.items.shape[2])
        items = np.where(until[:, :t] >= t, self.items[:, :t], 0).reshape(-1, shape[2])
        device = np.repeat(self.device, t)
        step = np.full(len(device), t - 1, np.int64)
        history = taken_so_far(self.rehearsal, device, step, self.rehearsal.service.upload)
        known = self.setup.scorer.scores(device, step, history, items)
        age = np.broadcast_to((t - 1 - np.tile(np.arange(t), shape[0]))[:, None], items.shape)
        cloud = self.cloud[:, :t].reshape(items.shape)
        return items.reshape(shape), (fusion(cloud, known, items != 0, age).reshape(shape) for fusion in fusions)

    def replaced_rewards(self, fusions: Sequence[Fuses]) -> list[Rewards]:
        """Rewards under each fusion where a new list replaces the old one."""
        steps, until = self.steps, self.shown_until()
        longest = int(steps.max())
        rewards = np.full((len(fusions), len(steps), longest, longest), np.nan, np.float32)
        for t in range(1, longest + 1):
            items, fused = self.fused(t, fusions, until)
            for reward, scores in zip(rewards, fused, strict=True):
                reward[:, :t, t - 1] = np.where(steps[:, None] >= t, self._earned(t, items, scores), np.nan)
        return [replaced(reward) for reward in rewards]

    def merged_rewards(self, fusions: Sequence[Fuses]) -> list[Rewards]:
        """Rewards under each fusion where the pool holds the two newest lists; they treat candidates one by one."""
        until, twice = self.shown_until(), self.twice()
        made = [self._pairs(fusions, until, twice, t) for t in range(1, self.items.shape[1] + 1)]
        return [merged(self.steps, partial(at_step, made, number)) for number in range(len(fusions))]

    def twice(self) -> NDArray[np.bool_]:
        """[D, S, S, C] whether candidate c of the list made at s1 is in that of s2 > s1 too, which then counts."""
        size, steps, width = self.items.shape
        out = np.zeros((size, steps, steps, width), np.bool_)
        for old in range(steps - 1):
            newer = self.items[:, old + 1 :].reshape(-1, width)
            out[:, old, old + 1 :] = member(np.repeat(self.items[:, old], steps - old - 1, axis=0), newer).reshape(
                size, -1, width
            )
        return out

    def _pairs(
        self, fusions: Sequence[Fuses], until: NDArray[np.int32], twice: NDArray[np.bool_], t: int
    ) -> NDArray[np.float32]:
        """[F, D, t, t] under each fusion: what step t earns with the lists made at s1 and s2 > s1, and at [f, d, 0, 0]
        with the first alone."""
        items, fused = self.fused(t, fusions, until)
        out = np.zeros((len(fusions), len(items), t, t), np.float32)
        for earned, scores in zip(out, fused, strict=True):
            earned[:, 0, 0] = self._earned(t, items[:, :1], scores[:, :1])[:, 0]
            for new in range(1, t):
                gone = twice[:, :new, new]
                held = np.where(gone, 0, items[:, :new]), np.where(gone, np.float32(-np.inf), scores[:, :new])
                fresh = (np.repeat(part[:, new : new + 1], new, axis=1) for part in (items, scores))
                both = (np.concatenate(pair, axis=2) for pair in zip(fresh, held, strict=True))
                earned[:, :new, new] = self._earned(t, *both)
        return out

    def _taken(self, t: int) -> NDArray[np.int32]:
        """[D] the items of step t; 0 = no such step."""
        taken: NDArray[np.int32] = self.rehearsal.timeline.items[self.device, t - 1]
        return taken

    def _earned(self, t: int, items: Items, fused: Scores) -> Values:
        """[D, n] what step t earns with n pools [D, n, C] each."""
        size, pools, width = items.shape
        ranking = Ranking(items.reshape(-1, width), fused.reshape(-1, width), np.zeros(size * pools, np.int64))
        return self.measure.of(*ranking.place(np.repeat(self._taken(t), pools))).reshape(size, pools)


def at_step(made: Sequence[NDArray[np.float32]], fusion: int, t: int) -> NDArray[np.float32]:
    """What `_pairs` made for step t under one fusion."""
    rewards: NDArray[np.float32] = made[t - 1][fusion]
    return rewards


def lived_steps(rehearsal: Rehearsal) -> Counts:
    """[D] steps of each device of the fleet."""
    return np.asarray((rehearsal.timeline.items != 0).sum(1), np.int64)


def portions(steps: Counts, cost: Callable[[int], int]) -> Iterator[NDArray[np.int64]]:
    """Rows of steps [n], longest first, as many at a time as BYTES hold; `cost`: bytes of a device of so many steps."""
    rows = np.argsort(-steps, kind="stable")
    while len(rows):
        size = max(BYTES // cost(int(steps[rows[0]])), 1)
        yield rows[:size]
        rows = rows[size:]


def hindsight(rehearsal: Rehearsal, fleet: Sequence[Setup], measure: Measure) -> Iterator[Hindsight]:
    """Tier by tier, as many devices at a time as their lists take BYTES; each portion is a replay of its own."""
    steps = lived_steps(rehearsal)
    for number, setup in enumerate(fleet):
        tier = np.flatnonzero((rehearsal.timeline.tier == number) & (steps > 0))
        for rows in portions(steps[tier], lambda longest: 8 * longest * rehearsal.slots):
            device = tier[rows]
            lists = collected(rehearsal, fleet, device)
            yield Hindsight(rehearsal, setup, device, lists.items, lists.cloud, measure)


def collected(rehearsal: Rehearsal, fleet: Sequence[Setup], device: NDArray[np.int64]) -> Lists:
    """The lists of devices [D], from a replay in which they alone live and always ask."""
    lived, service = rehearsal.timeline, rehearsal.service
    row = np.full(len(lived.devices), -1, np.int64)
    row[device] = np.arange(len(device))
    alone = replace(
        lived,
        items=np.where(row[:, None] >= 0, lived.items, 0),
        at=np.where(row[:, None] >= 0, lived.at, np.inf),
    )
    links = [Ideal() for _ in service.carriers]
    service = replace(service, carriers=links, seconds=0.0, servers=None, tariff=None)
    shape = (len(device), int((lived.items[device] != 0).sum(1).max()), rehearsal.slots)
    lists = Lists(row, np.zeros(shape, np.int32), np.zeros(shape, np.float32))
    always = [replace(setup, policy=Always(), price=0.0) for setup in fleet]
    replace(rehearsal, timeline=alone, service=service).run(always, lists)
    return lists


def bound(parts: Iterable[Hindsight], fusions: Sequence[Fuses], *, pairs: bool, ratios: Sequence[float]) -> Columns:
    """RATIO and VALUE [n]: the best of the fusions' frontiers, each with one fusion for the whole fleet.

    At POINTS request ratios up to where none of them rises any more, and at those of `ratios` before.
    `pairs`: the two newest lists merged, under fusions that treat candidates one by one; else one list.
    """
    found: list[list[tuple[Values, Counts]]] = [[] for _ in fusions]
    for part in parts:
        for chunk in part.chunks(pairs=pairs, fusions=len(fusions)):
            made = chunk.merged_rewards(fusions) if pairs else chunk.replaced_rewards(fusions)
            for kept, rewards in zip(found, made, strict=True):
                kept.append((best_by_budget(rewards, rewards.longest - 1), rewards.steps))
    lines = [frontier(kept) for kept in found]
    end = max(line.request_ratio[-1] for line in lines)
    at = np.unique([*np.linspace(0, end, POINTS), *(ratio for ratio in ratios if ratio < end)])
    return {RATIO: at, VALUE: np.max([line.at(at) for line in lines], axis=0)}
