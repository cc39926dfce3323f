"""What a configuration says about subnets that cannot be, or that nobody would look at."""

from collections.abc import Iterable, Iterator

from device.errors import ConfigError
from device.subnet import KINDS, SubnetSpec
from simulation.config.parts import SEARCH, TrainingTable
from simulation.config.tables import ExperimentConfig

HELD = {"onnxruntime": ("float32",), "onnxruntime-int8": ("float32", "int8")}
"""Kinds of item tables that may be asked for where a file is installed."""


def slimmed(config: ExperimentConfig) -> Iterator[str]:
    """What can be told without the model."""
    device = config.device
    table, named = device.supernet, [tier for tier in device.tiers if tier.subnet is not None]
    labels = [tier.subnet for tier in named if tier.subnet not in (None, SEARCH)]
    yield from unreadable(filter(None, labels), "[device.tiers]")
    yield from overruled(filter(None, labels), "[device.tiers]", device.items)
    if table is not None:
        yield from unreadable(table.subnets, "[device.supernet]")
        yield from overruled(table.subnets, "[device.supernet]", device.items)
    if table is None and not named:
        return
    which = "a tier's subnet" if named else "[device.supernet]"
    if config.cloud.personalizer is not None:
        yield f"{which} takes no patches of [cloud.personalizer]; take one out"
    if device.collaboration.training != "independent":
        yield f"{which} is not trained by [device.collaboration]; take one out"
    if table is not None and not named and device.tiers and all(tier.model is not None for tier in device.tiers):
        yield "[device.supernet] has no effect: every tier names a model of its own, and none a subnet"
    for kind in KINDS if device.runtime != "torch" else ():
        if kind not in HELD[device.runtime] and any(label.endswith(f"-{kind}") for label in labels if label):
            yield (
                f'[device] runtime = "{device.runtime}" holds {HELD[device.runtime][-1]} item tables in its files; '
                f'take "-{kind}" off the subnets'
            )
    given, usual = device.training.model_dump(), TrainingTable().model_dump()
    alone = all(tier.model is None for tier in device.tiers)
    if alone and any(given[key] != usual[key] for key in ("loss", "negatives")):
        yield "[device.training] loss and negatives have no effect on subnets; use negatives of [device.supernet]"


def unreadable(labels: Iterable[str], where: str) -> Iterator[str]:
    """What is no label."""
    for label in labels:
        try:
            SubnetSpec.parse(label)
        except ConfigError as error:
            yield f"{where} {error}"


def overruled(labels: Iterable[str], where: str, items: str) -> Iterator[str]:
    """Kinds of tables that [device] items would replace by its own.

    A label of int8 is not among them: "resident-int8" and "streamed" hold the same int8 rows.
    """
    for label in labels if items != "resident" else ():
        plain, _, kind = label.rpartition("-")
        if kind in KINDS and kind not in ("float32", "int8"):
            yield (
                f'{where} subnet: {label!r} does not say how tables are held: [device] items = "{items}" holds them as '
                f'int8; write "{plain}", or use items = "resident"'
            )
