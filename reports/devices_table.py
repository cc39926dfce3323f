"""What `tandemrec devices` shows in a terminal, of its summary.json: accuracy, bytes and operations, milliseconds."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from reports.tables import ABSENT, decimal, percent, plus_minus, probability, size

MAIN, OTHERS = "ndcg@10", {"hr@10": "HR@10", "user-auc": "user-AUC"}
ABOUT = (
    "±: half the 95 % interval over users. Update: bytes of one encoded patch. FLOPs: of ranking one list; of one "
    "update in the cloud. ms: median of one list with onnxruntime, one thread, measured here; *: scaled from it to a "
    "kind of phone, not measured on one. More, and what all of it is measured on: "
)


def terminal_tables(found: Mapping[str, Any], file: str) -> Group:
    """The methods of a comparison for a rich console, every table within 80 characters where names are short.

    Less than table.md shows: gains and intervals of NDCG@10 only, the latter as ± half width.

    Args:
        found: the object of summary.json.
        file: where all of it stands, named below.
    """
    methods: Sequence[Mapping[str, Any]] = found["methods"]
    seeds = ", ".join(map(str, found["seeds"]))
    listed = percent(found["lists with target"])
    told = f"{found['users']:,} users, seeds {seeds}; lists hold the target at {listed} of a user's steps"
    note = f"− baseline: minus {found['baseline']}, paired by user; p after Holm. " + ABOUT + file
    parts = [accuracy(methods), expenses(methods), *times(methods)]
    return Group(Text(told), *parts, *map(Text, unmeasured(methods)), Text(note, style="dim"))


def accuracy(methods: Sequence[Mapping[str, Any]]) -> Table:
    """Measures, and the gain of the first over the baseline."""
    rows = []
    for one in methods:
        gain = one[MAIN].get("gain")
        gained = [plus_minus(gain, sign="+"), probability(gain["p_holm"])] if gain else [ABSENT, ABSENT]
        rows.append([plus_minus(one[MAIN]), *gained, *(decimal(one[name]["mean"]) for name in OTHERS)])
    return table(["NDCG@10", "− baseline", "p (Holm)", *OTHERS.values()], methods, rows)


def expenses(methods: Sequence[Mapping[str, Any]]) -> Table:
    """Bytes, operations, parameters; which subnets. Columns that say nothing of any method are left out."""
    columns = {
        "Subnet": [", ".join(dict.fromkeys(one.get("subnets", []))) or ABSENT for one in methods],
        "Installed": [size(one["installed_bytes"]) for one in methods],
        "Update": [size(one["update_bytes"]) if one["update_bytes"] else ABSENT for one in methods],
        "FLOPs": [scaled(one["flops"]) for one in methods],
        "of an update": [scaled(one["patch_flops"]) for one in methods],
        "Parameters": [scaled(one["parameters"]) for one in methods],
    }
    told = {head: cells for head, cells in columns.items() if set(cells) != {ABSENT}}
    return table(list(told), methods, list(zip(*told.values(), strict=True)))


def times(methods: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Milliseconds here and on kinds of phones; nothing where none were asked for."""
    costs = [one["speed"] for one in methods]
    profiles = list(dict.fromkeys(name for cost in costs for name in cost.get("tiers", {})))
    if not profiles:
        return []
    rows = [
        [
            milliseconds(cost.get("p50_ms")),
            *(milliseconds(cost.get("tiers", {}).get(name, {}).get("p50_ms")) for name in profiles),
        ]
        for cost in costs
    ]
    return [table(["ms here", *(f"{name}*" for name in profiles)], methods, rows)]


def unmeasured(methods: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why methods have no milliseconds, one line per reason."""
    reasons: dict[str, list[str]] = {}
    for one in methods:
        if "reason" in one["speed"]:
            reasons.setdefault(one["speed"]["reason"], []).append(one["name"])
    return [
        f"No milliseconds{'' if len(names) == len(methods) else ' of ' + ', '.join(names)}: {reason}."
        for reason, names in reasons.items()
    ]


def table(heads: Sequence[str], methods: Sequence[Mapping[str, Any]], rows: Sequence[Sequence[str]]) -> Table:
    """One line per method; only its name gives way where the window is narrow."""
    made = Table(header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    made.add_column("Method", overflow="fold")
    for head in heads:
        made.add_column(escape(head), justify="right", no_wrap=head != "Subnet", overflow="fold")
    for one, row in zip(methods, rows, strict=True):
        made.add_row(escape(one["name"]), *map(escape, row))
    return made


def scaled(value: float | None) -> str:
    """A count with three digits and a decimal prefix: `22.2 k`, `1.26 M`."""
    if value is None:
        return ABSENT
    for unit in ("", " k", " M", " G"):
        if abs(value) < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g} T"


def milliseconds(value: float | None) -> str:
    """Three digits."""
    return ABSENT if value is None else f"{value:.3g}"
