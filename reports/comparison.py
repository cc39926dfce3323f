"""Paired differences between policies as a table for the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from reports.stats import Comparison
from reports.tables import ABSENT, percent, probability, with_interval


def comparison_table(comparisons: Sequence[Comparison]) -> Group:
    """Paired differences with interval, effect size and corrected p for a rich console, and what to know about them.

    One run's name is not repeated in every row, nor a policy that all are compared with.
    """
    if not comparisons:
        return Group(Text("one run with one policy: nothing to compare; name a second run"))
    runs = {label.partition(": ")[0] for one in comparisons for label in (one.label, one.against)}
    shared = f"{runs.pop()}: " if len(runs) == 1 else ""
    single = len({one.against for one in comparisons}) == 1
    at = any(one.at is not None for one in comparisons)
    table = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for title in ("Policy", *([] if single else ["Against"])):
        table.add_column(title, overflow="fold")
    for title in (*(["Requests"] if at else []), "Difference [95 % interval]", "d_z", "p (Holm)", "Users"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in comparisons:
        d = one.difference
        table.add_row(
            escape(one.label.removeprefix(shared)),
            *([] if single else [escape(one.against.partition(": ")[2])]),
            *([ABSENT if one.at is None else percent(one.at)] if at else []),
            with_interval({"mean": d.mean, "low": d.low, "high": d.high}, sign="+"),
            f"{d.d_z:+.2f}",
            probability(one.p_holm),
            str(d.n),
        )
    notes = _notes(comparisons, shared, single=single)
    return Group(table, *(Text(note) for note in notes))


def _notes(comparisons: Sequence[Comparison], shared: str, *, single: bool) -> list[str]:
    """What the columns mean and against what the policies stand."""
    first = comparisons[0]
    notes = [f"{first.measure}, paired by user; d_z: mean of the differences over their standard deviation"]
    if single:
        notes.append(f"Against: {first.against.removeprefix(shared)}")
    elif not shared:
        notes.append(f"Against: policies of {first.against.partition(': ')[0]}")
    if first.at is not None:
        notes.append("Requests: share of steps at which both are read off")
    return notes + [
        f"{one.label} is compared with the baseline {one.against}: that run has no policy of its name"
        for one in comparisons
        if one.stand_in
    ]
