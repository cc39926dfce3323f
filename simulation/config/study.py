"""The file of `tandemrec devices`: the tables of an experiment, and `[[methods]]` that are compared over its lists."""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field

from device.errors import ConfigError
from device.profile import profile_of
from device.subnet import SubnetSpec
from simulation.config.contradictions import refusal, untrainable
from simulation.config.parts import SEARCH, DataTable, LimitsTable, PersonalizerTable, Plugin, Table, TrainingTable
from simulation.config.read import WANTED, check, read_toml, refuse_other
from simulation.config.tables import CloudTable, DeviceTable, SupernetTable

USED = {
    "cloud": {"generator", "generator_errors", "training", "pool", "hide_seen", "history"},
    "device": {"model", "training", "supernet", "history", "items"},
}
"""Keys that a comparison looks at: nothing is replayed, sent or priced."""


class MethodTable(Table):
    """One row; with nothing but a name it is the shared static model, `[device.model]`.

    `model` with its own `training` stands in place of that one. `subnet` is cut out of it, else of `[elastic]`, or
    searched within `limits` where it is "search"; a limited latency is that of `profile`. The keys of `supernet`
    replace those of `[device.supernet]`: it is cut out of a supernet of its own, shared by methods with the same keys.
    `personalizer` goes on from the model once it is trained.
    """

    name: str = Field(min_length=1)
    model: Plugin | None = None
    training: TrainingTable | None = None
    subnet: str | None = None
    limits: LimitsTable | None = None
    profile: str | None = None
    supernet: SupernetTable | None = None
    personalizer: PersonalizerTable | None = None


class ElasticTable(Table):
    """The elastic model that methods with a `subnet` and no `model` are cut out of, and its training."""

    model: Plugin
    training: TrainingTable = TrainingTable()


class StudyConfig(Table):
    """`tandemrec devices CONFIG`; `baseline` is the first method where it is left out.

    Without `profiles` no milliseconds are measured.
    """

    name: str
    seeds: tuple[int, ...] = Field(default=(1, 2, 3), strict=False, min_length=1)
    baseline: str | None = None
    negatives: int = Field(default=99, ge=1)
    profiles: tuple[str, ...] = Field(default=("high-end", "mid-range", "entry", "old"), strict=False)
    threads: int | None = Field(default=None, ge=1)
    data: DataTable = DataTable()
    cloud: CloudTable
    device: DeviceTable
    elastic: ElasticTable | None = None
    methods: tuple[MethodTable, ...] = Field(strict=False, min_length=1)

    @property
    def reference(self) -> int:
        """Number of the method that the others are compared with."""
        names = [method.name for method in self.methods]
        return 0 if self.baseline is None else names.index(self.baseline)

    def elastic_of(self, method: MethodTable) -> ElasticTable | None:
        """What a method is cut out of, where it names no model of its own."""
        return self.elastic if method.subnet is not None and method.model is None else None

    def supernet_of(self, method: MethodTable) -> SupernetTable | None:
        """How what a method is cut out of is trained: [device.supernet], but for the keys that it names itself."""
        usual, own = self.device.supernet, method.supernet
        if own is None:
            return usual
        return (usual or SupernetTable()).model_copy(update={key: getattr(own, key) for key in own.model_fields_set})


