"""What commands print: JSON, plain lines, progress, errors and warnings."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

error_console = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, progress on stderr.")]


@contextmanager
def progress_bar(unit: str = "waves") -> Iterator[tuple[Callable[[str], None], Callable[[str, int, int], None]]]:
    """(say, progress) on stderr: lines above a bar with the estimated time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}, left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=error_console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def say(line: str) -> None:
            bar.console.print(line, markup=False, highlight=False, soft_wrap=True)

        def advance(policy: str, done: int, total: int) -> None:
            if policy not in tasks:
                tasks[policy] = bar.add_task(policy, total=total)
            bar.update(tasks[policy], completed=done)

        yield say, advance


def complain(text: str, kind: str = "error") -> None:
    """One paragraph on stderr: in red, or a warning in yellow."""
    colour = "bold red" if kind == "error" else "yellow"
    error_console.print(f"[{colour}]{kind}:[/] {escape(text)}", highlight=False, soft_wrap=True)


def warn(lines: Iterable[str]) -> None:
    """What is legal and likely not meant, a paragraph each."""
    for line in lines:
        complain(line, "warning")


def escape(text: str) -> str:
    """Text as it is, for rich."""
    return text.replace("[", r"\[")


def print_json(content: Any) -> None:
    """One JSON object on stdout; numbers that are not finite become null."""
    from simulation.runs import to_json

    sys.stdout.write(to_json(content) + "\n")


def flat(content: Any, path: str = "", shown: Callable[[Any], str] | None = None) -> list[str]:
    """`a.b: value` lines of nested mappings; `shown` writes a value; without it large ones, times, stay whole."""
    if isinstance(content, dict):
        return [line for k, v in content.items() for line in flat(v, f"{path}.{k}" if path else str(k), shown)]
    if shown is None and isinstance(content, float):
        return [f"{path}: {content:.4g}" if abs(content) < 10_000 else f"{path}: {content:.15g}"]
    return [f"{path}: {content if shown is None else shown(content)}"]


def four_digits(value: Any) -> str:
    """A measured number with four significant digits, `81,230` or `0.01234`; counts, which are whole, as they are."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    rounded = float(f"{value:.4g}") if isinstance(value, float) else value
    return f"{rounded:,.15g}" if isinstance(value, int) or abs(rounded) >= 1000 else f"{rounded:.4g}"
