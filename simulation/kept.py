"""Policies of a run that are finished, put aside so that an interrupted run goes on where it was."""

import hashlib
import os
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from simulation.config.tables import PolicyTable
from simulation.replay import Columns


def keep(work: Path, policy: PolicyTable, steps: Columns, ledger: Columns) -> None:
    """Put a finished policy aside, so that an interrupted run can be resumed."""
    work.mkdir(parents=True, exist_ok=True)
    arrays = {f"steps.{k}": np.ascontiguousarray(v) for k, v in steps.items()}
    for name, values in ledger.items():
        arrays[f"ledger.{name}"] = values.astype("S12").view(np.uint8) if values.dtype == object else values
    temporary = work / f"{slug(policy)}.tmp"
    try:
        save_file(arrays, temporary)
        os.replace(temporary, work / f"{slug(policy)}.safetensors")
    finally:
        temporary.unlink(missing_ok=True)


def finished(work: Path, policy: PolicyTable) -> tuple[Columns, Columns] | None:
    """What `keep` put aside, if it did."""
    path = work / f"{slug(policy)}.safetensors"
    if not path.exists():
        return None
    arrays = load_file(path)
    steps = {k.removeprefix("steps."): v for k, v in arrays.items() if k.startswith("steps.")}
    ledger = {k.removeprefix("ledger."): v for k, v in arrays.items() if k.startswith("ledger.")}
    for name in ("direction", "kind"):
        ledger[name] = ledger[name].view("S12").astype(str).astype(object)
    return steps, ledger


def slug(policy: PolicyTable) -> str:
    """A file name for a policy."""
    return hashlib.sha256(policy.label.encode()).hexdigest()[:16]
