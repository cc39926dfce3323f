"""From a table to an object: every wrong word, type or path is an error that says where and what to write instead."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from device.errors import ConfigError
from simulation.build import build, hint, imported, simple_types

HERE = __name__


class Thing:
    """Remembers what it was made of."""

    def __init__(
        self,
        n_items: int,
        *,
        width: int = 8,
        rate: float = 0.5,
        mode: Literal["mean", "sum"] = "mean",
        deep: bool = False,
        cap: int | None = None,
        sizes: Sequence[int] = (),
        free: Any = None,
    ) -> None:
        self.made = (n_items, width, rate, mode, deep, cap, sizes, free)


class Open:
    """Takes any option."""

    def __init__(self, **options: Any) -> None:
        self.options = options


def function(size: int) -> str:
    return "x" * size


def picky(size: int) -> None:
    raise TypeError("size must be odd")


not_callable = 3


def make(path: str, options: dict[str, Any], **given: Any) -> Any:
    return build(f"{HERE}:{path}", options, "[cloud.generator]", **given)


def refused(path: str, options: dict[str, Any] | None = None, **given: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        build(path, options or {}, "[cloud.generator]", **given)
    message = str(caught.value)
    assert message.startswith("[cloud.generator]")
    return message


def test_options_become_keyword_arguments() -> None:
    options = {
        "n_items": 5,
        "width": 4,
        "rate": 1,
        "mode": "sum",
        "deep": True,
        "cap": 3,
        "sizes": [1],
        "free": {"a": 1},
    }
    assert make("Thing", options).made == (5, 4, 1, "sum", True, 3, [1], {"a": 1})
    assert make("function", {"size": 3}) == "xxx"


def test_what_is_given_reaches_only_those_who_ask_by_name() -> None:
    assert make("Thing", {}, n_items=7, length=50).made[0] == 7
    assert "take it out" in refused(f"{HERE}:Thing", {"n_items": 2}, n_items=7)  # only the data know
    assert make("Open", {"a": 1}, n_items=7).options == {"a": 1}
    assert make("function", {}, size=2, n_items=7) == "xx"


def test_an_unknown_option_names_the_nearest() -> None:
    assert "Thing has no option 'widht'; did you mean 'width'?" in refused(f"{HERE}:Thing", {"widht": 4}, n_items=1)
    message = refused(f"{HERE}:Thing", {"zzz": 4}, n_items=1)
    assert "known: n_items, width, rate, mode" in message


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("width", "wide", "width = 'wide' is a str; expected int"),
        ("width", 2.5, "width = 2.5 is a float; expected int"),
        ("width", True, "width = True is a bool; expected int"),
        ("rate", "fast", "rate = 'fast' is a str; expected float"),
        ("rate", True, "rate = True is a bool"),
        ("deep", 1, "deep = 1 is a int; expected bool"),
        ("mode", "max", "mode = 'max'; expected one of 'mean', 'sum'"),
        ("mode", 3, "mode = 3 is a int; expected str"),
        ("cap", "none", "cap = 'none' is a str; expected int"),
        ("cap", [1], "cap = [1] is a list; expected int"),
    ],
)
def test_a_wrong_type_names_the_right_one(option: str, value: object, words: str) -> None:
    assert words in refused(f"{HERE}:Thing", {option: value}, n_items=1)


def test_a_missing_option_is_named() -> None:
    assert "Thing needs 'n_items'; add it to the table" in refused(f"{HERE}:Thing", {"width": 2})


def test_an_error_in_the_constructor_keeps_its_words() -> None:
    assert "picky could not be made: size must be odd" in refused(f"{HERE}:picky", {"size": 2})


def test_a_path_that_is_none() -> None:
    assert 'write "package.module:Name"' in refused("device.models.sasrec")
    assert 'write "package.module:Name"' in refused("SASRec")


def test_a_missing_module_is_named() -> None:
    message = refused("device.models.sasrecc:SASRec")
    assert "there is no module 'device.models.sasrecc'" in message
    assert "importable from here" in message
    assert "no module 'nowhere'" in refused("nowhere:Thing")


def test_a_missing_class_names_the_nearest() -> None:
    assert "device.models.sasrec has no 'SasRec'; did you mean 'SASRec'?" in refused("device.models.sasrec:SasRec")
    assert f"{HERE} has no 'Thign'; did you mean 'Thing'?" in refused(f"{HERE}:Thign")


def test_a_file_named_like_a_module_of_python() -> None:
    assert "colorsys has no 'Model'; Python has a module of that name, so rename yours" in refused("colorsys:Model")


def test_something_that_cannot_be_called() -> None:
    assert "is not a class or function" in refused(f"{HERE}:not_callable")


def test_a_plugin_that_lacks_its_own_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lonely_plugin.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "lonely_plugin needs the package 'no_such_library'; install it" in refused("lonely_plugin:Model")


def test_a_plugin_whose_name_begins_like_the_library_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fastlib_plugin.py").write_text("import fastlib\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "fastlib_plugin needs the package 'fastlib'" in refused("fastlib_plugin:Model")


@pytest.mark.parametrize("path", [":Thing", ".sasrec:SASRec"])
def test_a_path_without_its_package(path: str) -> None:
    with pytest.raises(ConfigError, match=re.escape('write "package.module:Name"')):
        imported(path, "[cloud.generator]")


def test_an_error_inside_a_plugin_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('my own fault')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RuntimeError, match="my own fault"):
        imported("broken_plugin:Model", "[device.model]")


def test_hint() -> None:
    assert hint("wdth", ["width", "depth"]) == "; did you mean 'width'?"
    assert hint("q", ["width", "_hidden"]) == "; known: width"
    assert hint("q", []) == ""


@pytest.mark.parametrize(
    ("annotation", "accepted"),
    [
        (int, ((int,), ())),
        (float, ((float, int), ())),
        (str | None, ((str,), ())),
        (Literal["a", "b"], ((str,), ("a", "b"))),
        (float | Literal["auto"], ((float, int, str), ("auto",))),
        (list[int], None),
        (int | list[int], None),
        ("int", None),
    ],
)
def test_simple_types(annotation: object, accepted: object) -> None:
    assert simple_types(annotation) == accepted
