"""The exact bounds of a sweep: what every possible list would have earned at every later step, then the optimum.

Lists are those that an always-asking device gets over a link that takes no time. They bound policies that hold the same
pools under the same fusion: one list of [cloud] pool, or the two newest. Others can do better.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from device.fleet import Fleet, Setup
from device.fusion import Fuses
from device.model import Items, Scores
from device.policy import Always
from device.row_cache import member
from simulation.calibration import Rehearsal
from simulation.experience import taken_so_far
from simulation.metrics import Measure
from simulation.network import Ideal
from simulation.oracle import Rewards, best_by_budget, frontier, merged, replaced
from simulation.replay import Columns

REPLACED, MERGED = "optimum, pools replaced", "optimum, two lists merged"
CHUNK = 256  # devices at once
POINTS = 60  # of a bound's line
RATIO, VALUE = "ratio", "value"


@dataclass(frozen=True, slots=True)
class Lists:
    """Collects what the devices hold at each step."""

    items: Items  # [D, S, C] of all devices
    cloud: Scores

    def see(self, fleet: Fleet, who: NDArray[np.int64], taken: NDArray[np.int32]) -> None:
        """See calibration.Watches."""
        where = fleet.devices[who], fleet.observed[who]
        self.items[where], self.cloud[where] = fleet.items[who], fleet.cloud[who]


@dataclass(frozen=True, slots=True)
class Hindsight:
    """All lists of the devices of one tier, and what came of them: D devices, S steps, C candidates."""

    rehearsal: Rehearsal
    setup: Setup
    device: NDArray[np.int64]  # [D]
    items: Items  # [D, S, C] the list made at step s = 0..S-1
    cloud: Scores  # [D, S, C]
    measure: Measure

    @property
    def steps(self) -> NDArray[np.int64]:
        """[D] steps lived."""
        return np.asarray((self.rehearsal.timeline.items[self.device] != 0).sum(1), np.int64)

    def chunks(self) -> Iterator["Hindsight"]:
        """CHUNK devices at a time."""
        for start in range(0, len(self.device), CHUNK):
            rows = slice(start, start + CHUNK)
            yield replace(self, device=self.device[rows], items=self.items[rows], cloud=self.cloud[rows])

    def fused(self, t: int, fusion: Fuses) -> tuple[Scores, NDArray[np.bool_]]:
        """(scores, where the taken item is) [D, t, C] of the lists made at 0..t-1, as they rank at step t."""
        size, width = len(self.device), self.items.shape[2]
        device = np.repeat(self.device, t)
        step = np.full(len(device), t - 1, np.int64)
        history = taken_so_far(self.rehearsal, device, step, self.rehearsal.service.upload)
        items = self.items[:, :t].reshape(-1, width)
        if self.setup.hide_seen:
            items = np.where(member(items, history), 0, items)
        known = self.setup.scorer.scores(device, step, history, items)
        age = np.broadcast_to((t - 1 - np.tile(np.arange(t), size))[:, None], items.shape)
        scores = fusion(self.cloud[:, :t].reshape(-1, width), known, items != 0, age)
        taken = self.rehearsal.timeline.items[self.device, t - 1]
        shape = (size, t, width)
        there = (items != 0) & (items == np.repeat(taken, t)[:, None])
        return scores.reshape(shape), there.reshape(shape)

    def replaced_rewards(self, fusion: Fuses) -> Rewards:
        """Rewards where a new list replaces the old one."""
        longest = int(self.steps.max())
        reward = np.full((len(self.device), longest, longest), np.nan, np.float32)
        for t in range(1, longest + 1):
            fused, there = self.fused(t, fusion)
            own, present = places(fused, there)
            rank = np.where(present, (fused > own[..., None]).sum(2) + 1, 0)
            ties = np.where(present, (fused == own[..., None]).sum(2), 1)
            reward[:, :t, t - 1] = np.where(self.steps[:, None] >= t, self.measure.of(rank, ties), np.nan)
        return replaced(reward)

    def merged_rewards(self, fusion: Fuses) -> Rewards:
        """Rewards where the pool holds the two newest lists; `fusion` treats candidates one by one."""
        return merged(self.steps, partial(self._pairs, fusion, self.twice()))

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

    def _pairs(self, fusion: Fuses, twice: NDArray[np.bool_], t: int) -> NDArray[np.float32]:
        """[D, t, t] what step t earns with the lists made at s1 and s2 > s1, and at [d, 0, 0] with the first alone."""
        fused, there = self.fused(t, fusion)
        own, present = places(fused, there)
        out = np.zeros((len(self.device), t, t), np.float32)
        alone = self._counted(fused[:, :1], own[:, :1, None])
        out[:, 0, 0] = self.measure.of(np.where(present[:, 0], alone[0][:, 0] + 1, 0), np.maximum(alone[1][:, 0], 1))
        for new in range(1, t):
            target = np.where(present[:, new], own[:, new], -np.inf)[:, None, None]
            target = np.maximum(target, np.where(present[:, new, None], -np.inf, own[:, :new])[..., None])
            fresh = self._counted(fused[:, new : new + 1], target)
            held = self._counted(np.where(twice[:, :new, new], -np.inf, fused[:, :new]), target)
            above, equal = (x + y for x, y in zip(fresh, held, strict=True))
            here = present[:, new, None] | present[:, :new]
            out[:, :new, new] = self.measure.of(np.where(here, above + 1, 0), np.where(here, equal, 1))
        return out

    @staticmethod
    def _counted(fused: Scores, target: Scores) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many of [D, n, C] lie above and at `target` [D, n, 1]."""
        return (fused > target).sum(2), (fused == target).sum(2)


