"""What `tandemrec devices` prints: three tables that fit a terminal, of the numbers of summary.json."""

from typing import Any

import pytest
from rich.console import Console

from reports.devices_table import scaled, terminal_tables


def method(name: str, gain: float | None = None, **more: Any) -> dict[str, Any]:
    """One of summary.json; intervals reach 0.002 to each side."""
    cell: dict[str, Any] = {"mean": 0.1234, "low": 0.1214, "high": 0.1254}
    if gain is not None:
        cell["gain"] = {"mean": gain, "low": gain - 0.001, "high": gain + 0.001, "p_holm": 0.0004}
    costs = {"update_bytes": 0.0, "installed_bytes": 1_581_940.0, "parameters": 395_392.0, "flops": 222_592.0}
    rest: dict[str, Any] = {"patch_flops": None, "subnets": [], "speed": {"reason": "no profiles were asked for"}}
    others = {"hr@10": {"mean": 0.25}, "user-auc": {"mean": 0.75}}
    return {"name": name, "ndcg@10": cell, **others, **costs, **rest, **more}


def shown(*methods: dict[str, Any], width: int = 80) -> list[str]:
    """The lines of a terminal."""
    found = {"seeds": [1, 2], "users": 22_363, "baseline": "shared", "lists with target": 0.107, "methods": methods}
    console = Console(width=width)
    with console.capture() as caught:
        console.print(terminal_tables(found, "table.md"))
    lines = caught.get().splitlines()
    assert max(map(len, lines)) <= width
    return [" ".join(line.split()) for line in lines]


def test_accuracy_with_the_gain_over_the_baseline() -> None:
    lines = shown(method("shared"), method("[odd] name", -0.003))
    assert lines[0] == "22,363 users, seeds 1, 2; lists hold the target at 10.7 % of a user's steps"
    assert "Method NDCG@10 − baseline p (Holm) HR@10 user-AUC" in lines
    assert "shared 0.1234 ±0.0020 – – 0.2500 0.7500" in lines
    assert "[odd] name 0.1234 ±0.0020 -0.0030 ±0.0010 < 0.001 0.2500 0.7500" in lines
    assert "minus shared, paired by user" in " ".join(lines)
    assert lines[-1].endswith("table.md")


def test_columns_that_say_nothing_are_left_out() -> None:
    lines = shown(method("shared"))
    assert "Method Installed FLOPs Parameters" in lines
    assert "shared 1.6 MB 223 k 395 k" in lines
    assert "No milliseconds: no profiles were asked for." in lines
    personal = method("masks", 0.001, update_bytes=264.0, patch_flops=1.2e6)
    small = method("small", 0.001, subnets=["w8-b1-e8-int8", "w8-b1-e8-int8", "w16-b1-e8"])
    lines = shown(method("shared"), personal, small, width=100)
    assert "Method Subnet Installed Update FLOPs of an update Parameters" in lines
    assert "masks – 1.6 MB 264 B 223 k 1.2 M 395 k" in lines
    assert "small w8-b1-e8-int8, w16-b1-e8 1.6 MB – 223 k – 395 k" in lines


def test_milliseconds_here_and_scaled() -> None:
    speed = {"p50_ms": 0.12345, "tiers": {"entry": {"p50_ms": 1.5}, "old": {"p50_ms": 22.25}}}
    lines = shown(method("shared", speed=speed), method("file", 0.001, speed={"reason": "no torch module"}))
    assert "Method ms here entry* old*" in lines
    assert "shared 0.123 1.5 22.2" in lines
    assert "file – – –" in lines
    assert "No milliseconds of file: no torch module." in lines


@pytest.mark.parametrize(
    ("value", "told"), [(None, "–"), (0, "0"), (999, "999"), (999.6, "1 k"), (1_261_440, "1.26 M"), (2.5e13, "25 T")]
)
def test_counts_have_three_digits(value: float | None, told: str) -> None:
    assert scaled(value) == told
