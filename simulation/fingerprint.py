"""A name for all that a run depends on."""

import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np

from simulation.config.parts import Plugin
from simulation.config.tables import ExperimentConfig, PolicyTable
from simulation.objects import tiers
from simulation.prepare import Prepared
from simulation.shelf import code_of


def fingerprint(prepared: Prepared) -> str:
    """Hash of all that choices, handout and replays depend on: configuration, data, weights and our own code.

    How the fleet is cut or driven does not belong to it.
    """
    config = prepared.config.model_dump(mode="json", by_alias=True, exclude={"name": True, "sweep": True})
    for key_ in ("runner", "threads", "devices_per_client"):
        config["simulation"].pop(key_)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    digest.update(prepared.split.data.content_hash().encode())
    digest.update(prepared.models.encode())
    digest.update(plugin_code(prepared.config))
    for tier in prepared.installed:
        for name in sorted(tier.params):
            digest.update(name.encode() + np.ascontiguousarray(tier.params[name]).tobytes())
    digest.update(own_code().encode())
    return digest.hexdigest()[:12]


def plugin_code(config: ExperimentConfig) -> bytes:
    """Sources of the classes that the configuration names, and the files that their options name."""
    links = [config.network.link, *[tier.link for tier in tiers(config)]]
    models = [config.cloud.generator, config.device.model, *[tier.model for tier in tiers(config)]]
    models += [config.cloud.personalizer.plugin] if config.cloud.personalizer else []
    plugins: list[Plugin | PolicyTable] = [*filter(None, models), *config.all_policies]
    plugins += [link for link in links if isinstance(link, Plugin)]
    paths = [Path(value) for plugin in plugins for value in plugin.options.values() if isinstance(value, str)]
    contents = [path.read_bytes() for path in paths if path.is_file()]
    return b"".join([code_of(plugin.class_).encode() for plugin in plugins] + contents)


@cache
def own_code() -> str:
    """Hash of the sources of the packages that decide what happens in a run."""
    root = Path(__file__).parents[1]
    files = [file for folder in ("device", "cloud", "simulation") for file in sorted((root / folder).rglob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
