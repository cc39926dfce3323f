"""Folders that are complete or absent: written beside their place under a temporary name and then renamed."""

import json
import os
import re
import tempfile
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from device.errors import RunError
from simulation import schema as c

MADE_BY = {
    "steps.parquet": ("run", "`tandemrec report` and `tandemrec compare` read it"),
    "cells.parquet": ("sweep", "`tandemrec report` and `tandemrec compare` read it, named alone"),
    "table.md": ("devices", "no command reads it: its tables are in table.md, its numbers in summary.json"),
    "results.md": ("lag` or `evaluate", "no command reads it: its tables are in results.md, numbers in results.json"),
}
"""By a file that tells a folder: the command that makes such folders, and who reads them."""


def refuse_other(folder: Path, kind: str) -> None:
    """RunError for a folder of another kind than `kind`, with what can be done with it."""
    for name, (command, use) in MADE_BY.items():
        if command != kind and (folder / name).is_file():
            raise RunError(f"{folder}: made by `tandemrec {command}`, not a {kind}; {use}")


@dataclass(frozen=True, slots=True)
class WholeFolder:
    """A finished folder; every method raises a RunError that names the file when it cannot be read.

    Args:
        path: the folder.
        kind: what it holds, `run` or `sweep`; the command of this name makes one.
    """

    path: Path
    kind: str

    @classmethod
    def open(cls, path: str | os.PathLike[str], kind: str, files: Collection[str]) -> "WholeFolder":
        """The folder `path`, if it is there and has all of `files`; RunError names those that are missing."""
        folder = Path(path)
        if folder.is_file():
            raise RunError(f"{folder}: a file, not a {kind} folder; name the folder that `tandemrec {kind}` made")
        if not folder.is_dir():
            raise RunError(f"{folder}: no such {kind} folder; `tandemrec {kind} CONFIG` makes one under runs/")
        if missing := [name for name in files if not (folder / name).is_file()]:
            refuse_other(folder, kind)
            raise RunError(f"{folder}: not a complete {kind}, {', '.join(missing)} missing; repeat the {kind}")
        return cls(folder, kind)

    def table(self, name: str, columns: Collection[str] = ()) -> pa.Table:
        """`columns` of a Parquet file, all without any; RunError for one that it lacks."""
        try:
            table = pq.read_table(self.path / name, columns=list(columns) or None)
        except (OSError, pa.ArrowException) as error:
            raise self._unreadable(name, error) from error
        if lacking := [one for one in columns if one not in table.column_names]:
            raise RunError(f"{self.path / name}: column(s) {', '.join(lacking)} missing; repeat the {self.kind}")
        return table

    def frame(self, name: str, schema: pa.Schema) -> pd.DataFrame:
        """A Parquet file in the types of `schema`, which it has at least; RunError for a column that it lacks."""
        return c.frame(self.table(name), schema, str(self.path / name))

    def text(self, name: str) -> str:
        """A UTF-8 file."""
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise self._unreadable(name, error) from error

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file that holds an object."""
        try:
            content = json.loads(self.text(name))
        except ValueError as error:
            raise self._unreadable(name, error) from error
        if isinstance(content, dict):
            return content
        raise RunError(f"{self.path / name}: holds a {type(content).__name__}, not an object; repeat the {self.kind}")

    def toml(self, name: str) -> dict[str, Any]:
        """A TOML file."""
        try:
            return tomllib.loads(self.text(name))
        except tomllib.TOMLDecodeError as error:
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: Exception) -> RunError:
        return RunError(f"{self.path / name}: cannot be read ({error}); the file is damaged, repeat the {self.kind}")


def write_folder(
    root: str | os.PathLike[str], name: str, *, tables: Mapping[str, pa.Table], texts: Mapping[str, str]
) -> Path:
    """Folder root/name with `tables` as Parquet and `texts` as UTF-8, each under its file name.

    One of the same name is replaced only once the new one is complete. RunError when the name is not one for a folder
    or when the disk refuses (full, read-only, no right to write): nothing new is left behind and an old folder stays.
    """
    folder = Path(root) / name
    if not re.fullmatch(r"[\w.+-]*\w", name):
        raise RunError(f"run name {name!r}: use letters, digits, '-', '_', '.' and '+' only, it becomes a folder")
    try:
        Path(root).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=root, ignore_cleanup_errors=True) as scratch:
            new = Path(scratch) / "new"
            _fill(new, tables, texts)
            _swap(new, folder, Path(scratch) / "old")
    except OSError as error:
        raise RunError(
            f"{folder}: the run could not be written ({error.strerror or error}); nothing of it was left behind. "
            "Free disk space or choose another --runs folder you may write to, then run again"
        ) from error
    return folder


def _fill(folder: Path, tables: Mapping[str, pa.Table], texts: Mapping[str, str]) -> None:
    folder.mkdir()
    for name, table in tables.items():
        text = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
        # Dictionaries pay for text only: building them for 1 million distinct floats costs most of a second.
        pq.write_table(table, folder / name, compression="zstd", use_dictionary=text)
    for name, content in texts.items():
        (folder / name).write_text(content, encoding="utf-8")


def _swap(new: Path, folder: Path, old: Path) -> None:
    """Puts `new` where `folder` is; what was there goes to `old`, or back when the second rename fails."""
    if not folder.exists():
        new.rename(folder)
        return
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise
