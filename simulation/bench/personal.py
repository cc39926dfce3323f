"""The second part of `tandemrec bench devices`: devices with masks of their own, many in a call and one by one."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from device.incremental import State, state_bytes
from device.incremental_scorer import IncrementalScorer, incremental
from device.model import Parameters
from device.models.incremental_torch import IncrementalTorch
from device.personal_scoring import Bodies, PersonalScorer
from device.scoring import SCORING_BATCH, ModelScorer
from simulation.bench.masked import Masked, loop, loop_continued, masked, tensor

Say = Callable[[str], None]
BATCHES = (SCORING_BATCH, 256, 1024)
"""Rows of a call outside of a fleet; shown at the best."""
SIZES = ((50, 50), (20, 20), (10, 10))
"""(history, pool)."""


def fleet(one: Masked) -> tuple[PersonalScorer, Bodies]:
    """What a fleet asks, all masks in place; and what keeps the states of the body."""
    inner = ModelScorer(one.model, one.params)
    bodies = Bodies(inner, one.model, one.who)
    return with_masks(one, PersonalScorer(inner, one.model, one.who, states=bodies)), bodies


def fleet_continued(one: Masked) -> tuple[PersonalScorer, IncrementalScorer]:
    """The same, whose body goes on from states; and what keeps those."""
    inner = ModelScorer(one.model, one.params)
    kept = incremental(inner, one.who, one.length)
    assert kept is not None
    return with_masks(one, PersonalScorer(inner, one.model, one.who, states=kept.state)), kept


def with_masks(one: Masked, scorer: PersonalScorer) -> PersonalScorer:
    """The scorer with each device's mask in place."""
    scorer.held["mask"][:] = one.masks(slice(None))["mask"]
    scorer.states(one.who, one.who * 0, one.window(0))
    return scorer


def through(one: Masked, scorer: PersonalScorer, step: int) -> float:
    """Seconds of one step of all devices, in calls of SCORING_BATCH rows."""
    history, steps = one.window(step), np.full(len(one.items), step)
    started = time.perf_counter()
    scorer.scores(one.who, steps, history, one.pools)
    return time.perf_counter() - started


def batched(one: Masked, batch: int, *, personal: bool) -> float:
    """Seconds of that step from whole histories in calls of `batch` rows, with masks or as the shared model."""
    history = one.window(1)
    started = time.perf_counter()
    for first in range(0, len(history), batch):
        part = slice(first, first + batch)
        if personal:
            one.model.score_personal(one.params, one.masks(part), history[part], one.pools[part])
        else:
            one.model.score(one.params, history[part], one.pools[part])
    return time.perf_counter() - started


def batched_continued(one: Masked, body: IncrementalTorch, params: Parameters, held: State, batch: int) -> float:
    """Seconds of the step where states are `held` [D, ...], written where they lie, in calls of `batch` rows."""
    newest = one.window(1)[:, -1]
    started = time.perf_counter()
    for first in range(0, len(newest), batch):
        part = slice(first, first + batch)
        state = body.advance(params, {name: values[part] for name, values in held.items()}, newest[part])
        one.model.behind(one.params, one.masks(part), body.shown(params, state), one.pools[part])
        for name, values in held.items():
            values[part] = state[name]
    return time.perf_counter() - started


def largest_difference(size: tuple[int, int], *, relative: bool) -> float:
    """Between what a fleet says after a step and the module for each device alone; of a few devices."""
    one = masked(SCORING_BATCH, size, 1, relative=relative)
    scorer, _ = fleet_continued(one) if relative else fleet(one)
    got, module = scorer.scores(one.who, one.who * 0 + 1, one.window(1), one.pools), one.module()
    known, pools, masks = tensor(one.items), tensor(one.pools), torch.from_numpy(one.masks(slice(None))["mask"])
    with torch.inference_mode():
        single = [module(known[[row]], pools[[row]], masks[[row]]) for row in range(len(known))]
    return float(np.abs(got - torch.cat(single).numpy()).max())


