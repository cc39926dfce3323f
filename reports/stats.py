"""Paired statistics between runs, or within a sweep: differences per user, never between two averages.

The test is the paired t over users with Holm's correction. Never Wilcoxon: its null is a symmetric difference, not
equal means, so with skewed per-user differences it rejects where the means agree.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from device.errors import RunError
from reports.tradeoff_points import REQUESTS, Points, load
from reports.tradeoff_readings import leads
from simulation.build import hint
from simulation.runs import Run
from simulation.schema import POLICY, USER
from simulation.statistics import Difference, Interval, holm, mean_interval, paired_difference
from simulation.sweep.folder import CELLS_FILE, Sweep

__all__ = [
    "Comparison",
    "Difference",
    "Interval",
    "Pair",
    "compare",
    "compare_against",
    "compare_folders",
    "compare_pair",
    "compare_sweep",
    "holm",
    "mean_interval",
    "paired_difference",
]
Pair = tuple[str, str]
"""Labels of two policies: the first minus the second."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """`label` minus `against`, paired by user; p_holm is corrected over all comparisons made in one call.

    `stand_in`: the first run has no policy of this name, so `against` is its baseline.
    `at`: the request ratio at which two policies of a sweep are read off; None for runs.
    """

    label: str
    against: str
    measure: str
    difference: Difference
    p_holm: float
    stand_in: bool = False
    at: float | None = None


def compare_folders(
    paths: Sequence[Path], measure: str, *, pair: Pair | None = None, against: str | None = None
) -> list[Comparison]:
    """What `tandemrec compare` tells about run folders, or about one sweep folder.

    With `pair`: `compare_pair`; with `against`: `compare_against`; with neither: `compare`; of a sweep:
    `compare_sweep`. RunError for both, for sweeps beside other folders, and for what those refuse.
    """
    if pair and against is not None:
        raise RunError("compare: a pair of policies and one that all are compared with; choose --policies or --against")
    sweeps = [path for path in paths if (path / CELLS_FILE).is_file()]
    if sweeps and len(paths) > 1:
        raise RunError(
            f"compare: {sweeps[0]} is a sweep and {len(paths)} folders are named; name one sweep alone, "
            "policies of two sweeps are compared by a sweep that holds both"
        )
    if sweeps:
        return compare_sweep(Sweep.open(sweeps[0]), measure, pair=pair, against=against)
    runs = [Run.open(path) for path in paths]
    if pair:
        return [compare_pair(runs, measure, pair)]
    return compare(runs, measure) if against is None else compare_against(runs, measure, against)


def compare_pair(runs: Sequence[Run], measure: str, pair: Pair) -> Comparison:
    """The first policy of `pair` in the first run minus the second in the last, of one or two runs.

    RunError for another number of runs, for policies that a run lacks, and as `compare`.
    """
    if len(runs) not in (1, 2):
        raise RunError(f"compare: two policies of {len(runs)} runs; name the one run that has both, or two")
    _same_data(runs[0], runs[-1])
    if len(runs) == 1:
        _refuse_same(pair, runs[0].path)
    sides = [_values(run, measure, policy) for run, policy in zip((runs[0], runs[-1]), pair, strict=True)]
    label, against = f"{runs[0].name}: {pair[0]}", f"{runs[-1].name}: {pair[1]}"
    difference = _paired(sides[0], sides[1], label, against)
    return Comparison(label, against, measure, difference, difference.p)


def compare_against(runs: Sequence[Run], measure: str, against: str) -> list[Comparison]:
    """Every other policy of `runs` minus the policy `against` of the first run; RunError as `compare_pair`."""
    for run in runs[1:]:
        _same_data(runs[0], run)
    other, name = _values(runs[0], measure, against), f"{runs[0].name}: {against}"
    found = []
    for run in runs:
        for policy, mine in _by_policy(run, measure).items():
            if run is not runs[0] or policy != against:
                label = f"{run.name}: {policy}"
                found.append(Comparison(label, name, measure, _paired(mine, other, label, name), 1.0))
    return _corrected(found)


def compare_sweep(
    sweep: Sweep, measure: str, *, pair: Pair | None = None, against: str | None = None
) -> list[Comparison]:
    """Policies of a sweep at equal request ratios (see `reports.tradeoff_readings.leads`), one row per budget.

    The first policy of `pair` minus the second; or all minus `against`, without either minus never. RunError for what
    the sweep lacks, and where two policies have no ratio in common.
    """
    if measure not in sweep.measures:
        raise RunError(f"{sweep.path}: measure {measure!r} was not computed; it has {', '.join(sweep.measures)}")
    points = load(sweep, resamples=0)
    other = pair[1] if pair else against if against is not None else points.policy[points.never]
    for policy in pair or (other,):
        _known(policy, points.policies, sweep.path)
    if pair:
        _refuse_same(pair, sweep.path)
    chosen = [lead for lead in leads(points, measure, other) if not pair or lead.policy == pair[0]]
    if not chosen:
        reaches = f"{_reach(points, pair[0])}; {_reach(points, other)}" if pair else _reach(points, other)
        raise RunError(
            f"{sweep.path}: no budget of {repr(pair[0]) if pair else 'another policy'} that both reach ({reaches}); "
            "sweep them over common budgets, or turn the two round"
        )
    name = f"{sweep.name}: {other}"
    return _corrected(
        [Comparison(f"{sweep.name}: {one.policy}", name, measure, one.difference, 1.0, at=one.at) for one in chosen]
    )


def compare(runs: Sequence[Run], measure: str) -> list[Comparison]:
    """All policies of `runs` against their counterpart, joined by external user id.

    Within the first run a policy's counterpart is the run's baseline; in the other runs it is the policy of the same
    name in the first run, or the first run's baseline where there is none. RunError when two sides served different
    users or data, or when a run lacks the measure.
    """
    if not runs:
        raise RunError("compare: no run given; name at least one run folder")
    for run in runs[1:]:
        _same_data(runs[0], run)
    first, values = runs[0], [_by_policy(run, measure) for run in runs]
    baseline = str(first.summary["baseline"])
    found = []
    for run, policies in zip(runs, values, strict=True):
        for policy, mine in policies.items():
            other = policy if run is not first and policy in values[0] else baseline
            if run is first and policy == baseline:
                continue
            label, against = f"{run.name}: {policy}", f"{first.name}: {other}"
            difference = _paired(mine, values[0][other], label, against)
            found.append(Comparison(label, against, measure, difference, 1.0, run is not first and other != policy))
    return _corrected(found)


def _corrected(found: Sequence[Comparison]) -> list[Comparison]:
    """With Holm's correction over all of them."""
    corrected = holm([one.difference.p for one in found])
    return [replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)]


