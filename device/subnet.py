"""Subnets of an elastic device model: their sizes as values, what is cut out of the large model, what it costs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, Protocol, TypeAlias, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError
from device.item_tables import Arrays, coded, coded_shapes, quantised, uncoded, unquantised
from device.model import DeviceModel, Parameters

HEAD = 8  # channels of an attention head; widths are whole heads
Table = Literal["float32", "int8", "code8", "code4", "code2"]
"""Roughly from large to small; why there are no hashed tables: docs/decisions/0022-no-hashed-item-tables.md."""
KINDS: tuple[Table, ...] = get_args(Table)
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
Sizes: TypeAlias = Mapping[str, tuple[tuple[int, ...], int]]  # shape, bytes of a number
_LABEL = re.compile(rf"w(\d+)-b(\d+)-e(\d+)(?:-({'|'.join(KINDS[1:])}))?")


@dataclass(frozen=True, slots=True)
class SubnetSpec:
    """How much of an elastic model a device runs; `str` gives a label such as `w16-b1-e8-int8`, `parse` reads it.

    Args:
        width: channels of the body, a multiple of HEAD.
        blocks: how many of the first blocks.
        items: numbers in an item's embedding.
        table: how the item table is installed; "int8" is one code per number and one float32 scale per item, "code4"
            sums of code vectors from four codebooks, fitted after training; see `device.item_tables`.
    """

    width: int
    blocks: int
    items: int
    table: Table = "float32"

    def __post_init__(self) -> None:
        if min(self.width, self.blocks, self.items) < 1 or self.width % HEAD:
            raise ConfigError(
                f"subnet {self}: expected a width of whole heads of {HEAD}, and one block and item at least"
            )
        if self.table not in KINDS:
            raise ConfigError(f"subnet: table = {self.table!r}; expected one of {', '.join(KINDS)}")

    def __str__(self) -> str:
        return f"w{self.width}-b{self.blocks}-e{self.items}" + ("" if self.table == "float32" else f"-{self.table}")

    @classmethod
    def parse(cls, label: str) -> "SubnetSpec":
        """The spec of a label; ConfigError for anything else."""
        if not (found := _LABEL.fullmatch(label)):
            raise ConfigError(
                f"subnet: {label!r} is no subnet; write it as w16-b1-e8 or w16-b1-e8-int8, or with "
                f"{', '.join(KINDS[1:])} at its end"
            )
        return cls(int(found[1]), int(found[2]), int(found[3]), found[4] or "float32")  # type: ignore[arg-type]

    @property
    def in_training(self) -> "SubnetSpec":
        """The subnet that is trained for this one: with a float32 table where codes are fitted to it."""
        return self if self.table == "int8" else replace(self, table="float32")

    def within(self, large: "SubnetSpec") -> bool:
        """Whether a model of size `large` holds this subnet."""
        return self.width <= large.width and self.blocks <= large.blocks and self.items <= large.items


@runtime_checkable
class Slimmable(DeviceModel, Protocol):
    """A device model that can be cut down to smaller ones."""

    def subnets(self) -> Sequence[SubnetSpec]:
        """The subnets it was made for, itself among them."""
        ...

    def slice(self, params: Parameters, spec: SubnetSpec) -> Parameters:
        """What `subnet(spec)` is run with; copies. ConfigError for a spec beyond the model's own size."""
        ...

    def subnet(self, spec: SubnetSpec) -> DeviceModel:
        """The small dense model. ConfigError for a spec beyond the model's own size."""
        ...


@dataclass(frozen=True, slots=True)
class Size:
    """What a subnet costs a device."""

    parameters: int
    nbytes: int  # of the encoded installation, table and all
    body_nbytes: int  # of the installation where item rows are streamed instead
    flops: float  # of scoring one device's candidates once, 2 per multiply-add

    @classmethod
    def of(cls, shapes: Shapes, spec: SubnetSpec, *, item_table: str, flops: float) -> "Size":
        """From the shapes of float32 parameters."""
        arrays = {name: (shape, 4) for name, shape in shapes.items()}
        body = {name: array for name, array in arrays.items() if name != item_table}
        parameters = sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values())
        return cls(parameters, installed_nbytes(arrays, spec, item_table=item_table), patch_nbytes(body), flops)


