"""Small tables of what the result table leaves out: who waited and was turned away, who got how much, what was spent.

They read keys of summary.json that older runs lack, and show what is there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from device.errors import RunError
from reports import tables
from reports.tables import ABSENT, Line
from simulation.runs import CONFIG, Run

_RUNNING: Final[Mapping[str, tuple[str, Callable[[float], str]]]] = {
    "denied_requests": ("Denied requests", lambda n: f"{n:,.0f}"),
    "waiting_share": ("Steps spent waiting", tables.percent),
    "cloud_seconds_per_step": ("Cloud time / step", tables.milliseconds),
}
_KINDS: Final = {
    "tier": "Tiers are classes of devices with one model and one link each.",
    "activity": "Users are cut into thirds by the length of their history before the replay.",
}
_UNITS: Final[Mapping[str, Callable[[float], str]]] = {
    "requests_per_step": lambda rate: f"{rate:.3g} requests / step",
    "bytes_per_hour": lambda rate: f"{tables.size(rate)} / h",
    "cloud_seconds_per_hour": lambda rate: f"{tables.seconds(rate)} / h",
}


@dataclass(frozen=True, slots=True)
class SmallTable:
    """Cells as text; the first `words` columns are names, all others numbers."""

    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: int


def small_tables(lines: Sequence[Line]) -> list[SmallTable]:
    """The tables that these policies have rows for; RunError for a run whose budget has no unit."""
    found = [_running(lines), *(_groups(lines, kind) for kind in _kinds(lines)), _budget(lines)]
    return [table for table in found if table.rows]


def _running(lines: Sequence[Line]) -> SmallTable:
    shown = {key: column for key, column in _RUNNING.items() if any(key in line.numbers for line in lines)}
    rows = [
        (line.short, *(_said(line.numbers.get(key), form) for key, (_, form) in shown.items()))
        for line in lines
        if any(key in line.numbers for key in shown)
    ]
    note = (
        "Denied are requests that the cloud turned away, overloaded or out of budget; waiting is the share of steps at "
        "which a device could not ask, because a reply was on its way or lost or a denial told it to come back later; "
        "cloud time is the cloud's work on replies (milliseconds per step, installation apart)."
    )
    head = ("Policy", *(title for title, _ in shown.values()))
    return SmallTable("Waiting and cloud work", note, head, tuple(rows), 1)


def _kinds(lines: Sequence[Line]) -> list[str]:
    """Kinds of groups in their order; one with a single group says what the result table says already."""
    kinds = [kind for line in lines for kind, groups in line.numbers.get("groups", {}).items() if len(groups) > 1]
    return list(dict.fromkeys(kinds))


def _groups(lines: Sequence[Line], kind: str) -> SmallTable:
    rows = [
        (
            line.short,
            name,
            f"{group['users']:,}",
            _said(group["request_ratio"], tables.percent),
            _said(group["ndcg@10"], tables.decimal),
            _said(group["bytes_per_step"], tables.size),
        )
        for line in lines
        for name, group in line.numbers.get("groups", {}).get(kind, {}).items()
    ]
    note = (
        "Request ratio (requests / steps), NDCG@10 (mean over the group's steps, not over users as in the result "
        "table) and bytes sent (both directions, per step, installation apart) of each group side by side."
    )
    head = ("Policy", kind.capitalize(), "Users", "Request ratio", "NDCG@10 over steps", "Bytes / step")
    return SmallTable(f"By {kind}", " ".join([note, *([_KINDS[kind]] if kind in _KINDS else [])]), head, tuple(rows), 2)


def _budget(lines: Sequence[Line]) -> SmallTable:
    rows = [
        (
            line.short,
            purse,
            _unit(line.run)(spending["budget"]),
            _said(spending["realised"], tables.percent),
            _said(spending["after_warm_up"], tables.percent),
        )
        for line in lines
        for purse, spending in line.numbers.get("budget", {}).items()
    ]
    note = (
        "Spent is what a purse paid divided by what it was allowed, over the whole replay and after the warm-up: from "
        "the third horizon, when the price has found its level, until a tenth of the steps is left."
    )
    head = ("Policy", "Purse", "Allowed", "Spent", "Spent after warm-up")
    return SmallTable("Budget", note, head, tuple(rows), 2)


def _unit(run: Run) -> Callable[[float], str]:
    said: Mapping[str, Any] = run.config.get("cloud", {}).get("budget", {})
    for key, form in _UNITS.items():
        if key in said:
            return form
    raise RunError(
        f"{run.path / CONFIG}: [cloud.budget] has none of {', '.join(_UNITS)}, but summary.json tells what was spent; "
        "the two are of different runs, repeat the run"
    )


def _said(value: float | None, form: Callable[[float], str]) -> str:
    return ABSENT if value is None else form(value)
