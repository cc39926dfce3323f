"""What each tier of a run installs, and what one step costs its devices."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from reports import tables
from simulation.runs import Run

TIERS: Final = "What each tier installs, and what a step costs it"
TIERS_NOTE: Final = (
    "Milliseconds are onnxruntime's on the computer that made this run, scaled by declared and published factors: none "
    "was measured on a phone. Installed is model and item rows, under the policy that installs most. Memory is what is "
    "installed, a state or cached rows beside it, and activations of one step, without the runtime; energy is declared "
    "joules per operation. Activations are those of scoring after the whole history, also where a device goes on from "
    "its state; its milliseconds are unknown. Tiers without a profile, and models without an ONNX file, have no such "
    "figures."
)
_COLUMNS: Final[Sequence[tuple[str, str, Callable[[Any], str]]]] = (
    ("Tier", "tier", str),
    ("Profile", "profile", str),
    ("Subnet", "subnet", str),
    ("Installed", "installed_bytes", tables.size),
    ("State", "state_bytes", tables.size),
    ("Memory", "memory_bytes", tables.size),
    ("MFLOPs / step", "flops", lambda flops: f"{flops / 1e6:.3g}"),
    ("Energy / step", "joules", tables.joules),
    ("p50, scaled", "p50_ms", lambda ms: f"{ms:.3g} ms"),
    ("Fits", "fits", lambda fits: "yes" if fits else "no"),
)


def tier_rows(run: Run) -> list[list[str]]:
    """The table as text, heading first, without columns that no tier fills; empty for one tier without a profile."""
    found: Sequence[Mapping[str, Any]] = run.summary.get("tiers", ())
    if len(found) < 2 and not any("profile" in tier for tier in found):
        return []
    shown = [column for column in _COLUMNS if any(tier.get(column[1]) is not None for tier in found)]
    rows = [[_cell(tier.get(key), form) for _, key, form in shown] for tier in found]
    return [[title for title, *_ in shown], *rows]


def _cell(value: Any, form: Callable[[Any], str]) -> str:
    return tables.ABSENT if value is None else form(value)
