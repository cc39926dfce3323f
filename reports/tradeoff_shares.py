"""The share of the difference from never to always asking that each policy recovers, and what it has without asking."""

from typing import Final

import numpy as np

from reports import tables
from reports.holdings import Holding
from reports.tradeoff_points import REQUESTS, Points
from reports.tradeoff_readings import LEAST, Reading, bound_at, reaches, read_at, shares_defined
from reports.tradeoff_spent import wanted_ratios
from reports.tradeoff_stats import Floats
from simulation.sweep import folder as f

RATIOS: Final = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Request ratios that the tables read off, those of the published comparisons."""
BOUND_NOTE: Final = (
    "The hindsight schedule knows the items that come next. Its share can exceed 100 %: at some steps an old list "
    "holds the next item and a fresh one lacks it, so it keeps the old one, while always asking loses it."
)


def shown_ratios(points: Points) -> list[float]:
    """Those of `RATIOS` that some policy reaches, or the wanted ones where none does."""
    asking = [label for label in points.policies if points.family_of(label) != f.FLOOR]
    found = [at for at in RATIOS if any(reaches(points, at, label) for label in asking)]
    return found or wanted_ratios(points)


def share_note(points: Points, measure: str) -> str:
    """What the cells of the table are."""
    what = "shares of the difference" if shares_defined(points, measure) else "differences to never asking, not shares"
    between = f" between {points.policy[points.never]!r} and {points.policy[points.always]!r}"
    return (
        f"Cells are {what}{between if shares_defined(points, measure) else ''} in {measure.upper()}, with the 95 % "
        "interval over users, at realised request ratios (linear between a policy's own points). 0 %: the same devices "
        "without a request, so the columns beside it less this one are what asking adds. It is the never-asking policy "
        "with the row's own candidates, list length, fusion and update; ≈ marks the nearest with the same own "
        "candidates where there is none. A dash: no such policy, or no point within 5 % of that ratio."
    )


def undefined_note(measure: str) -> str:
    """Why differences stand in the place of shares."""
    return (
        f"In {measure.upper()} always asking is hardly better than never: the 95 % interval of their difference does "
        f"not lie above 0, or the difference is below {100 * LEAST:.0f} % of never's value. Shares of it would say "
        "nothing, so every policy is shown as the plain difference to never asking."
    )


def recovered_rows(points: Points, measure: str) -> list[list[str]]:
    """The table as text: its heading, then label and one share per ratio, policies first, then the bounds.

    Differences to never in the place of shares where these are not defined.
    """
    ratios = shown_ratios(points)
    rows = [
        [
            label,
            _unasked(points, measure, label),
            *(_share(read_at(points, measure, label, REQUESTS, at)) for at in ratios),
        ]
        for label in points.policies
        if points.family_of(label) != f.FLOOR
    ]
    never, always = points.means(measure)[[points.never, points.always]]
    whole = always - never if shares_defined(points, measure) else None
    for label, curve in bounds_of(points, measure).items():
        rows.append([label, *(_gain(bound_at(curve, at) - never, whole) for at in (0.0, *ratios))])
    return [["Policy", *(ratio_text(at) for at in (0.0, *ratios))], *rows]


def bounds_of(points: Points, measure: str) -> dict[str, tuple[Floats, Floats]]:
    """The bounds of a measure: those of the sweep for the first, none for the others."""
    return dict(points.bounds) if measure == points.measures[0] else {}


def ratio_text(at: float) -> str:
    """`5 %` of 0.05, with a decimal only where it has one."""
    return f"{100 * at:.3g} %"


def unasked(points: Points, policy: str) -> tuple[str, bool] | None:
    """(the never-asking policy whose devices hold what `policy`'s do, whether exactly so); None without one.

    Own candidates must be the same; of several the one that shares most of list length, fusion and update. The plain
    never stands for policies of which nothing is known.
    """
    never, mine = points.policy[points.never], points.holdings.get(policy)
    if mine is None:
        return never, True
    floors = [one for one in points.policies if points.family_of(one) == f.FLOOR and _asks_never(points, one)]
    held = {one: points.holdings[one] for one in floors if one in points.holdings}
    alike = {one: _alike(holding, mine) for one, holding in held.items() if _own(holding) == _own(mine)}
    if not alike:
        return None if mine.own else (never, True)
    best = max(alike, key=lambda one: alike[one])
    return best, all(alike[best])


def any_unasked(points: Points) -> bool:
    """Whether some policy's devices have more or less than plain never asking without a request."""
    asking = [unasked(points, label) for label in points.policies if points.family_of(label) != f.FLOOR]
    return any(found is not None and found[0] != points.policy[points.never] for found in asking)


def _asks_never(points: Points, policy: str) -> bool:
    return bool((points.cost[REQUESTS][points.of(policy)] == 0.0).all())


def _own(one: Holding) -> tuple[int, float]:
    return one.own, one.resident


def _alike(a: Holding, b: Holding) -> tuple[bool, bool, bool]:
    """Whether list length, fusion and update are the same, the weightier first; nobody who never asks has deltas."""
    return a.listed == b.listed, a.fusion == b.fusion, a.update.partition(",")[0] == b.update.partition(",")[0]


def _unasked(points: Points, measure: str, policy: str) -> str:
    found = unasked(points, policy)
    if found is None:
        return tables.ABSENT
    label, exact = found
    if label == points.policy[points.never]:
        return "0 %" if shares_defined(points, measure) else "+0.0000"
    return f"{'' if exact else '≈ '}{_share(read_at(points, measure, label, REQUESTS, 0.0))} {label}"


def _share(reading: Reading | None) -> str:
    if reading is None:
        return tables.ABSENT
    found, gain = reading.recovered, reading.gain
    if found is None:
        return tables.with_interval({"mean": gain.mean, "low": gain.low, "high": gain.high}, sign="+")
    return f"{100 * found.mean:.0f} % [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def _gain(gain: float, whole: float | None) -> str:
    """A difference to never as its share of `whole`, or plain where that is None."""
    if np.isnan(gain):
        return tables.ABSENT
    return f"{gain:+.4f}" if whole is None else f"{100 * gain / whole:.0f} %"
