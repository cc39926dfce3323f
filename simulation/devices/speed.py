"""What a step of a method takes: onnxruntime on this machine, and the same scaled to kinds of phones."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from device.errors import TandemError
from device.profile import profile_of
from simulation.devices.methods import Ready
from simulation.tier_latency import Measured, measure, step_cost

OF_THE_FILE = ("nbytes", "fits")


def speed(
    ready: Ready, profiles: Sequence[str], *, n_items: int, length: int, candidates: int, flops: float
) -> dict[str, Any]:
    """p50 here in milliseconds, the scaled cost per profile, memory; or the reason why nothing was measured.

    Exported is the installed half without a patch: to put a patch in place is work of its arrival, not of a step, and
    leaves the same products to be computed. Where a patch takes blocks away, this is the cost of all of them. A compact
    item table is exported as the float32 table that it stands for.
    """
    from device.export import export_onnx

    if not profiles:
        return {"reason": "no profiles were asked for"}
    module = ready.module
    if module is None:
        return {"reason": f"{type(ready.installed.model).__name__} is no torch module"}
    try:
        with TemporaryDirectory() as folder:
            made = export_onnx(module, Path(folder), length=length, candidates=candidates, int8=False, n_items=n_items)
            found = measure(made.files[0].path, n_items=n_items, length=length, candidates=candidates)
    except TandemError as error:
        return {"reason": str(error).splitlines()[0]}
    return scaled(found, profiles, flops)


def scaled(found: Measured, profiles: Sequence[str], flops: float) -> dict[str, Any]:
    """What was measured here, and the cost of a step of `flops` operations on each kind of phone.

    Left out is what is about the file: a device holds another one, see `installed_bytes`.
    """
    costs = [step_cost(profile_of(name), found, flops=flops).to_dict() for name in profiles]
    return {
        "p50_ms": found.p50_ms,
        "p95_ms": found.p95_ms,
        "step_memory_bytes": found.memory.total,
        "host": dict(found.host),
        "tiers": {one["profile"]: {key: one[key] for key in one if key not in OF_THE_FILE} for one in costs},
    }