def grid(large: SubnetSpec) -> tuple[SubnetSpec, ...]:
    """All subnets of `large` by whole heads, blocks, and whole HEADs of an item's numbers, tables int8 and float32.

    Smallest first; the last is `large` itself. An item width that is no multiple of HEAD is offered in full as well.
    """
    widths = range(HEAD, large.width + 1, HEAD)
    items = sorted({*range(HEAD, large.items, HEAD), large.items})
    made = product(items, widths, range(1, large.blocks + 1), ("int8", "float32"))
    return tuple(SubnetSpec(width, blocks, item, table) for item, width, blocks, table in made)  # type: ignore[arg-type]


def smallest(specs: Sequence[SubnetSpec]) -> SubnetSpec:
    """The one with the narrowest table, then body, then the fewest blocks, then the last kind of `Table`."""
    return min(specs, key=lambda spec: (spec.items, spec.width, spec.blocks, -KINDS.index(spec.table)))


def leading(array: NDArray[np.generic], shape: tuple[int, ...], stacked: int = 1) -> NDArray[np.generic]:
    """A copy of the first `shape` entries along each axis; of each of `stacked` equal parts along the first axis."""
    parts = array.reshape(stacked, -1, *array.shape[1:])
    cut = parts[(slice(None), slice(shape[0] // stacked), *map(slice, shape[1:]))]
    return cut.reshape(shape).copy()


def encoded(table: NDArray[np.generic], kind: Table) -> Arrays:
    """What is installed of a table [n + 1, e], by part; the part of a float32 table has no name."""
    name, number = family(kind)
    if name == "code":
        return coded(table, number)
    if kind == "int8":
        codes, scale = quantised(table)
        return {"codes": codes, "scale": scale}
    return {"": table}


def decoded(parts: Arrays, kind: Table) -> NDArray[np.generic]:
    """[n + 1, e]: the table that a device reads from what `encoded` gives."""
    if family(kind)[0] == "code":
        return uncoded(parts)
    if kind == "int8":
        return unquantised(parts["codes"], parts["scale"])
    return parts[""]


def as_read(table: NDArray[np.generic], kind: Table) -> NDArray[np.generic]:
    """[n + 1, e]: what a device reads of a table that is installed as `kind`."""
    return decoded(encoded(table, kind), kind)


def table_shapes(rows: int, columns: int, kind: Table) -> dict[str, tuple[tuple[int, ...], int]]:
    """(shape, bytes of a number) of what `encoded` gives for a table [rows, columns], by part."""
    name, number = family(kind)
    if name == "code":
        return coded_shapes(rows, columns, number)
    if kind == "int8":
        return {"codes": ((rows, columns), 1), "scale": ((rows,), 4)}
    return {"": ((rows, columns), 4)}


def installed(params: Parameters, spec: SubnetSpec, *, item_table: str) -> Parameters:
    """The arrays that travel when `params` of subnet `spec` are installed: of the table its parts, as `item.codes`."""
    if spec.table == "float32":
        return params
    body = {name: array for name, array in params.items() if name != item_table}
    parts = encoded(params[item_table], spec.table)
    return body | {_joined(item_table, part): array for part, array in parts.items()}


def family(kind: Table) -> tuple[str, int]:
    """The kind without its number, and that: the bits of a number, or how many codes."""
    name = kind.rstrip("0123456789")
    return name, int(kind[len(name) :])


def installed_nbytes(arrays: Sizes, spec: SubnetSpec, *, item_table: str) -> int:
    """Length of `encode_patch(installed(...))` for arrays of these shapes and item sizes, nothing fitted for it."""
    (rows, columns), _ = arrays[item_table]
    body = {name: array for name, array in arrays.items() if name != item_table}
    table = {_joined(item_table, part): found for part, found in table_shapes(rows, columns, spec.table).items()}
    return patch_nbytes(body | table)


def _joined(item_table: str, part: str) -> str:
    return f"{item_table}.{part}" if part else item_table


def patch_nbytes(arrays: Sizes) -> int:
    """Length of `device.patch.encode_patch` for arrays of these shapes and item sizes, without making them."""
    total = 2 + _varint(len(arrays)) + 4
    for name, (shape, itemsize) in arrays.items():
        label = len(name.encode())
        total += _varint(label) + label + 1 + sum(map(_varint, (len(shape), *shape)))
        total += int(np.prod(shape, dtype=np.int64)) * itemsize
    return total


def _varint(value: int) -> int:
    """Bytes of a varint: seven bits each."""
    return max(1, (value.bit_length() + 6) // 7)