def _refuse_same(pair: Pair, path: Path) -> None:
    if pair[0] == pair[1]:
        raise RunError(f"{path}: {pair[0]!r} compared with itself; name two policies, or a second run")


def _known(policy: str, policies: Iterable[str], path: Path) -> None:
    names = list(policies)
    if policy not in names:
        raise RunError(f"{path}: no policy {policy!r}{hint(policy, names)}")


def _reach(points: Points, policy: str) -> str:
    ratios = points.cost[REQUESTS][points.of(policy)]
    return f"{policy}: request ratios {ratios.min():.3g} to {ratios.max():.3g}"


def _same_data(first: Run, run: Run) -> None:
    """RunError when two runs say that they replayed different events; runs that do not say are taken as they are.

    The hash holds item numbers and drawn times, which follow the seed. Runs of two seeds over one file are the same
    data still: the same `[data]` table and the same counts and shares.
    """
    said = [r.summary.get("data") or {} for r in (first, run)]
    if not all("hash" in one for one in said):
        return
    tables = [r.config.get("data", {}) for r in (first, run)]
    one_file = "path" in tables[0] and tables[0] == tables[1]
    counts = [{key: value for key, value in one.items() if key not in ("hash", "name")} for one in said]
    if counts[0] != counts[1] or (said[0]["hash"] != said[1]["hash"] and not one_file):
        raise RunError(
            f"{first.path} and {run.path}: different data or splits ({_described(said[0])}; {_described(said[1])}), "
            "so their users cannot be paired; repeat one with the [data] and the seed of the other"
        )


def _described(said: Mapping[str, Any]) -> str:
    return f"{said.get('name', 'unnamed')} {said['hash'][:8]}, {said.get('test_events', 'unknown')} test events"


def _by_policy(run: Run, measure: str) -> dict[str, pd.Series]:
    if measure not in run.per_user:
        known = ", ".join(run.summary["measures"])
        raise RunError(f"{run.path}: measure {measure!r} was not computed; it has {known}")
    groups = run.per_user.groupby(POLICY, observed=True, sort=False)
    return {str(policy): rows.set_index(USER)[measure] for policy, rows in groups}


def _values(run: Run, measure: str, policy: str) -> pd.Series:
    policies = _by_policy(run, measure)
    _known(policy, policies, run.path)
    return policies[policy]


def _paired(mine: pd.Series, other: pd.Series, label: str, against: str) -> Difference:
    for values, name in ((mine, label), (other, against)):
        if values.index.has_duplicates:
            raise RunError(f"{name}: user {values.index[values.index.duplicated()][0]!r} occurs twice; repeat the run")
    if alone := set(mine.index) ^ set(other.index):
        raise RunError(
            f"{label} and {against}: {len(alone)} user(s) are in only one of them, e.g. {min(alone)!r}; "
            "compare runs over the same users"
        )
    return paired_difference(mine.to_numpy(), other.reindex(mine.index).to_numpy())
