"""A sweep of two users and few points, for numbers that can be worked out by hand."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd

from simulation.sweep.folder import Sweep, write_sweep


def small_tables(
    values: dict[tuple[str, float, int], list[float]], published: Collection[str] = ()
) -> dict[str, pd.DataFrame]:
    """Tables of a sweep from (policy, realised ratio, seed) -> the users' values; never at 0, always at 1.

    Policies are ours but for those that are `published`.
    """
    cells, people = [], []
    for cell, ((policy, ratio, seed), found) in enumerate(values.items()):
        floor = policy in ("never", "always")
        family = "floor" if floor else "published" if policy in published else "ours"
        row = {"cell": cell, "policy": policy, "family": family, "seed": seed, "price": 0.0}
        row |= {"budget": np.nan if floor else round(ratio, 1), "request_ratio": ratio, "users": 2, "steps": 2}
        row |= {"requests": 0, "bytes_up_per_step": 10 * ratio, "bytes_down_per_step": 90 * ratio}
        row |= {"install_bytes_per_device": 5.0, "latency_p50_s": ratio or np.nan, "latency_p95_s": ratio or np.nan}
        cells.append(row | {"cloud_seconds_per_step": ratio, "energy_j_per_step": ratio})
        for i, value in enumerate(found):
            row = {"cell": cell, "user": f"u{i}", "n_steps": 1, "requests": 0, "bytes_up": 0, "bytes_down": 0}
            people.append(row | {"cloud_seconds": 0.0, "ndcg@10": value})
    bound = {"seed": [1, 1, 2, 2], "bound": ["best"] * 4, "request_ratio": [0.0, 0.5, 0.0, 1.0]}
    frontier = pd.DataFrame(bound | {"ndcg@10": [0.2, 1.2, 0.2, 1.2]})
    return {"cells": pd.DataFrame(cells), "per_user": pd.DataFrame(people), "frontier": frontier}


VALUES = {
    ("never", 0.0, 1): [0.0, 0.4],
    ("always", 1.0, 1): [0.6, 1.0],
    ("p", 0.2, 1): [0.2, 0.6],
    ("p", 0.4, 1): [0.4, 1.0],
    ("q", 0.2, 1): [0.1, 0.4],
    ("never", 0.0, 2): [0.2, 0.2],
    ("always", 1.0, 2): [0.8, 0.8],
    ("p", 0.22, 2): [0.4, 0.4],
    ("p", 0.44, 2): [0.6, 0.6],
    ("q", 0.2, 2): [0.1, 0.4],
}


def write_small(root: Path, tables: dict[str, pd.DataFrame], config_toml: str = "", **summary) -> Sweep:
    said = {"name": "small", "measures": ["ndcg@10"], "never": "never", "always": "always"} | summary
    return Sweep.open(write_sweep(root, "small", config_toml=config_toml, env={}, summary=said, **tables))
