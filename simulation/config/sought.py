"""What a configuration says about a search for subnets that cannot be, or that nobody would look at."""

from collections.abc import Iterator

from simulation.config.parts import SEARCH
from simulation.config.tables import ExperimentConfig, TierTable


def sought(config: ExperimentConfig) -> Iterator[str]:
    """What can be told without the model."""
    for tier in config.device.tiers:
        yield from limited(tier)
    searches = any(tier.subnet == SEARCH for tier in config.device.tiers)
    if searches and config.device.runtime != "torch":
        yield (
            f'[device.tiers] subnet = "{SEARCH}" counts the bytes of installations for torch; search with '
            '[device] runtime = "torch", then name what was found'
        )


def limited(tier: TierTable) -> Iterator[str]:
    """One tier's limits."""
    where = f"[device.tiers] limits of tier {tier.name!r}"
    given = tier.limits is not None and any(value is not None for value in tier.limits.model_dump().values())
    if tier.subnet != SEARCH:
        if tier.limits is not None:
            yield f'{where} have no effect without subnet = "{SEARCH}"'
    elif not given:
        yield f'{where}: subnet = "{SEARCH}" looks for the best within limits; give flops, nbytes or latency_s'
    elif tier.limits is not None and tier.limits.latency_s is not None and tier.profile is None:
        yield f"{where}: latency_s needs to know how fast the devices are; name the tier's profile"
