"""`tandemrec data ...`: look at and convert interaction files."""

from pathlib import Path
from typing import Annotated

import typer

from simulation.commands.output import AsJson, flat, print_json

data_app = typer.Typer(no_args_is_help=True, help="Look at and convert interaction files.")


@data_app.command("inspect")
def data_inspect(
    path: Path, format_: Annotated[str, typer.Option("--format")] = "auto", as_json: AsJson = False
) -> None:
    """What a data file holds: counts, times, lengths, leakage of a leave-one-out split.

    PATH: a file or folder of interactions in any supported format.
    """
    from simulation.data.convert import inspect
    from simulation.protocol import leakage

    found = inspect(path, format=format_)
    if as_json:
        print_json(found)
        return
    audit = found.pop("audit")
    print("\n".join(flat(found)))
    print(f"\nHow far a test could be trusted, split {audit['split']}, {audit['test_events']} test events:")
    for one in leakage(audit):
        verdict = "not known" if one["passed"] is None else "ok" if one["passed"] else "look out"
        print(f"  {verdict:<9} {one['detail']}: {one['check']}")


@data_app.command("convert")
def data_convert(
    path: Path,
    target: Path,
    format_: Annotated[str, typer.Option("--format")] = "auto",
    k_core: Annotated[int, typer.Option(help="Keep users and items with at least k interactions.")] = 0,
    min_rating: Annotated[float | None, typer.Option(help="Keep interactions rated at least this.")] = None,
    seed: int = 0,
) -> None:
    """Write the canonical Parquet files of any supported format.

    PATH: a file or folder of interactions. TARGET: the folder to make, which must not be there yet.
    """
    from simulation.data.convert import convert

    print(convert(path, target, seed=seed, format=format_, k_core=k_core, min_rating=min_rating))
