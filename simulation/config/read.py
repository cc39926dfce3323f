"""Reads a configuration: TOML, overrides, and every check that needs no data, before anything is built."""

import difflib
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import pydantic
from pydantic import BaseModel

from device.errors import ConfigError
from simulation.config.contradictions import contradictions, refusals
from simulation.config.tables import ExperimentConfig


def load_config(path: Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read a TOML file, apply `key.key=value` overrides, check everything that can be checked without data.

    Raises ConfigError naming file, place, value and the nearest right word.
    """
    return check(read_toml(path, overrides), ExperimentConfig, str(path))


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


def problems(error: pydantic.ValidationError, kind: type[BaseModel]) -> Iterator[str]:
    """One line per problem: place, value, what was expected."""
    for problem in error.errors():
        *table, key = [str(part) for part in problem["loc"]]
        where = f"[{'.'.join(table)}] " if table else ""
        if problem["type"] == "extra_forbidden":
            known = [f.alias or n for n, f in fields_at(kind, table).items()]
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            yield f"{where}unknown key {key!r}; " + (
                f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            )
        elif problem["type"] == "missing":
            yield f"{where}{key!r} is missing"
        else:
            yield f"{where}{key} = {problem['input']!r}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"


def fields_at(kind: type[BaseModel], table: Sequence[str]) -> dict[str, pydantic.fields.FieldInfo]:
    """The fields of the table at a path of names and list numbers."""
    here: Any = kind
    for part in table:
        if part.isdigit():
            continue
        annotation = here.model_fields[part].annotation
        inner = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        here = inner[0]
    fields: dict[str, pydantic.fields.FieldInfo] = here.model_fields
    return fields
