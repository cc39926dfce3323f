"""What a configuration says about rerankers and patches that cannot be, or that nobody would look at."""

from collections.abc import Iterator

from simulation.config.tables import ExperimentConfig


def personal(config: ExperimentConfig) -> Iterator[str]:
    """What single keys cannot tell."""
    named = [tier.model is not None for tier in config.device.tiers] or [False]
    if config.cloud.personalizer is None:
        if config.device.model is None and not all(named):
            yield "[device] 'model' is missing"
        return
    if all(named):
        yield "[cloud.personalizer] has no effect: every tier names a model of its own; leave one out"
    if config.device.runtime == "onnxruntime":
        yield '[device] runtime = "onnxruntime" takes no patches of [cloud.personalizer]; use runtime = "torch"'
    if config.device.collaboration.training != "independent":
        yield "[device.collaboration] trains no device half of [cloud.personalizer]; take one out"