def places(fused: Scores, there: NDArray[np.bool_]) -> tuple[Scores, NDArray[np.bool_]]:
    """(score of the taken item, whether it is there), both [D, t]."""
    found: Scores = np.where(there, fused, np.float32(-np.inf)).max(2)
    return found, np.asarray(there.any(2))


def hindsight(rehearsal: Rehearsal, fleet: Sequence[Setup], measure: Measure) -> list[Hindsight]:
    """One per tier."""
    links = [Ideal() for _ in rehearsal.service.carriers]
    service = replace(rehearsal.service, carriers=links, seconds=0.0, servers=None, tariff=None)
    lived = rehearsal.timeline
    shape = (len(lived.devices), lived.steps, rehearsal.slots)
    lists = Lists(np.zeros(shape, np.int32), np.zeros(shape, np.float32))
    replace(rehearsal, service=service).run([replace(s, policy=Always(), price=0.0) for s in fleet], lists)
    found = [np.flatnonzero((lived.tier == number) & (lived.items[:, 0] != 0)) for number in range(len(fleet))]
    return [
        Hindsight(rehearsal, setup, rows, lists.items[rows], lists.cloud[rows], measure)
        for setup, rows in zip(fleet, found, strict=True)
        if len(rows)
    ]


def bound(parts: Sequence[Hindsight], fusion: Fuses, *, pairs: bool, ratios: Sequence[float]) -> Columns:
    """RATIO and VALUE [n]: the fleet's frontier at POINTS request ratios up to its last, and at those of `ratios`.

    `pairs`: the two newest lists merged, under a fusion that treats candidates one by one; else one list.
    """
    chunks = [chunk for part in parts for chunk in part.chunks()]
    steps = np.concatenate([chunk.steps for chunk in chunks])
    most = int(steps.max()) - 1
    made = (chunk.merged_rewards(fusion) if pairs else chunk.replaced_rewards(fusion) for chunk in chunks)
    found = frontier(np.concatenate([best_by_budget(rewards, most) for rewards in made]), steps)
    end = found.request_ratio[-1]
    at = np.unique([*np.linspace(0, end, POINTS), *(ratio for ratio in ratios if ratio < end)])
    return {RATIO: at, VALUE: found.at(at)}
