"""What is wrong with the tables of a configuration, in words: place, value, what was expected, and how to write it."""

import difflib
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, get_args, get_origin

import pydantic
from pydantic import BaseModel

from simulation.config.parts import Plugin
from simulation.config.toml import value

PLUGIN = '{ class = "package.module:Name" }'
LONG = 60  # characters of a value that are shown
WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text in quotes",
    "tuple": "a list",
}
"""By the first word of a problem's type."""
BOUNDS = {
    "greater_than_equal": ("ge", "{} or more"),
    "greater_than": ("gt", "a number above {}"),
    "less_than_equal": ("le", "at most {}"),
    "less_than": ("lt", "a number below {}"),
    "too_short": ("min_length", "{} or more values"),
    "too_long": ("max_length", "{} values"),
    "string_too_short": ("min_length", "{} or more characters"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a problem is, without the names that pydantic gives to the members of a choice.

    Args:
        names: keys and numbers of lists from the top.
        choice: how many of the names lead to the innermost value that may be of several kinds; None where none may.
        kind: annotation of the value; None for an unknown key.
        table: model of the table that holds the value, or of the nearest one around it.
    """

    names: tuple[str, ...]
    choice: int | None
    kind: Any
    table: type[BaseModel]

    @property
    def shown(self) -> str:
        """`[table] key`; of an entry of a list `[table] key.0`."""
        cut = len(self.names) - 1
        while cut > 0 and self.names[cut].isdigit():
            cut -= 1
        table, key = ".".join(self.names[:cut]), ".".join(self.names[cut:])
        return f"[{table}] {key}" if table else key


@dataclass(slots=True)
class Said:
    """One value and everything that was expected of it."""

    place: Place
    value: Any
    expected: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)  # words that it may be


def problems(error: pydantic.ValidationError, kind: type[BaseModel]) -> Iterator[str]:
    """One line per wrong value: place, value, what was expected."""
    found = [(place_of(kind, one["loc"]), one) for one in error.errors()]
    deeper = {place.names[: place.choice] for place, _ in found if place.choice not in (None, len(place.names))}
    wrong: dict[tuple[str, ...], Said] = {}
    for place, one in found:
        choices = place.choice == len(place.names)
        if (choices and place.names in deeper) or only_counts(place, one, found):
            continue
        if not place.names:
            yield f"{shortened(one['input'])}: expected a table"
        elif one["type"] == "extra_forbidden":
            yield unknown(place)
        elif one["type"] == "missing":
            yield missing(place, one["input"])
        else:
            said = wrong.setdefault(place.names, Said(place, one["input"]))
            said.expected += [words for words in [expected(place, one)] if words not in said.expected]
            said.known += literals(place.kind)
    yield from map(sentence, wrong.values())


def place_of(kind: type[BaseModel], path: Sequence[int | str]) -> Place:
    """Follows a path of pydantic through the annotations."""
    names: list[str] = []
    here: Any = kind
    table, choice = kind, None
    for part in path:
        members = alternatives(here)
        if len(members) > 1:  # the part is pydantic's name of one of them
            here, choice = member(members, str(part)), len(names)
            table = here if is_table(here) else table
            continue
        here = members[0] if members else None
        names.append(str(part))
        if is_table(here):
            table, here = here, annotation(here, str(part))
        elif here is not None:
            here = inner(here, part)
    return Place(tuple(names), choice, here, table)


def alternatives(kind: Any) -> list[Any]:
    """The kinds that a value may be of, None left out."""
    if get_origin(kind) is Annotated:
        return alternatives(get_args(kind)[0])
    if get_origin(kind) in (typing.Union, UnionType):
        return [one for one in get_args(kind) if one is not NoneType]
    return [] if kind is None else [kind]


def member(members: Sequence[Any], said: str) -> Any:
    """The alternative that pydantic means: a table by its name, a mapping by `dict[`, else the first."""
    for one in members:
        if getattr(one, "__name__", "") == said or (said.startswith("dict[") and get_origin(one) is dict):
            return one
    return next((one for one in members if get_origin(one) is Literal and said.startswith("literal")), members[0])


def annotation(table: type[BaseModel], key: str) -> Any:
    """Of the field of this name or alias; None where there is none."""
    for name, info in table.model_fields.items():
        if key in (name, info.alias):
            return info.annotation
    return None


def inner(kind: Any, part: int | str) -> Any:
    """The kind of an entry of a list or a mapping."""
    inside = [one for one in get_args(kind) if one is not Ellipsis]
    if get_origin(kind) is dict:
        return inside[-1]
    return inside[min(part, len(inside) - 1)] if inside and isinstance(part, int) else None


def is_table(kind: Any) -> bool:
    """Whether a value is a table with known keys."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def only_counts(place: Place, one: Any, found: Sequence[tuple[Place, Any]]) -> bool:
    """Whether a list is called too short only because its entries are wrong, which is said already."""
    below = len(place.names)
    return one["type"] == "too_short" and any(
        len(other.names) > below and other.names[:below] == place.names for other, _ in found
    )


def unknown(place: Place) -> str:
    """An unknown key, with the nearest right one."""
    known = [info.alias or name for name, info in place.table.model_fields.items()]
    near = difflib.get_close_matches(place.names[-1], known, n=1, cutoff=0.5)
    cure = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"{where(place)}unknown key {place.names[-1]!r}; {cure}"


def missing(place: Place, given: Any) -> str:
    """A key that is not there, or too few values in a list of a fixed length."""
    if place.names[-1].isdigit():
        whole = Place(place.names[:-1], None, None, place.table)
        kinds = [get_args(one) for one in alternatives(annotation(place.table, whole.names[-1]))]
        return f"{whole.shown} = {shortened(given)}: expected {max(map(len, kinds), default=0) or 'more'} values"
    name = place.names[-1]
    if place.kind is Plugin:
        cure = f"add {name} = {PLUGIN}"
    elif is_table(place.kind):
        cure = f"add a table [{'.'.join(place.names)}]"
    elif name == "class":
        cure = 'add class = "package.module:Name"'
    else:
        plain = {int: "int", float: "float", bool: "bool", str: "string"}
        kind = "tuple" if get_origin(place.kind) is tuple else plain.get(place.kind)
        cure = f"add {name} = ..." + (f", {WORDS[kind]}" if kind else "")
    return f"{where(place)}{name!r} is missing; {cure}"


def where(place: Place) -> str:
    """The table of a place in brackets, with a space; nothing at the top."""
    return f"[{'.'.join(place.names[:-1])}] " if len(place.names) > 1 else ""


def expected(place: Place, one: Any) -> str:
    """What one of pydantic's problems says in our words."""
    kind = one["type"]
    if kind in BOUNDS:
        key, words = BOUNDS[kind]
        return words.format(f"{one['ctx'][key]:.15g}")
    if kind == "literal_error":
        return str(one["ctx"]["expected"])
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return table_words(place, one)
    first = kind.split("_")[0]
    if first not in WORDS:
        return str(one["msg"])
    return WORDS[first] + written(first, place, one["input"])


def written(kind: str, place: Place, given: Any) -> str:
    """How the value that was given would be written as a text or a list."""
    plain = isinstance(given, str | int | float) and not isinstance(given, bool)
    if kind == "string":
        return f', "{given}"' if plain else ""
    if kind != "tuple":
        return ""
    if any(is_table(one) for whole in alternatives(place.kind) for one in get_args(whole)):
        return f" of tables, [[{'.'.join(place.names)}]]"
    return f", [{value(given)}]" if plain else ""


def table_words(place: Place, one: Any) -> str:
    """That a table is expected, with what is in it."""
    table = next((m for m in alternatives(place.kind) if is_table(m)), None)
    if table is None:
        return "a table, { name = value }"
    keys = [info.alias or name for name, info in table.model_fields.items()]
    if keys[0] == "class":
        path = one["input"]
        return f'a table, {{ class = "{path}" }}' if isinstance(path, str) and ":" in path else f"a table, {PLUGIN}"
    return f"a table, {{ {keys[0]} = ... }}" if len(keys) == 1 else f"a table, its keys: {', '.join(keys)}"


def literals(kind: Any) -> list[str]:
    """The words that a value of some kind may be."""
    return [word for one in alternatives(kind) if get_origin(one) is Literal for word in get_args(one)]


def sentence(said: Said) -> str:
    """Place, value, what it may be, and the nearest word."""
    near = difflib.get_close_matches(said.value, said.known, n=1, cutoff=0.5) if isinstance(said.value, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{said.place.shown} = {shortened(said.value)}: expected {', or '.join(said.expected)}{hint}"


def shortened(value: Any) -> str:
    """A value as it is shown, cut where it is long."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= LONG else f"{text[: LONG - 4]} ..."
