"""Behind `tandemrec bench devices`: one position against the whole history, measured in turn in one process."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device.incremental import State, state_bytes
from device.incremental_scorer import IncrementalScorer
from device.model import Items, Parameters, Scores
from device.models.elastic import ElasticSASRec
from device.models.incremental_torch import IncrementalTorch
from device.scoring import SCORING_BATCH, ModelScorer, Scorer
from device.seeds import rng

Say = Callable[[str], None]
HISTORY, POOL, ITEMS = 50, 50, 2000
BATCHES = (SCORING_BATCH, 256, 1024)
"""Rows of a call; each side is shown at its best."""


@dataclass(frozen=True, slots=True)
class Lived:
    """Devices with HISTORY items and some steps more, and a pool for each."""

    model: IncrementalTorch
    params: Parameters
    items: Items  # [D, HISTORY + steps]
    pools: Items  # [D, POOL]

    @property
    def steps(self) -> int:
        """Of each device."""
        return int(self.items.shape[1]) - HISTORY

    def window(self, step: int) -> Items:
        """[D, HISTORY] known after `step` steps."""
        return np.ascontiguousarray(self.items[:, step : step + HISTORY])


def lived(devices: int, steps: int) -> Lived:
    """Random items; an untrained ElasticSASRec of width 32 with two blocks."""
    model = IncrementalTorch(ElasticSASRec(ITEMS, width=32, blocks=2, items=32, length=HISTORY))
    draw = rng(0, "bench devices")
    items = draw.integers(1, ITEMS + 1, (devices, HISTORY + steps), dtype=np.int32)
    pools = draw.integers(1, ITEMS + 1, (devices, POOL), dtype=np.int32)
    return Lived(model, model.init(rng(0, "bench weights")), items, pools)


def recomputed(one: Lived, batch: int) -> float:
    """Seconds of all steps of all devices from their histories, `batch` devices at a time."""
    seconds = 0.0
    for step in range(1, one.steps + 1):
        histories = one.window(step)
        started = time.perf_counter()
        for first in range(0, len(histories), batch):
            part = slice(first, first + batch)
            one.model.score(one.params, histories[part], one.pools[part])
        seconds += time.perf_counter() - started
    return seconds


def continued(one: Lived, batch: int) -> float:
    """Seconds of the same steps from states, which lie in memory as one array per name for all devices."""
    held = {k: np.array(v) for k, v in one.model.start(one.params, one.window(0)).items()}
    started = time.perf_counter()
    for step in range(1, one.steps + 1):
        newest = one.items[:, HISTORY + step - 1]
        for first in range(0, len(newest), batch):
            part = slice(first, first + batch)
            state = one.model.advance(one.params, rows(held, part), newest[part])
            one.model.score_state(one.params, state, one.pools[part])
            for name, values in held.items():
                values[part] = state[name]
    return time.perf_counter() - started


def rows(held: State, part: slice) -> dict[str, NDArray[np.generic]]:
    """Copies of some rows."""
    return {name: values[part].copy() for name, values in held.items()}


def through(one: Lived, scorer: Scorer) -> float:
    """Seconds of the same steps as a fleet asks for them, in calls of SCORING_BATCH rows."""
    who = np.arange(len(one.items))
    scorer.scores(who, who * 0, one.window(0), one.pools)  # states begin here
    windows = [one.window(step) for step in range(1, one.steps + 1)]
    started = time.perf_counter()
    for step, history in enumerate(windows, start=1):
        scorer.scores(who, np.full(len(who), step), history, one.pools)
    return time.perf_counter() - started


def largest_difference(one: Lived) -> float:
    """Between scores from states and those from all items, the ones before the window too, of a few devices."""
    few, whole = slice(0, SCORING_BATCH), one.items[:SCORING_BATCH]
    state: State = one.model.start(one.params, whole[:, :HISTORY])
    for step in range(1, one.steps + 1):
        state = one.model.advance(one.params, state, whole[:, HISTORY + step - 1])
    got: Scores = one.model.score_state(one.params, state, one.pools[few])
    return float(np.abs(got - one.model.score(one.params, whole, one.pools[few])).max())


def bench_devices(say: Say, devices: int = 2048, steps: int = 10, rounds: int = 5) -> dict[str, Any]:
    """Incremental ElasticSASRec against recomputation at a history of 50; medians over rounds that take turns.

    `ratio` compares each at its best batch; `ratio_in_fleet` what a fleet sees, whose calls have 64 rows.
    """
    one = lived(devices, steps)
    best = {kind: min(BATCHES, key=lambda batch: kind(one, batch)) for kind in (recomputed, continued)}
    full = ModelScorer(one.model, one.params)
    kept = IncrementalScorer(full, np.arange(devices), HISTORY)
    seconds: dict[str, list[float]] = {"recomputed": [], "incremental": [], "fleet": [], "fleet_incremental": []}
    for number in range(rounds):
        seconds["recomputed"].append(recomputed(one, best[recomputed]))
        seconds["incremental"].append(continued(one, best[continued]))
        seconds["fleet"].append(through(one, full))
        seconds["fleet_incremental"].append(through(one, kept))
        say(f"round {number + 1}/{rounds}: " + ", ".join(f"{name} {took[-1]:.2f} s" for name, took in seconds.items()))
    return {
        "devices": devices,
        "steps": steps,
        "recomputed_batch": best[recomputed],
        "incremental_batch": best[continued],
        **{f"{name}_steps_per_s": devices * steps / statistics.median(took) for name, took in seconds.items()},
        "ratio": of(seconds["recomputed"], seconds["incremental"]),
        "ratio_in_fleet": of(seconds["fleet"], seconds["fleet_incremental"]),
        "state_bytes": state_bytes(kept.held),
        "largest_difference": largest_difference(one),
    }


def of(slow: list[float], fast: list[float]) -> float:
    """Median over rounds of how many times longer `slow` took."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))
