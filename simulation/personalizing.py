"""From [cloud.personalizer] to a method whose one half stands in the cloud and whose other half is installed."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from cloud.personalizers.trained import as_personalizer
from cloud.service import Personalization
from device.errors import ConfigError, ContractError
from device.models.personal_torch import PersonalTorch
from device.personal import Personalized
from simulation.build import build
from simulation.config.parts import PersonalizerTable
from simulation.config.tables import ExperimentConfig, TierTable
from simulation.objects import is_personal, model_of, tiers
from simulation.shelf import Shelf, Start, built

WHERE = "[cloud.personalizer]"


def trained_method(config: ExperimentConfig, shelf: Shelf) -> Any:
    """The method after its training; one that goes on from a trained device model gets that of [device.model] first."""
    table = personalizer(config)
    return shelf.trained(table.plugin, table.training.options(), WHERE, start(config, shelf))[0]


def untrained_method(config: ExperimentConfig, sizes: dict[str, int]) -> Any:
    """The method, and what it goes on from, without their weights; `sizes` as in `simulation.shelf.given`."""
    plugin = config.device.model
    backbone = None if plugin is None else build(plugin.class_, plugin.options, "[device.model]", **sizes)
    return built(personalizer(config).plugin, WHERE, sizes, backbone)


def start(config: ExperimentConfig, shelf: Shelf) -> Start | None:
    """The trained shared model that the method goes on from; None where [device.model] is left out."""
    if config.device.model is None:
        return None
    training = config.device.training.options()
    shared, _ = shelf.trained(config.device.model, training, "[device.model]")
    if not isinstance(shared, nn.Module):
        raise ConfigError(f"[device.model] {type(shared).__name__} is no torch module, so {WHERE} cannot go on from it")
    return Start(shelf.folder(config.device.model, training).name, shared)


def trained_folder(config: ExperimentConfig, shelf: Shelf, tier: TierTable) -> Path:
    """Where the training of a tier's reranker is kept."""
    if not is_personal(config, tier):
        return shelf.folder(model_of(config, tier), config.device.training.options())
    table = personalizer(config)
    return shelf.folder(table.plugin, table.training.options(), start(config, shelf))


def personalization(config: ExperimentConfig, method: Any) -> Personalization:
    """What the cloud offers with the trained method."""
    made, half = as_personalizer(method), device_half(method)
    if dict(made.layout) != dict(half.layout):
        raise ContractError(
            f"{WHERE} {type(method).__name__}: the layout of its patches is {dict(made.layout)}, that of its device "
            f"half {dict(half.layout)}; they are one and the same"
        )
    own = np.array([is_personal(config, tier) for tier in tiers(config)])
    return Personalization(made, own, personalizer(config).every)


def device_half(method: Any) -> Personalized:
    """What is installed of a method; ContractError where nothing can be."""
    given = getattr(method, "device", None)
    half = PersonalTorch(given) if isinstance(given, nn.Module) else given
    if not isinstance(half, Personalized):
        raise ContractError(
            f"{WHERE} {type(method).__name__} has no device half; give it an attribute `device`: a torch module with a "
            "layout, or a device model with layout, unpatched() and score_personal"
        )
    return half


def personalizer(config: ExperimentConfig) -> PersonalizerTable:
    """The table; ConfigError where there is none."""
    if config.cloud.personalizer is None:
        raise ConfigError(f"{WHERE} is missing")
    return config.cloud.personalizer
