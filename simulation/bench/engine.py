"""Benchmarks behind `tandemrec bench`: ratios of times measured side by side, never tests."""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from device.scoring import SCORING_BATCH
from simulation.bench.devices import bench_devices
from simulation.bench.personal import bench_personal
from simulation.config.read import check
from simulation.config.tables import ExperimentConfig
from simulation.experiment import Job
from simulation.flower.client_app import app as client_app
from simulation.flower.in_process_grid import run_in_process
from simulation.flower.server_app import app_for
from simulation.prepare import Prepared, prepare

Say = Callable[[str], None]
BARE_BATCHES = (SCORING_BATCH, 128, 256, 1024)


def experiment(users: int, steps: int) -> ExperimentConfig:
    """SASRec d=32 with history and pool of 50, untrained, asking in about a tenth of the steps; a cheap generator.

    The generator is first-order Markov, so that the engine and not the cloud model is measured; policy prices and
    fusion are given, so that nothing is calibrated.
    """
    tables = {
        "name": f"bench-{users}",
        "data": {
            "synthetic": {"users": users, "items": 2000, "length": 50 + steps},
            "split": {"leave_last": steps, "validation": 1},
        },
        "cloud": {"generator": {"class": "cloud.generators.floors:Markov"}, "pool": 50, "history": 50},
        "simulation": {"devices_per_client": 8192},
        "device": {
            "model": {"class": "device.models.sasrec:SASRec", "width": 32, "blocks": 2, "heads": 2},
            "training": {"epochs": 0, "patience": 0},
            "history": 50,
            "fusion": {"alpha": 0.5},
            "policy": {"class": "device.policy:Consistency", "measure": "footrule", "price": 0.745},
        },
    }
    return check(tables, ExperimentConfig, "bench")


def whole_run(prepared: Prepared) -> float:
    """Seconds of a run from prepared models to the written run folder, through ServerApp and ClientApps."""
    config = prepared.config
    clients = -(-len(prepared.timeline.devices) // config.simulation.devices_per_client)
    started = time.perf_counter()
    run_in_process(
        app_for(Job(config, prepared.root, clients, prepared=prepared)), client_app, clients=clients, run_config={}
    )
    return time.perf_counter() - started


def forward_passes(prepared: Prepared, batch: int) -> float:
    """Seconds of the bare forward passes over the same (device, step) pairs, `batch` rows at a time.

    Histories and pools are laid out beforehand; the pools are random, which changes nothing in what is computed.
    """
    timeline, tier = prepared.timeline, prepared.installed[0]
    whole = np.concatenate([timeline.histories, timeline.items], axis=1)
    length = timeline.histories.shape[1]
    numbers = np.random.default_rng(0)
    pools = numbers.integers(1, prepared.split.data.n_items + 1, (len(whole), prepared.service.pool)).astype(np.int32)
    seconds = 0.0
    for step in range(timeline.steps):
        histories = np.ascontiguousarray(whole[:, step : step + length])
        started = time.perf_counter()
        for first in range(0, len(whole), batch):
            tier.model.score(tier.params, histories[first : first + batch], pools[first : first + batch])
        seconds += time.perf_counter() - started
    return seconds


def engine(say: Say, users: int = 4000, steps: int = 20, rounds: int = 5) -> dict[str, Any]:
    """A whole run against the bare forward passes, in turn in one process; medians over the rounds."""
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(experiment(users, steps), Path(scratch), lambda _: None)
        best = min(BARE_BATCHES, key=lambda batch: forward_passes(prepared, batch))
        runs, bare = [], []
        for number in range(rounds):
            bare.append(forward_passes(prepared, best))
            runs.append(whole_run(prepared))
            say(f"round {number + 1}/{rounds}: run {runs[-1]:.2f} s, forward passes {bare[-1]:.2f} s")
        asked = asked_share(Path(scratch))
    pairs = users * steps
    return {
        "device_steps": pairs,
        "request_ratio": asked,
        "bare_batch": best,
        "run_steps_per_s": pairs / statistics.median(runs),
        "bare_steps_per_s": pairs / statistics.median(bare),
        "ratio_run_to_bare": statistics.median(r / b for r, b in zip(runs, bare, strict=True)),
    }


def asked_share(root: Path) -> float:
    """Request ratio of the only run under `root`."""
    summary = json.loads(next(root.glob("bench-*/summary.json")).read_text())
    return float(next(iter(summary["policies"].values()))["request_ratio"])


def scale(say: Say, sizes: Sequence[int] = (1_000, 10_000, 100_000), steps: int = 5) -> dict[str, Any]:
    """Time and peak memory of whole runs over ever larger fleets, each in a process of its own.

    `exponent` is the slope of log time against log devices.
    """
    rows = []
    for size in sizes:
        command = [sys.executable, "-m", "simulation.bench.engine", str(size), str(steps)]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(found.stdout))
        say(f"{size:,} devices: {rows[-1]['seconds']:.1f} s, {rows[-1]['peak_mb']:.0f} MB")
    slope = np.polyfit(np.log([r["devices"] for r in rows]), np.log([r["seconds"] for r in rows]), 1)[0]
    return {"exponent": float(slope)} | {f"{row['devices']}": row for row in rows}


def one_size(users: int, steps: int) -> dict[str, Any]:
    """Seconds of one whole run and this process's peak memory."""
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(experiment(users, steps), Path(scratch), lambda _: None)
        seconds = whole_run(prepared)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "devices": users,
        "steps": steps,
        "seconds": seconds,
        "us_per_step": 1e6 * seconds / users / steps,
        "peak_mb": peak,
    }


def devices(say: Say) -> dict[str, Any]:
    """States against whole histories, and personal masks against a loop."""
    return bench_devices(say) | {"personal": bench_personal(say)}


BENCHMARKS: dict[str, Callable[[Say], dict[str, Any]]] = {"engine": engine, "scale": scale, "devices": devices}


if __name__ == "__main__":
    print(json.dumps(one_size(int(sys.argv[1]), int(sys.argv[2]))))
