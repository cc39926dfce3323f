"""The command line: `tandemrec COMMAND`. Exit code 2 for a wrong configuration, 1 for anything that failed."""

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from device.errors import ConfigError, TandemError
from simulation.commands.data import data_app
from simulation.commands.output import AsJson, complain, print_json, progress_bar, warn
from simulation.commands.reading import reading_app
from simulation.commands.tools import tools_app

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Simulate device-cloud collaborative recommendation: what a fleet of rerankers gains and costs.",
    pretty_exceptions_enable=False,
)
app.add_typer(reading_app)
app.add_typer(tools_app)
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
    from simulation.commands.advice import unpriced
    from simulation.config.read import load_config
    from simulation.launch import launch
    from simulation.runs import Run

    extra = [f"seed={seed}"] if seed is not None else []
    extra += [f'simulation.runner="{runner}"'] if runner else []
    experiment = load_config(config, [*(set_ or []), *extra])
    warn(unpriced(experiment))
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
    from simulation.commands.advice import seeds_override, unswept
    from simulation.sweep.folder import Sweep as Folder
    from simulation.sweep.plan import plans
    from simulation.sweep.sweep import Sweep

    planned = plans(config, [*(set_ or []), *([] if seeds is None else [seeds_override(seeds)])])
    warn(unswept(planned[0]))
    command, made = "tandemrec " + " ".join(sys.argv[1:]), []
    for plan in planned:
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
    from simulation.evaluate import evaluate as evaluate_models
    from simulation.evaluate import load_evaluation

    wanted = load_evaluation(config, set_ or [])
    with progress_bar() as (say, _):
        folder = evaluate_models(wanted, runs, say)
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
    from simulation.config.read import load_config
    from simulation.lag.report import lag_report

    experiment = load_config(config, set_ or [])
    with progress_bar() as (say, _):
        folder = lag_report(experiment, runs, say, command="tandemrec " + " ".join(sys.argv[1:]))
    if as_json:
        print_json(json.loads((folder / "results.json").read_text()) | {"folder": str(folder)})
    else:
        print((folder / "results.md").read_text())
        Console().print(f"files   {folder}", highlight=False, soft_wrap=True)


@app.command()
def devices(
    config: ConfigPath,
    set_: Overrides = None,
    seeds: Annotated[str | None, typer.Option(help="Instead of the seeds of the file, e.g. 1,2,3.")] = None,
    runs: Runs = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Device methods over the same lists, paired per user: accuracy, bytes, operations, milliseconds.

    CONFIG: a TOML file that lists methods, see configs/devices-beauty.toml. Writes NAME-HASH-devices.
    """
    from reports.devices_table import terminal_tables
    from simulation.commands.advice import seeds_override
    from simulation.config.study import load_study
    from simulation.devices.report import devices_report

    more = [] if seeds is None else [seeds_override(seeds).removeprefix("sweep.")]
    study = load_study(config, [*(set_ or []), *more])
    with progress_bar() as (say, _):
        folder = devices_report(study, runs, say, command="tandemrec " + " ".join(sys.argv[1:]))
    found = json.loads((folder / "summary.json").read_text())
    if as_json:
        print_json(found | {"folder": str(folder)})
    else:
        Console().print(terminal_tables(found, "table.md"))
        Console().print(f"\nfiles   {folder}", highlight=False, soft_wrap=True)
