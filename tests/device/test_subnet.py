"""Subnet specs, their labels and sizes, and what is cut out of arrays; without torch."""

import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from cloud.item_rows import Rows
from device.errors import ConfigError
from device.item_tables import quantised, unquantised
from device.patch import encode_patch
from device.subnet import (
    KINDS,
    Size,
    SubnetSpec,
    Table,
    as_read,
    grid,
    installed,
    leading,
    patch_nbytes,
    smallest,
)

SPECS = st.builds(
    SubnetSpec,
    width=st.integers(1, 20).map(lambda heads: 8 * heads),
    blocks=st.integers(1, 9),
    items=st.integers(1, 300),
    table=st.sampled_from(KINDS),
)


@given(SPECS)
def test_a_label_is_read_back_and_json_too(spec: SubnetSpec) -> None:
    assert SubnetSpec.parse(str(spec)) == spec == SubnetSpec(**json.loads(json.dumps(asdict(spec))))


def test_labels_by_hand() -> None:
    assert str(SubnetSpec(16, 1, 8)) == "w16-b1-e8"
    assert str(SubnetSpec(64, 2, 12, "int8")) == "w64-b2-e12-int8"
    assert str(SubnetSpec(64, 2, 12, "code4")) == "w64-b2-e12-code4"
    assert SubnetSpec.parse("w16-b1-e8-code8") == SubnetSpec(16, 1, 8, "code8")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_trained_for_a_kind_of_table(kind: Table) -> None:
    spec = SubnetSpec(16, 1, 8, kind)
    assert str(spec.in_training) == ("w16-b1-e8-int8" if kind == "int8" else "w16-b1-e8")


@pytest.mark.parametrize(
    "label",
    ["", "w16", "w16-b1-e8-int4", "w16-b1-e8-float32", "w16-b1-e8-code3", "w16-b1-e8-hash8", "w8-b1-e8 ", "w-16-b1-e8"],
)
def test_other_labels_are_refused(label: str) -> None:
    with pytest.raises(ConfigError, match=r"is no subnet; write it as w16-b1-e8 or"):
        SubnetSpec.parse(label)


@pytest.mark.parametrize("label", ["w12-b1-e8", "w0-b1-e8", "w8-b0-e8", "w8-b1-e0"])
def test_sizes_that_cannot_be(label: str) -> None:
    with pytest.raises(ConfigError, match="expected a width of whole heads of 8"):
        SubnetSpec.parse(label)
    with pytest.raises(ConfigError, match="table = 'int4'; expected one of float32, int8, code8"):
        SubnetSpec(8, 1, 8, "int4")  # type: ignore[arg-type]


def test_the_grid_by_hand() -> None:
    labels = [str(spec) for spec in grid(SubnetSpec(16, 2, 12))]
    assert len(labels) == 2 * 2 * 2 * 2  # widths 8, 16; blocks 1, 2; items 8, 12; two tables
    assert labels[:3] == ["w8-b1-e8-int8", "w8-b1-e8", "w8-b2-e8-int8"]
    assert labels[-1] == "w16-b2-e12"
    assert [str(spec) for spec in grid(SubnetSpec(8, 1, 4))] == ["w8-b1-e4-int8", "w8-b1-e4"]


@given(SPECS, SPECS)
def test_the_smallest_of_a_grid_is_within_all_and_all_within_the_largest(one: SubnetSpec, other: SubnetSpec) -> None:
    specs = grid(SubnetSpec(min(one.width, 24), min(one.blocks, 2), min(one.items, 30)))
    assert all(smallest(specs).within(spec) and spec.within(specs[-1]) for spec in specs)
    assert smallest(specs[::-1]) == specs[0]
    assert one.within(other) == (one.width <= other.width and one.blocks <= other.blocks and one.items <= other.items)


def test_leading_entries_by_hand() -> None:
    table = np.arange(24).reshape(6, 4)
    assert leading(table, (2, 3)).tolist() == [[0, 1, 2], [4, 5, 6]]
    assert leading(table, (3, 1), stacked=3).tolist() == [[0], [8], [16]]  # three gates of two rows, the first of each
    assert leading(np.arange(6), (4,), stacked=2).tolist() == [0, 1, 3, 4]
    whole = leading(table, (6, 4))
    whole[0, 0] = 99
    assert table[0, 0] == 0  # copies


