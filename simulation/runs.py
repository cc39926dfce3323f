"""The run folder: the only place that writes or reads one.

```
runs/<name>-<config hash>-<seed>/
  config.resolved.toml  env.json  steps.parquet  ledger.parquet  recommendations.parquet
  per_user_metrics.parquet  summary.json  report.html (added by reports.page)
```
A folder is complete or absent: it is written beside its place under a temporary name and then renamed.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from simulation import schema as c
from simulation.summary import per_user_metrics, summarise
from simulation.whole_folder import WholeFolder, write_folder

__all__ = ["FILES", "Run", "decision_hash", "folder_name", "per_user_metrics", "summarise", "write_run"]
CONFIG, ENV, STEPS, LEDGER = "config.resolved.toml", "env.json", "steps.parquet", "ledger.parquet"
RECOMMENDATIONS, PER_USER, SUMMARY = "recommendations.parquet", "per_user_metrics.parquet", "summary.json"
REPORT = "report.html"
FILES = (CONFIG, ENV, STEPS, LEDGER, RECOMMENDATIONS, PER_USER, SUMMARY)
"""What a complete run folder holds; the report is made from these and may be missing."""


@dataclass(frozen=True)
class Run:
    """A finished run; each property reads its file on first use and raises RunError when it cannot."""

    path: Path

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Run":
        """The run in the folder `path`; RunError names the files that are missing."""
        return cls(WholeFolder.open(path, "run", FILES).path)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    @cached_property
    def steps(self) -> pd.DataFrame:
        """One row per policy, device and step; columns of `schema.STEPS`."""
        return self._files.frame(STEPS, c.STEPS)

    @cached_property
    def ledger(self) -> pd.DataFrame:
        """One row per transfer attempt; columns of `schema.LEDGER`."""
        return self._files.frame(LEDGER, c.LEDGER)

    @cached_property
    def recommendations(self) -> pd.DataFrame:
        """One row per slate shown: policy, device, step, items (int32 array of the top k)."""
        return self._files.frame(RECOMMENDATIONS, c.RECOMMENDATIONS)

    @cached_property
    def per_user(self) -> pd.DataFrame:
        """One row per policy and user; columns of `schema.PER_USER` and one per measure."""
        return self._files.frame(PER_USER, c.PER_USER)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The keys of `summarise` and what the writer of the run added."""
        return self._files.json(SUMMARY)

    @cached_property
    def env(self) -> dict[str, Any]:
        """Versions and machine the run was made with."""
        return self._files.json(ENV)

    @cached_property
    def config_toml(self) -> str:
        """The resolved configuration as it was written."""
        return self._files.text(CONFIG)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return self._files.toml(CONFIG)

    @property
    def _files(self) -> WholeFolder:
        return WholeFolder(self.path, "run")


def folder_name(name: str, config_toml: str, seed: int) -> str:
    """`<name>-<8 hex digits of the resolved configuration>-<seed>`."""
    return f"{name}-{hashlib.sha256(config_toml.encode()).hexdigest()[:8]}-{seed}"


def write_run(
    root: str | os.PathLike[str],
    name: str,
    *,
    config_toml: str,
    env: Mapping[str, Any],
    steps: c.Columns,
    ledger: c.Columns,
    recommendations: c.Columns,
    per_user: c.Columns,
    summary: Mapping[str, Any],
) -> Path:
    """Folder root/name, written whole; one of the same name is replaced only once the new one is complete.

    Numbers in `env` and `summary` that are not finite become null. RunError when a table lacks a column or when the
    disk refuses (full, read-only, no right to write): nothing new is left behind then and an old folder stays.
    """
    place = Path(root) / name
    tables = {
        STEPS: c.table(steps, c.STEPS, f"{place}: steps"),
        LEDGER: c.table(ledger, c.LEDGER, f"{place}: ledger"),
        RECOMMENDATIONS: c.table(recommendations, c.RECOMMENDATIONS, f"{place}: recommendations"),
        PER_USER: c.table(per_user, c.PER_USER, f"{place}: per-user metrics"),
    }
    texts = {CONFIG: config_toml, ENV: to_json(env), SUMMARY: to_json(summary)}
    return write_folder(root, name, tables=tables, texts=texts)


def decision_hash(steps: c.Columns, ledger: c.Columns) -> str:
    """sha256 (hex) of what was decided and sent, whatever the order of rows, chunks, categories or file encoding.

    `urgency` is left out: its last bit follows the batch shape of the matrix products, and what it decided is in
    `asked` and in the ledger. So are cloud seconds, which decide nothing but by times that are in.
    """
    digest, decided = hashlib.sha256(), [name for name in c.STEPS.names if name != c.URGENCY]
    _digest(digest, c.frame(steps, c.STEPS, "steps"), [c.POLICY, c.DEVICE, c.STEP], decided)
    order = [c.POLICY, c.DEVICE, c.AT, c.KIND, c.DIRECTION, c.ATTEMPT, c.NBYTES, c.DELIVERED]
    _digest(digest, c.frame(ledger, c.LEDGER, "ledger"), order, [n for n in c.LEDGER.names if n != c.CLOUD_S])
    return digest.hexdigest()


def to_json(content: Mapping[str, Any]) -> str:
    return json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """Only what JSON knows: numpy scalars and arrays become numbers and lists, numbers that are not finite null."""
    match value:
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case np.ndarray() | np.generic():
            return _plain(value.tolist())
        case float() if not math.isfinite(value):
            return None
        case str() | bool() | int() | float() | None:
            return value
        case Iterable():
            return [_plain(item) for item in value]
        case _:
            return str(value)


def _digest(digest: Any, table: pd.DataFrame, order: list[str], names: list[str]) -> None:
    columns = {name: _canonical(table[name]) for name in names}
    rows = np.lexsort([columns[name][1] for name in reversed(order)])
    for name, (words, values) in columns.items():
        digest.update(json.dumps([name, values.dtype.str, values.size, words]).encode())
        digest.update(np.ascontiguousarray(values[rows]).tobytes())


def _canonical(column: pd.Series) -> tuple[list[str], np.ndarray]:
    """Little-endian values, text as positions in the sorted list of the words that occur."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        used = column.cat.remove_unused_categories()
        words = sorted(map(str, used.cat.categories))
        return words, used.cat.reorder_categories(words).cat.codes.to_numpy(np.dtype("<i4"))
    values = column.to_numpy()
    values = values.astype(values.dtype.newbyteorder("<"))
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), np.nan, values + 0).astype(values.dtype)  # one NaN, one zero
    return [], values
