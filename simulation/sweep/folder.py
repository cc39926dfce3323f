"""The sweep folder: many policies at many budgets; the only place that writes or reads one.

```
runs/<name>-<config hash>-sweep/
  config.resolved.toml  env.json  cells.parquet  per_user.parquet  frontier.parquet  calibration.parquet  summary.json
  tradeoff.html (added by reports.tradeoff_page)
```
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa

from device.errors import RunError
from simulation import schema as c
from simulation.runs import to_json
from simulation.whole_folder import WholeFolder, write_folder

CONFIG, ENV, SUMMARY = "config.resolved.toml", "env.json", "summary.json"
CELLS_FILE, PER_USER_FILE, FRONTIER_FILE = "cells.parquet", "per_user.parquet", "frontier.parquet"
CALIBRATION_FILE = "calibration.parquet"
PAGE = "tradeoff.html"
FILES = (CONFIG, ENV, CELLS_FILE, PER_USER_FILE, FRONTIER_FILE, CALIBRATION_FILE, SUMMARY)
"""What a sweep folder is written with; older ones lack the calibration. The page is made from these, if at all."""

CELL: Final = "cell"
POLICY: Final = c.POLICY
FAMILY: Final = "family"
BUDGET: Final = "budget"  # wanted request ratio; NaN where the policy has none
SEED: Final = "seed"
PRICE: Final = "price"
USERS: Final = "users"
STEPS: Final = "steps"
REQUESTS: Final = c.REQUESTS
REQUEST_RATIO: Final = "request_ratio"  # requests / steps
BYTES_UP_PER_STEP: Final = "bytes_up_per_step"  # installation apart
BYTES_DOWN_PER_STEP: Final = "bytes_down_per_step"
INSTALL_BYTES: Final = "install_bytes_per_device"
LATENCY_P50_S: Final = "latency_p50_s"  # NaN where no reply came
LATENCY_P95_S: Final = "latency_p95_s"
CLOUD_SECONDS_PER_STEP: Final = "cloud_seconds_per_step"
ENERGY_J_PER_STEP: Final = "energy_j_per_step"
USER: Final = c.USER
N_STEPS: Final = c.N_STEPS
BYTES_UP: Final = c.BYTES_UP
BYTES_DOWN: Final = c.BYTES_DOWN
CLOUD_SECONDS: Final = "cloud_seconds"
BOUND: Final = "bound"
DECILE: Final = "decile"
PREDICTED: Final = "predicted"
REALISED: Final = "realised"
LOW: Final = "low"
HIGH: Final = "high"

FLOOR: Final = "floor"
"""Family of policies that take no budget and stand for themselves: never, always, the device alone."""
PUBLISHED: Final = "published"
OURS: Final = "ours"

_TEXT = pa.dictionary(pa.int32(), pa.string())
_TOTALS = (BYTES_UP_PER_STEP, BYTES_DOWN_PER_STEP, INSTALL_BYTES, LATENCY_P50_S, LATENCY_P95_S)

CELLS: Final = pa.schema(
    [
        (CELL, pa.int32()),
        (POLICY, _TEXT),
        (FAMILY, _TEXT),
        (BUDGET, pa.float64()),
        (SEED, pa.int64()),
        (PRICE, pa.float64()),
        *[(name, pa.int64()) for name in (USERS, STEPS, REQUESTS)],
        (REQUEST_RATIO, pa.float64()),
        *[(name, pa.float64()) for name in (*_TOTALS, CLOUD_SECONDS_PER_STEP, ENERGY_J_PER_STEP)],
    ]
)
PER_USER: Final = pa.schema(
    [
        (CELL, pa.int32()),
        (USER, _TEXT),
        (N_STEPS, pa.int32()),
        (REQUESTS, pa.int32()),
        (BYTES_UP, pa.int64()),
        (BYTES_DOWN, pa.int64()),
        (CLOUD_SECONDS, pa.float64()),
    ]
)
"""Besides these, one float64 column per measure: the mean over the user's steps."""
FRONTIER: Final = pa.schema([(SEED, pa.int64()), (BOUND, _TEXT), (REQUEST_RATIO, pa.float64())])
"""Besides these, one float64 column named by the first measure: the mean over users under the bound."""
CALIBRATION: Final = pa.schema(
    [
        (POLICY, _TEXT),
        (SEED, pa.int64()),
        (BUDGET, pa.float64()),
        (DECILE, pa.int32()),
        (STEPS, pa.int64()),
        *[(name, pa.float64()) for name in (PREDICTED, REALISED, LOW, HIGH)],
    ]
)
"""A row per tenth (0 to 9) of the steps of a policy at a budget under a seed, in the order of the predicted gain.

`predicted` and `realised` are mean gains of a request in NDCG@10, summed over the policy's horizon; `low`
and `high` the 95 % interval of `realised`.
"""


