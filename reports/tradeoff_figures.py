"""A sweep's trade-off as a drawing and as a Markdown table, for texts that cannot carry the page."""

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from reports import tables
from reports.holdings import HOLDINGS, HOLDINGS_NOTE, holding_rows
from reports.palette import COLOURS, MARKERS, STYLE
from reports.tradeoff_best import BEST, BEST_NOTE, EQUAL, best_rows
from reports.tradeoff_gains import GAIN_MEASURE, GAINS, GAINS_NOTE, gain_rows
from reports.tradeoff_points import REQUESTS, Points
from reports.tradeoff_readings import bound_at, shares_defined
from reports.tradeoff_shares import (
    BOUND_NOTE,
    bounds_of,
    ratio_text,
    recovered_rows,
    share_note,
    shown_ratios,
    undefined_note,
)
from reports.tradeoff_spent import SPENT, SPENT_NOTE, spent_rows
from reports.tradeoff_stats import interval
from simulation.statistics import Interval
from simulation.sweep import folder as f

_BOUND_DASHES = ((0, (6, 3)), (0, (2, 2)), (0, (6, 2, 1, 2)))
_INK, _SOFT = "#333b44", "#6b7580"


def tradeoff_figure(points: Points, measure: str) -> str:
    """SVG text: mean of `measure` over users against requests per step with 95 % intervals.

    Policies are lines, floors horizontal lines with their names, bounds dashed (first measure only).
    """
    with mpl.rc_context(STYLE):
        lines = [label for label in points.policies if points.family_of(label) != f.FLOOR]
        figure = Figure(figsize=(7.2, 4.3 + 0.2 * -(-len(lines) // 2)), layout="constrained")
        axes = figure.subplots()
        for i, label in enumerate(lines):
            _line(axes, points, measure, label, i)
        _limits(axes, points, lines)
        _floors(axes, points, measure)
        if measure == points.measures[0]:
            _bounds(axes, points)
        axes.set_xlabel("requests per step")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        axes.set_ylabel(f"{measure.upper()}, mean over {points.users:,} users")
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", ncols=2, fontsize=8.5, handlelength=2.6)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
        return text.getvalue()


def markdown_table(points: Points, measure: str) -> str:
    """Share of the never-to-always difference that each policy recovers without asking and at some request ratios.

    In Markdown with 95 % intervals and a trailing line feed; below it the values of floors and bounds themselves, what
    was wanted and spent, ours minus the best published policy, what devices hold, predicted and realised gains.
    """
    bounds = bounds_of(points, measure)
    parts = [
        _markdown(recovered_rows(points, measure)),
        *([] if shares_defined(points, measure) else [undefined_note(measure) + "\n"]),
        share_note(points, measure) + "\n",
        *([BOUND_NOTE + "\n"] if bounds else []),
        _markdown([["Value", "requests per step", measure.upper()], *_floor_rows(points, measure)]),
        *_titled(SPENT, SPENT_NOTE, spent_rows(points)),
        *_best(points, measure),
        *_titled(HOLDINGS, HOLDINGS_NOTE, holding_rows(points.holdings, points.policies)),
        *_gains(points, measure),
    ]
    return "\n".join(parts)


def _titled(title: str, note: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """A table with its title and note above; nothing without rows."""
    return [f"{title}. {note}\n", _markdown(rows)] if rows else []


def _best(points: Points, measure: str) -> list[str]:
    """Ours minus the best published policy; nothing without a policy of ours."""
    parts = []
    for axis, title in EQUAL.items():
        if rows := best_rows(points, measure, axis):
            parts += [f"{title}:\n", _markdown([[" ".join(cell) for cell in row] for row in rows])]
    return [f"{BEST}. {BEST_NOTE}\n", *parts] if parts else []


def _gains(points: Points, measure: str) -> list[str]:
    """Predicted and realised gains, which are in one measure; for another of the sweep, where they are."""
    rows = gain_rows(points)
    if rows and measure != GAIN_MEASURE and GAIN_MEASURE in points.measures:
        return [f"{GAINS}: in {GAIN_MEASURE.upper()} only, so not here; see the table of that measure.\n"]
    return _titled(GAINS, GAINS_NOTE, rows)


def _floor_rows(points: Points, measure: str) -> list[list[str]]:
    rows = []
    for label in points.policies:
        if points.family_of(label) == f.FLOOR:
            at = float(points.cost[REQUESTS][points.of(label)[0]])
            rows.append([label, tables.percent(at), tables.with_interval(_plain(_value(points, measure, label)))])
    for label, curve in bounds_of(points, measure).items():
        for at in shown_ratios(points):
            if not np.isnan(bound_at(curve, at)):
                rows.append([label, f"at most {ratio_text(at)}", tables.decimal(bound_at(curve, at))])
    return rows


def _value(points: Points, measure: str, label: str) -> Interval:
    i = int(points.of(label)[0])
    return interval(float(points.means(measure)[i]), points.resampled[measure][:, i], points.users)


def _plain(found: Interval) -> dict[str, float]:
    return {"mean": found.mean, "low": found.low, "high": found.high}


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table from its rows, the first of them the heading."""
    ruled = [rows[0], ["---", *("---:" for _ in rows[0][1:])], *rows[1:]]
    return "".join("| " + " | ".join(_cell(cell) for cell in row) + " |\n" for row in ruled)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())


def _line(axes: Axes, points: Points, measure: str, label: str, i: int) -> None:
    mine = points.of(label)
    mine = mine[np.argsort(points.cost[REQUESTS][mine], kind="stable")]
    mean = points.means(measure)[mine]
    low, high = np.percentile(points.resampled[measure][:, mine], [2.5, 97.5], axis=0)
    axes.errorbar(
        points.cost[REQUESTS][mine],
        mean,
        np.maximum([mean - low, high - mean], 0.0),
        color=COLOURS[i % len(COLOURS)],
        marker=MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],
        linewidth=2.4 if points.family_of(label) == "ours" else 1.3,
        linestyle=":" if points.family_of(label) == "ablation" else "-",
        markersize=5,
        elinewidth=0.8,
        capsize=2,
        label=label if len(label) <= 44 else label[:43] + "…",
    )


def _limits(axes: Axes, points: Points, lines: Sequence[str]) -> None:
    """Always asks at every step, the policies rarely at more than half: the axis ends where they do."""
    places = [points.cost[REQUESTS][points.of(label)].max() for label in lines]
    axes.set_xlim(0.0, 1.04 * max(places, default=1.0))


def _floors(axes: Axes, points: Points, measure: str) -> None:
    for label in points.policies:
        if points.family_of(label) == f.FLOOR:
            value = _value(points, measure, label)
            axes.axhline(value.mean, color=_SOFT, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
            place = axes.get_yaxis_transform()
            halo = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6}
            axes.text(0.995, value.mean, label, transform=place, ha="right", va="bottom", fontsize=8, bbox=halo)


def _bounds(axes: Axes, points: Points) -> None:
    end = axes.get_xlim()[1]
    for i, (label, (x, y)) in enumerate(points.bounds.items()):
        dash = _BOUND_DASHES[i % len(_BOUND_DASHES)]
        axes.plot(np.append(x, max(end, x[-1])), np.append(y, y[-1]), color=_INK, linestyle=dash, label=label)
