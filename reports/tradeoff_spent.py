"""What policies really spent beside what they were asked to spend."""

from typing import Final

import numpy as np

from reports import tables
from reports.tradeoff_points import REQUESTS, Points
from reports.tradeoff_stats import Floats

SPENT: Final = "Wanted and spent"
"""Title of the table."""
OFF: Final = 0.1
"""From this share of the wanted ratio on, what was spent is marked."""
SPENT_NOTE: Final = (
    "Wanted → spent requests per step, mean over seeds (a single seed may be further off). Prices are found on "
    f"validation steps for the wanted ratio; spent is what they cost on test steps. More than {100 * OFF:.0f} % off "
    "is marked with how much. All other tables compare at what was spent. The last column is the median wait from a "
    "request to its usable reply, in virtual seconds, over a policy's points: it depends on the link and the length "
    "of a list, no policy steers it."
)


def wanted_ratios(points: Points) -> list[float]:
    """The request ratios that the sweep asked for, ascending."""
    return sorted({float(one) for one in points.budget[np.isfinite(points.budget)]})


def spent_rows(points: Points) -> list[list[str]]:
    """The table as text, its heading first, one row per policy that asks; empty where nothing was wanted.

    A cell ends with a bracket where the policy is more than `OFF` off.
    """
    ratios = wanted_ratios(points)
    rows = [
        [label, *_cells(points, label, ratios), _wait(points.latency[points.of(label)])] for label in points.policies
    ]
    asking = [row for row in rows if any(cell != tables.ABSENT for cell in row[1:])]
    return [["Policy", *(f"wanted {tables.percent(at)}" for at in ratios), "Reply, median"], *asking] if ratios else []


def _cells(points: Points, label: str, ratios: list[float]) -> list[str]:
    mine = points.of(label)
    found = dict(zip(points.budget[mine].tolist(), points.cost[REQUESTS][mine].tolist(), strict=True))
    return [_cell(at, found[at]) if at in found else tables.ABSENT for at in ratios]


def _cell(wanted: float, spent: float) -> str:
    off = spent / wanted - 1.0
    text = f"{100 * wanted:.1f} → {tables.percent(spent)}"
    return f"{text} ({100 * off:+.0f} %)".replace("-", "−") if abs(off) > OFF else text


def _wait(seconds: Floats) -> str:
    known = seconds[np.isfinite(seconds)]
    ends = [tables.seconds(float(end)) for end in (known.min(), known.max())] if known.size else [tables.ABSENT]
    return " to ".join(dict.fromkeys(ends))
