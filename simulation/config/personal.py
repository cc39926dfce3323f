"""What a configuration says about rerankers and patches that cannot be, or that nobody would look at."""

from collections.abc import Iterator

from simulation.config.slimmed import slimmed
from simulation.config.sought import sought
from simulation.config.tables import ExperimentConfig


def personal(config: ExperimentConfig) -> Iterator[str]:
    """What single keys cannot tell."""
    yield from slimmed(config)
    yield from sought(config)
    yield from states(config)
    named = [tier.model is not None for tier in config.device.tiers] or [False]
    if config.cloud.personalizer is None:
        if config.device.model is None and not all(named):
            yield "[device] 'model' is missing"
        return
    if all(named):
        yield "[cloud.personalizer] has no effect: every tier names a model of its own; leave one out"
    if config.device.runtime != "torch":
        yield f'[device] runtime = "{config.device.runtime}" takes no patches of [cloud.personalizer]; use "torch"'
    if config.device.collaboration.training != "independent":
        yield "[device.collaboration] trains no device half of [cloud.personalizer]; take one out"


def states(config: ExperimentConfig) -> Iterator[str]:
    """What devices with states could not do."""
    if config.device.states == "recomputed":
        return
    where = '[device] states = "incremental"'
    if config.device.items == "streamed":
        yield f'{where}: rows that come and go under items = "streamed" would end the state; use items = "resident"'
    if config.device.runtime != "torch":
        yield f'{where}: ONNX files read whole histories; use runtime = "torch"'
