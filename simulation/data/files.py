"""Columns out of delimited and Parquet files; what is wrong is told with file, line, column and value."""

import csv
import difflib
import gzip
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from device.errors import DataError


@dataclass(frozen=True, slots=True)
class Layout:
    """How a delimited file is written; `names` stands for the missing header."""

    delimiter: str = ","
    names: tuple[str, ...] = ()
    encoding: str = "utf-8"
    quoted: bool = True


@dataclass(frozen=True, slots=True)
class Wanted:
    """Columns to read: `texts` must not be empty, `numbers` must be finite, `free` may be anything."""

    texts: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    free: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return self.texts + self.numbers + self.free


def existing(path: Path) -> Path:
    """The path itself; raises DataError with the nearest existing names where nothing is there."""
    if path.exists():
        return path
    parent = path.parent
    while not parent.exists():
        path, parent = parent, parent.parent
    names = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5) or sorted(names)[:5]
    raise DataError(f"{path}: no such file or folder; {parent} has {', '.join(near) or 'nothing'}")


def open_text(path: Path, encoding: str = "utf-8") -> io.TextIOBase:
    """Opens plain or gzip text; undecodable bytes become lone surrogates, to be reported by line."""
    codec = "utf-8-sig" if encoding == "utf-8" else encoding
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding=codec, errors="surrogateescape", newline="")  # type: ignore[return-value]
    return path.open(encoding=codec, errors="surrogateescape", newline="")


def lines(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """(line number from 1, text) of every line that is not blank; raises DataError for damaged files."""
    try:
        with open_text(path, encoding) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error}); is the download complete?") from error


def first_line(path: Path) -> str:
    """The first line that is not blank, or an empty text."""
    return next((line for _, line in lines(path)), "")


def header(path: Path, layout: Layout) -> tuple[str, ...]:
    """Column names of a delimited file."""
    if layout.names:
        return layout.names
    return tuple(next(csv.reader([first_line(path)], **_dialect(layout)), ()))


def read_delimited(path: Path, layout: Layout, wanted: Wanted) -> Mapping[str, Any]:
    """Arrow columns by name: texts and free as strings, numbers as float64.

    Raises DataError naming file, line (as an editor counts), column, value and what was expected.
    """
    types = {name: pa.float64() if name in wanted.numbers else pa.string() for name in wanted.names}
    missing = set(wanted.names) - set(header(path, layout))
    if missing:
        raise DataError(f"{path}: line 1: no column {sorted(missing)[0]!r}; found {', '.join(header(path, layout))}")
    try:
        table = pyarrow.csv.read_csv(
            _source(path, layout),
            read_options=pyarrow.csv.ReadOptions(column_names=layout.names or None, encoding=layout.encoding),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=layout.delimiter.replace("::", "\x1f"),
                quote_char='"' if layout.quoted else False,
                newlines_in_values=layout.quoted,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=list(wanted.names), column_types=types, strings_can_be_null=False
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise _blame(path, layout, wanted, str(error)) from error
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error}); is the download complete?") from error
    columns = {name: table.column(name).combine_chunks() for name in wanted.names}
    if any(_first_bad(columns[name]) is not None for name in wanted.texts + wanted.numbers):
        raise _blame(path, layout, wanted, "an empty or non-finite value")
    return columns


def parquet_names(path: Path) -> tuple[str, ...]:
    """Column names of a Parquet file; raises DataError where it is not one."""
    try:
        return tuple(pyarrow.parquet.read_schema(path).names)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not readable as Parquet ({error})") from error


def read_parquet(path: Path, wanted: Wanted) -> Mapping[str, Any]:
    """The same columns out of Parquet; integers and times are converted (times to Unix seconds); raises DataError."""
    found = parquet_names(path)
    missing = sorted(set(wanted.names) - set(found))
    if missing:
        raise DataError(f"{path}: no column {missing[0]!r}; found {', '.join(found)}")
    try:
        table = pyarrow.parquet.ParquetFile(path).read(columns=list(wanted.names))
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not readable as Parquet ({error})") from error
    columns = {name: _converted(path, table, name, name in wanted.numbers) for name in wanted.names}
    for name in wanted.texts + wanted.numbers:
        row = _first_bad(columns[name])
        if row is not None:
            raise DataError(f"{path}: row {row + 1}, column {name!r}: found {columns[name][row]}, expected a value")
    return columns


def _converted(path: Path, table: Any, name: str, number: bool) -> Any:
    column = table.column(name).combine_chunks()
    try:
        if pa.types.is_timestamp(column.type):
            column = pa.compute.divide(column.cast(pa.timestamp("us")).cast(pa.int64()).cast(pa.float64()), 1e6)
        return column.cast(pa.float64() if number else pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{path}: column {name!r}: {error}; expected numbers or texts") from error


def floats(column: Any) -> NDArray[np.float64]:
    """An Arrow column without nulls as float64 [N]."""
    values: NDArray[np.float64] = column.to_numpy(zero_copy_only=False).astype(np.float64)
    return values


def _first_bad(column: Any) -> int | None:
    """Row of the first null, empty text or non-finite number."""
    if pa.types.is_floating(column.type):
        bad = ~np.isfinite(column.to_numpy(zero_copy_only=False))
    else:
        bad = pa.compute.fill_null(pa.compute.equal(column, ""), True).to_numpy(zero_copy_only=False)
    return int(np.argmax(bad)) if bad.any() else None


def _source(path: Path, layout: Layout) -> Any:
    if layout.delimiter != "::":
        return pa.input_stream(str(path), compression="gzip" if path.suffix == ".gz" else None)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as stream:
        return io.BytesIO(stream.read().replace(b"::", b"\x1f"))


def _dialect(layout: Layout) -> dict[str, Any]:
    quoting = csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE
    return {"delimiter": layout.delimiter.replace("::", "\x1f"), "quoting": quoting}


def _blame(path: Path, layout: Layout, wanted: Wanted, otherwise: str) -> DataError:
    """Finds the first line at fault, slowly; `otherwise` is the parser's own complaint."""
    names = header(path, layout)
    try:
        with open_text(path, layout.encoding) as stream:
            rows = csv.reader(
                (line.replace("::", "\x1f") if layout.delimiter == "::" else line for line in stream),
                **_dialect(layout),
            )
            start, seen_header = 1, bool(layout.names)
            for row in rows:
                line, start = start, rows.line_num + 1
                if not row or not seen_header:
                    seen_header = seen_header or bool(row)
                    continue
                problem = _problem(row, names, wanted)
                if problem:
                    return DataError(f"{path}: line {line}: {problem}")
    except (csv.Error, OSError, EOFError) as error:
        return DataError(f"{path}: {error}")
    return DataError(f"{path}: {otherwise}")


def _problem(row: list[str], names: tuple[str, ...], wanted: Wanted) -> str | None:
    if len(row) != len(names):
        return f"found {len(row)} fields, expected {len(names)} ({', '.join(names)})"
    for name, value in zip(names, row, strict=True):
        if name in wanted.names and any("\ud800" <= letter <= "\udfff" for letter in value):
            return f"column {name!r}: bytes that are not text in the expected encoding"
        if name in wanted.texts and not value:
            return f"column {name!r}: found nothing, expected an id"
        if name in wanted.numbers and not _is_finite(value):
            return f"column {name!r}: found {value!r}, expected a finite number"
    return None


def _is_finite(value: str) -> bool:
    try:
        return "_" not in value and math.isfinite(float(value))
    except ValueError:
        return False
