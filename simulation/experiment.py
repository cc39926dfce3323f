"""One experiment, read top to bottom: prepare, choose on validation, replay every policy, write the run folder."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from cloud.coordinator import Tariff
from cloud.gateway import Delivery, Gateway
from cloud.ledger import Ledger
from simulation.choosing.chooser import choose
from simulation.choosing.chosen import Chosen
from simulation.choosing.pricing import budget_of, groups
from simulation.config.tables import ExperimentConfig, PolicyTable
from simulation.config.toml import to_toml
from simulation.energy import joules_per_step
from simulation.environment import environment
from simulation.fairness import Allowance, activity
from simulation.handout import write_handout
from simulation.in_time import live
from simulation.kept import finished, keep
from simulation.metrics import parse
from simulation.objects import tiers
from simulation.prepare import Prepared, prepare, serving
from simulation.protocol import examples, leakage, protocol
from simulation.replay import Columns, Wave
from simulation.runs import decision_hash, folder_name, per_user_metrics, summarise, write_run
from simulation.tier_profiles import tier_costs


def ignore(line: str) -> None:
    """Say nothing."""


def no_progress(policy: str, wave: int, waves: int) -> None:
    """Show nothing."""


def forget(folder: Path) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Job:
    """An experiment to run, and how to talk about it meanwhile.

    Args:
        config: the experiment.
        root: folder of runs, trained models and handouts.
        clients: Flower clients that the fleet is cut into.
        say: takes lines of text.
        progress: takes (policy, waves done, waves in all).
        resume: keep the replays of policies that an interrupted run had finished.
        command: what the user typed, for the record.
        prepared: what `prepare(config, root, say)` returned, where it is there already.
        written: is told the run folder (a ServerApp returns nothing).
    """

    config: ExperimentConfig
    root: Path
    clients: int
    say: Callable[[str], None] = ignore
    progress: Callable[[str, int, int], None] = no_progress
    resume: bool = False
    command: str = ""
    prepared: Prepared | None = None
    written: Callable[[Path], None] = forget


class Connect(Protocol):
    """Makes the function that takes a delivery to all clients and brings their waves back."""

    def __call__(self, folder: Path, policy: str, devices: int) -> Callable[[int, Delivery], Iterator[Wave]]:
        """For one policy over a handout folder with this many devices."""
        ...


def run(job: Job, connect: Connect) -> Path:
    """Run the experiment over connected clients and write its run folder; returns the folder."""
    started = time.time()
    prepared = job.prepared or prepare(job.config, job.root, job.say)
    chosen = choose(prepared, job.say)
    handout = write_handout(prepared, chosen)
    work = job.root / f".work-{handout.name}"
    if not job.resume:
        shutil.rmtree(work, ignore_errors=True)
    steps, ledgers = [], []
    for policy in job.config.all_policies:
        exchange = connect(handout, policy.label, len(prepared.timeline.devices))
        columns, ledger = finished(work, policy) or replay_policy(prepared, (policy, chosen), exchange, job)
        keep(work, policy, columns, ledger)
        steps.append(labelled(policy, columns))
        ledgers.append(labelled(policy, ledger))
    folder = write(job, prepared, chosen, together(steps), together(ledgers), started)
    shutil.rmtree(work, ignore_errors=True)
    job.written(folder)
    return folder


def replay_policy(
    prepared: Prepared,
    what: tuple[PolicyTable, Mapping[str, Chosen]],
    exchange: Callable[[int, Delivery], Iterator[Wave]],
    job: Job,
) -> tuple[Columns, Columns]:
    """(steps, ledger) of one policy over the test steps of all devices."""
    policy, chosen = what
    ledger, timeline = Ledger(), prepared.timeline
    service = replace(
        serving(prepared.service, policy, job.config.cloud.pool, prepared.share(policy)),
        tariff=tariff(job.config, chosen[policy.label]),
    )
    gateway = Gateway(service, timeline.histories, ledger)
    extra = chosen[policy.label].learned_bytes
    first = gateway.install([nbytes + extra for nbytes in prepared.installation(policy)], timeline.at[:, 0])
    steps = live(exchange, gateway, first, timeline, lambda done, whole: job.progress(policy.label, done, whole))
    return steps, ledger.columns()


def tariff(config: ExperimentConfig, chosen: Chosen) -> Tariff | None:
    """What the coordinator starts from, under a budget."""
    table = config.cloud.budget
    if table is None or chosen.pricing is None:
        return None
    return chosen.pricing.tariff(budget_of(table, [tier.name for tier in tiers(config)]), table.horizon)


def allowance(prepared: Prepared) -> Allowance | None:
    """The budget and whose it is, for the summary."""
    config = prepared.config
    if config.cloud.budget is None:
        return None
    names = tuple(tier.name for tier in tiers(config))
    budget = budget_of(config.cloud.budget, names)
    purses = names if len(budget.rate) > 1 else ("all",)
    return Allowance(budget, config.cloud.budget.horizon, purses, groups(budget, prepared.timeline.tier))


def write(
    job: Job, prepared: Prepared, chosen: Mapping[str, Chosen], steps: Columns, ledger: Columns, started: float
) -> Path:
    """Compute what follows from steps and ledger, and write the run folder whole or not at all."""
    shown = {name: steps[name] for name in ("policy", "device", "step")} | {"items": steps.pop("shown")}
    names = prepared.split.data.users
    users = {device: str(names[user]) for device, user in enumerate(prepared.users)}
    per_user = per_user_metrics(steps, ledger, users, [parse(name) for name in job.config.metrics])
    summary = summed_up(prepared, steps, ledger, per_user) | {
        "command": job.command,
        "chosen": {label: {"price": c.price, "fusion": asdict(c.fusion)} for label, c in chosen.items()},
        "decision_hash": decision_hash(steps, ledger),
        "data": dict(prepared.audit) | {"name": prepared.split.data.name, "hash": prepared.split.data.content_hash()},
        "tiers": tier_costs(prepared.config, prepared.installed, prepared.split.data.n_items, nbytes=prepared.largest),
        "protocol": protocol(job.config),
        "leakage": leakage(prepared.audit),
        "examples": examples(prepared, steps, shown),
    }
    text = to_toml(prepared.config.model_dump(mode="json", by_alias=True, exclude_none=True))
    return write_run(
        job.root,
        folder_name(job.config.name, text, job.config.seed),
        config_toml=text,
        env=environment(time.time() - started),
        steps=steps,
        ledger=ledger,
        recommendations=shown,
        per_user=per_user,
        summary=summary,
    )


def summed_up(prepared: Prepared, steps: Columns, ledger: Columns, per_user: pd.DataFrame) -> dict[str, Any]:
    """What `summarise` makes of a run."""
    config = prepared.config
    tier_names = np.array([tier.name for tier in tiers(config)], object)
    history = prepared.split.valid_end[prepared.users] - prepared.split.data.offsets[prepared.users]
    return summarise(
        steps,
        ledger,
        per_user,
        [parse(name) for name in config.metrics],
        baseline=config.baseline,
        groups={"tier": tier_names[prepared.timeline.tier], "activity": activity(history)},
        allowance=allowance(prepared),
        joules={
            policy.label: joules_per_step(prepared, policy, of(steps, policy), of(ledger, policy))
            for policy in config.all_policies
        },
    )


def labelled(policy: PolicyTable, columns: Columns) -> Columns:
    """The columns with the policy's name."""
    size = len(columns["device"])
    return {"policy": np.full(size, policy.label, object), **columns}


def of(columns: Columns, policy: PolicyTable) -> Columns:
    """The rows of one policy."""
    rows = columns["policy"] == policy.label
    return {name: values[rows] for name, values in columns.items()}


def together(parts: list[Columns]) -> Columns:
    """Columns of several tables under each other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
