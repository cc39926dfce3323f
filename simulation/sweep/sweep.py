"""A sweep: every policy at every budget for every seed, and the bounds; lists and device scores are made once.

Finished policies are kept in root/cells under a hash of all that they depend on, so that an interrupted sweep goes on
where it was, and a sweep with one policy more lives only that one.
"""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from simulation.choosing.chooser import learns
from simulation.config.tables import FLOORS, ExperimentConfig, PolicyTable, SweepTable
from simulation.environment import environment
from simulation.experiment import ignore, no_progress
from simulation.fingerprint import fingerprint
from simulation.metrics import parse
from simulation.prepare import Prepared, prepare
from simulation.replay import Columns
from simulation.searching import labels
from simulation.sweep import folder as f
from simulation.sweep.bounds import MERGED, RATIO, REPLACED, VALUE, bound, hindsight
from simulation.sweep.cells import NOTHING, TOTALS, World
from simulation.sweep.plan import ALWAYS, NEVER, family, floor, resolved, with_floors, words
from simulation.sweep.spread import spread

CELL_FILES = "cells"
CALIBRATION = "calibration"
Tables = tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, pd.DataFrame]  # cells, per user, frontier, calibration
One = TypeVar("One")


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep to make, and how to talk about it meanwhile.

    Args:
        config: the experiment; its own seed gives way to those of [sweep].
        root: folder of sweeps, trained models and finished cells.
        say: takes lines of text.
        progress: takes (what, pieces done, pieces in all).
        command: what the user typed, for the record.
    """

    config: ExperimentConfig
    root: Path
    say: Callable[[str], None] = ignore
    progress: Callable[[str, int, int], None] = no_progress
    command: str = ""

    def run(self) -> Path:
        """Make it and write its folder; returns the folder."""
        started, config = time.time(), with_floors(self.config)
        tables, ran = zip(*(self.seed(config, seed) for seed in config.sweep.seeds), strict=True)
        cells, per_user, frontier, calibration = (stacked(parts) for parts in zip(*tables, strict=True))
        subnets = {str(seed): one for seed, one in zip(config.sweep.seeds, ran, strict=True) if one}
        text = resolved(config)
        seconds = round(time.time() - started, 1)
        return f.write_sweep(
            self.root,
            f.sweep_folder_name(config.name, text),
            config_toml=text,
            env=environment(seconds),
            cells=cells,
            per_user=per_user,
            frontier=frontier,
            calibration=calibration,
            summary={"name": config.name, "measures": list(config.metrics), "command": self.command}
            | {"never": floor(config, NEVER).label, "always": floor(config, ALWAYS).label}
            | {"protocol": words(config), "subnets": subnets, "seconds": {"total": seconds}},
        )

    def seed(self, config: ExperimentConfig, seed: int) -> tuple[Tables, dict[str, str]]:
        """The tables of one seed, and the subnets that its tiers ran: a search may find others with each seed."""
        prepared = prepare(config.model_copy(update={"seed": seed, "sweep": SweepTable()}), self.root, self.say)
        made = Seed(prepared, config.sweep, self.root / CELL_FILES)
        if MERGED not in made.bounds():
            self.say(f"without the bound {MERGED!r}: too large for [sweep] bound_size, or lists bring rows or patches")
        made.make(lambda done, total: self.progress(f"seed {seed}", done, total))
        return made.tables(), labels(prepared.config)


def stacked(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables of all seeds under each other; each counts its cells from 0, together they count on."""
    if f.CELL in parts[0]:
        size = int(parts[0][f.CELL].max()) + 1
        parts = [part.assign(**{f.CELL: part[f.CELL] + i * size}) for i, part in enumerate(parts)]
    return pd.concat(parts, ignore_index=True)


