"""`tandemrec devices`: trains what is missing, asks every method about the same lists, writes NAME-HASH-devices."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from device.errors import DataError
from simulation.config.study import StudyConfig, resolved
from simulation.config.tables import ExperimentConfig
from simulation.config.toml import to_toml
from simulation.data.audit import leakage_audit
from simulation.data.dataset import Split
from simulation.devices.kept import kept, place
from simulation.devices.lists import Asked, asked
from simulation.devices.measure import MEASURES, Outcome, measured
from simulation.devices.methods import Ready, experiment, ready, try_methods
from simulation.devices.speed import speed
from simulation.devices.table import MethodComparison, MethodCost
from simulation.environment import environment
from simulation.fingerprint import own_code
from simulation.objects import make_generator, make_split
from simulation.prepare import described
from simulation.protocol import protocol
from simulation.runs import to_json
from simulation.searching import refuse_impossible
from simulation.shelf import Shelf
from simulation.whole_folder import write_folder

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class MeasuredMethod:
    """One method with one seed."""

    outcome: Outcome
    source: str
    installed_bytes: int
    parameters: int
    speed: dict[str, Any]  # of the first seed; times do not depend on the weights
    subnet: str | None = None


@dataclass(frozen=True, slots=True)
class MeasuredSeed:
    """All methods with one seed."""

    users: Any  # [U] external ids
    in_pool: Any  # [U]
    methods: tuple[MeasuredMethod, ...]


def devices_report(config: StudyConfig, root: Path, say: Say, *, command: str = "") -> Path:
    """Compare the methods of `config`; returns the folder root/<name>-<hash>-devices, complete or absent."""
    import torch

    started = time.time()
    torch.set_num_threads(config.threads or torch.get_num_threads())
    try_methods(config)
    splits = {seed: make_split(config.data, seed) for seed in config.seeds}
    for method in config.methods:
        refuse_impossible(experiment(config, method, config.seeds[0]), splits[config.seeds[0]].data.n_items)
    say(described(splits[config.seeds[0]], leakage_audit(splits[config.seeds[0]])))
    found = compared(config, [one_seed(config, seed, splits[seed], root, say) for seed in config.seeds])
    words = protocol_of(config)
    texts = {
        "config.resolved.toml": to_toml(resolved(config)),
        "env.json": to_json(environment(time.time() - started)),
        "summary.json": to_json({"name": config.name, "command": command, "protocol": words, **found.to_json()}),
        "table.md": markdown(found, words),
    }
    name = f"{config.name}-{folder_hash(config, splits[config.seeds[0]])}-devices"
    return write_folder(root, name, tables={"per_user.parquet": found.per_user()}, texts=texts)


def folder_hash(config: StudyConfig, split: Split) -> str:
    """Eight digits of all that the comparison depends on: configuration, data and our own code."""
    tables = {key: value for key, value in resolved(config).items() if key not in ("name", "threads")}
    said = json.dumps(tables, sort_keys=True)
    return hashlib.sha256(f"{said} {split.data.content_hash()} {own_code()}".encode()).hexdigest()[:8]


def one_seed(config: StudyConfig, seed: int, split: Split, root: Path, say: Say) -> MeasuredSeed:
    """The lists of one seed, and every method on them."""
    one = experiment(config, config.methods[0], seed)
    shelf = Shelf(root / "models", split, seed, config.device.history, say, hide_seen=config.cloud.hide_seen)
    generator = make_generator(one, replace(shelf, length=config.cloud.history))
    lists = asked(
        generator,
        split,
        pool=config.cloud.pool,
        length=config.cloud.history,
        negatives=config.negatives,
        seed=seed,
        say=say,
    )
    holds = lists.per_user((lists.pools == lists.targets[:, None]).any(1))
    made = tuple(one_method(config, number, lists, shelf) for number in range(len(config.methods)))
    return MeasuredSeed(split.data.users[lists.users], holds, made)


def one_method(config: StudyConfig, number: int, lists: Asked, shelf: Shelf) -> MeasuredMethod:
    """Train and measure one method."""
    started, method = time.time(), config.methods[number]
    one = experiment(config, method, shelf.seed)
    made = ready(one, method, shelf)
    outcome = kept(
        place(shelf, one, made, negatives=config.negatives),
        lambda: measured(made, lists, length=config.device.history, seed=shelf.seed),
    )
    first = shelf.seed == config.seeds[0]
    found = MeasuredMethod(
        outcome,
        made.source,
        made.installed.nbytes,
        made.parameters,
        timed(config, made, shelf.split.data.n_items, outcome.flops) if first else {},
        made.subnet,
    )
    values = ", ".join(f"{name} {outcome.values[name].mean():.4f}" for name in MEASURES)
    shelf.say(f"seed {shelf.seed}, {method.name}: {values}; {time.time() - started:.0f} s")
    return found


def timed(config: StudyConfig, made: Ready, n_items: int, flops: float) -> dict[str, Any]:
    """See `simulation.devices.speed`."""
    return speed(
        made,
        config.profiles,
        n_items=n_items,
        length=config.device.history,
        candidates=config.cloud.pool,
        flops=flops,
    )


def compared(config: StudyConfig, seeds: list[MeasuredSeed]) -> MethodComparison:
    """All seeds as one comparison; DataError where they do not serve the same users."""
    for number, one in zip(config.seeds, seeds, strict=True):
        if not np.array_equal(one.users, seeds[0].users):
            raise DataError(f"seed {number}: other users than with seed {config.seeds[0]}; compare one seed at a time")
    by_method = list(zip(*(one.methods for one in seeds), strict=True))
    return MethodComparison(
        methods=tuple(method.name for method in config.methods),
        sources=tuple(of[0].source for of in by_method),
        baseline=config.reference,
        seeds=config.seeds,
        users=seeds[0].users,
        values={name: np.array([[m.outcome.values[name] for m in of] for of in by_method]) for name in MEASURES},
        in_pool=np.array([one.in_pool for one in seeds]),
        costs=tuple(cost(of) for of in by_method),
        profiles=config.profiles,
    )


def cost(seeds: tuple[MeasuredMethod, ...]) -> MethodCost:
    """Means over the seeds of one method."""
    sent = np.concatenate([one.outcome.update_bytes for one in seeds])
    return MethodCost(
        update_bytes=float(sent.mean()) if len(sent) else 0.0,
        update_bytes_range=(float(sent.min(initial=np.inf)), float(sent.max())) if len(sent) else (0.0, 0.0),
        installed_bytes=float(np.mean([one.installed_bytes for one in seeds])),
        parameters=float(np.mean([one.parameters for one in seeds])),
        flops=float(np.mean([one.outcome.flops for one in seeds])),
        patch_flops=float(np.mean([one.outcome.patch_flops for one in seeds])),
        auc=float(np.mean([one.outcome.auc for one in seeds])),
        speed=seeds[0].speed,
        subnets=tuple(one.subnet for one in seeds if one.subnet is not None),
    )


def protocol_of(config: StudyConfig) -> dict[str, str]:
    """What every figure is measured on, in words."""
    one: ExperimentConfig = experiment(config, config.methods[0], config.seeds[0])
    said = protocol(one)
    return {
        "split": said["split"],
        "candidates": f"each step has a list of {config.cloud.pool} from the cloud, made of the newest "
        f"{config.cloud.history} items before it, the same for all methods; each method alone orders it, without the "
        "cloud's scores; nothing is put into a list, and a target that it lacks counts 0",
        "seen-filter": "items of that history are left out" if config.cloud.hide_seen else "no item is left out",
        "patches": f"made at every step, of the newest {config.device.history} items before it, which is fresher than "
        "a device that asks less often has them; bytes are of the encoded messages, headers included",
        "user-AUC": f"DUET's protocol: the target against {config.negatives} items that the user never took, drawn "
        "uniformly with replacement, the same for all methods; mean per user, then over users (AUC: all steps "
        "together). Equal scores count half",
        "gains": "paired per user over the mean of the seeds, 95 % intervals of Student's t over users; p after Holm "
        "over all methods of a measure",
        "milliseconds": "median of onnxruntime, one list, one thread, measured here; the columns of phones are scaled "
        "from it, not measured on a phone. Of a personalised method the installed half is run; a patch is put in "
        "place when it arrives. FLOPs count what a patch switches off, milliseconds do not. Of a searched subnet, that "
        "of the first seed is run",
        "compact item tables": "FLOPs, milliseconds and parameters are those of the float32 table that such a table "
        "stands for: to read int8 or codes is not counted. Bytes are those of the table as installed",
        "ties": said["ties"],
    }


def markdown(found: MethodComparison, words: dict[str, str]) -> str:
    """The tables, and what they are measured on."""
    seeds = ", ".join(map(str, found.seeds))
    about = "\n".join(f"* {name}: {text}." for name, text in words.items())
    return f"{len(found.users):,} users, seeds {seeds}. {found.markdown()}\n{about}\n"
