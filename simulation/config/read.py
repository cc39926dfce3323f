"""Reads a configuration: TOML, overrides, and every check that needs no data, before anything is built."""

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic
from pydantic import BaseModel

from device.errors import ConfigError
from simulation.config.contradictions import contradictions, refusals
from simulation.config.tables import ExperimentConfig
from simulation.config.wording import problems

WANTED = {
    "policies": ("run or sweep", "run, sweep and lag want [[policies]], see configs/quickstart.toml"),
    "methods": ("devices", "devices wants [[methods]], see configs/devices-beauty.toml"),
    "models": ("evaluate", "evaluate wants [[models]], see configs/reference-beauty.toml"),
}
"""By the list that makes a file one of theirs: which commands read it, and what they say to other files."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read a TOML file, apply `key.key=value` overrides, check everything that can be checked without data.

    Raises ConfigError naming file, place, value and the nearest right word.
    """
    tables = read_toml(path, overrides)
    refuse_other(tables, "policies", str(path))
    return check(tables, ExperimentConfig, str(path))


def refuse_other(tables: dict[str, Any], wanted: str, place: str) -> None:
    """ConfigError for a file of another command: one that lacks the list `wanted`, a key of WANTED, and has another's.

    A file of none of the lists is taken for an experiment's, if it says anything of cloud or devices.
    """
    lists = [key for key in WANTED if key in tables or (key == "policies" and "policy" in table_of(tables, "device"))]
    found = lists or ["policies"] * bool(tables.keys() & {"cloud", "device", "sweep"})
    if found and wanted not in found:
        raise ConfigError(f"{place}: this is a file for {WANTED[found[0]][0]}; {WANTED[wanted][1]}")


def table_of(tables: dict[str, Any], key: str) -> dict[str, Any]:
    """A table, empty where it is none."""
    found = tables.get(key)
    return found if isinstance(found, dict) else {}


def read_toml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The tables of a file with overrides applied."""
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.toml")], n=1, cutoff=0.3)
        raise ConfigError(f"{path}: no such file" + (f"; did you mean {path.parent / near[0]}?" if near else ""))
    try:
        tables = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    for override in overrides:
        apply(tables, override)
    return tables


def apply(tables: dict[str, Any], override: str) -> None:
    """Set one `a.b.c=value`; the value is TOML, a bare word is a string."""
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override}: write key=value, for example --set device.model.width=16")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    here: Any = tables
    *parents, last = key.strip().split(".")
    for parent in parents:
        here = here.setdefault(parent, {}) if isinstance(here, dict) else nth(here, parent, override)
        if not isinstance(here, dict | list):
            raise ConfigError(f"--set {override}: {parent!r} is not a table")
    if isinstance(here, list):
        raise ConfigError(f"--set {override}: {parents[-1]!r} is a list; set it whole, or a key of one of its tables")
    here[last] = value


def nth(tables: list[Any], number: str, override: str) -> Any:
    """One table of a list."""
    if not number.isdigit() or int(number) >= len(tables):
        raise ConfigError(f"--set {override}: {number!r} is none of the tables 0..{len(tables) - 1}")
    return tables[int(number)]


Checked = TypeVar("Checked", bound=BaseModel)


def check(tables: dict[str, Any], kind: type[Checked], place: str) -> Checked:
    """Validate tables; ConfigError lists every problem, one line each."""
    try:
        config = kind.model_validate(tables)
    except pydantic.ValidationError as error:
        raise ConfigError("\n".join(f"{place}: {line}" for line in problems(error, kind))) from error
    for line in [*refusals(config), *contradictions(config)] if isinstance(config, ExperimentConfig) else []:
        raise ConfigError(f"{place}: {line}")
    return config