@dataclass(frozen=True, slots=True)
class Seed:
    """One seed of a sweep."""

    prepared: Prepared
    sweep: SweepTable
    folder: Path

    def make(self, progress: Callable[[int, int], None]) -> None:
        """Live every policy that is not finished, and find the bounds that are not."""
        policies = self.prepared.config.all_policies
        missing = [policy for policy in policies if not self.place(policy).exists()]
        missing.sort(key=lambda policy: (not learns(policy), policy.class_ in FLOORS))  # the longest first
        world, total = World(self.prepared), len(policies) + len(self.bounds())
        pieces: list[Callable[[], None]] = [partial(self.live, world, policy) for policy in missing]
        pieces += [partial(self.bound, world, name) for name in self.bounds() if not self.place_of_bound(name).exists()]
        state = {"done": total - len(pieces)}

        def done() -> None:
            state["done"] += 1
            progress(state["done"], total)

        progress(state["done"], total)
        if missing:
            world.warm(policies)
        spread(pieces, self.sweep.processes, done)

    def live(self, world: World, policy: PolicyTable) -> None:
        """All cells of one policy."""
        ratios = self.ratios(policy)
        chosen = world.chooser.choose(policy, ratios)
        cells = {f"{i}": world.live(policy, one) for i, one in enumerate(chosen)}
        if family(policy) == f.OURS:
            cells[CALIBRATION] = world.calibration(policy, middle(chosen))
        put(
            self.place(policy),
            {f"{which}/{name}": values for which, cell in cells.items() for name, values in cell.items()},
        )

    def bound(self, world: World, name: str) -> None:
        """One bound's line, under the best of three fusions at every ratio."""
        measure = parse(self.prepared.config.metrics[0])
        merged = name == MERGED
        way = {"class": ALWAYS} | ({"update": "merge", "fusion": "by-age"} if merged else {})
        fusions = world.chooser.envelope(PolicyTable.model_validate(way))
        one = PolicyTable.model_validate({"class": ALWAYS})
        parts = hindsight(world.stage.rehearsal(one), world.stage.setups(one, NOTHING), measure)
        put(self.place_of_bound(name), bound(parts, fusions, pairs=merged, ratios=self.sweep.request_ratios))

    def bounds(self) -> list[str]:
        """Names of the bounds that can be afforded."""
        lived, config = self.prepared.timeline, self.prepared.config
        affordable = len(lived.devices) * lived.steps**3 <= self.sweep.bound_size
        more = config.device.items == "streamed" or (config.cloud.personalizer and config.cloud.personalizer.every)
        return [REPLACED, *([MERGED] if affordable and not more else [])]  # a list with more changes what others earn

    def ratios(self, policy: PolicyTable) -> list[float | None]:
        """Wanted request ratios of a policy's cells."""
        return [*self.sweep.request_ratios] if policy.swept else [policy.request_ratio]

    def place(self, policy: PolicyTable) -> Path:
        """File of a policy's cells."""
        return self.file((policy,), f"{self.ratios(policy)}")

    def place_of_bound(self, name: str) -> Path:
        """File of a bound's line."""
        return self.file((), f"{name} {self.sweep.request_ratios}")

    def file(self, policies: tuple[PolicyTable, ...], what: str) -> Path:
        """File named by all that its content depends on."""
        config = self.prepared.config.model_copy(update={"policies": policies})
        key = f"{fingerprint(replace(self.prepared, config=config))} {what}"
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:20]}.safetensors"

    def tables(self) -> Tables:
        """All tables; the cells are numbered from 0."""
        cells: list[dict[str, object]] = []
        per_user: list[pd.DataFrame] = []
        calibration = [pd.DataFrame(columns=f.CALIBRATION.names)]
        for policy in self.prepared.config.all_policies:
            stored = load_file(self.place(policy))
            for i, ratio in enumerate(self.ratios(policy)):
                cell = within(stored, f"{i}/")
                cells.append(self.row(policy, ratio, cell) | {f.CELL: len(cells)})
                per_user.append(self.users(cell).assign(**{f.CELL: len(per_user)}))
            if found := within(stored, f"{CALIBRATION}/"):
                about = {
                    f.POLICY: policy.label,
                    f.SEED: self.prepared.config.seed,
                    f.BUDGET: middle(self.ratios(policy)),
                }
                calibration.append(pd.DataFrame({**found, **about}))
        return (
            pd.DataFrame(cells),
            pd.concat(per_user, ignore_index=True),
            self.frontier(),
            pd.concat(calibration, ignore_index=True),
        )

    def row(self, policy: PolicyTable, ratio: float | None, cell: Columns) -> dict[str, object]:
        """One row of cells.parquet."""
        steps, requests = (int(cell[name].sum()) for name in (f.N_STEPS, f.REQUESTS))
        return {
            f.POLICY: policy.label,
            f.FAMILY: family(policy),
            f.BUDGET: np.nan if ratio is None else ratio,
            f.SEED: self.prepared.config.seed,
            **{name: float(cell[name][0]) for name in TOTALS},
            f.USERS: len(cell[f.N_STEPS]),
            f.STEPS: steps,
            f.REQUESTS: requests,
            f.REQUEST_RATIO: requests / steps,
            f.BYTES_UP_PER_STEP: cell[f.BYTES_UP].sum() / steps,
            f.BYTES_DOWN_PER_STEP: cell[f.BYTES_DOWN].sum() / steps,
            f.CLOUD_SECONDS_PER_STEP: cell[f.CLOUD_SECONDS].sum() / steps,
        }

    def users(self, cell: Columns) -> pd.DataFrame:
        """Rows of per_user.parquet."""
        names = self.prepared.split.data.users[self.prepared.users]
        each = {name: values for name, values in cell.items() if name not in TOTALS}
        return pd.DataFrame({f.USER: pd.Categorical([str(name) for name in names]), **each})

    def frontier(self) -> pd.DataFrame:
        """Rows of frontier.parquet."""
        seed, measure = self.prepared.config.seed, self.prepared.config.metrics[0]
        parts = [(name, load_file(self.place_of_bound(name))) for name in self.bounds()]
        return pd.concat(
            pd.DataFrame({f.SEED: seed, f.BOUND: name, f.REQUEST_RATIO: part[RATIO], measure: part[VALUE]})
            for name, part in parts
        )


def middle(sequence: Sequence[One]) -> One:
    """The one in the middle: that at which predictions are compared with what came."""
    return sequence[len(sequence) // 2]


def within(stored: Columns, prefix: str) -> Columns:
    """The arrays whose name begins with `prefix`, by the rest of their names."""
    return {name.removeprefix(prefix): values for name, values in stored.items() if name.startswith(prefix)}


def put(path: Path, arrays: Columns) -> None:
    """Keep arrays in a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        save_file({name: np.ascontiguousarray(values) for name, values in arrays.items()}, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
