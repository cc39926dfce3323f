"""What a sweep is going to do: its experiments, the family of each policy, and the words that explain it."""

import re
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from device.errors import ConfigError
from simulation.config.read import load_config
from simulation.config.tables import FLOORS, ExperimentConfig, PolicyTable
from simulation.config.toml import to_toml, value
from simulation.energy import radios
from simulation.protocol import protocol
from simulation.tier_profiles import joules_per_gflop

NEVER, ALWAYS = FLOORS
OURS = "device.policies.gain"


def plans(path: Path, overrides: Sequence[str]) -> list[ExperimentConfig]:
    """The experiment of a file, or one for each combination of `[sweep.vary]`, named by its values.

    ConfigError for what is wrong with any of them, before anything is done.
    """
    base = load_config(path, overrides)
    if base.cloud.budget is not None:
        raise ConfigError(f"{path}: a sweep finds prices for request ratios; take [cloud.budget] out, or use `run`")
    if base.cloud.personalizer is not None and base.cloud.personalizer.every > 1:
        raise ConfigError(
            f"{path}: [cloud.personalizer] when = {{ every = {base.cloud.personalizer.every} }}: the bounds of a sweep "
            'know patches that come with every list; set when = "request" or "installation", or use `run`'
        )
    if base.cloud.personalizer is not None and base.device.states == "incremental":
        raise ConfigError(
            f'{path}: [device] states = "incremental" beside [cloud.personalizer]: the bounds of a sweep know scores '
            'under patches from whole histories; set states = "recomputed", or use `run`'
        )
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
        raise ConfigError(
            f"a policy is called {min(taken)!r} and is not the plain one; rename it, a sweep needs the name"
        )
    device = config.device.model_copy(update={"policy": None})
    return config.model_copy(update={"policies": (*missing, *config.all_policies), "device": device})


def floors(config: ExperimentConfig, class_: str) -> list[PolicyTable]:
    """The policies of a class that are plain: one list of [cloud] pool, constant fusion, no candidates of their own."""
    plain = ("replace", 0, None, "constant")
    found = [one for one in config.all_policies if one.class_ == class_]
    return [one for one in found if (one.update, one.own, one.length, one.fusion) == plain]


def floor(config: ExperimentConfig, class_: str) -> PolicyTable:
    """The policy that stands for never, or always, asking."""
    return floors(config, class_)[0]


def family(policy: PolicyTable) -> str:
    """The given one, or that of the class; somebody's own class is "custom"."""
    path = policy.class_
    usual = "floor" if path in FLOORS else "ours" if path.startswith(OURS) else "custom"
    return policy.family or ("published" if usual == "custom" and path.startswith("device.") else usual)


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
    joules = " / ".join(f"{value:g}" for value in dict.fromkeys(joules_per_gflop(config)))
    return protocol(config) | {
        "budgets": "prices are found on validation steps for wanted request ratios; shown is what was spent on test",
        "energy": "declared, not measured: radio (wake-up, tail, bytes) after "
        + " ".join(declared)
        + f" Reranking: its operations at {joules} J per GFLOP.",
        "bounds": "the best schedule of every user in hindsight, replies at once, with lists of [cloud] pool: one list "
        "under constant fusions (replaced), the two newest under fusions by age (merged); at every ratio the best of "
        "three fusions, fitted on validation for never asking, random requests and always asking, or the one given;"
        + (" every list brings a patch;" if config.cloud.personalizer and config.cloud.personalizer.every else "")
        + " policies with longer lists, more lists, another fusion or candidates of their own can lie above them",
    }
