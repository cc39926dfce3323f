"""report.html: one self-contained page that opens from disk and asks the network for nothing."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, UndefinedError
from markupsafe import Markup

from device.errors import RunError
from reports import figures, tables
from reports.holdings import HOLDINGS, HOLDINGS_NOTE, holding_rows, holdings
from reports.html import asset, content_policy, data_uri, write_whole
from reports.palette import COLOURS
from reports.shares import small_tables
from reports.tables import Column, Line
from reports.tiers import TIERS, TIERS_NOTE, tier_rows
from simulation.runs import CONFIG, SUMMARY, Run

_GLOSSARY = {
    "Unit": "One user is one device. Measures are averaged over each user's replayed steps first, then over users.",
    "Split": "The last interactions of every user are replayed one by one; everything learnt comes from before them.",
    "Candidates": "The items ranked at a step are the pool the device holds at that moment, with its own candidates "
    "where the policy adds any. A target outside them counts as 0, so pool recall is the ceiling of every measure; “in "
    "pool” leaves those steps out.",
    "Seen-filter": "Whether items of the user's own history may be shown is said by the configuration below.",
    "Ties": "Equal scores count with the expected value under a random order of the tied items.",
    "Request ratio": "Steps that ended with a request, divided by all steps.",
    "Bytes": "Exact lengths of the encoded messages, counted once at the gateway; lost messages were sent and count.",
    "Installation": "The device model and the first list, sent once before the first step. Counted, but apart from the "
    "bytes per step.",
    "Latency": "Virtual seconds from a request until its reply is usable; until then the device ranks the pool it has.",
    "Pool age": "Steps between the history a pool was made from and the step that ranks it.",
    "Intervals": "95 %, Student's t over users. Differences are paired by user against the baseline; p values are "
    "Holm-corrected over the policies.",
}


def write_page(runs: Sequence[Run], target: Path) -> Path:
    """Writes the page of one or several runs to `target`, whole or not at all; RunError when it cannot."""
    return write_whole(target, render(runs))


def render(runs: Sequence[Run]) -> str:
    """The page as HTML text; RunError for no run or for runs without a common measure."""
    measure, lines = tables.headline(runs), tables.lines(runs)
    css, script = (asset(name) for name in ("page.css", "page.js"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    content = {
        "csp": content_policy(css, script),
        "css": Markup(css),
        "script": Markup(script),
        "title": ", ".join(_title(run) for run in runs),
        "facts": _facts(runs, lines),
        "figures": _figures(lines, measure),
        "table": _table(runs, lines),
        "differences": _differences(lines),
        "shares": small_tables(lines),
        "runs": [_about(run, tables.letter(i) if len(runs) > 1 else "") for i, run in enumerate(runs)],
    }
    try:
        return environment.from_string(asset("page.jinja")).render(content)
    except UndefinedError as error:
        names = ", ".join(str(run.path / SUMMARY) for run in runs)
        raise RunError(f"{names}: {error} in examples or leakage; see simulation.summary.summarise for keys") from error


def _title(run: Run) -> str:
    return str(run.config.get("name", run.name))


def _facts(runs: Sequence[Run], lines: Sequence[Line]) -> list[tuple[str, str]]:
    seeds = sorted({str(run.config["seed"]) for run in runs if "seed" in run.config})
    lost = sum(sum(line.numbers["lost_messages"].values()) for line in lines)
    data = sorted({str(run.summary["data"]["name"]) for run in runs if "name" in run.summary.get("data", {})})
    facts = [
        *([("data", ", ".join(data))] if data else []),
        ("users", _range([line.numbers["users"] for line in lines])),
        ("steps per policy", _range([line.numbers["steps"] for line in lines])),
        ("policies", str(len({line.policy for line in lines}))),
        ("messages lost", f"{lost:,}"),
        ("baseline", ", ".join(sorted({str(run.summary["baseline"]) for run in runs}))),
    ]
    return [*facts, ("seed", ", ".join(seeds))] if seeds else facts


def _range(values: list[int]) -> str:
    low, high = min(values, default=0), max(values, default=0)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _figures(lines: Sequence[Line], measure: str) -> list[dict[str, str]]:
    name = measure.upper()
    drawn = [
        (
            figures.trade_off(lines, measure),
            f"{name} against bytes",
            "Up and to the left is better. Bars are 95 % intervals over users; the shaded stretch of the axis is "
            "linear so that 0 bytes has a place.",
        ),
        *([_difference_figure(lines, measure)] if any(line.difference for line in lines) else []),
        (figures.along_steps(lines, measure), f"{name} along the steps", "Bands are 95 % intervals over devices."),
        (
            figures.requests_along_steps(lines),
            "Requests along the steps",
            "Share of devices that ended the step with a request.",
        ),
        (figures.latency(lines), "Latency of replies", "Lost replies never become usable and are not in the curve."),
        (
            figures.bytes_by_kind(lines),
            "Bytes by kind",
            "Left: traffic of the replay. Right: what every device received once before it.",
        ),
    ]
    return [{"src": data_uri(svg), "title": title, "note": note} for svg, title, note in drawn]


def _difference_figure(lines: Sequence[Line], measure: str) -> tuple[str, str, str]:
    return (
        figures.differences(lines, measure),
        "Difference to the baseline",
        "Each user is compared with itself. A bar that does not touch the line differs at the 5 % level, before "
        "correction for several policies.",
    )


def _table(runs: Sequence[Run], lines: Sequence[Line]) -> dict[str, Any]:
    shown = tables.columns(runs)
    rows = [
        {
            "label": line.short,
            "colour": i % len(COLOURS),
            "cells": [_cell(column, line) for column in shown],
        }
        for i, line in enumerate(lines)
    ]
    return {"titles": [column.title for column in shown], "rows": rows}


def _cell(column: Column, line: Line) -> dict[str, Any]:
    text, bracket, interval = column.text(line).partition(" [")
    return {"sort": column.value(line), "text": text, "interval": bracket.strip() + interval}


def _differences(lines: Sequence[Line]) -> list[dict[str, str]]:
    return [
        {
            "policy": line.short,
            "against": str(line.run.summary["baseline"]),
            "measure": measure.upper(),
            "difference": tables.with_interval(d, sign="+"),
            "d_z": tables.ABSENT if d["d_z"] is None else f"{d['d_z']:+.2f}",
            "p": tables.probability(d["p_holm"]),
            "n": f"{d['n']:,}",
        }
        for line in lines
        for measure, d in line.difference.items()
    ]


def _about(run: Run, letter: str) -> dict[str, Any]:
    protocol = {str(word).capitalize(): str(text) for word, text in run.summary.get("protocol", {}).items()}
    held = holdings(run.config, run.path / CONFIG)
    return {
        "name": run.name,
        "letter": letter,
        "command": run.summary.get("command"),
        "leakage": run.summary.get("leakage", []),
        "examples": run.summary.get("examples", []),
        "tables": [
            titled
            for titled in ((HOLDINGS, HOLDINGS_NOTE, holding_rows(held, held)), (TIERS, TIERS_NOTE, tier_rows(run)))
            if titled[2]
        ],
        "glossary": _GLOSSARY | protocol,
        "config": run.config_toml,
        "env": json.dumps(run.env, indent=2, ensure_ascii=False),
    }
