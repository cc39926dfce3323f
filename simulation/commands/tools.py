"""`tandemrec check`, `export`, `bench`, `list` and `doctor`: plug-ins, models and this installation."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from simulation.commands.output import AsJson, flat, four_digits, print_json, progress_bar

tools_app = typer.Typer()


@tools_app.command()
def check(
    kind: Annotated[str, typer.Argument()],
    path: Annotated[str, typer.Argument()],
    options: Annotated[list[str] | None, typer.Option("--set", help="key=value for its constructor.")] = None,
    as_json: AsJson = False,
) -> None:
    """The conformance kit: tells what is wrong with a plug-in and how to mend it.

    KIND: device-model, policy, generator or personalizer.

    PATH: package.module:Name or file.py:Name.

    A personalizer that goes on from a trained model wants one too, as in
    --set model.class=device.models.sasrec:SASRec --set model.width=16
    """
    from simulation.conformance.check import conformance

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


@tools_app.command()
def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN")],
    tier: Annotated[str, typer.Option(help="Which tier's reranker.")] = "phone",
    out: Annotated[Path, typer.Option(help="Folder for the ONNX files.")] = Path("onnx"),
    runs: Annotated[Path | None, typer.Option("--runs", help="Folder with the trained models; default: RUN's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a tier's reranker as ONNX (fp32 and int8), checked against torch and timed with onnxruntime.

    RUN: a run folder.

    fp32.onnx is larger than the installation of a run with runtime = "torch",
    for it also holds the graph and the item table in full. Both are printed.
    """
    from simulation.launch import export_beside

    files, nbytes = export_beside(run_folder, tier, out, runs or run_folder.resolve().parent)
    exported = files.to_dict() | {"installed_bytes": nbytes}
    if as_json:
        print_json(exported)
        return
    for file in exported["files"]:
        print(
            f"{file['path']}: {file['nbytes']:,} bytes, p50 {file['p50_ms']:.3f} ms, p95 {file['p95_ms']:.3f} ms, "
            f"max difference {file['max_difference']:.2g}, top-10 overlap {file['top10_overlap']:.3f}"
        )
    print(
        f"A device of tier {tier!r} installs {nbytes:,} bytes in this run, fp32.onnx has "
        f"{exported['files'][0]['nbytes']:,}: an ONNX file also holds the graph, and the item table in full."
    )


@tools_app.command()
def bench(
    name: Annotated[Literal["engine", "scale", "devices"], typer.Argument()],
    as_json: AsJson = False,
) -> None:
    """Benchmarks: times measured side by side on this machine; their ratios are what can be told to others.

    NAME: which benchmark, `engine`, `scale` or `devices`.

    engine: a whole run of 4,000 devices against the bare forward passes of
    its reranker. `ratio_run_to_bare` is 1 where all the rest costs nothing.

    scale: whole runs over 1,000, 10,000 and 100,000 devices, each in its own
    process: seconds, microseconds per step, peak memory. `exponent` is 1
    where time grows as the number of devices.

    devices: rerankers that go on from a state against those that read the
    whole history again (`ratio` at the best batch of each, `ratio_in_fleet`
    in calls of 64), and devices with masks of their own in one batch against
    a loop over them (`personal`).

    Shown with four significant digits, exact with --json.
    """
    from simulation.bench.engine import BENCHMARKS

    with progress_bar() as (say, _):
        result = BENCHMARKS[name](say)
    if as_json:
        print_json(result)
    else:
        for line in flat(result, shown=four_digits):
            print(line)


@tools_app.command("list")
def list_(
    keys: Annotated[bool, typer.Option("--keys", help="The keys of a configuration instead, as Markdown.")] = False,
    as_json: AsJson = False,
) -> None:
    """Every built-in and installed plug-in with its import path, options and the paper it follows.

    A personalizer also with the device models that it goes on from.
    """
    from rich.table import Table

    from simulation.commands.catalogue import entries, names
    from simulation.config.reference import reference

    if keys:
        print(reference(), end="")
        return
    found = [*entries(), *names()]
    if as_json:
        print_json({"entries": found})
        return
    table = Table("kind", "class or name, options", "what it is")
    for entry in found:
        on = f"\n\nGoes on from \\[device.model] of {' or '.join(entry['models'])}." if entry["models"] else ""
        table.add_row(entry["kind"], "\n".join([entry["class"], *entry["options"]]), entry["about"] + on)
    Console(width=max(Console().width, 120)).print(table)


@tools_app.command()
def doctor(as_json: AsJson = False) -> None:
    """What is wrong with this installation."""
    from simulation.commands.doctor import examine

    findings = examine()
    if as_json:
        print_json({"findings": findings})
    else:
        for finding in findings:
            print(f"{'ok  ' if finding['ok'] else 'BAD '} {finding['what']}: {finding['detail']}")
    if not all(finding["ok"] for finding in findings):
        raise typer.Exit(1)
