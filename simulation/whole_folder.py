"""Folders that are complete or absent: written beside their place under a temporary name and then renamed."""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from device.errors import RunError


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
