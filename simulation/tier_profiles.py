"""What kind of device each tier is: its profile, and what follows for energy and for the cost of one step."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from device.errors import ConfigError
from device.incremental_scorer import incremental
from device.models.onnx_file import CONTENT, OnnxFile
from device.profile import DeviceProfile, misfits, profile_of
from device.scoring import ModelScorer
from simulation.config.tables import ExperimentConfig
from simulation.device_traces import read_speeds, tiers_from_traces
from simulation.installing import Installed
from simulation.objects import tiers
from simulation.tier_latency import Measured, Memory, measure, step_cost

J_PER_GFLOP = 1.0
"""Declared, where neither [device.energy] nor a profile says so: joules of 10^9 operations on a phone's processor."""


def profiles(config: ExperimentConfig) -> list[DeviceProfile | None]:
    """One per tier, None where it names none; with [device] speeds, the compute scales are those of a list of phones.

    The list is cut by the tiers' shares, its fastest phones into the first tier: name tiers fastest first.
    """
    named = [profile_of(tier.profile) if tier.profile else None for tier in tiers(config)]
    if config.device.speeds is None:
        return named
    cut = tiers_from_traces(read_speeds(config.device.speeds), {tier.name: tier.share for tier in tiers(config)})
    return [
        made and replace(of.profile(made), name=f"{made.name}, {of.name}") for made, of in zip(named, cut, strict=True)
    ]


def joules_per_gflop(config: ExperimentConfig) -> list[float]:
    """Per tier: what [device.energy] says, else its profile, else `J_PER_GFLOP`."""
    given = config.device.energy.j_per_gflop
    return [
        given if given is not None else of.j_per_gflop if of is not None else J_PER_GFLOP for of in profiles(config)
    ]


def refuse_misfits(config: ExperimentConfig, installed: Sequence[Installed], nbytes: Sequence[int]) -> None:
    """ConfigError naming every tier whose profile cannot take its largest installation, of `nbytes` per tier.

    Memory is what is known without a measurement: the installation and what is kept beside it, without activations.
    """
    found = [
        f"tier {tier.name!r}: {line}"
        for tier, profile, made, size in zip(tiers(config), profiles(config), installed, nbytes, strict=True)
        if profile is not None
        for line in misfits(
            profile, size, size + kept_bytes(config, made), precision="int8" if is_int8(made) else "float32"
        )
    ]
    if found:
        raise ConfigError("\n".join(found))


def tier_costs(
    config: ExperimentConfig, installed: Sequence[Installed], n_items: int, *, nbytes: Sequence[int]
) -> list[dict[str, Any]]:
    """Per tier what its devices hold, and what a step costs those with a profile; see `simulation.tier_latency`.

    `nbytes` per tier: the largest installation under any policy, see `simulation.installing.largest_installation`.
    A model that cannot be exported (one that takes patches, one in numpy) has no measured time: its cells are missing.
    """
    of_tiers = zip(tiers(config), profiles(config), installed, nbytes, joules_per_gflop(config), strict=True)
    return [
        {"tier": tier.name, "installed_bytes": size}
        | ({"subnet": tier.subnet} if tier.subnet else {})
        | ({"state_bytes": kept_bytes(config, made)} if config.device.states == "incremental" else {})
        | (cost(config, replace(of, j_per_gflop=joules), made, n_items=n_items, nbytes=size) if of else {})
        for tier, of, made, size, joules in of_tiers
    ]


def kept_bytes(config: ExperimentConfig, made: Installed) -> int:
    """Bytes that a device keeps beside its installation.

    Of incremental states the reranker's, and what it showed at the last request; of streamed items a full cache of
    rows, each its int8 codes, a float32 scale and an int32 id.
    """
    if made.rows is not None:
        width = int(made.rows.codes.shape[1])
        return min(config.device.cache_rows, len(made.rows.codes) - 1) * (width + 8)
    if config.device.states == "recomputed":
        return 0
    kept = incremental(ModelScorer(made.model, made.params), np.arange(1), config.device.history)
    return kept.device_bytes if kept else 0


def operations(config: ExperimentConfig, made: Installed, candidates: int) -> float:
    """Floating-point operations of a step that scores so many candidates; NaN for a model that does not say.

    With incremental states a step reads one item, else the whole history. All operations of the shared model are
    counted: that a patch takes weights or blocks away (DIET, Forward-OFA) saves none here.
    """
    model: Any = getattr(made.model, "module", made.model)
    if not hasattr(model, "flops"):
        return math.nan
    goes_on = config.device.states == "incremental" and hasattr(model, "flops_step")
    return float(model.flops_step(candidates) if goes_on else model.flops(config.device.history, candidates))


def cost(
    config: ExperimentConfig, profile: DeviceProfile, made: Installed, *, n_items: int, nbytes: int
) -> dict[str, Any]:
    """`StepCost.to_dict()` of one tier without the host, which the run's environment names.

    A step scores one list of [cloud] pool. Weights count as they are installed, in `nbytes`: the file that is measured
    may hold them wider, or rows that are streamed. Only its activations are taken from it, and its time; that is of a
    recomputation, so with incremental states it is missing.
    """
    measured = measured_here(config, made, n_items)
    if measured is None:
        return {"profile": profile.name}
    memory = Memory(nbytes + kept_bytes(config, made), measured.memory.activations)
    measured = replace(measured, nbytes=nbytes, memory=memory)
    if config.device.states == "incremental":
        measured = replace(measured, p50_ms=math.nan, p95_ms=math.nan)
    found = step_cost(profile, measured, flops=operations(config, made, config.cloud.pool)).to_dict()
    return {name: value for name, value in found.items() if name not in ("host", "nbytes")}


def is_int8(made: Installed) -> bool:
    """Whether a tier runs an ONNX file with int8 weights."""
    if not isinstance(made.model, OnnxFile):
        return False
    weights = onnx.load_model_from_string(made.params[CONTENT].tobytes()).graph.initializer
    return any(weight.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) for weight in weights)


def measured_here(config: ExperimentConfig, made: Installed, n_items: int) -> Measured | None:
    """One pool of [cloud] pool after [device] history items, on this host; None for what has no ONNX file."""
    from torch import nn

    from device.export import export_onnx

    length, candidates = config.device.history, config.cloud.pool
    with TemporaryDirectory() as scratch:
        place = Path(scratch) / "tier.onnx"
        if isinstance(made.model, OnnxFile):
            place.write_bytes(made.params[CONTENT].tobytes())
        else:
            module = getattr(made.model, "module", None)
            if not isinstance(module, nn.Module) or hasattr(module, "layout"):
                return None
            made_here = export_onnx(module, scratch, length=length, candidates=candidates, int8=False, n_items=n_items)
            place = Path(made_here.files[0].path)
        precision = "int8" if is_int8(made) else "fp32"
        return measure(place, n_items=n_items, length=length, candidates=candidates, precision=precision)
