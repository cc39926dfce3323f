"""The configuration of one experiment: TOML, checked key by key before anything is built."""

import difflib
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_type_hints

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from cloud.training import Training
from device.errors import ConfigError
from simulation.metrics import parse


class Table(BaseModel):
    """A TOML table: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Plugin(BaseModel):
    """`class = "package.module:Name"` and that class's own keyword arguments."""

    model_config = ConfigDict(extra="allow", frozen=True)
    class_: str = Field(alias="class")

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments."""
        return dict(self.model_extra or {})


class TrainingBase(Table):
    """`[cloud.training]`, `[device.training]`: the fields of `cloud.training.Training`."""

    def options(self) -> Training:
        """As the training loop takes it."""
        return Training(**self.model_dump())


if TYPE_CHECKING:
    TrainingTable = TrainingBase
else:
    TrainingTable = pydantic.create_model(
        "TrainingTable",
        __base__=TrainingBase,
        **{f.name: (get_type_hints(Training)[f.name], f.default) for f in fields(Training)},
    )


class SplitTable(Table):
    """`split = { leave_last = 3, validation = 1, min_train = 1 }`, `{ global_time = [0.8, 0.9] }` or three files."""

    leave_last: int | None = Field(default=None, ge=1)
    validation: int = Field(default=1, ge=1)
    min_train: int = Field(default=1, ge=1)
    global_time: tuple[float, float] | None = Field(default=None, strict=False)
    files: tuple[str, str, str] | None = Field(default=None, strict=False)


class ClockTable(Table):
    """Gaps between steps where times are unknown or tied: lognormal with this median (seconds) and sigma."""

    median_s: float = Field(default=30.0, gt=0)
    sigma: float = Field(default=1.0, ge=0)


class SyntheticTable(Table):
    """Size of the synthetic source."""

    users: int = Field(default=600, ge=2)
    items: int = Field(default=1000, ge=2)
    topics: int = Field(default=20, ge=2)
    length: int = Field(default=60, ge=4)
    drift: float = Field(default=0.1, ge=0, le=1)


class DataTable(Table):
    """Where the interactions come from; without `path`, the synthetic source."""

    path: str | None = None
    format: str = "auto"
    permute_ids: bool = True
    k_core: int = Field(default=0, ge=0)
    min_rating: float | None = None
    users: int | None = Field(default=None, ge=2, description="only the first so many users")
    split: SplitTable = SplitTable(leave_last=3)
    clock: ClockTable = ClockTable()
    synthetic: SyntheticTable = SyntheticTable()


class CloudTable(Table):
    """The data centre."""

    generator: Plugin
    training: TrainingTable = TrainingTable()
    pool: int = Field(default=50, ge=1, le=65_536)
    hide_seen: bool = True
    history: int = Field(default=50, ge=1)
    gflops: float = Field(default=100.0, gt=0)
    seconds_per_request: float | None = Field(default=None, ge=0)


class TierTable(Table):
    """One device class; what it leaves open is that of [device]."""

    name: str
    share: float = Field(gt=0)
    model: Plugin | None = None
    link: str | Plugin | None = None


class FusionTable(Table):
    """Fixed fusion; without this table it is chosen on validation for every policy."""

    alpha: float = Field(ge=0, le=1)
    normalise: Literal["standardise", "minmax", "rank"] = "standardise"


class DeviceTable(Table):
    """The devices."""

    model: Plugin
    training: TrainingTable = TrainingTable()
    policy: "PolicyTable | None" = None
    tiers: tuple[TierTable, ...] = Field(default=(), strict=False)
    history: int = Field(default=50, ge=1)
    fusion: FusionTable | None = None
    items: Literal["resident", "resident-int8", "streamed"] = "resident"
    cache_rows: int = Field(default=512, ge=1)
    runtime: Literal["torch", "onnxruntime"] = "torch"
    slate: int = Field(default=10, ge=1)


class PolicyTable(BaseModel):
    """A policy: its class and options, and either a price or a wanted request ratio."""

    model_config = ConfigDict(extra="allow", frozen=True)
    class_: str = Field(alias="class")
    name: str | None = None
    price: float = 0.0
    request_ratio: float | None = Field(default=None, gt=0, lt=1)

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the policy's class."""
        return dict(self.model_extra or {})

    @property
    def label(self) -> str:
        """Name in tables and columns: given, or made of the class, its options and the wanted ratio."""
        if self.name:
            return self.name
        words = [self.class_.partition(":")[2].lower()]
        words += [str(v) if isinstance(v, str) else f"{k}={v}" for k, v in self.options.items()]
        words += [f"{self.request_ratio:.0%}"] if self.request_ratio else []
        return " ".join(words)


class NetworkTable(Table):
    """The links of tiers that do not name their own."""

    link: str | Plugin = "4g"
    loss: float | None = Field(default=None, ge=0, lt=1)
    ids: Literal["varint", "int32"] = "varint"
    scores: Literal["float16", "int8", "none"] = "float16"


