"""The project's own policies against the best published one, at each wanted request ratio of a sweep."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from reports import tables
from reports.tradeoff_points import REQUESTS, Points
from reports.tradeoff_readings import Lead, paired, reaches
from simulation import sweep_folder as f

BEST_NOTE = (
    "Ours minus the best published policy of the same resident share, each user against itself at the same realised "
    "request ratio: 95 % t interval, p (Holm-corrected over all cells of this table) and d (the mean of the "
    "differences over their standard deviation). The best published policy is picked at each ratio on the data it is "
    "then compared on; the greatest of several noisy means is too great, so the comparison favours the published side."
)


@dataclass(frozen=True, slots=True)
class Group:
    """Policies that take candidates of their own from the same share of the catalogue, 0 for from lists only.

    best: wanted ratio -> (the best published policy, its value), without the ratios that none reaches;
    leads: (policy of ours, wanted ratio) -> its lead over that one, where it reaches the ratio too.
    """

    resident: float
    ours: tuple[str, ...]
    published: tuple[str, ...]
    best: Mapping[float, tuple[str, float]]
    leads: Mapping[tuple[str, float], Lead]


def wanted_ratios(points: Points) -> list[float]:
    """The request ratios that the sweep asked for, ascending."""
    return sorted({float(one) for one in points.budget[np.isfinite(points.budget)]})


def over_published(points: Points, measure: str) -> list[Group]:
    """A group per resident share that a policy of ours has; empty without policies of ours.

    Best is the greatest mean of `measure` over users and seeds. The p values of all groups share one correction.
    """
    found = {share: _members(points, share) for share in sorted({points.resident[one] for one in _ours(points)})}
    best = {
        share: {at: top for at in wanted_ratios(points) if (top := _best(points, measure, published, at))}
        for share, (_, published) in found.items()
    }
    places = [
        (policy, top, at)
        for share, (ours, _) in found.items()
        for policy in ours
        for at, (top, _) in best[share].items()
        if reaches(points, at, policy)
    ]
    leads = {(lead.policy, lead.at): lead for lead in paired(points, measure, places)}
    return [
        Group(share, ours, published, best[share], {key: one for key, one in leads.items() if key[0] in ours})
        for share, (ours, published) in found.items()
    ]


Cell = tuple[str, ...]
"""Lines of a table's cell, the main one first."""


def best_rows(points: Points, measure: str) -> list[list[Cell]]:
    """The table, its heading first: per resident share the best published policy, then ours minus it."""
    ratios = wanted_ratios(points)
    rows: list[list[Cell]] = [[("Policy",), *((tables.percent(at),) for at in ratios)]]
    for group in over_published(points, measure):
        rows.append([(f"best published, {_candidates(group.resident)}",), *(_best_cell(group, at) for at in ratios)])
        for policy in group.ours:
            leads = (group.leads.get((policy, at)) for at in ratios)
            rows.append([(policy,), *((tables.ABSENT,) if lead is None else _lead_cell(lead) for lead in leads)])
    none = ("no policy of ours in this sweep",)
    return rows if len(rows) > 1 else [*rows, [none, *((tables.ABSENT,) for _ in ratios)]]


def _best_cell(group: Group, at: float) -> Cell:
    if not group.published:
        return ("none in this sweep",)
    if at not in group.best:
        return ("none reaches it",)
    label, value = group.best[at]
    return tables.decimal(value), label


def _lead_cell(lead: Lead) -> Cell:
    """`+0.0123`, `[+0.0100, +0.0146]` and `p < 0.001, d 0.32`, what is unknown left out."""
    d = lead.difference
    mean, _, ends = tables.with_interval({"mean": d.mean, "low": d.low, "high": d.high}, sign="+").partition(" ")
    p = tables.probability(lead.p_holm)
    words = [*([] if p == tables.ABSENT else [f"p {p}"]), *([f"d {d.d_z:.2f}"] if np.isfinite(d.d_z) else [])]
    return tuple(line for line in (mean, ends, ", ".join(words)) if line)


def _ours(points: Points) -> list[str]:
    return [label for label in points.policies if points.family_of(label) == f.OURS]


def _members(points: Points, share: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(ours, published) of a resident share."""
    same = [(one, points.family_of(one)) for one in points.policies if points.resident[one] == share]
    ours, published = (tuple(one for one, family in same if family == wanted) for wanted in (f.OURS, f.PUBLISHED))
    return ours, published


def _best(points: Points, measure: str, published: tuple[str, ...], at: float) -> tuple[str, float] | None:
    means = points.means(measure)
    values = [(one, float(means @ points.weights(one, REQUESTS, at))) for one in published if reaches(points, at, one)]
    return max(values, key=lambda one: one[1], default=None)


def _candidates(resident: float) -> str:
    return f"own candidates from {100 * resident:.3g} % of the catalogue" if resident else "candidates from lists only"
