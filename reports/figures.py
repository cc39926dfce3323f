"""The report's figures as SVG text; every axis has its unit, every mean its 95 % interval."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from reports.labels import label_points
from reports.palette import COLOURS, DASHES, KIND_COLOURS, MARKERS, STYLE
from reports.tables import Line, size
from simulation import schema as c
from simulation.metrics import parse

_WIDTH, _HEIGHT = 4.9, 3.7  # inches: two abreast on a desk, one on a phone, with type still readable there
_MAX_POINTS = 30
_BYTES = FuncFormatter(lambda value, _: size(value).replace(".0 ", " "))


def trade_off(lines: Sequence[Line], measure: str) -> str:
    """Mean of `measure` over users against bytes per step, installation apart; zero bytes on a linear stretch."""
    x = [float(line.numbers["bytes_per_step"]["total"]) for line in lines]
    found = [line.numbers["measures"][measure] for line in lines]

    def draw(axes: Axes) -> None:
        _byte_axis(axes, np.array(x))
        for i, (nbytes, m) in enumerate(zip(x, found, strict=True)):
            axes.errorbar(nbytes, m["mean"], _ends(m), color=_colour(i), marker=_marker(i), capsize=3, markersize=7)
        axes.margins(y=0.16)
        axes.set_ylabel(f"{measure.upper()}, mean over users")
        labels = [_short(line.short) for line in lines]
        spans = [(m["mean"], m["mean"]) if m["low"] is None else (m["low"], m["high"]) for m in found]
        label_points(axes, [(b, m["mean"]) for b, m in zip(x, found, strict=True)], spans, labels, colours=COLOURS)

    return _svg(draw)


def along_steps(lines: Sequence[Line], measure: str) -> str:
    """Mean of `measure` at each replayed step with its 95 % band over devices."""
    of = parse(measure).of
    return _svg(
        lambda axes: _curves(axes, lines, lambda s: of(s[c.RANK].to_numpy(), s[c.TIES].to_numpy()), measure.upper()),
        legend=len(lines),
    )


def requests_along_steps(lines: Sequence[Line]) -> str:
    """Share of devices that asked at each replayed step with its 95 % band."""

    def draw(axes: Axes) -> None:
        _curves(axes, lines, lambda s: s[c.ASKED].to_numpy(float), "devices that asked")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        axes.set_ylim(bottom=-0.02)

    return _svg(draw, legend=len(lines))


def latency(lines: Sequence[Line]) -> str:
    """Share of usable replies that came within x seconds of their request."""

    def draw(axes: Axes) -> None:
        drawn = 0
        for i, line in enumerate(lines):
            values = _steps(line)[c.LATENCY_S].dropna().to_numpy()
            if not values.size:
                continue
            share = np.linspace(0.0, 1.0, min(values.size, 300) + 1)
            found = np.quantile(values, share, method="inverted_cdf")
            axes.step(found, share, where="post", color=_colour(i), linestyle=_dash(i), label=_short(line.short))
            drawn += 1
        if not drawn:
            axes.text(0.5, 0.5, "no reply was received", ha="center", transform=axes.transAxes)
        axes.set_xlim(left=0)
        axes.set_xlabel("time from request to usable reply (virtual seconds)")
        axes.set_ylabel("share of usable replies")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))

    return _svg(draw, legend=len(lines))


def bytes_by_kind(lines: Sequence[Line]) -> str:
    """Stacked bars per policy: bytes per step by kind on the left, installation per device on the right."""
    running, installed = _kind_tables(lines)
    kinds = list(dict.fromkeys([*running.columns, *installed.columns]))
    colours = {kind: KIND_COLOURS[i % len(KIND_COLOURS)] for i, kind in enumerate(kinds)}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, 1.5 + 0.34 * len(lines)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for axes, table, ticks in ((left, running, 4), (right, installed, 2)):
            _stack(axes, table, colours, ticks=ticks)
        left.set_yticks(range(len(lines)), [_short(line.short) for line in lines])
        left.invert_yaxis()
        left.set_xlabel("bytes per step")
        right.set_xlabel("bytes per device")
        handles = {
            text: bar for axes in (left, right) for bar, text in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        if handles:
            figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8.5)
        return _render(figure)


def differences(lines: Sequence[Line], measure: str) -> str:
    """Paired difference of each policy to its baseline with its 95 % interval."""
    others = [line for line in lines if line.difference]
    baselines = {str(line.run.summary["baseline"]) for line in lines}

    def draw(axes: Axes) -> None:
        axes.axvline(0.0, color="#55606b", linewidth=1)
        for row, line in enumerate(others):
            d, i = line.difference[measure], lines.index(line)
            axes.errorbar(d["mean"], row, xerr=_ends(d), color=_colour(i), marker=_marker(i), capsize=3, markersize=7)
        axes.set_yticks(range(len(others)), [_short(line.short) for line in others])
        axes.set_ylim(len(others) - 0.4, -0.6)
        axes.set_xlabel(f"{measure.upper()} minus {' / '.join(sorted(baselines))}, paired by user")
        axes.xaxis.set_major_locator(MaxNLocator(5))

    return _svg(draw)


def _ends(interval: Mapping[str, Any]) -> list[list[float]] | None:
    """Lengths below and above the mean; None where one user gives no interval."""
    if interval["low"] is None:
        return None
    return [[interval["mean"] - interval["low"]], [interval["high"] - interval["mean"]]]


def _curves(axes: Axes, lines: Sequence[Line], values: Callable[[pd.DataFrame], np.ndarray], name: str) -> None:
    for i, line in enumerate(lines):
        steps = _steps(line)
        rows = pd.DataFrame({"x": _bins(steps[c.STEP]), "device": steps[c.DEVICE], "y": values(steps)})
        # One value per device and bin first: a device's own steps are not independent of each other.
        points = rows.groupby(["x", "device"])["y"].mean().groupby("x").agg(["mean", "sem"])
        x, mean, half = points.index.to_numpy(float), points["mean"].to_numpy(), 1.96 * points["sem"].to_numpy()
        axes.plot(
            x, mean, color=_colour(i), linestyle=_dash(i), marker=_marker(i), markersize=4, label=_short(line.short)
        )
        axes.fill_between(x, mean - half, mean + half, color=_colour(i), alpha=0.13, linewidth=0)
    axes.set_xlabel("step (interactions since the replay began)")
    axes.set_ylabel(f"{name}, mean over devices" if name.isupper() else name)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))


def _bins(step: pd.Series) -> np.ndarray:
    """The step itself, or the middle of its bin where there are more steps than points to draw."""
    width = -(-int(step.max()) // _MAX_POINTS) if len(step) else 1
    values: np.ndarray = (step.to_numpy() - 1) // width * width + (width + 1) / 2
    return values


def _byte_axis(axes: Axes, x: np.ndarray) -> None:
    axes.set_xlabel("bytes sent per step, both directions, installation apart")
    positive = x[x > 0]
    if not positive.size:
        axes.set_xlim(-1, 1)
        axes.set_xticks([0], ["0 B"])
        return
    low = int(np.floor(np.log10(positive.min())))
    end = positive.max() * 3
    start = 10.0**low
    axes.set_xscale("symlog", linthresh=start, linscale=0.6)
    axes.set_xlim(-0.45 * start, end)
    axes.set_xticks([0.0, *(10.0**power for power in range(low, int(np.log10(end)) + 1))])
    axes.xaxis.set_major_formatter(_BYTES)
    if (x == 0).any():
        axes.axvspan(-0.45 * start, start, color="#f1f3f5", zorder=0, linewidth=0)
        note = axes.get_xaxis_transform()
        axes.text(0.27 * start, 0.015, "linear", transform=note, ha="center", fontsize=8, color="#6b7580")


def _kind_tables(lines: Sequence[Line]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bytes per step and installation bytes per device, [lines, kinds]."""
    running, installed = [], []
    for line in lines:
        kinds = {(d, k): n for d, of in line.numbers["bytes_by_kind"].items() for k, n in of.items()}
        steps, users = max(line.numbers["steps"], 1), max(line.numbers["users"], 1)
        running.append({f"{k} ({d})": n / steps for (d, k), n in kinds.items() if k not in c.INSTALLATION_KINDS})
        installed.append({f"{k} ({d})": n / users for (d, k), n in kinds.items() if k in c.INSTALLATION_KINDS})
    return pd.DataFrame(running).fillna(0.0), pd.DataFrame(installed).fillna(0.0)