class SimulationTable(Table):
    """How the fleet is cut into clients and driven."""

    devices_per_client: int = Field(default=1024, ge=1)
    runner: Literal["in-process", "flower"] = "in-process"
    threads: int | None = Field(default=None, ge=1)
    calibration_devices: int = Field(default=2000, ge=1)


class ExperimentConfig(Table):
    """One experiment."""

    name: str
    seed: int = 0
    metrics: tuple[str, ...] = Field(default=("hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr"), strict=False)
    data: DataTable = DataTable()
    cloud: CloudTable
    device: DeviceTable
    policies: tuple[PolicyTable, ...] = Field(default=(), strict=False)
    network: NetworkTable = NetworkTable()
    simulation: SimulationTable = SimulationTable()

    @property
    def all_policies(self) -> tuple[PolicyTable, ...]:
        """`[[policies]]`, or the one of `[device.policy]`."""
        return self.policies or ((self.device.policy,) if self.device.policy else ())


DeviceTable.model_rebuild()
ExperimentConfig.model_rebuild()


def load_config(path: Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read a TOML file, apply `key.key=value` overrides, check everything that can be checked without data.

    Raises ConfigError naming file, place, value and the nearest right word.
    """
    return check(read_toml(path, overrides), ExperimentConfig, str(path))


def read_toml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The tables of a file with overrides applied."""
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.toml")], n=1, cutoff=0.3)
        raise ConfigError(f"{path}: no such file" + (f"; did you mean {path.parent / near[0]}?" if near else ""))
    try:
        tables = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    for override in overrides:
        apply(tables, override)
    return tables


def apply(tables: dict[str, Any], override: str) -> None:
    """Set one `a.b.c=value`; the value is TOML, a bare word is a string."""
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"--set {override}: write key=value, for example --set device.model.width=16")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    here: Any = tables
    *parents, last = key.strip().split(".")
    for parent in parents:
        here = here.setdefault(parent, {}) if isinstance(here, dict) else nth(here, parent, override)
        if not isinstance(here, dict | list):
            raise ConfigError(f"--set {override}: {parent!r} is not a table")
    if isinstance(here, list):
        raise ConfigError(f"--set {override}: {parents[-1]!r} is a list of tables; name one by its number, from 0")
    here[last] = value


def nth(tables: list[Any], number: str, override: str) -> Any:
    """One table of a list."""
    if not number.isdigit() or int(number) >= len(tables):
        raise ConfigError(f"--set {override}: {number!r} is none of the tables 0..{len(tables) - 1}")
    return tables[int(number)]


Checked = TypeVar("Checked", bound=BaseModel)


def check(tables: dict[str, Any], kind: type[Checked], place: str) -> Checked:
    """Validate tables; ConfigError lists every problem, one line each."""
    try:
        config = kind.model_validate(tables)
    except pydantic.ValidationError as error:
        raise ConfigError("\n".join(f"{place}: {line}" for line in problems(error, kind))) from error
    for line in [*refusals(config), *contradictions(config)] if isinstance(config, ExperimentConfig) else []:
        raise ConfigError(f"{place}: {line}")
    return config


def problems(error: pydantic.ValidationError, kind: type[BaseModel]) -> Iterator[str]:
    """One line per problem: place, value, what was expected."""
    for problem in error.errors():
        *table, key = [str(part) for part in problem["loc"]]
        where = f"[{'.'.join(table)}] " if table else ""
        if problem["type"] == "extra_forbidden":
            known = [f.alias or n for n, f in fields_at(kind, table).items()]
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            yield f"{where}unknown key {key!r}; " + (
                f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            )
        elif problem["type"] == "missing":
            yield f"{where}{key!r} is missing"
        else:
            yield f"{where}{key} = {problem['input']!r}: {problem['msg'][:1].lower()}{problem['msg'][1:]}"


def fields_at(kind: type[BaseModel], table: Sequence[str]) -> dict[str, pydantic.fields.FieldInfo]:
    """The fields of the table at a path of names and list numbers."""
    here: Any = kind
    for part in table:
        if part.isdigit():
            continue
        annotation = here.model_fields[part].annotation
        inner = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        here = inner[0]
    fields: dict[str, pydantic.fields.FieldInfo] = here.model_fields
    return fields


def refusals(config: ExperimentConfig) -> Iterator[str]:
    """What the measures and the trainings say to their values."""
    for name in config.metrics:
        yield from refusal(partial(parse, name))
    for table in (config.cloud.training, config.device.training):
        yield from refusal(table.options)


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
    split = config.data.split
    if sum(way is not None for way in (split.leave_last, split.global_time, split.files)) != 1:
        yield "[data.split] needs exactly one of leave_last, global_time, files"
    if config.device.items == "streamed" and config.cloud.history < config.device.history:
        yield (
            f"[cloud] history = {config.cloud.history} is shorter than [device] history = {config.device.history}: the "
            "cloud could not know which streamed rows a device needs; make it as long"
        )
    wanted = config.device.history + config.cloud.pool
    if config.device.items == "streamed" and config.device.cache_rows < wanted:
        yield (
            f"[device] cache_rows = {config.device.cache_rows}: streamed rows need room for one pool and one history, "
            f"{wanted} rows"
        )
