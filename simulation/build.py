"""From a TOML table to an object: an import path and keyword arguments, nothing registered."""

import difflib
import importlib
import inspect
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from device.errors import ConfigError

BACKBONE = ("backbone", "device")
"""Names under which a constructor takes a trained model."""


def imported(path: str, where: str) -> Any:
    """The object behind "package.module:Name"; ConfigError names what was not found and the nearest name."""
    module_name, _, name = path.partition(":")
    if not name or not module_name or module_name.startswith("."):
        raise ConfigError(f'{where}: class = "{path}" is not an import path; write "package.module:Name"')
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and error.name != module_name and not module_name.startswith(error.name + "."):
            raise ConfigError(f"{where}: {module_name} needs the package {error.name!r}; install it") from error
        raise ConfigError(
            f'{where}: class = "{path}": there is no module {module_name!r}; '
            "it must be importable from here (run in its folder, or install it)"
        ) from error
    if not hasattr(module, name):
        own = module_name in sys.stdlib_module_names
        cure = "; Python has a module of that name, so rename yours" if own else hint(name, vars(module))
        raise ConfigError(f'{where}: class = "{path}": {module_name} has no {name!r}{cure}')
    return getattr(module, name)


def build(path: str, options: Mapping[str, Any], where: str, **given: Any) -> Any:
    """Call the class or function behind `path` with `options`, and with those of `given` that it asks for by name.

    Raises ConfigError for unknown options (with the nearest right word), wrong types and missing ones.
    """
    target = imported(path, where)
    if not callable(target):
        raise ConfigError(f'{where}: class = "{path}" is not a class or function')
    parameters = inspect.signature(target).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    names = {n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for key, value in options.items():
        if key == "n_items" and key in given:
            raise ConfigError(f"{where}: {target.__name__} gets n_items from the data; take it out of the table")
        if key not in names and not takes_any:
            raise ConfigError(f"{where}: {target.__name__} has no option {key!r}{hint(key, names)}")
        check_type(where, key, value, names.get(key))
    wanted = {k: v for k, v in given.items() if k in names and k not in options}
    missing = [n for n, p in names.items() if p.default is p.empty and n not in options and n not in wanted]
    if missing:
        raise ConfigError(f"{where}: {target.__name__} needs {missing[0]!r}; add it to the table")
    try:
        return target(**wanted, **options)
    except TypeError as error:
        raise ConfigError(f"{where}: {target.__name__} could not be made: {error}") from error


def hint(word: str, known: typing.Iterable[str]) -> str:
    """`; did you mean 'x'?`, or the list of what is known."""
    names = [name for name in known if not name.startswith("_")]
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names[:20])}" if names else ""


def check_type(where: str, key: str, value: Any, parameter: inspect.Parameter | None) -> None:
    """ConfigError when a TOML value cannot be what the annotation of a parameter says."""
    if parameter is None or parameter.annotation is inspect.Parameter.empty:
        return
    accepted = simple_types(parameter.annotation)
    if accepted is None:
        return
    allowed, literals = accepted
    if literals and isinstance(value, str) and value not in literals:
        raise ConfigError(f"{where}: {key} = {value!r}; expected one of {', '.join(map(repr, literals))}")
    if (isinstance(value, bool) and bool not in allowed) or not isinstance(value, allowed):
        names = " or ".join(t.__name__ for t in allowed)
        raise ConfigError(f"{where}: {key} = {value!r} is a {type(value).__name__}; expected {names}")


def simple_types(annotation: Any) -> tuple[tuple[type, ...], tuple[str, ...]] | None:
    """(accepted Python types, accepted words) of an annotation made of plain types; None = not checked here."""
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return (str,), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        parts = [simple_types(a) for a in typing.get_args(annotation) if a is not type(None)]
        if any(p is None for p in parts):
            return None
        return tuple(t for p in parts if p for t in p[0]), tuple(w for p in parts if p for w in p[1])
    if annotation is float:
        return (float, int), ()
    if annotation in (int, str, bool):
        return (annotation,), ()
    return None


@dataclass(frozen=True, slots=True)
class GoesOnFrom:
    """What the constructor of a method takes as the trained model that it goes on from.

    Args:
        classes: by parameter, the classes that its annotation names; none where any model will do.
        needed: whether there has to be one.
    """

    classes: dict[str, tuple[type, ...]]
    needed: bool

    @property
    def paths(self) -> list[str]:
        """Import paths of the classes."""
        return [path_of(kind) for kinds in self.classes.values() for kind in kinds]

    @property
    def said(self) -> str:
        """The classes in brackets, with a space before them; "" where any model will do."""
        return f" ({' or '.join(self.paths)})" if self.paths else ""

    def other_than(self, backbone: Any, name: str) -> str:
        """The classes that parameter `name` takes where `backbone` is of another one; "" where it is right."""
        kinds = self.classes[name]
        return "" if not kinds or isinstance(backbone, kinds) else " or ".join(map(path_of, kinds))


def goes_on_from(target: Any) -> GoesOnFrom:
    """What a class or function of a plug-in goes on from."""
    found = {name: p for name, p in inspect.signature(target).parameters.items() if name in BACKBONE}
    return GoesOnFrom(
        {name: classes_in(p.annotation) for name, p in found.items()},
        any(p.default is inspect.Parameter.empty for p in found.values()),
    )


def classes_in(annotation: Any) -> tuple[type, ...]:
    """The classes that an annotation names, without protocols and None; () for none."""
    kinds = [kind for kind in typing.get_args(annotation) or (annotation,) if isinstance(kind, type)]
    plain = [kind for kind in kinds if not getattr(kind, "_is_protocol", False) and kind is not types.NoneType]
    return () if inspect.Parameter.empty in plain else tuple(plain)


def path_of(kind: type) -> str:
    """As a table names a class."""
    return f"{kind.__module__}:{kind.__name__}"
