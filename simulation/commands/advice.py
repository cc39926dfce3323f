"""What a command says of a configuration that is legal and likely not what was meant, before hours are spent."""

from collections.abc import Sequence

from device.errors import ConfigError
from simulation.config.tables import ExperimentConfig, PolicyTable

NAMED = 3
"""So many policies are named, the others are counted."""


def unpriced(config: ExperimentConfig) -> list[str]:
    """For a run: policies that would ask wherever their urgency is above 0, as those of a sweep's file do."""
    found = [policy for policy in config.all_policies if policy.swept]
    if not found or config.cloud.budget is not None:
        return []
    who = "names no price or request_ratio and would ask at every step at which its"
    if len(found) > 1:
        who = "name no price or request_ratio and would ask at every step at which their"
    return [
        f"{named(found)} {who} urgency is above 0, mostly at each; use `tandemrec sweep`, or add request_ratio "
        "(price = 0.0 says that it is meant)"
    ]


def unswept(config: ExperimentConfig) -> list[str]:
    """For a sweep: that none of its policies is tried at the wanted request ratios."""
    fixed = [p for p in config.all_policies if p.request_ratio is not None or "price" in p.model_fields_set]
    if not fixed or any(policy.swept for policy in config.all_policies):
        return []
    said = "has a price or request_ratio of its own and is one point"
    if len(fixed) > 1:
        said = "have prices or request ratios of their own and are one point each"
    return [f"no policy is swept: {named(fixed)} {said}, with dashes at all other ratios; take request_ratio out"]


def named(policies: Sequence[PolicyTable]) -> str:
    """The labels of the first, and how many more there are."""
    labels = [policy.label for policy in policies[:NAMED]]
    more = len(policies) - len(labels)
    return ", ".join(labels) + (f" and {more} more" if more else "")


def seeds_override(text: str) -> str:
    """`--seeds 1,2,3` as an override of the file; ConfigError for anything but whole numbers."""
    numbers = [one.strip() for one in text.split(",")]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise ConfigError(f"--seeds {text}: write --seeds 1,2,3")
    return f"sweep.seeds=[{', '.join(str(int(number)) for number in numbers)}]"
