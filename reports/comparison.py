"""Paired differences between policies as tables for the terminal."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from reports.stats import Comparison
from reports.tables import ABSENT, percent, probability, with_interval
from simulation.statistics import holm


def between_runs(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """What `reports.stats.compare` tells of several runs without the first's policies against its own baseline.

    Holm's correction is over those that are left.
    """
    left = [one for one in comparisons if not _within(one)]
    corrected = holm([one.difference.p for one in left])
    return [replace(one, p_holm=p) for one, p in zip(left, corrected, strict=True)]


def comparison_table(comparisons: Sequence[Comparison]) -> Group:
    """Paired differences with interval, effect size and corrected p for a rich console, and what to know about them.

    A table per pair of runs; above it stand the names of the runs and what its policies are compared with.
    """
    if not comparisons:
        return Group(Text("one run with one policy: nothing to compare; name a second run"))
    parts: list[Text | Table] = []
    for _, group in groupby(comparisons, key=lambda one: (_run(one.label), _run(one.against))):
        rows = list(group)
        parts += [Text(_run(rows[0].label), style="bold", overflow="fold"), Text(_minus(rows)), _table(rows)]
    return Group(*parts, *(Text(note) for note in _notes(comparisons)))


def _table(rows: Sequence[Comparison]) -> Table:
    """Of one pair of runs, the policies' names without theirs."""
    at = any(one.at is not None for one in rows)
    table = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("Policy", overflow="fold")
    for title in (*(["Requests"] if at else []), "Difference [95 % interval]", "d_z", "p (Holm)", "Users"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in rows:
        d = one.difference
        table.add_row(
            escape(_policy(one.label)),
            *([ABSENT if one.at is None else percent(one.at)] if at else []),
            with_interval({"mean": d.mean, "low": d.low, "high": d.high}, sign="+z"),
            f"{d.d_z:+z.2f}",
            probability(one.p_holm),
            str(d.n),
        )
    return table


def _minus(rows: Sequence[Comparison]) -> str:
    """What the rows of one table are compared with."""
    others = {_policy(one.against) for one in rows}
    own = _run(rows[0].label) == _run(rows[0].against)
    if len(others) > 1:
        return f"minus the policies of the same name of {_run(rows[0].against)}"
    return f"minus {others.pop()}" + ("" if own else f" of {_run(rows[0].against)}")


def _notes(comparisons: Sequence[Comparison]) -> list[str]:
    """What the columns mean, and who has no counterpart."""
    first = comparisons[0]
    notes = [f"{first.measure}, paired by user; d_z: mean of the differences over their standard deviation"]
    if first.at is not None:
        notes.append("Requests: share of steps at which both are read off; never and always stand at their own")
    return notes + [
        f"{_policy(one.label)}: {_run(one.against)} has no policy of this name; its baseline "
        f"{_policy(one.against)} stands in"
        for one in comparisons
        if one.stand_in
    ]


def _within(one: Comparison) -> bool:
    """Whether two policies of one run are compared; the same policy twice is of two runs of one name."""
    return _run(one.label) == _run(one.against) and one.label != one.against


def _run(label: str) -> str:
    return label.partition(": ")[0]


def _policy(label: str) -> str:
    return label.partition(": ")[2]
