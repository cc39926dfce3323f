"""The conformance kit behind `tandemrec check`: what is wrong with a plug-in, and how to mend it."""

import importlib.util
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from cloud.generator import as_generator, check_lists, lists_at
from cloud.sequences import Sequences
from cloud.stream import Listens
from device.check import Finding, check_device_model
from device.errors import ConfigError, ContractError, TandemError
from device.seeds import draws, rng
from simulation.build import BACKBONE, build, goes_on_from, hint, imported
from simulation.config.parts import Plugin
from simulation.config.read import apply, check
from simulation.conformance.learning import beginning
from simulation.conformance.made_up import CANDIDATES, LENGTH, N_ITEMS, ROWS
from simulation.conformance.personalizers import personalizer
from simulation.conformance.policies import finding, named, policy
from simulation.conformance.streams import ASKED_AT, clicks, hearing
from simulation.conformance.traits import traits
from simulation.shelf import built


def conformance(kind: str, path: str, options: Sequence[str]) -> list[Finding]:
    """Findings about the plug-in at `package.module:Name` or `file.py:Name`; ConfigError when it cannot be made.

    A method that goes on from a model gets one of `model.class` and its options, `model.width` and so on.
    """
    kinds = {"device-model": device_model, "policy": policy, "generator": generator, "personalizer": personalizer}
    if kind not in kinds:
        raise ConfigError(f"check {kind}: unknown kind{hint(kind, kinds)}")
    tables: dict[str, Any] = {}
    for option in options:
        apply(tables, option)
    sizes, where = {"n_items": N_ITEMS, "length": LENGTH}, f"check {kind}"
    if "class" in tables:
        raise ConfigError(f"{where}: --set class={tables['class']}: {path} is what is checked; take the option out")
    path = importable(path)
    backbone = backbone_of(path, tables.pop("model", None), sizes) if kind == "personalizer" else None
    plugin = Plugin.model_validate({"class": path, **tables})
    made = built(plugin, where, sizes, backbone)
    findings = kinds[kind](made)
    if isinstance(made, nn.Module) and isinstance(backbone, nn.Module) and plugin.options.get("pretrained", True):
        findings.append(beginning(made, backbone))
    return findings


def backbone_of(path: str, table: Any, sizes: dict[str, int]) -> Any:
    """The untrained model that a method goes on from, of the options `model.*`; None where it takes none.

    ConfigError that says which option to add where it is lacking or of another class.
    """
    where = "check personalizer"
    found = goes_on_from(imported(path, where))
    cure = " or ".join(f"--set model.class={one}" for one in found.paths or ["package.module:Name"])
    if table is None and not found.needed:
        return None
    if table is not None and not found.classes:
        raise ConfigError(f"{where}: {path} takes no {' or '.join(BACKBONE)}; take --set model out")
    if not isinstance(table, dict) or "class" not in table:
        raise ConfigError(f"{where}: {path} goes on from a trained model; add {cure}")
    on = check(table, Plugin, f"{where}: --set model")
    made = build(importable(on.class_), on.options, f"{where}: --set model", **sizes)
    for name in found.classes:
        if wanted := found.other_than(made, name):
            raise ConfigError(f"{where}: {path} goes on from {wanted}, found {type(made).__name__}; use {cure}")
    return made


def importable(path: str) -> str:
    """An import path; a file's module is loaded under its own name first."""
    file, _, name = path.rpartition(":")
    if not file.endswith(".py"):
        imported(path, "check")
        return path
    if not Path(file).is_file():
        raise ConfigError(f"check: {file}: no such file")
    module = Path(file).stem
    spec = importlib.util.spec_from_file_location(module, file)
    assert spec is not None  # a .py file has a spec
    assert spec.loader is not None  # and a loader
    sys.modules[module] = importlib.util.module_from_spec(spec)
    sys.path.append(str(Path(file).resolve().parent))  # for the modules beside it
    try:
        spec.loader.exec_module(sys.modules[module])
    except Exception as error:
        raise ConfigError(f"check: {file} cannot be imported: {type(error).__name__}: {error}") from error
    return f"{module}:{name}"


def device_model(made: Any) -> list[Finding]:
    """Every finding of `device.check`, and where there is none of a mistake, those about the traits it has.

    A model with `fit` that is no torch module is fitted first, as an experiment would.
    """
    if hasattr(made, "fit") and not isinstance(made, nn.Module):
        try:
            made.fit(lived())
        except Exception as error:
            cure = "fit(sequences) gets cloud.sequences.Sequences: items, starts and ends"
            return [Finding("fit", False, f"raised {named(error)}; {cure}")]
    findings = list(check_device_model(made, n_items=N_ITEMS, length=LENGTH, candidates=CANDIDATES).findings)
    return findings + (traits(made) if all(found.ok for found in findings) else [])


def lived() -> Sequences:
    """Twenty users of ten interactions each."""
    items = rng(0, "conformance").integers(1, N_ITEMS + 1, 200).astype(np.int32)
    ends = np.arange(10, 201, 10)
    return Sequences(items, ends - 10, ends)


def generator(made: Any) -> list[Finding]:
    """Shapes, numbers, ids, order, repeatability and costs of the lists."""
    if hasattr(made, "fit"):
        made.fit(lived())
    if isinstance(made, Listens):
        made.listen(clicks())
    try:
        made = as_generator(made, n_items=N_ITEMS, length=LENGTH)
    except ContractError as error:
        return [Finding("method", False, str(error))]
    histories = rng(0, "conformance", "histories").integers(1, N_ITEMS + 1, (ROWS, LENGTH)).astype(np.int32)
    streams = draws(0, "generator", np.arange(ROWS), np.zeros(ROWS, np.int64))
    try:
        ask = partial(lists_at, made, histories, CANDIDATES, at=np.full(ROWS, ASKED_AT), rng=streams)
        first, again = ask(), ask()
        check_lists(made, first, rows=ROWS, pool=CANDIDATES, n_items=N_ITEMS)
    except TandemError as error:
        return [Finding("lists", False, str(error))]
    except Exception as error:
        return [Finding("runs", False, f"generate raised {type(error).__name__}: {error}")]
    lists = first.items
    distinct = all(len(set(row[row > 0])) == (row > 0).sum() for row in lists)
    in_range = bool(((lists >= 0) & (lists <= N_ITEMS)).all())
    ordered = bool((np.diff(first.scores, axis=1)[lists[:, 1:] > 0] <= 0).all())
    costs = first.flops is not None or first.seconds is not None
    return [
        Finding("lists", True, f"[{ROWS}, {CANDIDATES}] finite"),
        finding("ids", in_range, "all in the catalogue", f"item ids outside 0..{N_ITEMS}; 0 marks an empty place"),
        finding("distinct", distinct, "no item twice in a list", "a list holds an item twice; drop duplicates"),
        finding("order", ordered, "best first", "scores rise along a list; sort it, best first"),
        finding(
            "repeatable",
            np.array_equal(lists, again.items) and np.array_equal(first.scores, again.scores),
            "the same request gives the same list",
            "two calls with the same rng differ; take random numbers from `rng`",
        ),
        finding("cost", costs, "says what a list costs", "neither flops nor seconds; say what a list costs"),
        *hearing(made, first, ask),
    ]
