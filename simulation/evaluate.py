"""Full-catalogue evaluation of single models: the reference table that every claim of a run is held against.

Two stages, both shown. Stage 1 learns from the training part and picks its epochs on validation NDCG@10. Stage 2
learns from training and validation items for that many epochs, as published leave-one-out figures do. The test items
are looked at once, at the end, with and without the items a user has seen.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from cloud.ranking import CatalogueScorer, Neural, catalogue_ranks
from cloud.training import Log, write_text
from device.errors import ConfigError
from device.seeds import draws
from simulation.config.parts import DataTable, Plugin, Table, TrainingTable
from simulation.config.read import check, read_toml, refuse_other
from simulation.data.audit import leakage_audit
from simulation.data.dataset import Split, windows
from simulation.environment import environment
from simulation.metrics import Measure, parse
from simulation.objects import make_split
from simulation.prepare import described
from simulation.shelf import Shelf
from simulation.statistics import mean_interval

Say = Callable[[str], None]


class ModelTable(Table):
    """One row of the table."""

    name: str
    model: Plugin
    training: TrainingTable = TrainingTable()
    history: int = Field(default=50, ge=1)
    refit: bool = False
    seeds: tuple[int, ...] | None = Field(default=None, strict=False, min_length=1)


class EvaluationConfig(Table):
    """`tandemrec evaluate CONFIG`."""

    name: str
    seeds: tuple[int, ...] = Field(default=(1, 2, 3), strict=False, min_length=1)
    metrics: tuple[str, ...] = Field(default=("hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr"), strict=False)
    data: DataTable
    models: tuple[ModelTable, ...] = Field(strict=False, min_length=1)
    threads: int | None = None


def load_evaluation(path: Path, overrides: Sequence[str] = ()) -> EvaluationConfig:
    """Read, override and check a file that lists models; ConfigError also for the file of an experiment."""
    tables = read_toml(path, overrides)
    refuse_other(tables, "models", str(path))
    config = check(tables, EvaluationConfig, str(path))
    measures_of(config)
    return config


def measures_of(config: EvaluationConfig) -> list[Measure]:
    """The measures; ConfigError for these and for what single keys of the file cannot tell."""
    if not re.fullmatch(r"[\w.+-]*\w", config.name):
        raise ConfigError(f"name = {config.name!r}: use letters, digits, '-', '_', '.', '+' only; it becomes a folder")
    names = [model.name for model in config.models]
    if len(set(names)) < len(names):
        raise ConfigError(f"two models of one name among {', '.join(names)}; rename one")
    if not config.metrics:
        raise ConfigError('metrics = []: name one at least, for example metrics = ["ndcg@10", "hr@10"]')
    return [parse(name) for name in config.metrics]


@dataclass(frozen=True, slots=True)
class Row:
    """Ranks of all test users by one trained model."""

    model: str
    stage: str
    seed: int
    seen: str  # "kept" or "filtered"
    epochs: int
    validation: float | None  # best NDCG@10 on validation in stage 1, which chose the epochs
    rank: NDArray[np.int64]  # [U]
    ties: NDArray[np.int64]  # [U]


def evaluate(config: EvaluationConfig, root: Path, say: Say) -> Path:
    """Train, rank and write root/<name>/{results.json, results.md, per_user.parquet}; finished trainings are reused.

    The data are read with the first seed (its permutation of item ids); the other seeds vary the training only.
    """
    import torch

    torch.set_num_threads(config.threads or torch.get_num_threads())
    started = time.time()
    measures = measures_of(config)
    split = make_split(config.data, config.seeds[0])
    say(described(split, leakage_audit(split)))
    rows = [row for model in config.models for row in evaluate_model(config, model, split, root, say)]
    table = [summary(row_group, measures) for row_group in grouped(rows)]
    about = {"config": config.model_dump(mode="json", by_alias=True), "environment": environment(time.time() - started)}
    folder = root / config.name
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "per_user.parquet"
    per_user(rows, split, measures).to_parquet(whole.with_suffix(".tmp"), index=False)
    os.replace(whole.with_suffix(".tmp"), whole)
    write_text(folder / "results.json", json.dumps(about | {"rows": table}, indent=1))
    write_text(folder / "results.md", markdown(table, measures))
    return folder


def evaluate_model(config: EvaluationConfig, table: ModelTable, split: Split, root: Path, say: Say) -> Iterator[Row]:
    """Both stages of one model for all its seeds; stage 2 takes the epochs that the first seed's stage 1 chose."""
    seeds = table.seeds or config.seeds
    shelf = Shelf(root / "models", split, seeds[0], table.history, say)
    options = table.training.options()
    chosen: Log | None = None
    for seed in seeds if not table.refit else seeds[:1]:
        made, log = replace(shelf, seed=seed).trained(table.model, options, f"model {table.name!r}")
        chosen = chosen or log
        yield from ranked(table, made, split, ("train", seed, log), say)
    if table.refit:
        fixed = replace(options, epochs=max(chosen.best_epoch, 1) if chosen else 1, patience=0)
        for seed in seeds:
            made, log = replace(shelf, seed=seed, refit=True).trained(table.model, fixed, f"model {table.name!r}")
            yield from ranked(table, made, split, ("train + validation", seed, log), say)


