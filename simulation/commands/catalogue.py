"""What `tandemrec list` shows: built-in classes by scanning the packages, installed ones by their entry points."""

import importlib
import inspect
import pkgutil
from importlib import metadata
from types import ModuleType
from typing import Any

from simulation.build import BACKBONE, goes_on_from

PACKAGES = {
    "device model": ("device.models",),
    "generator": ("cloud.generators",),
    "personalizer": ("cloud.personalizers",),
    "policy": ("device.policy", "device.policies"),
    "link": ("simulation.network", "simulation.traces"),
}
METHODS = {
    "device model": ("forward", "score"),
    "generator": ("scores", "generate", "catalogue", "catalogue_scores"),
    "personalizer": ("patches",),
    "policy": ("urgency",),
    "link": ("send",),
}
ENTRY_POINTS = {
    "device model": "tandemrec.device_models",
    "generator": "tandemrec.generators",
    "personalizer": "tandemrec.personalizers",
    "policy": "tandemrec.policies",
    "link": "tandemrec.links",
}


def entries() -> list[dict[str, Any]]:
    """One dictionary per class: kind, class (import path), options, about (first sentence of its docstring), models.

    The last are the classes that a personalizer's `[device.model]` may have; empty for one that takes any or none.
    """
    return [entry for kind in PACKAGES for entry in [*built_in(kind), *announced(kind)]]


def names() -> list[dict[str, Any]]:
    """What a configuration names by one word, as dictionaries like those of `entries`: links and measures."""
    from device.consistency import MEASURES
    from simulation.network import PROFILES, Ideal

    links = {name: profile.source for name, profile in PROFILES.items()} | {"ideal": first_sentence(Ideal)}
    measures = [entry("consistency measure", name, member) for name, member in MEASURES.items()]
    empty: dict[str, Any] = {"options": [], "models": []}
    return [*({"kind": "link name", "class": name, "about": text} | empty for name, text in links.items()), *measures]


def built_in(kind: str) -> list[dict[str, Any]]:
    """Public classes of our own packages that have the methods of a kind."""
    found = {}
    for name in PACKAGES[kind]:
        for module in modules(importlib.import_module(name)):
            for class_name, member in inspect.getmembers(module, inspect.isclass):
                if offers(kind, member, module):
                    found[f"{module.__name__}:{class_name}"] = member
    if kind == "generator":  # a reranker that scores the whole catalogue is a generator too
        for path, member in rerankers().items():
            if hasattr(member, "forward"):
                found[path] = member
    return [entry(kind, path, member) for path, member in sorted(found.items())]


def rerankers() -> dict[str, type]:
    """Built-in device models by import path."""
    return {
        f"{module.__name__}:{name}": member
        for module in modules(importlib.import_module("device.models"))
        for name, member in inspect.getmembers(module, inspect.isclass)
        if offers("device model", member, module)
    }


def offers(kind: str, member: type, module: ModuleType) -> bool:
    """A class of this module (or re-exported from its own folder) that a configuration can name."""
    own = member.__module__ == module.__name__ or member.__module__.startswith(f"{module.__name__}.")
    if not own or getattr(member, "_is_protocol", False) or member.__name__.startswith("_"):
        return False
    if not any(callable(getattr(member, method, None)) for method in METHODS[kind]):
        return False
    if kind == "device model" and "candidates" not in inspect.signature(scoring(member)).parameters:  # a part of one
        return False
    parameters = inspect.signature(member).parameters
    options, needed = set(parameters), {name for name, p in parameters.items() if p.default is p.empty}
    if "inner" in needed:  # wraps another: no table can name it
        return False
    if kind == "personalizer" and not needed <= {"backbone", "device"}:  # goes on from more than a trained model
        return False
    return kind not in ("device model", "generator") or bool({"n_items", "path"} & options)


def scoring(member: Any) -> Any:
    """The method of a device model that scores candidates."""
    return getattr(member, "score", None) or member.forward


def modules(package: ModuleType) -> list[ModuleType]:
    """A module itself, or the modules and folders of a package."""
    if not hasattr(package, "__path__"):
        return [package]
    return [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]


def announced(kind: str) -> list[dict[str, Any]]:
    """Plug-ins of installed packages; one that cannot be imported is listed with its error."""
    out = []
    for point in metadata.entry_points(group=ENTRY_POINTS[kind]):
        try:
            out.append(entry(kind, point.value, point.load()))
        except Exception as error:
            about = f"cannot be imported: {type(error).__name__}: {error}"
            out.append({"kind": kind, "class": point.value, "options": [], "about": about, "models": []})
    return out


def default(member: Any, name: str, shown: Any) -> Any:
    """A parameter's default; that of a dataclass field with a factory is made."""
    field = getattr(member, "__dataclass_fields__", {}).get(name)
    return field.default_factory() if field is not None and callable(field.default_factory) else shown


def entry(kind: str, path: str, member: Any) -> dict[str, Any]:
    """One row."""
    personal = kind == "personalizer"
    given = ("n_items", "module", "self", *(BACKBONE if personal else ()))
    options = [
        name if p.default is p.empty else f"{name}={default(member, name, p.default)!r}"
        for name, p in inspect.signature(member).parameters.items()
        if name not in given
    ]
    models = goes_on_from(member).paths if personal else []
    return {"kind": kind, "class": path, "options": options, "about": first_sentence(member), "models": models}


def first_sentence(member: Any) -> str:
    """The first paragraph of a docstring in one line."""
    return (inspect.getdoc(member) or "no docstring").split("\n\n")[0].replace("\n", " ")
