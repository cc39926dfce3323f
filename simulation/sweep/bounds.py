"""The exact bounds of a sweep: what every possible list would have earned at every later step, then the optimum.

Lists are those that an always-asking device gets over a link that takes no time. They bound policies that hold the same
pools (one list of [cloud] pool, or the two newest) under one of the fusions that the bound is given: at every request
ratio it is the best of these fusions' frontiers. Others can do better.

Devices are independent, so they are treated in portions, longest replays first: besides what the replay itself keeps,
about BYTES for the lists held at a time, as much for what is computed from them, and 8 bytes per step of the fleet and
fusion. The reranker scores each list once per step, for all fusions, and under the patch that came with the list where
devices get some.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from device.fusion import Fuses
from device.model import Items, Scores
from device.personal import Patches
from device.ranking import Ranking
from device.row_cache import member
from device.setup import Setup
from simulation.choosing.experience import taken_so_far
from simulation.choosing.patched import patched
from simulation.choosing.rehearsal import Rehearsal
from simulation.metrics import Measure
from simulation.replay import Columns
from simulation.sweep.lists import collected, layout_of
from simulation.sweep.oracle import Counts, Rewards, Values, best_by_budget, frontier, merged, replaced

REPLACED, MERGED = "optimum, pools replaced", "optimum, two lists merged"
BYTES = 1 << 27
"""Memory for one portion of devices; a single device may need more."""
POINTS = 60  # of a bound's line
RATIO, VALUE = "ratio", "value"


@dataclass(frozen=True, slots=True)
class Hindsight:
    """All lists of some devices of one tier, and what came of them: D devices, S steps, C candidates."""

    rehearsal: Rehearsal
    setup: Setup
    device: NDArray[np.int64]  # [D]
    items: Items  # [D, S, C] the list made at step s = 0..S-1
    cloud: Scores  # [D, S, C]
    measure: Measure
    patches: Patches = field(default_factory=dict)  # [D, S, *shape] that came with the list made at step s

    @property
    def steps(self) -> Counts:
        """[D] steps lived."""
        return lived_steps(self.rehearsal)[self.device]

    def chunks(self, *, pairs: bool, fusions: int = 1) -> Iterator["Hindsight"]:
        """As many devices at a time as their rewards under some fusions take BYTES, of two lists merged or of one."""
        width, known = self.items.shape[2], self.rehearsal.service.upload
        own = sum(values[0, 0].nbytes for values in self.patches.values())

        def work(steps: int) -> int:
            one: int = steps * (64 * width + 32 * known + 4 * own) + (20 + 4 * fusions) * steps**2
            return one + steps * 64 * width + steps**2 * width + (22 + 2 * fusions) * steps**3 if pairs else one

        steps = self.steps
        for rows in portions(steps, work):
            longest = int(steps[rows[0]])
            yield replace(
                self,
                device=self.device[rows],
                items=self.items[rows, :longest],
                cloud=self.cloud[rows, :longest],
                patches={name: values[rows, :longest] for name, values in self.patches.items()},
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
        known = self._scored(t, device, step, history, items)
        age = np.broadcast_to((t - 1 - np.tile(np.arange(t), shape[0]))[:, None], items.shape)
        cloud = self.cloud[:, :t].reshape(items.shape)
        return items.reshape(shape), (fusion(cloud, known, items != 0, age).reshape(shape) for fusion in fusions)

    def _scored(self, t: int, device: Counts, step: Counts, history: Items, items: Items) -> Scores:
        """Scores [D * t, C] of the lists made at 0..t-1, each under the patch that came with it."""
        own = {name: values[:, :t].reshape(-1, *values.shape[2:]) for name, values in self.patches.items()}
        who = np.arange(len(device)) if own else device
        return patched(self.setup.scorer, who, own).scores(who, step, history, items)

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
        layout = layout_of(setup)
        each = 8 * rehearsal.slots + sum(part.size * np.dtype(part.kind).itemsize for part in layout.values())
        for rows in portions(steps[tier], lambda longest, each=each: longest * each):  # type: ignore[misc]
            device = tier[rows]
            lists = collected(rehearsal, fleet, device, layout)
            yield Hindsight(rehearsal, setup, device, lists.items, lists.cloud, measure, lists.patches)


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