def ranked(table: ModelTable, made: Any, split: Split, trained: tuple[str, int, Log | None], say: Say) -> Iterator[Row]:
    """Ranks of the first test item of every user, seen items kept and filtered."""
    from torch import nn

    scorer: CatalogueScorer = Neural(made) if isinstance(made, nn.Module) else made
    stage, seed, log = trained
    epochs = log.best_epoch if log else 0
    best = log.best_value if log and log.values else None
    data = split.data
    users = np.flatnonzero(split.valid_end < data.offsets[1:])
    ends = split.valid_end[users]
    histories = windows(data, users, ends, int((ends - data.offsets[users]).max()))
    noise = draws(seed, "evaluate", users)
    for seen in ("kept", "filtered"):
        rank, ties = catalogue_ranks(scorer, histories, data.item[ends], hide_seen=seen == "filtered", rng=noise)
        row = Row(table.name, stage, seed, seen, epochs, best, rank, ties)
        hit, gain = (parse(m).of(rank, ties).mean() for m in ("hr@10", "ndcg@10"))
        say(f"{table.name}, {stage}, seed {seed}, seen {seen}: HR@10 {hit:.4f}, NDCG@10 {gain:.4f}")
        yield row


def grouped(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that differ in the seed only."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.model, row.stage, row.seen), []).append(row)
    return list(groups.values())


def summary(rows: Sequence[Row], measures: Sequence[Measure]) -> dict[str, Any]:
    """Mean over users and seeds, the 95 % interval over users of the seed average, and the value of each seed."""
    out: dict[str, Any] = {
        "model": rows[0].model,
        "trained on": rows[0].stage,
        "seen items": rows[0].seen,
        "epochs": rows[0].epochs,
        "validation ndcg@10": rows[0].validation,
        "seeds": [row.seed for row in rows],
        "users": len(rows[0].rank),
    }
    for measure in measures:
        values = np.stack([measure.of(row.rank, row.ties) for row in rows])
        interval = mean_interval(values.mean(0))
        out[str(measure)] = {
            "mean": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "by_seed": values.mean(1).tolist(),
        }
    return out


def per_user(rows: Sequence[Row], split: Split, measures: Sequence[Measure]) -> pd.DataFrame:
    """One line per model, stage, seed, filter and user."""
    users = split.data.users[split.valid_end < split.data.offsets[1:]]
    parts = []
    for row in rows:
        part = pd.DataFrame({"user": users, "rank": row.rank, "ties": row.ties})
        for name in ("model", "stage", "seed", "seen"):
            part.insert(0, name, getattr(row, name))
        parts.append(part.assign(**{str(m): m.of(row.rank, row.ties) for m in measures}))
    return pd.concat(parts, ignore_index=True)


def markdown(table: Sequence[dict[str, Any]], measures: Sequence[Measure]) -> str:
    """The table; every cell is the mean over users and seeds with its 95 % interval over users."""
    names = [str(m) for m in measures]
    lines = [
        "| model | trained on | seen items | epochs | validation NDCG@10 | seeds | " + " | ".join(names) + " |",
        "|---" * (6 + len(names)) + "|",
    ]
    for row in table:
        cells = [f"{row[n]['mean']:.4f} [{row[n]['low']:.4f}, {row[n]['high']:.4f}]" for n in names]
        epochs = str(row["epochs"] or "–")
        best = "–" if row["validation ndcg@10"] is None else f"{row['validation ndcg@10']:.4f}"
        seeds = str(len(row["seeds"]))
        lines.append(
            "| " + " | ".join([row["model"], row["trained on"], row["seen items"], epochs, best, seeds, *cells]) + " |"
        )
    return "\n".join(lines) + "\n"