def load_study(path: Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read, override and check a file that lists methods; ConfigError also for the file of another command."""
    tables = read_toml(path, overrides)
    refuse_other(tables, "methods", str(path))
    if "methods" not in tables:
        raise ConfigError(f"{path}: {WANTED['methods'][1]}")
    config = check(tables, StudyConfig, str(path))
    for line in contradictions(config):
        raise ConfigError(f"{path}: {line}")
    return config


def resolved(config: StudyConfig) -> dict[str, Any]:
    """The tables with their defaults, without keys that have no effect: a file of it is read back as this one."""
    tables = config.model_dump(mode="json", by_alias=True, exclude_none=True)
    for place, keys in USED.items():
        tables[place] = {key: value for key, value in tables[place].items() if key in keys}
    for table, method in zip(tables["methods"], config.methods, strict=True):
        table.get("personalizer", {}).pop("when", None)
        if method.supernet is not None and (whole := config.supernet_of(method)):
            table["supernet"] = whole.model_dump(mode="json", exclude_none=True)
    return tables


def contradictions(config: StudyConfig) -> Iterator[str]:
    """What single keys cannot tell, and keys without effect."""
    if not re.fullmatch(r"[\w.+-]*\w", config.name):
        yield f"name = {config.name!r}: use letters, digits, '-', '_', '.', '+' only; it becomes a folder"
    names = [method.name for method in config.methods]
    for name in {name for name in names if names.count(name) > 1}:
        yield f"two methods are called {name!r}; rename one"
    if config.baseline is not None and config.baseline not in names:
        yield f"baseline = {config.baseline!r} is none of the methods {', '.join(map(repr, names))}"
    if len(set(config.seeds)) < len(config.seeds):
        yield f"seeds = {list(config.seeds)}: a value occurs twice; take one out"
    yield from ineffective(config)
    for name in config.profiles:
        yield from refusal(partial(profile_of, name))
    trainings = {"cloud": config.cloud.training, "device": config.device.training}
    yield from untrainable(trainings if config.elastic is None else trainings | {"elastic": config.elastic.training})
    for method in config.methods:
        yield from (f"method {method.name!r}: {line}" for line in contradicting(method, config))


def ineffective(config: StudyConfig) -> Iterator[str]:
    """Keys that nothing would look at, and a split that says nothing or too much."""
    split = config.data.split
    if sum(way is not None for way in (split.leave_last, split.global_time, split.files)) != 1:
        yield "[data.split] needs exactly one of leave_last, global_time, files"
    for place, table in (("cloud", config.cloud), ("device", config.device)):
        for key in sorted(table.model_fields_set - USED[place]):
            yield f"[{place}] {key} has no effect on a comparison of methods; take it out"
    if config.device.supernet is not None and all(method.subnet is None for method in config.methods):
        yield "[device.supernet] has no effect: no method has a subnet; add a subnet, or take it out"
    if config.elastic is not None and not any(map(config.elastic_of, config.methods)):
        yield "[elastic] has no effect: no method has a subnet and no model; add a subnet, or take it out"


def contradicting(method: MethodTable, config: StudyConfig) -> Iterator[str]:
    """What is wrong with one method."""
    personal = method.personalizer
    if method.training is not None and method.model is None:
        yield "training belongs to a model of its own; add model, or take it out"
    if method.supernet is not None and method.subnet is None:
        yield "supernet has no effect without a subnet; add a subnet, or take it out"
    if method.subnet is not None and personal is not None:
        yield "both subnet and personalizer; keep one"
    if method.model is None and personal is None and not (config.device.model or config.elastic_of(method)):
        yield "it has no model and [device.model] is missing; add one"
    if personal is not None and "when" in personal.model_fields_set:
        yield "personalizer: when has no effect, every step has a patch of its own; take it out"
    if method.subnet not in (None, SEARCH):
        yield from refusal(partial(SubnetSpec.parse, method.subnet))
    yield from searching(method)
    for training in (method.training, None if personal is None else personal.training):
        if training is not None:
            yield from refusal(training.options)


def searching(method: MethodTable) -> Iterator[str]:
    """What is wrong with a method's limits; of a tier's see `simulation.config.sought`."""
    limits = LimitsTable() if method.limits is None else method.limits
    if method.subnet != SEARCH:
        if method.limits is not None:
            yield f'limits have no effect without subnet = "{SEARCH}"'
    elif limits == LimitsTable():
        yield f'subnet = "{SEARCH}" looks for the best within limits; give limits: flops, nbytes or latency_s'
    if limits.latency_s is not None and method.profile is None:
        yield "limits: latency_s needs to know how fast the devices are; name their profile"
    if method.profile is not None:
        if limits.latency_s is None:
            yield "profile has no effect without limits on latency_s; take it out"
        yield from refusal(partial(profile_of, method.profile))
