"""Paired statistics between runs: differences per user, never between two averages.

The test is the paired t over users with Holm's correction. Never Wilcoxon: its null is a symmetric difference, not
equal means, so with skewed per-user differences it rejects where the means agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from device.errors import RunError
from simulation.runs import Run
from simulation.schema import POLICY, USER
from simulation.statistics import Difference, Interval, holm, mean_interval, paired_difference

__all__ = ["Comparison", "Difference", "Interval", "compare", "holm", "mean_interval", "paired_difference"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """`label` minus `against`, paired by user; p_holm is corrected over all comparisons made in one call."""

    label: str
    against: str
    measure: str
    difference: Difference
    p_holm: float


def compare(runs: Sequence[Run], measure: str) -> list[Comparison]:
    """All policies of `runs` against their counterpart, joined by external user id.

    Within the first run a policy's counterpart is the run's baseline; in the other runs it is the policy of the same
    name in the first run, or the first run's baseline where there is none. RunError when two sides served different
    users, or when a run lacks the measure.
    """
    if not runs:
        raise RunError("compare: no run given; name at least one run folder")
    first, values = runs[0], [_by_policy(run, measure) for run in runs]
    baseline = str(first.summary["baseline"])
    found = []
    for run, policies in zip(runs, values, strict=True):
        for policy, mine in policies.items():
            other = policy if run is not first and policy in values[0] else baseline
            if run is first and policy == baseline:
                continue
            label, against = f"{run.name}: {policy}", f"{first.name}: {other}"
            found.append(Comparison(label, against, measure, _paired(mine, values[0][other], label, against), 1.0))
    corrected = holm([one.difference.p for one in found])
    return [replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)]


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
