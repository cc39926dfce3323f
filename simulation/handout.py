"""What clients need of a prepared experiment, as files: a client may run in another process than the server."""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from device.errors import RunError
from device.messages import Codec
from device.model import DeviceModel
from device.models.onnx_file import CONTENT
from device.models.torch_model import as_device_model
from simulation.build import build
from simulation.choosing.chosen import Chosen
from simulation.config.tables import ExperimentConfig, TierTable
from simulation.fingerprint import fingerprint
from simulation.installing import Installed, with_states
from simulation.objects import is_personal, model_of, tiers
from simulation.personalizing import device_half, untrained_method
from simulation.prepare import Prepared, setups
from simulation.replay import Shard, Timeline
from simulation.shelf import given
from simulation.slimming import is_slimmed, untrained_subnet


@dataclass(frozen=True, slots=True)
class Handout:
    """A fleet ready to run: every client makes its own shard from it."""

    config: ExperimentConfig
    timeline: Timeline
    installed: tuple[Installed, ...]
    chosen: dict[str, Chosen]
    popular: NDArray[np.int32]  # [n] items, most popular first

    def shard(self, policy: str, part: int, parts: int) -> Shard:
        """The shard of client `part` of `parts` under the policy called `policy`; blocks of devices in order."""
        table = next(p for p in self.config.all_policies if p.label == policy)
        return Shard(
            setups(self.config, self.installed, table, self.chosen[policy], self.popular),
            self.timeline.rows(np.arange(*bounds(len(self.timeline.devices), part, parts))),
            slots=table.held(self.config.cloud.pool),
            history=self.config.device.history,
            codec=Codec(self.config.network.ids, self.config.network.scores),
            shown=self.config.device.slate,
        )


def untrained(config: ExperimentConfig, tier: TierTable, sizes: dict[str, int]) -> DeviceModel:
    """A tier's reranker without its parameters."""
    if is_personal(config, tier):
        return device_half(untrained_method(config, sizes))
    if is_slimmed(config, tier):
        return untrained_subnet(config, tier, sizes)
    plugin = model_of(config, tier)
    return as_device_model(build(plugin.class_, plugin.options, "[device.model]", **sizes))


def bounds(devices: int, part: int, parts: int) -> tuple[int, int]:
    """First device and one past the last of a client."""
    return part * devices // parts, (part + 1) * devices // parts


def write_handout(prepared: Prepared, chosen: dict[str, Chosen]) -> Path:
    """Write a folder root/handout/<hash of all in it>, complete or absent; one that is there holds the same."""
    plain = {label: one.to_json() for label, one in chosen.items()}
    choices = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]
    folder = prepared.root / "handout" / f"{fingerprint(prepared)}-{choices}"
    if (folder / "about.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        timeline = prepared.timeline
        arrays = {name: np.ascontiguousarray(getattr(timeline, name)) for name in Timeline.__slots__}
        save_file(arrays, scratch / "timeline.safetensors")
        save_file({"popular": prepared.popular}, scratch / "popular.safetensors")
        for number, tier in enumerate(prepared.installed):
            save_file({k: np.ascontiguousarray(v) for k, v in tier.params.items()}, scratch / f"{number}.safetensors")
            if CONTENT in tier.params:
                (scratch / f"{number}.onnx").write_bytes(tier.params[CONTENT].tobytes())
        about = {
            "config": prepared.config.model_dump(mode="json", by_alias=True),
            "chosen": plain,
            "n_items": prepared.split.data.n_items,
        }
        (scratch / "about.json").write_text(json.dumps(about))
        os.replace(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


@lru_cache(maxsize=1)
def read_handout(folder: str) -> Handout:
    """Read what `write_handout` wrote; RunError when it is not there."""
    path = Path(folder)
    if not (path / "about.json").exists():
        raise RunError(f"{path}: no prepared experiment; clients must see the folder that the server wrote")
    about = json.loads((path / "about.json").read_text())
    config = ExperimentConfig.model_validate(about["config"])
    installed = []
    for number, tier in enumerate(tiers(config)):
        params = load_file(path / f"{number}.safetensors")
        if config.device.runtime != "torch" and CONTENT in params:
            model = build("device.models.onnx_file:OnnxFile", {"path": str(path / f"{number}.onnx")}, "[device.model]")
        else:
            model = with_states(config, untrained(config, tier, given(about["n_items"], config.device.history)))
        installed.append(Installed(model, params, 0, None))
    timeline = Timeline(**load_file(path / "timeline.safetensors"))
    chosen = {label: Chosen.from_json(values) for label, values in about["chosen"].items()}
    popular = load_file(path / "popular.safetensors")["popular"]
    return Handout(config, timeline, tuple(installed), chosen, popular)
