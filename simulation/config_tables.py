"""The tables of a configuration file; their keys are checked one by one when they are read."""

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, get_type_hints

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from cloud.options import Training


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
    users: int | None = Field(default=None, ge=2, description="so many users, drawn with the seed")
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
    baseline: str | None = None
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
