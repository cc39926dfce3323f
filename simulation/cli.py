"""The command line: `tandemrec COMMAND`. Exit code 2 for a wrong configuration, 1 for anything that failed."""

import json
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from device.errors import ConfigError, RunError, TandemError
from simulation.data_cli import data_app
from simulation.output import AsJson, error_console, flat, print_json, progress_bar

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Simulate device-cloud collaborative recommendation: what a fleet of rerankers gains and costs.",
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data")

# Arguments are explained in the docstrings: click 8.5 forgets the help that typer gives to an argument.
ConfigPath = Annotated[Path, typer.Argument()]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="key.key=value over the file; repeatable. See docs/configuration.md.", show_default=False
    ),
]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of runs, trained models and handouts.")]


def say_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        print(f"tandemrec {metadata.version('tandemrec')}")
        raise typer.Exit


@app.callback()
def tandemrec(
    version: Annotated[
        bool, typer.Option("--version", callback=say_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """What can stand before a command."""


def main() -> None:
    """Entry point; our own errors end in one red message, never in a traceback."""
    sys.path.append(str(Path.cwd()))  # a plug-in is a file beside the configuration; last, so that it hides nothing
    try:
        app()
    except TandemError as error:
        complain(str(error))
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except OSError as error:
        complain(f"{error.filename or 'a file'}: {error.strerror or error}; free space or choose another --runs folder")
        sys.exit(1)


def complain(text: str) -> None:
    """One red line on stderr."""
    error_console.print(f"[bold red]error:[/] {escape(text)}", highlight=False, soft_wrap=True)


def escape(text: str) -> str:
    """Text as it is, for rich."""
    return text.replace("[", r"\[")


@app.command()
def run(
    config: ConfigPath,
    set_: Overrides = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the file's seed.")] = None,
    runner: Annotated[str | None, typer.Option(help="in-process (default) or flower (Ray simulation).")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the policies an interrupted run had replayed.")
    ] = False,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Run one experiment: train what is missing, choose on validation, replay every policy, write the run folder.

    CONFIG: a TOML file, see configs/ and docs/configuration.md.
    """
    from reports.page import write_page
    from reports.tables import terminal_table
    from simulation.config import load_config
    from simulation.launch import launch
    from simulation.runs import Run

    extra = [f"seed={seed}"] if seed is not None else []
    extra += [f'simulation.runner="{runner}"'] if runner else []
    experiment = load_config(config, [*(set_ or []), *extra])
    command = "tandemrec " + " ".join(sys.argv[1:])
    with progress_bar() as (say, advance):
        folder = launch(experiment, runs, say=say, progress=advance, resume=resume, command=command)
        done = Run.open(folder)
        write_page([done], folder / "report.html")
    if as_json:
        print_json(done.summary | {"folder": str(folder)})
    else:
        Console().print(terminal_table([done]))
        Console().print(f"\nrun     {folder}\nreport  {folder / 'report.html'}", highlight=False, soft_wrap=True)


@app.command()
def sweep(
    config: ConfigPath,
    set_: Overrides = None,
    seeds: Annotated[str | None, typer.Option(help="Instead of the seeds of the file, e.g. 1,2,3.")] = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Every policy at every wanted request ratio, for several seeds, with the exact bounds: the trade-off page.

    CONFIG: a TOML file, see configs/tradeoff-ml-1m.toml and docs/configuration.md. What is finished is kept: an
    interrupted sweep goes on where it was.
    """
    from reports.tradeoff_figures import markdown_table
    from reports.tradeoff_page import write_tradeoff_page
    from reports.tradeoff_points import load
    from simulation.sweep import Sweep
    from simulation.sweep_folder import Sweep as Folder
    from simulation.sweep_plan import plans

    extra = [f"sweep.seeds=[{seeds}]"] if seeds else []
    command, made = "tandemrec " + " ".join(sys.argv[1:]), []
    for plan in plans(config, [*(set_ or []), *extra]):
        with progress_bar("policies and bounds") as (say, advance):
            made.append(Sweep(plan, runs, say=say, progress=advance, command=command).run())
            page = write_tradeoff_page(made[-1])
        if not as_json:
            done = Folder.open(made[-1])
            print(markdown_table(load(done), done.measures[0]))
            Console().print(f"sweep   {made[-1]}\npage    {page}", highlight=False, soft_wrap=True)
    if as_json:
        print_json({"folders": [str(one) for one in made], "summaries": [Folder.open(one).summary for one in made]})


@app.command()
def evaluate(config: ConfigPath, set_: Overrides = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """Rank the whole catalogue with single models: the reference table (leave-one-out, with and without seen items).

    CONFIG: a TOML file that lists models, see configs/reference-beauty.toml.
    """
    from simulation.config import check, read_toml
    from simulation.evaluate import EvaluationConfig
    from simulation.evaluate import evaluate as evaluate_models

    with progress_bar() as (say, _):
        folder = evaluate_models(check(read_toml(config, set_ or []), EvaluationConfig, str(config)), runs, say)
    if as_json:
        print_json(json.loads((folder / "results.json").read_text()))
    else:
        print((folder / "results.md").read_text())
        Console().print(f"files   {folder}", highlight=False, soft_wrap=True)


@app.command()
def lag(config: ConfigPath, set_: Overrides = None, runs: Runs = Path("runs"), as_json: AsJson = False) -> None:
    """What a late cloud costs: LSC4Rec's trainings and fusion rules, its lists 0 to 8 items old; writes NAME-lag.

    CONFIG: the file of an experiment, see configs/lag-beauty.toml.
    """
    from simulation.config import load_config
    from simulation.lag_report import lag_report

    experiment = load_config(config, set_ or [])
    with progress_bar() as (say, _):
        folder = lag_report(experiment, runs, say, command="tandemrec " + " ".join(sys.argv[1:]))
    if as_json:
        print_json(json.loads((folder / "results.json").read_text()) | {"folder": str(folder)})
    else:
        print((folder / "results.md").read_text())
        Console().print(f"files   {folder}", highlight=False, soft_wrap=True)


RunPaths = Annotated[list[Path], typer.Argument()]


@app.command()
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

    RUNS: run folders; the policies of the first are what the others' are compared with. Or one sweep folder: its
    policies at equal request ratios.
    """
    from dataclasses import asdict

    from reports.comparison import comparison_table
    from reports.stats import compare_folders

    comparisons = compare_folders(runs, measure, pair=policies, against=against)
    if as_json:
        print_json({"measure": measure, "comparisons": [asdict(one) for one in comparisons]})
    else:
        Console().print(comparison_table(comparisons))


@app.command()
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
    from simulation.sweep_folder import CELLS_FILE

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
    from simulation.sweep_folder import Sweep

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


@app.command()
def check(
    kind: Annotated[str, typer.Argument()],
    path: Annotated[str, typer.Argument()],
    options: Annotated[list[str] | None, typer.Option("--set", help="key=value for its constructor.")] = None,
    as_json: AsJson = False,
) -> None:
    """The conformance kit: tells what is wrong with a plug-in and how to mend it.

    KIND: device-model, policy or generator.

    PATH: package.module:Name or file.py:Name.
    """
    from simulation.conformance import conformance

    findings = conformance(kind, path, options or [])
    bad = [finding for finding in findings if not finding.ok]
    if as_json:
        print_json({"ok": not bad, "findings": [{"name": f.name, "ok": f.ok, "message": f.message} for f in findings]})
    else:
        for finding in findings:
            Console().print(f"[{'green' if finding.ok else 'red'}]{'ok  ' if finding.ok else 'FAIL'}[/] ", end="")
            Console().print(f"{finding.name}: {finding.message}", markup=False, highlight=False, soft_wrap=True)
    if bad:
        raise typer.Exit(1)


@app.command()
def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN")],
    tier: Annotated[str, typer.Option(help="Which tier's reranker.")] = "phone",
    out: Annotated[Path, typer.Option(help="Folder for the ONNX files.")] = Path("onnx"),
    runs: Annotated[Path | None, typer.Option("--runs", help="Folder with the trained models; default: RUN's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a tier's reranker as ONNX (fp32 and int8), checked against torch and timed with onnxruntime.

    RUN: a run folder.
    """
    from simulation.launch import export_tier

    exported = export_tier(run_folder, tier, out, runs or run_folder.resolve().parent).to_dict()
    if as_json:
        print_json(exported)
        return
    for file in exported["files"]:
        print(
            f"{file['path']}: {file['nbytes']:,} bytes, p50 {file['p50_ms']:.3f} ms, p95 {file['p95_ms']:.3f} ms, "
            f"max difference {file['max_difference']:.2g}, top-10 overlap {file['top10_overlap']:.3f}"
        )


@app.command()
def bench(
    name: Annotated[Literal["engine", "scale"], typer.Argument()],
    as_json: AsJson = False,
) -> None:
    """Benchmarks: ratios of times measured side by side in one process.

    NAME: which benchmark.
    """
    from simulation.bench import BENCHMARKS

    with progress_bar() as (say, _):
        result = BENCHMARKS[name](say)
    if as_json:
        print_json(result)
    else:
        for line in flat(result):
            print(line)


@app.command("list")
def list_(
    keys: Annotated[bool, typer.Option("--keys", help="The keys of a configuration instead, as Markdown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Every built-in and installed plug-in with its import path, options and the paper it follows."""
    from rich.table import Table

    from simulation.catalogue import entries, names
    from simulation.reference import reference

    if keys:
        print(reference(), end="")
        return
    found = [*entries(), *names()]
    if as_json:
        print_json({"entries": found})
        return
    table = Table("kind", "class or name, options", "what it is")
    for entry in found:
        table.add_row(entry["kind"], "\n".join([entry["class"], *entry["options"]]), entry["about"])
    Console(width=max(Console().width, 120)).print(table)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """What is wrong with this installation."""
    from simulation.doctor import examine

    findings = examine()
    if as_json:
        print_json({"findings": findings})
    else:
        for finding in findings:
            print(f"{'ok  ' if finding['ok'] else 'BAD '} {finding['what']}: {finding['detail']}")
    if not all(finding["ok"] for finding in findings):
        raise typer.Exit(1)
