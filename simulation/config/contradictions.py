"""What a configuration says that cannot be, or that nobody would look at: every check that single keys cannot make."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from device.errors import ConfigError
from simulation.config.parts import SplitTable, SyntheticTable, TrainingBase
from simulation.config.personal import personal
from simulation.config.tables import CollaborationTable, DeviceTable, ExperimentConfig
from simulation.metrics import parse


def refusals(config: ExperimentConfig) -> Iterator[str]:
    """What the measures and the trainings say to their values."""
    if not config.metrics:
        yield 'metrics = []: name one at least, for example metrics = ["ndcg@10", "hr@10"]'
    for name in config.metrics:
        yield from refusal(partial(parse, name))
    tables = {"cloud": config.cloud.training, "device": config.device.training}
    if config.cloud.personalizer:
        tables["cloud.personalizer"] = config.cloud.personalizer.training
    yield from untrainable(tables)


def untrainable(tables: Mapping[str, TrainingBase]) -> Iterator[str]:
    """What is wrong with the values of trainings, by the table that holds each."""
    for where, table in tables.items():
        yield from (f"[{where}.training] {line.removeprefix('training: ')}" for line in refusal(table.options))


def refusal(make: Callable[[], Any]) -> Iterator[str]:
    """The text of the ConfigError that making something raises, if it does."""
    try:
        make()
    except ConfigError as error:
        yield str(error)


def contradictions(config: ExperimentConfig) -> Iterator[str]:
    """What single keys cannot tell."""
    if not re.fullmatch(r"[\w.+-]*\w", config.name):
        yield f"name = {config.name!r}: use letters, digits, '-', '_', '.', '+' only; it becomes a folder"
    if not config.all_policies:
        yield "no policy: add [device.policy] or [[policies]]"
    if config.policies and config.device.policy:
        yield "both [[policies]] and [device.policy]; keep one"
    labels = [policy.label for policy in config.all_policies]
    for label in {label for label in labels if labels.count(label) > 1}:
        yield f"two policies are called {label!r}; give one a name"
    if config.baseline is not None and config.baseline not in labels:
        yield f"baseline = {config.baseline!r} is none of the policies {', '.join(map(repr, labels))}"
    yield from personal(config)
    yield from pools(config)
    yield from coordination(config)
    yield from sweeps(config)
    yield from lessons(config.device.collaboration)
    names = [tier.name for tier in config.device.tiers]
    for name in {name for name in names if names.count(name) > 1}:
        yield f"two tiers are called {name!r}; rename one"
    split = config.data.split
    if sum(way is not None for way in (split.leave_last, split.global_time, split.files)) != 1:
        yield "[data.split] needs exactly one of leave_last, global_time, files"
    if config.device.items == "streamed" and config.cloud.history < config.device.history:
        yield (
            f"[cloud] history = {config.cloud.history} is shorter than [device] history = {config.device.history}: the "
            "cloud could not know which streamed rows a device needs; make it as long"
        )
    yield from ignored(config)


def pools(config: ExperimentConfig) -> Iterator[str]:
    """What the policies say about pools that cannot be."""
    for policy in config.all_policies:
        listed, where = policy.listed(config.cloud.pool), f"policy {policy.label!r}:"
        if policy.update == "replace" and (policy.delta or policy.slots):
            yield f'{where} delta and slots belong to update = "merge"; a replaced pool holds one list'
        if policy.held(config.cloud.pool) < listed:
            yield f"{where} slots = {policy.slots} do not hold one list of {listed}; raise slots or lower length"
        if config.device.items != "streamed":
            continue
        wanted = config.device.history + policy.held(config.cloud.pool)
        if config.device.cache_rows < wanted:
            yield (
                f"[device] cache_rows = {config.device.cache_rows}: streamed rows need room for the pool "
                f"of {where[:-1]} and one history, {wanted} rows"
            )


def coordination(config: ExperimentConfig) -> Iterator[str]:
    """What servers and budgets could not do, or would not look at."""
    budget = config.cloud.budget
    if config.simulation.window_s and config.cloud.servers is None and budget is None:
        yield "[simulation] window_s has an effect under [cloud.servers] or [cloud.budget] only; take it out"
    if budget is None:
        return
    amounts = (budget.requests_per_step, budget.bytes_per_hour, budget.cloud_seconds_per_hour)
    names = {tier.name for tier in config.device.tiers} or {"phone"}
    for given in amounts:
        if isinstance(given, dict) and given.keys() != names:
            yield f"[cloud.budget] names tiers {', '.join(sorted(given))}; give each of {', '.join(sorted(names))}"
        values = given.values() if isinstance(given, dict) else [] if given is None else [given]
        if not all(0 < value < float("inf") for value in values):
            yield f"[cloud.budget] {given}: expected amounts above 0"
    if sum(given is not None for given in amounts) != 1:
        yield "[cloud.budget] needs exactly one of requests_per_step, bytes_per_hour, cloud_seconds_per_hour"
    for policy in config.all_policies:
        if policy.price or policy.request_ratio is not None:
            yield f"policy {policy.label!r}: price and request_ratio have no effect under [cloud.budget]; take them out"


def lessons(table: CollaborationTable) -> Iterator[str]:
    """What cooperative training could not do, or would not look at."""
    usual = CollaborationTable()
    if table.lists == "found":
        if (table.width, table.augment, table.faithful) != (usual.width, usual.augment, usual.faithful):
            yield '[device.collaboration] width, augment and faithful belong to lists = "released"; take them out'
    elif table.beams >= table.width:
        yield (
            f"[device.collaboration] width = {table.width} has no room for the target and beams = {table.beams}; "
            "raise width or lower beams"
        )


def sweeps(config: ExperimentConfig) -> Iterator[str]:
    """What a sweep could not make sense of."""
    for policy in config.all_policies:
        if policy.price and policy.request_ratio is not None:
            yield f"policy {policy.label!r}: price = {policy.price} has no effect beside request_ratio; take one out"
        if policy.family == "floor" and policy.swept:
            yield f'policy {policy.label!r}: family = "floor" is for policies without a budget; give it a price'
    for key in ("request_ratios", "seeds"):
        values = getattr(config.sweep, key)
        if len(set(values)) < len(values):
            yield f"[sweep] {key} = {list(values)}: a value occurs twice; take one out"
    for key, values in config.sweep.vary.items():
        if not isinstance(values, list | tuple) or not values:
            yield f'[sweep.vary] {key}: expected a list of values under a quoted key, e.g. "cloud.pool" = [20, 50]'
        if key.partition(".")[0] in ("name", "seed", "sweep", "policies"):
            yield f"[sweep.vary] {key}: cannot be varied; seeds and policies have keys of their own"


def ignored(config: ExperimentConfig) -> Iterator[str]:
    """Keys that were given and would have no effect: better an error than a belief."""
    data, split, usual = config.data, config.data.split, SplitTable(leave_last=1)
    if data.path is not None and data.synthetic != SyntheticTable():
        yield "[data.synthetic] has no effect beside [data] path; take one out"
    if split.leave_last is None and (split.validation, split.min_train) != (usual.validation, usual.min_train):
        yield "[data.split] validation and min_train belong to leave_last; take them out"
    if split.files is not None and (data.k_core, data.min_rating, data.users) != (0, None, None):
        yield "[data] k_core, min_rating and users have no effect on files that are split already; take them out"
    links = [config.network.link, *[tier.link for tier in config.device.tiers if tier.link is not None]]
    if config.device.speeds is not None and not any(tier.profile for tier in config.device.tiers):
        yield "[device] speeds has no effect: no tier names a profile"
    if config.network.loss is not None and not any(isinstance(link, str) and link != "ideal" for link in links):
        yield "[network] loss belongs to the built-in profiles; a plug-in link has its own, ideal has none"
    if config.device.items != "streamed" and config.device.cache_rows != DeviceTable.model_fields["cache_rows"].default:
        yield '[device] cache_rows has an effect with items = "streamed" only; take it out'
