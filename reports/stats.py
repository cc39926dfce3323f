"""Paired statistics between runs: differences per user, never between two averages.

The test is the paired t over users with Holm's correction. Never Wilcoxon: its null is a symmetric difference, not
equal means, so with skewed per-user differences it rejects where the means agree.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from device.errors import RunError
from simulation.runs import Run
from simulation.schema import POLICY, USER
from simulation.statistics import Difference, Interval, holm, mean_interval, paired_difference

__all__ = ["Comparison", "Difference", "Interval", "compare", "holm", "mean_interval", "paired_difference"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`label` minus `against`, paired by user; p_holm is corrected over all comparisons made in one call.

    `stand_in`: the first run has no policy of this name, so `against` is its baseline.
    """

    label: str
    against: str
    measure: str
    difference: Difference
    p_holm: float
    stand_in: bool


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
    corrected = holm([one.difference.p for one in found])
    return [replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)]


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
