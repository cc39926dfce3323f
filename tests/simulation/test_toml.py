"""What is written as TOML is read back by the standard library as it was."""

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from simulation.config.read import load_config
from simulation.config.tables import ExperimentConfig
from simulation.config.toml import to_toml

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
EXPERIMENTS = [
    path
    for path in CONFIGS
    if {"cloud", "methods"} & tomllib.loads(path.read_text(encoding="utf-8")).keys() == {"cloud"}
]
# TOML has neither lone surrogates nor (raw) the control character DEL; the latter has a test of its own.
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=8)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x7f", max_codepoint=0xFFFF), max_size=6)
plain = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), text)
values = st.recursive(plain, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
tables = st.recursive(
    st.dictionaries(names, values, max_size=4),
    lambda inner: st.dictionaries(names, st.one_of(values, inner, st.lists(inner, min_size=1, max_size=3)), max_size=4),
    max_leaves=8,
)


@given(tables)
@example({"": {"": [{"": [{"a": 1}]}]}})
@example({"a": {"b": {}}, "c": [{}, {"d": []}], "e": [[], [[1]]]})
@example({"quote": 'say "hi"\\\n\tnow', "key with space": 1, "ключ": "значение", "x-1": -0.0})
def test_what_is_written_is_read_back(table: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(table)) == table


@given(st.one_of(st.integers(), st.floats(allow_nan=False)))
def test_numbers_keep_type_and_value(number: float) -> None:
    got = tomllib.loads(to_toml({"v": number}))["v"]
    assert type(got) is type(number)
    assert math.copysign(1, got) == math.copysign(1, number)
    assert got == number


def test_not_a_number() -> None:
    assert math.isnan(tomllib.loads(to_toml({"v": math.nan}))["v"])


def test_none_is_left_out_and_tuples_are_lists() -> None:
    assert tomllib.loads(to_toml({"a": None, "b": (1, 2), "c": {"d": None}})) == {"b": [1, 2], "c": {}}


def test_layout() -> None:
    table = {"b": {"c": 2, "d": {"e": True}}, "a": 1, "f": [{"g": "x"}, {"g": "y"}]}
    assert to_toml(table) == ('a = 1\n\n[b]\nc = 2\n\n[b.d]\ne = true\n\n[[f]]\ng = "x"\n\n[[f]]\ng = "y"\n')


@pytest.mark.parametrize("table", [{"v": "\x7f"}, {"\U0001f600": 1}])
def test_letters_that_json_and_toml_spell_differently(table: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(table)) == table


def test_tables_in_mixed_lists() -> None:
    table = {"v": [1, {"a": 2}], "w": [[{"a": 2}]]}
    assert tomllib.loads(to_toml(table)) == table


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_a_resolved_configuration_is_the_same_configuration(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    resolved = tmp_path / "config.resolved.toml"
    resolved.write_text(to_toml(config.model_dump(mode="json", by_alias=True, exclude_none=True)), encoding="utf-8")
    again = load_config(resolved)
    assert again == config
    assert isinstance(again, ExperimentConfig)