def _stack(axes: Axes, table: pd.DataFrame, colours: dict[str, str], *, ticks: int) -> None:
    start = np.zeros(len(table))
    for kind in table.columns:
        axes.barh(range(len(table)), table[kind], left=start, height=0.66, color=colours[kind], label=kind)
        start += table[kind].to_numpy()
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(ticks))
    axes.xaxis.set_major_formatter(_BYTES)
    axes.set_xlim(0, max(start.max(initial=0.0) * 1.05, 1.0))
    axes.tick_params(axis="x", labelsize=8)


def _steps(line: Line) -> pd.DataFrame:
    return line.run.steps[line.run.steps[c.POLICY] == line.policy]


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _marker(i: int) -> str:
    return MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]  # a colour comes back with another marker


def _dash(i: int) -> str:
    return DASHES[i % len(DASHES)]


def _short(label: str) -> str:
    return label if len(label) <= 26 else label[:12] + "…" + label[-13:]


def _svg(draw: Callable[[Axes], None], *, legend: int = 0) -> str:
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(_WIDTH, _HEIGHT + 0.19 * -(-legend // 3)), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        names = axes.get_legend_handles_labels()[1]
        if legend and names:
            columns = 3 if max(map(len, names)) <= 14 else 2
            figure.legend(loc="outside lower center", ncols=columns, fontsize=8.5, handlelength=2.6)
        return _render(figure)


def _render(figure: Figure) -> str:
    """SVG without a date, so that the same run gives the same page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
