"""What one method did with one seed, kept in root/cells as a sweep's finished policies are.

So a comparison that was stopped goes on where it was, and one with a method more measures that one only. Kept is the
`Outcome` alone: who got what, bytes of patches, operations. Milliseconds are measured anew each time, in the session
that reports them; trained models and what a search found are on the shelf.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from simulation.config.tables import ExperimentConfig
from simulation.devices.measure import Outcome
from simulation.devices.methods import Ready
from simulation.fingerprint import own_code, plugin_code
from simulation.shelf import Shelf
from simulation.sweep.sweep import CELL_FILES, put, within

VALUES = "values/"
NUMBERS = ("auc", "patch_flops", "flops")


def place(shelf: Shelf, config: ExperimentConfig, made: Ready, *, negatives: int) -> Path:
    """File named by all that an outcome depends on: the method's experiment, data, weights and code."""
    tables = config.model_dump(mode="json", by_alias=True, exclude={"name"})
    said = json.dumps([tables, shelf.split.data.content_hash(), made.subnet, negatives], sort_keys=True)
    digest = hashlib.sha256(f"devices {said} {own_code()}".encode() + plugin_code(config))
    for name in sorted(made.installed.params):
        digest.update(name.encode() + np.ascontiguousarray(made.installed.params[name]).tobytes())
    return shelf.root.parent / CELL_FILES / f"{digest.hexdigest()[:20]}.safetensors"


def kept(path: Path, measure: Callable[[], Outcome]) -> Outcome:
    """The outcome in the file, measured and put there first where it is not."""
    if not path.exists():
        made = measure()
        numbers = {name: np.array([getattr(made, name)], np.float64) for name in NUMBERS}
        each = {VALUES + name: values for name, values in made.values.items()}
        put(path, {**numbers, **each, "update_bytes": made.update_bytes})
    stored = load_file(path)
    found = {name: float(stored[name][0]) for name in NUMBERS}
    return Outcome(values=within(stored, VALUES), update_bytes=stored["update_bytes"], **found)
