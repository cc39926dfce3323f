"""From a method's table to what a device holds, and what the cloud makes for it."""

import re
import sys
from dataclasses import dataclass
from inspect import getdoc, signature
from pathlib import Path
from typing import Any

from torch import nn

from cloud.personalizer import Personalizer
from device.errors import ConfigError
from device.models.torch_model import TorchModel
from simulation.build import imported
from simulation.config.parts import SEARCH, Plugin
from simulation.config.study import MethodTable, StudyConfig
from simulation.config.tables import ExperimentConfig, TierTable
from simulation.installing import Installed, install
from simulation.objects import model_of, tiers
from simulation.personalizing import personalization, trained_method
from simulation.prepare import try_plugins
from simulation.searching import refuse_timed, searched
from simulation.shelf import BACKBONE, Shelf
from simulation.slimming import table_of

MATCHNAS = "search of MatchNAS, WWW 2024, arXiv 2402.13525, parts reconstructed"
LABELLED = ", without its training on unlabelled items"
DISTILLED = ", with distillation besides"
PAPER = re.compile(r"\(([^()]*(?:arXiv|\b(?:19|20)\d\d\b)[^()]*)\)")


@dataclass(frozen=True, slots=True)
class Ready:
    """A trained method: what is installed, and what makes its patches, if it has any."""

    name: str
    source: str
    installed: Installed
    personalizer: Personalizer | None
    subnet: str | None = None  # its label, found or named

    @property
    def module(self) -> nn.Module | None:
        """What is installed as a torch module; None for a model without torch."""
        wrapped = getattr(self.installed.model, "shared", self.installed.model)
        return wrapped.loaded(self.installed.params).eval() if isinstance(wrapped, TorchModel) else None

    @property
    def parameters(self) -> int:
        """Numbers that scoring reads, buffers among them; of a compact item table those of the table it stands for."""
        return sum(array.size for array in self.installed.params.values())


def experiment(config: StudyConfig, method: MethodTable, seed: int) -> ExperimentConfig:
    """The experiment whose devices run the method."""
    usual = config.elastic_of(method) or config.device
    model, training = method.model or usual.model, method.training or usual.training
    if method.personalizer is not None and method.model is None and not goes_on(method.personalizer.plugin):
        model = None
    more: dict[str, Any] = {"model": model, "training": training}
    if method.subnet is None:
        more["supernet"] = None
    else:
        one = TierTable(name=method.name, share=1.0, subnet=method.subnet, limits=method.limits, profile=method.profile)
        more |= {"tiers": (one,), "supernet": config.supernet_of(method)}
    return ExperimentConfig(
        name=config.name,
        seed=seed,
        data=config.data,
        cloud=config.cloud.model_copy(update={"personalizer": method.personalizer}),
        device=config.device.model_copy(update=more),
    )


def goes_on(plugin: Plugin) -> bool:
    """Whether a personalised method starts from a trained model."""
    return any(name in signature(imported(plugin.class_, "personalizer")).parameters for name in BACKBONE)


def ready(config: ExperimentConfig, method: MethodTable, shelf: Shelf) -> Ready:
    """The method after its training, and the search for its subnet; what is trained already is loaded."""
    config = searched(config, shelf)
    (tier,) = tiers(config)
    installed = install(config, shelf, tier, Path())
    if method.personalizer is None:
        said = search_of(config) if method.subnet == SEARCH else source(model_of(config, tier))
        return Ready(method.name, said, installed, None, tier.subnet)
    half = personalization(config, trained_method(config, shelf)).personalizer
    return Ready(method.name, source(method.personalizer.plugin), installed, half)


def search_of(config: ExperimentConfig) -> str:
    """Where a search is from, and how the training before it differs."""
    table = table_of(config)
    return MATCHNAS + LABELLED * (table.unlabelled is None) + DISTILLED * (table.distilled > 0)


def try_methods(config: StudyConfig) -> None:
    """Make everything once in a small size, so that a wrong option is not found only after hours of training."""
    for method in config.methods:
        try:
            one = experiment(config, method, config.seeds[0])
            refuse_timed(one)
            try_plugins(one)
        except ConfigError as error:
            raise ConfigError(f"method {method.name!r}: {error}") from error


def source(plugin: Plugin) -> str:
    """Where a class says that it is from: `source` of the class, else the paper in its or its module's docstring.

    ", parts reconstructed" where one of the two says so.
    """
    made = imported(plugin.class_, "class")
    if hasattr(made, "source"):
        return str(made.source)
    said = [text for text in (sys.modules[made.__module__].__doc__, getdoc(made)) if text]
    papers = [found[1] for text in said if (found := PAPER.search(" ".join(text.split("\n\n")[0].split())))]
    words = [*papers[:1], *(["parts reconstructed"] if any("econstruct" in text for text in said) else [])]
    return ", ".join(words)