@dataclass(frozen=True)
class Sweep:
    """A finished sweep; each property reads its file on first use and raises RunError when it cannot."""

    path: Path

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Sweep":
        """The sweep in the folder `path`; RunError names the files that are missing."""
        required = [name for name in FILES if name != CALIBRATION_FILE]
        return cls(WholeFolder.open(path, "sweep", required).path)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row per policy, budget and seed; columns of `CELLS`."""
        return self._files.frame(CELLS_FILE, CELLS)

    @cached_property
    def frontier(self) -> pd.DataFrame:
        """Points of the bounds; columns of `FRONTIER` and the first measure."""
        return self._files.frame(FRONTIER_FILE, FRONTIER)

    @cached_property
    def calibration(self) -> pd.DataFrame:
        """What policies promised themselves of a request and what came; columns of `CALIBRATION`.

        Without rows when no policy predicts a gain, or when the sweep is older than this file.
        """
        if not (self.path / CALIBRATION_FILE).is_file():
            return c.frame(CALIBRATION.empty_table(), CALIBRATION, str(self.path / CALIBRATION_FILE))
        return self._files.frame(CALIBRATION_FILE, CALIBRATION)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Keys name, measures, never, always, command, protocol, subnets, seconds.

        Subnets: of the tiers that run one, its label by seed, then tier; sweeps older than this lack the key.
        """
        return self._files.json(SUMMARY)

    @cached_property
    def env(self) -> dict[str, Any]:
        """Versions and machine the sweep was made with."""
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
    def measures(self) -> list[str]:
        """Names of the measures, the one that the bounds are about first."""
        return [str(name) for name in self.summary["measures"]]

    def per_user(self, *columns: str) -> pd.DataFrame:
        """`columns` of per_user.parquet (all without any), one row per cell and user; RunError for one it lacks.

        Not kept: a sweep over 36,000 users has millions of rows, and statistics need three columns at a time.
        """
        frame: pd.DataFrame = self._files.table(PER_USER_FILE, columns).to_pandas()
        return frame

    @property
    def _files(self) -> WholeFolder:
        return WholeFolder(self.path, "sweep")


def sweep_folder_name(name: str, config_toml: str) -> str:
    """`<name>-<8 hex digits of the resolved configuration>-sweep`."""
    return f"{name}-{hashlib.sha256(config_toml.encode()).hexdigest()[:8]}-sweep"


def write_sweep(
    root: str | os.PathLike[str],
    name: str,
    *,
    config_toml: str,
    env: Mapping[str, Any],
    cells: c.Columns,
    per_user: c.Columns,
    frontier: c.Columns,
    summary: Mapping[str, Any],
    calibration: c.Columns | None = None,
) -> Path:
    """Folder root/name, written whole or not at all (see `write_folder`).

    Numbers in `env` and `summary` that are not finite become null. Without `calibration` its table has no rows.
    RunError when a table lacks a column or a measure of the summary, or when the disk refuses.
    """
    place, measures = Path(root) / name, [str(one) for one in summary["measures"]]
    tables = {
        CELLS_FILE: c.table(cells, CELLS, f"{place}: cells"),
        PER_USER_FILE: c.table(per_user, PER_USER, f"{place}: per user"),
        FRONTIER_FILE: c.table(frontier, FRONTIER, f"{place}: frontier"),
        CALIBRATION_FILE: c.table(
            CALIBRATION.empty_table() if calibration is None else calibration, CALIBRATION, f"{place}: calibration"
        ),
    }
    for file, wanted in ((PER_USER_FILE, measures), (FRONTIER_FILE, measures[:1])):
        if lacking := [one for one in wanted if one not in tables[file].column_names]:
            raise RunError(f"{place}: {file} has no column {', '.join(lacking)}; the summary names it as a measure")
    texts = {CONFIG: config_toml, ENV: to_json(env), SUMMARY: to_json(summary)}
    return write_folder(root, name, tables=tables, texts=texts)
