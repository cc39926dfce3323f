"""A run's result as a table: one row per policy, for the terminal and for Markdown."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from device.errors import RunError
from simulation.runs import Run

ABSENT = "–"
_COSTS = {
    "Request ratio": "Asked",
    "Up / step": "Up/step",
    "Down / step": "Down/step",
    "Install / device": "Install",
    "Latency p95": "p95",
    "Pool age": "Age",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One policy of one run with its numbers; `difference` is empty for the run's baseline.

    `label` carries the run's name where there are several runs, `short` its letter (see `letter`).
    """

    label: str
    short: str
    run: Run
    policy: str
    numbers: Mapping[str, Any]
    difference: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, the number it sorts by (None when unknown) and how that reads."""

    title: str
    value: Callable[[Line], float | None]
    text: Callable[[Line], str]


def lines(runs: Sequence[Run]) -> list[Line]:
    """All policies of all runs in their order."""
    found = []
    for i, run in enumerate(runs):
        for policy, numbers in run.summary["policies"].items():
            label, short = (policy, policy) if len(runs) == 1 else (f"{run.name}: {policy}", f"{letter(i)} · {policy}")
            found.append(Line(label, short, run, policy, numbers, run.summary["differences"].get(policy, {})))
    return found


def letter(i: int) -> str:
    """A, B, ... Z, A1, B1, ... for run number i from 0."""
    return chr(ord("A") + i % 26) + (str(i // 26) if i >= 26 else "")


def headline(runs: Sequence[Run]) -> str:
    """The measure that figures and intervals show: ndcg@10 where every run has it, else the first they share."""
    if not runs:
        raise RunError("report: no run given; name at least one run folder")
    shared = [m for m in runs[0].summary["measures"] if all(m in run.summary["measures"] for run in runs)]
    if not shared:
        raise RunError(f"report: {', '.join(run.name for run in runs)} share no measure; report them one by one")
    return "ndcg@10" if "ndcg@10" in shared else str(shared[0])


def columns(runs: Sequence[Run]) -> list[Column]:
    """The columns of the result table, the policy's name apart."""
    main = headline(runs)
    shared = [m for m in runs[0].summary["measures"] if all(m in run.summary["measures"] for run in runs)]
    baselines = {str(run.summary["baseline"]) for run in runs}
    reference = baselines.pop() if len(baselines) == 1 else "baseline"
    return [
        _column("Request ratio", lambda line: line.numbers["request_ratio"], percent),
        _column("Up / step", lambda line: line.numbers["bytes_per_step"]["up"], size),
        _column("Down / step", lambda line: line.numbers["bytes_per_step"]["down"], size),
        _measure(main, interval=True),
        Column(
            f"{main.upper()} − {reference}",
            lambda line: line.difference[main]["mean"] if line.difference else None,
            lambda line: with_interval(line.difference[main], sign="+") if line.difference else ABSENT,
        ),
        _column("Pool recall", lambda line: line.numbers["candidate_recall"], percent),
        *[_measure(measure, interval=False) for measure in shared if measure != main],
        _column("NDCG@10 in pool", lambda line: line.numbers["ndcg@10_in_pool"], decimal),
        _column("Install / device", lambda line: line.numbers["install_bytes_per_device"], size),
        _column("Energy / step", lambda line: line.numbers.get("energy_j_per_step"), joules),
        _column("Latency p50", lambda line: line.numbers["latency_s"]["p50"], seconds),
        _column("Latency p95", lambda line: line.numbers["latency_s"]["p95"], seconds),
        _column("Lost", lambda line: sum(line.numbers["lost_messages"].values()), lambda n: f"{n:.0f}"),
        _column("Pool age", lambda line: line.numbers["mean_pool_age"], lambda n: f"{n:.1f}"),
    ]


