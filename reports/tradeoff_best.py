"""The project's own policies against the best published one, at equal requests and at equal bytes per step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from reports import tables
from reports.holdings import HOLDINGS
from reports.tradeoff_points import BYTES, REQUESTS, Points
from reports.tradeoff_readings import Lead, paired, reaches, spent
from reports.tradeoff_spent import wanted_ratios
from simulation.sweep import folder as f

EQUAL: Final = {REQUESTS: "At equal requests per step", BYTES: "At equal bytes per step"}
"""Axis on which ours meets the best published policy -> title of its table, in the order of the tables."""
BEST: Final = "Ours minus the best published policy"
"""Title of the tables."""
BEST_NOTE: Final = (
    "Ours minus the best published policy of the same resident share (simple rules such as random count among the "
    "published), each user against itself: 95 % t interval, p (Holm-corrected over all cells of one table) and d (the "
    "mean of the differences over their standard deviation). Both sides are read off where they really spent the ratio "
    "in the heading; the wanted ratios of the sweep only name the columns. Update, fusion and lists differ by policy "
    f"(see “{HOLDINGS}”), and with them the bytes of a request: a lead is one of rule and lists together. Policies of "
    "the family ablation, on neither side here, take the two apart: our rule with plain lists, or another with our "
    "lists. There are two tables: at the same requests per step, and at the bytes per step (both directions) that the "
    "best published policy of the first table spends there, where fewer requests for longer lists may cost as much. "
    "The best published policy is picked anew for every cell, on the data it is then compared on; the greatest of "
    "several noisy means is too great, so the comparison favours the published side. A dash: ours spends more, or "
    "never so much."
)


@dataclass(frozen=True, slots=True)
class Best:
    """The published policy that is worth most at cost `at` of an axis, and its value."""

    at: float
    policy: str
    value: float


@dataclass(frozen=True, slots=True)
class Group:
    """Policies that take candidates of their own from the same share of the catalogue, 0 for from lists only.

    best: wanted ratio -> the best published policy there, without the ratios that none reaches;
    leads: (policy of ours, wanted ratio) -> its lead over that one, where it reaches the same cost.
    """

    resident: float
    ours: tuple[str, ...]
    published: tuple[str, ...]
    best: Mapping[float, Best]
    leads: Mapping[tuple[str, float], Lead]


def over_published(points: Points, measure: str, axis: str) -> list[Group]:
    """A group per resident share that a policy of ours has; empty without policies of ours.

    Both sides meet at equal cost on `axis`: the wanted request ratios, or what the best published policy of each ratio
    spends there on another axis. Best is the greatest mean of `measure` over users and seeds. The p values of all
    groups share one correction.
    """
    found = {share: _members(points, share) for share in sorted({points.resident(one) for one in _ours(points)})}
    best = {share: _tops(points, measure, axis, published) for share, (_, published) in found.items()}
    places = [
        (policy, wanted, top)
        for share, (ours, _) in found.items()
        for policy in ours
        for wanted, top in best[share].items()
        if reaches(points, top.at, policy, axis=axis)
    ]
    tests = paired(points, measure, [(policy, top.policy, top.at) for policy, _, top in places], axis=axis)
    leads = {(policy, wanted): lead for (policy, wanted, _), lead in zip(places, tests, strict=True)}
    return [
        Group(share, ours, published, best[share], {key: one for key, one in leads.items() if key[0] in ours})
        for share, (ours, published) in found.items()
    ]


Cell = tuple[str, ...]
"""Lines of a table's cell, the main one first."""


def best_rows(points: Points, measure: str, axis: str) -> list[list[Cell]]:
    """A table of `EQUAL`, its heading first: per resident share the best published policy, then ours minus it.

    Empty without policies of ours.
    """
    ratios = wanted_ratios(points)
    titles = (tables.percent(at) if axis == REQUESTS else f"{axis} at {tables.percent(at)}" for at in ratios)
    rows: list[list[Cell]] = [[("Policy",), *((title,) for title in titles)]]
    for group in over_published(points, measure, axis):
        label = f"best published, {_candidates(group.resident)}"
        rows.append([(label,), *(_best_cell(group, at, axis) for at in ratios)])
        for policy in group.ours:
            leads = (group.leads.get((policy, at)) for at in ratios)
            rows.append([(policy,), *((tables.ABSENT,) if lead is None else _lead_cell(lead) for lead in leads)])
    return rows if len(rows) > 1 else []


def _best_cell(group: Group, wanted: float, axis: str) -> Cell:
    if not group.published:
        return ("none in this sweep",)
    if wanted not in group.best:
        return ("none reaches it",)
    top = group.best[wanted]
    return tables.decimal(top.value), top.policy, *([f"at {tables.size(top.at)}"] if axis == BYTES else [])


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
    same = [(one, points.family_of(one)) for one in points.policies if points.resident(one) == share]
    ours, published = (tuple(one for one, family in same if family == wanted) for wanted in (f.OURS, f.PUBLISHED))
    return ours, published


def _tops(points: Points, measure: str, axis: str, published: tuple[str, ...]) -> dict[float, Best]:
    """Wanted ratio -> the best at its requests or, on another axis, at what that one spends there."""
    found = {}
    for wanted in wanted_ratios(points):
        top = _best(points, measure, REQUESTS, published, wanted)
        if top and axis != REQUESTS:
            top = _best(points, measure, axis, published, spent(points, axis, top.policy, wanted))
        if top:
            found[wanted] = top
    return found


def _best(points: Points, measure: str, axis: str, published: tuple[str, ...], at: float) -> Best | None:
    means = points.means(measure)
    reaching = [one for one in published if reaches(points, at, one, axis=axis)]
    found = [Best(at, one, float(means @ points.weights(one, axis, at))) for one in reaching]
    return max(found, key=lambda one: one.value, default=None)


def _candidates(resident: float) -> str:
    return f"own candidates from {100 * resident:.3g} % of the catalogue" if resident else "candidates from lists only"
