"""`tandemrec compare` and `tandemrec report`: what reads finished run and sweep folders."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from device.errors import RunError
from simulation.commands.output import AsJson, print_json

reading_app = typer.Typer()
RunPaths = Annotated[list[Path], typer.Argument()]


@reading_app.command()
def compare(
    runs: RunPaths,
    measure: Annotated[str, typer.Option(help="Which measure.")] = "ndcg@10",
    policies: Annotated[
        tuple[str, str] | None,
        typer.Option(help="The first minus the second; of two runs, that of the second run.", show_default=False),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(help="All others minus this policy of the first run or of the sweep.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Paired differences between policies, per user, with intervals and Holm's correction.

    RUNS: run folders; of one, all policies minus its baseline; of several, those of the others minus the policies of
    the same name of the first. Or one sweep folder: its policies at equal request ratios.
    """
    from dataclasses import asdict

    from reports.comparison import between_runs, comparison_table
    from reports.stats import compare_folders

    comparisons = compare_folders(runs, measure, pair=policies, against=against)
    if len(runs) > 1 and not policies and against is None:
        comparisons = between_runs(comparisons)
    if as_json:
        print_json({"measure": measure, "comparisons": [asdict(one) for one in comparisons]})
    else:
        Console().print(comparison_table(comparisons))


@reading_app.command()
def report(
    runs: RunPaths,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The page to write. Default: report.html in the run, tradeoff.html in the sweep; of several runs, "
            "report-FIRST-N.html beside them."
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the result table instead, as Markdown.")] = False,
    measure: Annotated[
        str | None, typer.Option(help="With --markdown, of a sweep: which measure. Default: the sweep's first.")
    ] = None,
) -> None:
    """Rebuild report.html from the files of a run, or write one page about several; tradeoff.html of a sweep.

    RUNS: run folders, in the order in which they shall appear. Or one sweep folder.
    """
    from reports.page import write_page
    from reports.tables import markdown_table
    from simulation.runs import Run

    swept = only_sweep(runs)
    if measure is not None and not (swept and markdown):
        raise RunError("report: --measure is for the Markdown table of a sweep; the pages show every measure")
    if swept:
        report_sweep(swept, out, measure, markdown=markdown)
        return
    if markdown:
        print(markdown_table([Run.open(path) for path in runs]), end="")
        return
    target = out or default_page(runs)
    write_page([Run.open(path) for path in runs], target)
    print(target)


def only_sweep(folders: Sequence[Path]) -> Path | None:
    """The sweep folder that is named, None for runs; RunError for a sweep beside other folders."""
    from simulation.sweep.folder import CELLS_FILE

    sweeps = [path for path in folders if (path / CELLS_FILE).is_file()]
    if sweeps and len(folders) > 1:
        raise RunError(
            f"report: {sweeps[0]} is a sweep and {len(folders)} folders are named; name one sweep alone, or runs only"
        )
    return sweeps[0] if sweeps else None


def report_sweep(folder: Path, out: Path | None, measure: str | None, *, markdown: bool) -> None:
    """Write the page of a sweep, or print its table; RunError for a measure that it lacks."""
    from reports.html import write_whole
    from reports.tradeoff_figures import markdown_table
    from reports.tradeoff_page import render, write_tradeoff_page
    from reports.tradeoff_points import load
    from simulation.sweep.folder import Sweep

    done = Sweep.open(folder)
    if measure is not None and measure not in done.measures:
        raise RunError(f"{folder}: measure {measure!r} was not computed; it has {', '.join(done.measures)}")
    if markdown:
        print(markdown_table(load(done), measure or done.measures[0]), end="")
    else:
        print(write_whole(out, render(done, load(done))) if out else write_tradeoff_page(folder))


def default_page(runs: Sequence[Path]) -> Path:
    """A run's own page, or a page of its own for several runs in the folder that holds them all."""
    if len(runs) == 1:
        return runs[0] / "report.html"
    folders = [path.resolve() for path in runs]
    return (
        Path(os.path.commonpath([folder.parent for folder in folders])) / f"report-{folders[0].name}-{len(runs)}.html"
    )
