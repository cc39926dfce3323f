"""The comparison as values: means over users and seeds, paired gains over the baseline, Markdown and JSON."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from simulation.devices.measure import AUC, MEASURES, Values
from simulation.statistics import Difference, Interval, holm, mean_interval, paired_difference

HEADS = {"ndcg@10": "NDCG@10", "hr@10": "HR@10", AUC: "user-AUC"}


@dataclass(frozen=True, slots=True)
class MethodCost:
    """What one method costs, the mean over the seeds."""

    update_bytes: float  # of one encoded patch; 0 for a method without
    update_bytes_range: tuple[float, float]
    installed_bytes: float  # encoded, streamed rows apart
    parameters: float
    flops: float  # of ranking one list
    patch_flops: float  # of one patch in the cloud
    auc: float  # of all steps together
    speed: dict[str, Any]  # as `simulation.devices.speed.speed`
    subnets: tuple[str, ...] = ()  # its label by seed: a search may find another with each


@dataclass(frozen=True, slots=True)
class MethodComparison:
    """M methods, S seeds, U users: the same users, steps and lists for all methods of a seed."""

    methods: tuple[str, ...]
    sources: tuple[str, ...]
    baseline: int
    seeds: tuple[int, ...]
    users: NDArray[np.object_]  # [U] external ids
    values: dict[str, Values]  # by measure [M, S, U]: means over a user's steps
    in_pool: Values  # [S, U] share of a user's steps whose list holds the target
    costs: tuple[MethodCost, ...]
    profiles: tuple[str, ...]

    def mean(self, method: int, measure: str) -> Interval:
        """Mean over users of their averages over the seeds."""
        return mean_interval(self.values[measure][method].mean(0))

    def gains(self, measure: str) -> list[tuple[Difference, float]]:
        """Per method (itself minus the baseline, p corrected by Holm over the other methods); paired per user.

        A user's difference is the mean over the seeds of the differences within each.
        """
        mine = self.values[measure].mean(1)
        found = [paired_difference(one, mine[self.baseline]) for one in mine]
        others = [number for number in range(len(found)) if number != self.baseline]
        corrected = dict(zip(others, holm([found[number].p for number in others]), strict=True))
        return [(one, corrected.get(number, math.nan)) for number, one in enumerate(found)]

    def markdown(self) -> str:
        """Three tables: accuracy with gains, what it costs, how long it takes."""
        said = f"Lists that hold the target: {self.in_pool.mean():.4f} of a user's steps."
        return "\n\n".join([said, self.accuracy(), self.expenses(), self.times()]) + "\n"

    def accuracy(self) -> str:
        """One line per method; behind each measure its gain over the baseline and the corrected p."""
        heads = [text for name in MEASURES for text in (HEADS[name], f"gain over {self.methods[self.baseline]}", "p")]
        gains = {name: self.gains(name) for name in MEASURES}
        rows = []
        for number, method in enumerate(self.methods):
            cells = [method, self.sources[number]]
            for name in MEASURES:
                difference, p = gains[name][number]
                cells += [interval(self.mean(number, name), "")]
                cells += ["–", "–"] if number == self.baseline else [interval(difference, "+"), probability(p)]
            rows.append(cells)
        return table(["method", "source", *heads], rows, left=2)

    def expenses(self) -> str:
        """Bytes, operations and numbers per method; which subnets, where there are any."""
        named = any(c.subnets for c in self.costs)
        heads = ["B / update", "B installed", "FLOPs / step", "FLOPs / update (cloud)", "parameters", "AUC"]
        rows = [
            [
                method,
                *[subnets(c.subnets)][:named],
                *map(count, (c.update_bytes, c.installed_bytes, c.flops, c.patch_flops, c.parameters)),
                f"{c.auc:.4f}",
            ]
            for method, c in zip(self.methods, self.costs, strict=True)
        ]
        return table(["method", *["subnet"][:named], *heads], rows, left=1 + named)

    def times(self) -> str:
        """Milliseconds per method, here and scaled."""
        heads = ["method", "p50 ms, measured here", *[f"{name} (scaled)" for name in self.profiles]]
        rows = []
        for method, cost in zip(self.methods, self.costs, strict=True):
            tiers = cost.speed.get("tiers", {})
            found = [cost.speed.get("p50_ms"), *[tiers.get(name, {}).get("p50_ms") for name in self.profiles]]
            rows.append([method, *["–" if ms is None else f"{ms:.3f}" for ms in found]])
        reasons = [
            f"{m} ({c.speed['reason']})" for m, c in zip(self.methods, self.costs, strict=True) if "reason" in c.speed
        ]
        return table(heads, rows, left=1) + (f"\n\nNot measured: {'; '.join(reasons)}." if reasons else "")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        gains = {name: self.gains(name) for name in MEASURES}
        return {
            "seeds": list(self.seeds),
            "users": len(self.users),
            "baseline": self.methods[self.baseline],
            "lists with target": float(self.in_pool.mean()),
            "methods": [
                {
                    "name": method,
                    "source": self.sources[number],
                    **{name: self.one_measure(number, name, *gains[name][number]) for name in MEASURES},
                    **asdict(self.costs[number]),
                }
                for number, method in enumerate(self.methods)
            ],
        }

    def one_measure(self, method: int, measure: str, difference: Difference, p: float) -> dict[str, Any]:
        """A cell with its gain and both by seed."""
        by_seed = self.values[measure].mean(2)
        found: dict[str, Any] = asdict(self.mean(method, measure)) | {"by_seed": by_seed[method].tolist()}
        if method != self.baseline:
            more = {"p_holm": p, "by_seed": (by_seed[method] - by_seed[self.baseline]).tolist()}
            found["gain"] = asdict(difference) | more
        return found

    def per_user(self) -> pa.Table:
        """One row per method, seed and user."""
        shape = (len(self.methods), len(self.seeds), len(self.users))
        place = [np.broadcast_to(axis, shape).ravel().astype(np.int32) for axis in np.ogrid[tuple(map(slice, shape))]]
        names = pa.array(list(self.methods)), pa.array([str(user) for user in self.users])
        columns = {
            "method": pa.DictionaryArray.from_arrays(place[0], names[0]),
            "seed": np.asarray(self.seeds, np.int64)[place[1]],
            "user": pa.DictionaryArray.from_arrays(place[2], names[1]),
            **{name: self.values[name].ravel() for name in MEASURES},
            "in_pool": np.broadcast_to(self.in_pool, shape).ravel(),
        }
        return pa.table(columns)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Markdown; the first `left` columns hold words."""
    rule = "|" + "---|" * left + "---:|" * (len(heads) - left)
    return "\n".join(["| " + " | ".join(heads) + " |", rule, *["| " + " | ".join(row) + " |" for row in rows]])


def interval(found: Interval | Difference, sign: str) -> str:
    """Mean and ends."""
    return f"{found.mean:{sign}.4f} [{found.low:{sign}.4f}, {found.high:{sign}.4f}]"


def probability(p: float) -> str:
    """Three decimals, or that it is less."""
    return "–" if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def subnets(by_seed: Sequence[str]) -> str:
    """One label; with how many seeds each was found where they differ."""
    found = Counter(by_seed)
    return next(iter(found)) if len(found) == 1 else ", ".join(f"{label} ({n}×)" for label, n in found.items()) or "–"


def count(value: float) -> str:
    """A whole number; a dash for what is unknown."""
    return "–" if math.isnan(value) else f"{value:,.0f}"
