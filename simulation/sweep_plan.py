"""What a sweep is going to do: its experiments, the family of each policy, and the words that explain it."""

import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from device.errors import ConfigError
from simulation.config import load_config
from simulation.config_tables import FLOORS, ExperimentConfig, PolicyTable
from simulation.energy import radios
from simulation.protocol import protocol
from simulation.toml import to_toml, value

NEVER, ALWAYS = FLOORS
OURS = "device.policies.gain"


def plans(path: Path, overrides: Sequence[str]) -> list[ExperimentConfig]:
    """The experiment of a file, or one for each combination of `[sweep.vary]`, named by its values.

    ConfigError for what is wrong with any of them, before anything is done.
    """
    base = load_config(path, overrides)
    if base.cloud.budget is not None:
        raise ConfigError(f"{path}: a sweep finds prices for request ratios; take [cloud.budget] out, or use `run`")
    keys = list(base.sweep.vary)
    found = []
    for values in product(*base.sweep.vary.values()):
        name = "-".join([base.name, *map(word, values)])
        given = [f"{key}={value(one)}" for key, one in zip(keys, values, strict=True)]
        config = load_config(path, [*overrides, *given, f'name="{name}"'])
        found.append(config.model_copy(update={"sweep": config.sweep.model_copy(update={"vary": {}})}))
    names = [config.name for config in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"{path}: [sweep.vary] makes two sweeps called {min(twice)!r}; vary plainer values")
    return found


def word(one: Any) -> str:
    """A value as part of a folder's name; of a table its class."""
    text = str(one.get("class", "-".join(map(str, one.values())))) if isinstance(one, Mapping) else str(one)
    return re.sub(r"[^\w.+]+", "-", text.rpartition(":")[2]).strip("-").lower() or "none"


def with_floors(config: ExperimentConfig) -> ExperimentConfig:
    """The experiment with never and always asking among its policies, which every chart needs."""
    missing = [PolicyTable.model_validate({"class": class_}) for class_ in FLOORS if not any(floors(config, class_))]
    taken = {policy.label for policy in config.all_policies} & {policy.label for policy in missing}
    if taken:
        raise ConfigError(f"a policy is called {min(taken)!r} and is none; rename it, a sweep needs the name")
    device = config.device.model_copy(update={"policy": None})
    return config.model_copy(update={"policies": (*missing, *config.all_policies), "device": device})


def floors(config: ExperimentConfig, class_: str) -> list[PolicyTable]:
    """The policies of a class that handle pools in the plain way."""
    return [one for one in config.all_policies if one.class_ == class_ and one.update == "replace" and not one.own]


def floor(config: ExperimentConfig, class_: str) -> PolicyTable:
    """The policy that stands for never, or always, asking."""
    return floors(config, class_)[0]


def family(policy: PolicyTable) -> str:
    """The given one, or that of the class."""
    usual = "floor" if policy.class_ in FLOORS else "ours" if policy.class_.startswith(OURS) else "published"
    return policy.family or usual


def resolved(config: ExperimentConfig) -> str:
    """The configuration as TOML that makes the same sweep again: who is swept has no price in it."""
    tables = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    for policy, table in zip(config.policies, tables["policies"], strict=True):
        if policy.swept:
            table.pop("price")
    return to_toml(tables)


def words(config: ExperimentConfig) -> dict[str, str]:
    """What every number of this sweep is measured on."""
    declared = dict.fromkeys(radio.source for radio in radios(config))
    return protocol(config) | {
        "budgets": "prices are found on validation steps for wanted request ratios; shown is what was spent on test",
        "energy": "declared, not measured: radio (wake-up, tail, bytes) after "
        + " ".join(declared)
        + f" Reranking: its operations at {config.device.energy.j_per_gflop:g} J per GFLOP.",
        "bounds": "the best schedule of every user in hindsight, replies at once, with lists of [cloud] pool under "
        "the fusion of always asking (replaced) or by age (the two newest lists); policies with longer lists, more "
        "lists, another fusion or candidates of their own can lie above them",
    }