def terminal_table(runs: Sequence[Run]) -> Group:
    """The runs' policies for a rich console: accuracy above, cost below, so that either fits 80 characters.

    Less than the page and the Markdown table show: one hit rate, the headline measure, and intervals as ± half width.
    Below stands what the headings mean, the name of the baseline among it.
    """
    shown, found, main = columns(runs), lines(runs), headline(runs)
    difference = Column(
        "− baseline",
        lambda _: None,
        lambda line: plus_minus(line.difference[main], sign="+") if line.difference else ABSENT,
    )
    compared = any(line.difference for line in found)
    hits = [column for column in shown if column.title in ("HR@10", "RECALL@10")]
    accuracy = [
        *hits,
        Column(main.upper(), lambda _: None, lambda line: plus_minus(line.numbers["measures"][main])),
        *([difference] if compared else []),
        *[replace(column, title="Recall") for column in shown if column.title == "Pool recall"],
    ]
    costs = [replace(column, title=_COSTS[column.title]) for column in shown if column.title in _COSTS]
    return Group(*(_rich(part, found) for part in (accuracy, costs)), Text(_caption(runs, compared), style="dim"))


def _caption(runs: Sequence[Run], compared: bool) -> str:
    """What the headings of the terminal's table mean."""
    baselines = " / ".join(sorted({str(run.summary["baseline"]) for run in runs}))
    return (
        "±: half the 95 % interval over users. "
        + (f"− baseline: minus {baselines}, paired by user. " if compared else "")
        + "Recall: share of steps whose item was in the pool. Asked: share of steps that ended with a request. "
        "Install: bytes per device before the first step. p95: 95 % of the replies were usable within this time. "
        "Age: mean steps since the history that the pool was made from."
    )


def _rich(shown: Sequence[Column], found: Sequence[Line]) -> Table:
    table = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("Policy", overflow="fold")  # the only column that gives way where the window is narrow
    for column in shown:
        table.add_column(escape(column.title), justify="right", no_wrap=True)
    for line in found:
        table.add_row(escape(line.label), *(column.text(line) for column in shown))
    return table


def markdown_table(runs: Sequence[Run]) -> str:
    """The same table in Markdown, one line per policy, with a trailing line feed."""
    shown = columns(runs)
    rows = [
        ["Policy", *(column.title for column in shown)],
        ["---", *("---:" for _ in shown)],
        *[[line.label, *(column.text(line) for column in shown)] for line in lines(runs)],
    ]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def with_interval(interval: Mapping[str, Any], *, sign: str = "") -> str:
    """`0.1234 [0.1200, 0.1268]`; the brackets are left out where one user gives no interval."""
    mean, low, high = (interval[key] for key in ("mean", "low", "high"))
    if low is None or high is None or math.isnan(low):
        return format(mean, f"{sign}.4f")
    return f"{mean:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"


def plus_minus(interval: Mapping[str, Any], *, sign: str = "") -> str:
    """`0.1234 ±0.0034`: a mean with half its t interval, which is symmetric."""
    mean, high = interval["mean"], interval["high"]
    half = "" if high is None or math.isnan(high) else f" ±{high - mean:.4f}"
    return f"{mean:{sign}.4f}{half}"


def decimal(value: float) -> str:
    """Four decimals."""
    return f"{value:.4f}"


def percent(share: float) -> str:
    """`12.3 %` of a share in [0, 1]."""
    return f"{100 * share:.1f} %"


def seconds(value: float) -> str:
    """`0.312 s`, with three significant digits."""
    return f"{value:.3g} s"


def joules(value: float) -> str:
    """`0.312 J`, with three significant digits."""
    return f"{value:.3g} J"


def milliseconds(value: float) -> str:
    """`3.12 ms` of seconds, with three significant digits."""
    return f"{1000 * value:.3g} ms"


def size(nbytes: float) -> str:
    """Bytes with decimal prefixes: `312 B`, `4.6 kB`, `1.2 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 999.5:
            return f"{nbytes:.0f} {unit}" if unit == "B" and (nbytes >= 10 or nbytes == 0) else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


def probability(p: float | None) -> str:
    """`< 0.001` or three decimals."""
    if p is None or math.isnan(p):
        return ABSENT
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _measure(measure: str, *, interval: bool) -> Column:
    return Column(
        measure.upper(),
        lambda line: line.numbers["measures"][measure]["mean"],
        lambda line: (
            with_interval(line.numbers["measures"][measure])
            if interval
            else decimal(line.numbers["measures"][measure]["mean"])
        ),
    )


def _column(title: str, value: Callable[[Line], float | None], form: Callable[[float], str]) -> Column:
    def text(line: Line) -> str:
        number = value(line)
        return ABSENT if number is None else form(number)

    return Column(title, value, text)
