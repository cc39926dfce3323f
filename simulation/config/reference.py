"""Every key of a configuration file with its type, default and meaning as Markdown: docs/configuration.md."""

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from simulation.config.meanings import MEANINGS, TRAINING
from simulation.config.parts import LimitsTable, PersonalizerTable, Plugin, UnlabelledTable
from simulation.config.tables import (
    BudgetTable,
    ErrorsTable,
    ExperimentConfig,
    FusionTable,
    PolicyTable,
    ServersTable,
    SupernetTable,
    TierTable,
)

HEADINGS = {
    "policies": "[[policies]] or [device.policy]",
    "device.tiers": "[[device.tiers]]",
    "device.fusion": "[device.fusion]",
}


def reference() -> str:
    """Markdown: one table of keys per table of the configuration."""
    sections: list[tuple[str, str, type[BaseModel]]] = [
        ("the top level, before the first table", "", ExperimentConfig),
        *below(ExperimentConfig, ""),
        (HEADINGS["policies"], "policies", PolicyTable),
        (HEADINGS["device.tiers"], "device.tiers", TierTable),
        (HEADINGS["device.fusion"], "device.fusion", FusionTable),
        ("[cloud.generator_errors]", "cloud.generator_errors", ErrorsTable),
        ("[cloud.servers]", "cloud.servers", ServersTable),
        ("[cloud.budget]", "cloud.budget", BudgetTable),
        ("[cloud.personalizer]", "cloud.personalizer", PersonalizerTable),
        ("[device.supernet]", "device.supernet", SupernetTable),
        ("[device.supernet.unlabelled]", "device.supernet.unlabelled", UnlabelledTable),
        ("limits = { ... } of [[device.tiers]]", "device.tiers.limits", LimitsTable),
    ]
    return "\n\n".join(section(*each) for each in sections) + "\n"


def below(kind: type[BaseModel], path: str) -> Iterator[tuple[str, str, type[BaseModel]]]:
    """(heading, path, table) of the tables that are always there, depth first."""
    for name, field in kind.model_fields.items():
        inner, here = field.annotation, f"{path}.{name}".lstrip(".")
        if isinstance(inner, type) and issubclass(inner, BaseModel) and inner is not Plugin:
            yield f"[{here}]", here, inner
            yield from below(inner, here)


def section(heading: str, path: str, kind: type[BaseModel]) -> str:
    """One table of keys."""
    rows = [row(f"{path}.{field.alias or name}".lstrip("."), field) for name, field in kind.model_fields.items()]
    title = f"### `{heading}`" if heading.startswith("[") else f"### {heading[0].upper()}{heading[1:]}"
    return "\n".join([title, "", "| key | type | default | meaning |", "|---|---|---|---|", *filter(None, rows)])


def row(path: str, field: FieldInfo) -> str:
    """One line; empty for a table that has a section of its own."""
    inner = field.annotation
    if isinstance(inner, type) and issubclass(inner, BaseModel) and inner is not Plugin:
        return ""
    text = meaning(path) + limits(field)
    return f"| `{path.rpartition('.')[2]}` | {kind_of(inner)} | {default(field)} | {text} |"


def meaning(path: str) -> str:
    """What a key is for; KeyError when nobody has said so yet."""
    table, _, key = path.rpartition(".")
    return TRAINING[key] if table.endswith(".training") else MEANINGS[path]


def limits(field: FieldInfo) -> str:
    """`; at least 1` and the like, from the field's constraints."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    said = [f"{words[name]} {getattr(c, name)}" for c in field.metadata for name in words if hasattr(c, name)]
    return "; " + ", ".join(said) if said else ""


def kind_of(annotation: Any) -> str:
    """A type as a user writes it."""
    arguments = [a for a in get_args(annotation) if a is not type(None) and a is not Ellipsis]
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{word}`" for word in arguments)
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(kind_of(a) for a in arguments)
    if get_origin(annotation) is tuple:
        same = Ellipsis in get_args(annotation)
        return f"list of {kind_of(arguments[0])}" if same else f"{len(arguments)} × {kind_of(arguments[0])}"
    if get_origin(annotation) is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "table"
    if get_origin(annotation) is Annotated:
        return kind_of(arguments[0])
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[annotation]


def default(field: FieldInfo) -> str:
    """A default as TOML; empty where a value may be left out, bold where it has to be given."""
    value = field.default
    if value is PydanticUndefined:
        return "**needed**"
    if value is None or value == ():
        return ""
    shown = list(value) if isinstance(value, tuple) else value
    return f"`{str(shown).lower() if isinstance(shown, bool) else repr(shown)}`".replace("'", '"')