@given(st.data())
def test_an_int8_table_is_that_of_streamed_rows(data: st.DataObject) -> None:
    floats = st.floats(-100, 100, width=32)
    table = data.draw(arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=floats))
    codes, scale = quantised(table)
    rows, read = Rows.of(table), as_read(table, "int8")
    assert codes.tobytes() == rows.codes.tobytes()
    assert scale.tobytes() == rows.scale.tobytes()
    assert read.tobytes() == rows.table().tobytes() == unquantised(codes, scale).tobytes()
    assert (np.abs(read - table) <= 0.5001 * scale[:, None]).all()


def test_int8_by_hand() -> None:
    """Scales 1 / 127 and 2 / 127: 0.5 is 63.5 of the first, to even 64; -0.01 is -0.635 of the second."""
    codes, scale = quantised(np.array([[1, 0.5], [2, -0.01], [0, 0]], np.float32))
    assert codes.tolist() == [[127, 64], [127, -1], [0, 0]]
    np.testing.assert_allclose(scale[:2], [1 / 127, 2 / 127], rtol=1e-6)
    read = unquantised(codes, scale)
    np.testing.assert_allclose(read, [[1, 64 / 127], [2, -2 / 127], [0, 0]], rtol=1e-6)
    assert (codes.dtype, scale.dtype, read.dtype) == (np.int8, np.float32, np.float32)


@given(
    st.dictionaries(st.text(min_size=1, max_size=40), array_shapes(min_dims=0, max_dims=3, max_side=200), max_size=4)
)
def test_the_length_of_a_patch_without_making_it(shapes: dict[str, tuple[int, ...]]) -> None:
    shapes = {name: shape[:2] for name, shape in shapes.items()}
    for kind in (np.float32, np.int8):
        made = encode_patch({name: np.zeros(shape, kind) for name, shape in shapes.items()})
        assert patch_nbytes({name: (shape, np.dtype(kind).itemsize) for name, shape in shapes.items()}) == len(made)


@pytest.mark.parametrize("label", ["w8-b1-e8", *(f"w8-b1-e8-{kind}" for kind in KINDS[1:])])
def test_size_is_what_is_installed(label: str) -> None:
    spec = SubnetSpec.parse(label)
    params = {"item.weight": np.ones((201, 8), np.float32), "body.weight": np.ones((8, 8), np.float32)}
    shapes = {name: array.shape for name, array in params.items()}
    size = Size.of(shapes, spec, item_table="item.weight", flops=7.0)
    assert (size.parameters, size.flops) == (201 * 8 + 64, 7.0)
    assert size.nbytes == len(encode_patch(installed(params, spec, item_table="item.weight")))
    assert size.body_nbytes == len(encode_patch({"body.weight": params["body.weight"]}))
    table = {
        "float32": 201 * 8 * 4,
        "int8": 201 * 8 + 201 * 4,
        "code8": 200 * 8 + 8 * 12 * 8 + 8 * 4,  # 200 // 16 = 12 code vectors per codebook
        "code4": 200 * 4 + 4 * 12 * 8 + 4 * 4,
        "code2": 200 * 2 + 2 * 12 * 8 + 2 * 4,
    }[spec.table]
    assert 0 < size.nbytes - size.body_nbytes - table < 70  # names and shapes


def test_the_smallest_of_one_size_is_by_kind_of_table() -> None:
    specs = [SubnetSpec(8, 1, 8, kind) for kind in KINDS]
    assert [smallest(specs[:count]).table for count in (1, 2, 5)] == ["float32", "int8", "code2"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_float32_table_is_read_as_it_is_and_no_other(kind: Table) -> None:
    table = np.linspace(-1, 1, 320, dtype=np.float32).reshape(40, 8)
    assert (as_read(table, kind).tobytes() == table.tobytes()) == (kind == "float32")


def test_specs_need_no_torch() -> None:
    code = "import sys, device.subnet; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