def bench_reading(say: Say, devices: int, sample: int, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """The model as the paper has it, which reads the whole history with every step.

    `shared` is the model without masks at its best batch: what no way to apply masks can exceed.
    """
    one = masked(devices, size, rounds + 1, relative=False)
    ways = {"batched": partial(batched, one, personal=True), "shared": partial(batched, one, personal=False)}
    best = {name: min(BATCHES, key=way) for name, way in ways.items()}
    scorer, _ = fleet(one)
    found = in_turn(
        say,
        {
            "loop": lambda _: loop(one, sample) / sample,
            "fleet": lambda step: through(one, scorer, step) / devices,
            "batched": lambda _: ways["batched"](best["batched"]) / devices,
            "shared": lambda _: ways["shared"](best["shared"]) / devices,
        },
        rounds,
    )
    return found | {"batch": best["batched"], "largest_difference": largest_difference(size, relative=False)}


def bench_continued(say: Say, devices: int, sample: int, size: tuple[int, int], rounds: int) -> dict[str, Any]:
    """The body with relative positions: a step costs one position, in the fleet and in the loop `continued`."""
    one = masked(devices, size, rounds + 1, relative=True)
    scorer, kept = fleet_continued(one)
    body, params = one.model.body(), one.model.body_params(one.params)
    held = {name: np.array(value) for name, value in body.start(params, one.window(0)).items()}
    batch = min(BATCHES, key=lambda batch: batched_continued(one, body, params, held, batch))
    found = in_turn(
        say,
        {
            "loop": lambda _: loop(one, sample) / sample,
            "loop_continued": lambda _: loop_continued(one, sample) / sample,
            "fleet": lambda step: through(one, scorer, step) / devices,
            "batched": lambda _: batched_continued(one, body, params, held, batch) / devices,
        },
        rounds,
    )
    return found | {
        "batch": batch,
        "state_bytes": state_bytes(kept.held),
        "largest_difference": largest_difference(size, relative=True),
    }


def in_turn(say: Say, ways: Mapping[str, Callable[[int], float]], rounds: int) -> dict[str, Any]:
    """Device-steps per second of each way, and how many times those of each loop the others reach; medians."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(1, rounds + 1):
        for name, way in ways.items():
            took[name].append(way(number))
        say(f"round {number}/{rounds}: " + ", ".join(f"{n} {1e6 * t[-1]:.1f} us" for n, t in took.items()))
    speeds = {f"{name}_steps_per_s": 1 / statistics.median(seconds) for name, seconds in took.items()}
    loops = [name for name in ways if name.startswith("loop")]
    return speeds | {
        f"{name}_to_{slow}": statistics.median(a / b for a, b in zip(took[slow], took[name], strict=True))
        for name in ways
        if name not in loops
        for slow in loops
    }


def bench_personal(say: Say, devices: int = 10_000, sample: int = 500, rounds: int = 3) -> dict[str, Any]:
    """Devices with DIET masks: batched against a loop over `sample` of them, of which the time per step is taken.

    A mask in use has a byte per bit, one on its way has the bits. `body_bytes` are for a state and its history, which
    spare a second look at the same history; where states are continued, their `state_bytes` take that place.
    """
    few = masked(1, SIZES[0], 1, relative=False)
    scorer, bodies = fleet(few)
    return {
        "devices": devices,
        "sample": sample,
        "threads": torch.get_num_threads(),
        "mask_bytes_sent": few.model.layout["mask"].nbytes,
        "mask_bytes_held": state_bytes(scorer.held) + state_bytes(scorer.coming),
        "body_bytes": bodies.history.nbytes + bodies.known.nbytes,
        **{
            f"history_{length}_pool_{pool}": bench_reading(say, devices, sample, (length, pool), rounds)
            for length, pool in SIZES
        },
        "continued": bench_continued(say, devices, sample, SIZES[0], rounds),
    }
