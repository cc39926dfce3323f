"""A sweep's trade-off as a drawing and as a Markdown table, for texts that cannot carry the page."""

import io
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from reports import tables
from reports.palette import COLOURS, MARKERS, STYLE
from reports.tradeoff_best import BEST_NOTE, best_rows
from reports.tradeoff_calibration import CALIBRATION_NOTE, calibration_rows
from reports.tradeoff_points import REQUESTS, Points
from reports.tradeoff_readings import LEAST, Reading, bound_at, read_at, shares_defined
from reports.tradeoff_stats import interval
from simulation import sweep_folder as f
from simulation.statistics import Interval

BUDGETS = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Request ratios that the tables read off, those of the published comparisons."""
_BOUND_DASHES = ((0, (6, 3)), (0, (2, 2)), (0, (6, 2, 1, 2)))
_INK, _SOFT = "#333b44", "#6b7580"


def tradeoff_figure(points: Points, measure: str) -> str:
    """SVG text: mean of `measure` over users against requests per step with 95 % intervals.

    Policies are lines, floors horizontal lines with their names, bounds dashed (first measure only).
    """
    with mpl.rc_context(STYLE):
        lines = [label for label in points.policies if points.family_of(label) not in (f.FLOOR, f.BOUND_FAMILY)]
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
    """Share of the never-to-always difference that each policy recovers at 5, 10, 20, 30 and 50 % of requests.

    In Markdown with 95 % intervals and a trailing line feed; below it the values of floors and bounds themselves, ours
    minus the best published policy at each wanted ratio, and, for the first measure, predicted and realised gains.
    A dash: the policy has no point within 5 % of that ratio.
    """
    parts = [
        _markdown([["Policy", *map(_budget, BUDGETS)], *recovered_rows(points, measure)]),
        *([] if shares_defined(points, measure) else [undefined_note(measure) + "\n"]),
        _markdown([["Value", "requests per step", measure.upper()], *_floor_rows(points, measure)]),
        BEST_NOTE + "\n",
        _markdown([[" ".join(cell) for cell in row] for row in best_rows(points, measure)]),
    ]
    if measure == points.measures[0] and (rows := calibration_rows(points)):
        parts += [CALIBRATION_NOTE + "\n", _markdown(rows)]
    return "\n".join(parts)


def undefined_note(measure: str) -> str:
    """Why differences stand in the place of shares."""
    return (
        f"In {measure.upper()} always asking is hardly better than never: the 95 % interval of their difference does "
        f"not lie above 0, or the difference is below {100 * LEAST:.0f} % of never's value. Shares of it would say "
        "nothing, so every policy is shown as the plain difference to never asking."
    )


def recovered_rows(points: Points, measure: str) -> list[list[str]]:
    """Rows of that table as text: label and one share per budget, policies first, then the bounds.

    Differences to never in the place of shares where these are not defined.
    """
    rows = [
        [label, *(_share(read_at(points, measure, label, REQUESTS, at)) for at in BUDGETS)]
        for label in points.policies
        if points.family_of(label) != f.FLOOR
    ]
    never, always = points.means(measure)[[points.never, points.always]]
    whole = always - never if shares_defined(points, measure) else None
    for label, curve in _bounds_of(points, measure).items():
        rows.append([label, *(_gain(bound_at(curve, at) - never, whole) for at in BUDGETS)])
    return rows


def _floor_rows(points: Points, measure: str) -> list[list[str]]:
    rows = []
    for label in points.policies:
        if points.family_of(label) == f.FLOOR:
            at = float(points.cost[REQUESTS][points.of(label)[0]])
            rows.append([label, tables.percent(at), tables.with_interval(_plain(_value(points, measure, label)))])
    for label, curve in _bounds_of(points, measure).items():
        for at in BUDGETS:
            if not np.isnan(bound_at(curve, at)):
                rows.append([label, f"at most {_budget(at)}", tables.decimal(bound_at(curve, at))])
    return rows


def _bounds_of(points: Points, measure: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return dict(points.bounds) if measure == points.measures[0] else {}


def _value(points: Points, measure: str, label: str) -> Interval:
    i = int(points.of(label)[0])
    return interval(float(points.means(measure)[i]), points.resampled[measure][:, i], points.users)


def _plain(found: Interval) -> dict[str, float]:
    return {"mean": found.mean, "low": found.low, "high": found.high}


def _share(reading: Reading | None) -> str:
    if reading is None:
        return tables.ABSENT
    found = reading.recovered
    if found is None:
        return tables.with_interval(_plain(reading.gain), sign="+")
    return f"{100 * found.mean:.0f} % [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def _gain(gain: float, whole: float | None) -> str:
    """A difference to never as its share of `whole`, or plain where that is None."""
    if np.isnan(gain):
        return tables.ABSENT
    return f"{gain:+.4f}" if whole is None else f"{100 * gain / whole:.0f} %"


def _budget(at: float) -> str:
    return f"{100 * at:.0f} %"


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
