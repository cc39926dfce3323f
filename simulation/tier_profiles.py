"""What kind of device each tier is: its profile, and what follows for energy and for the cost of one step."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from device.errors import ConfigError
from device.incremental_scorer import IncrementalScorer
from device.models.onnx_file import CONTENT, OnnxFile
from device.profile import DeviceProfile, misfits, profile_of
from device.scoring import ModelScorer
from simulation.config.tables import ExperimentConfig
from simulation.device_traces import read_speeds, tiers_from_traces
from simulation.installing import Installed
from simulation.objects import tiers
from simulation.tier_latency import Measured, measure, step_cost

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


def refuse_misfits(config: ExperimentConfig, installed: Sequence[Installed]) -> None:
    """ConfigError naming every tier whose profile cannot take its installation."""
    found = [
        f"tier {tier.name!r}: {line}"
        for tier, profile, made in zip(tiers(config), profiles(config), installed, strict=True)
        if profile is not None
        for line in misfits(profile, made.nbytes, made.nbytes)
    ]
    if found:
        raise ConfigError("\n".join(found))


def tier_costs(config: ExperimentConfig, installed: Sequence[Installed], n_items: int) -> list[dict[str, Any]]:
    """Per tier what its devices hold, and what a step costs those with a profile; see `simulation.tier_latency`.

    A model that cannot be exported (one that takes patches, one in numpy) has no measured time: its cells are missing.
    """
    return [
        {"tier": tier.name, "installed_bytes": made.nbytes}
        | ({"subnet": tier.subnet} if tier.subnet else {})
        | ({"state_bytes": kept_bytes(config, made)} if config.device.states == "incremental" else {})
        | (cost(config, profile, made, n_items) if profile else {})
        for tier, profile, made in zip(tiers(config), profiles(config), installed, strict=True)
    ]


def kept_bytes(config: ExperimentConfig, made: Installed) -> int:
    """Bytes that a device keeps beside its model: the reranker's state, and what it showed at the last request."""
    return IncrementalScorer(ModelScorer(made.model, made.params), np.arange(1), config.device.history).device_bytes


def cost(config: ExperimentConfig, profile: DeviceProfile, made: Installed, n_items: int) -> dict[str, Any]:
    """`StepCost.to_dict()` of one tier without the host, which the run's environment names."""
    module: Any = getattr(made.model, "module", made.model)
    flops = module.flops(config.device.history, config.cloud.pool) if hasattr(module, "flops") else math.nan
    measured = measured_here(config, made, n_items)
    if measured is None:
        return {"profile": profile.name}
    found = step_cost(profile, measured, flops=flops).to_dict()
    return {name: value for name, value in found.items() if name not in ("host", "nbytes")}


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
        return measure(place, n_items=n_items, length=length, candidates=candidates)
