"""The tables of a configuration file; their keys are checked one by one when they are read."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from simulation.config.parts import (
    DataTable,
    LimitsTable,
    PersonalizerTable,
    Plugin,
    Table,
    TrainingTable,
    UnlabelledTable,
)


class ErrorsTable(Table):
    """Invalid ids among the generated ones, as a language model makes them (`cloud.generators.digits:DigitWriter`)."""

    garbled: float = Field(default=0.01, ge=0, le=1)
    heavy_share: float = Field(default=0.0, ge=0, le=1)
    heavy: float = Field(default=0.5, ge=0, le=1)


class ServersTable(Table):
    """Finite servers with one line before them; without this table no request waits for another."""

    count: int = Field(ge=1)
    max_wait_s: float | None = Field(
        default=None, ge=0, description="who would wait longer is turned away; default never"
    )


Amount = float | dict[str, float] | None


class BudgetTable(Table):
    """What the fleet may spend, exactly one of three; a number, or one number per tier: { phone = 0.1, old = 0.05 }."""

    requests_per_step: Amount = None
    bytes_per_hour: Amount = None
    cloud_seconds_per_hour: Amount = None
    horizon: float = Field(gt=0, description="hours, or steps of all devices, over which spending may be uneven")


class CloudTable(Table):
    """The data centre."""

    generator: Plugin
    generator_errors: ErrorsTable | None = None
    training: TrainingTable = TrainingTable()
    pool: int = Field(default=50, ge=1, le=65_536)
    hide_seen: bool = True
    history: int = Field(default=50, ge=1)
    gflops: float = Field(default=100.0, gt=0)
    seconds_per_request: float | None = Field(default=None, ge=0)
    servers: ServersTable | None = None
    budget: BudgetTable | None = None
    personalizer: PersonalizerTable | None = None


class TierTable(Table):
    """One device class; what it leaves open is that of [device]."""

    name: str
    share: float = Field(gt=0)
    model: Plugin | None = None
    subnet: str | None = None
    limits: LimitsTable | None = None
    link: str | Plugin | None = None
    profile: str | None = None


class FusionTable(Table):
    """Fixed fusion; without this table it is chosen on validation for every policy."""

    alpha: float = Field(ge=0, le=1)
    normalise: Literal["standardise", "minmax", "rank"] = "standardise"


class CollaborationTable(Table):
    """What becomes of a reranker after its own training (LSC4Rec): goes on with the generator's lists, or then further
    with the newest items of all users."""

    training: Literal["independent", "cooperative", "adaptive"] = "independent"
    lists: Literal["released", "found"] = "released"
    beams: int = Field(default=20, ge=1)
    width: int = Field(default=100, ge=2)
    augment: Literal["digits", "next-best", "none"] = "digits"
    faithful: bool = False
    epochs: int = Field(default=10, ge=0)
    learning_rate: float = Field(default=1e-3, gt=0)
    patience: int = Field(default=0, ge=0)


class SupernetTable(Table):
    """How the elastic model whose subnets the tiers run is trained (`cloud.supernet:Supernet`)."""

    random: int = Field(default=2, ge=0)
    negatives: Annotated[int, Field(ge=1)] | Literal["all"] = 256
    distilled: float = Field(default=0.5, ge=0, le=1)
    subnets: tuple[str, ...] = Field(default=(), strict=False)
    unlabelled: UnlabelledTable | None = None


class EnergyTable(Table):
    """What a device's radio and processor draw; what is left out is that of the link's kind of radio."""

    radio: Literal["wifi", "5g", "4g", "3g", "ideal"] | None = None
    wake_j: float | None = Field(default=None, ge=0)
    tail_w: float | None = Field(default=None, ge=0)
    tail_s: float | None = Field(default=None, ge=0)
    up_j_per_byte: float | None = Field(default=None, ge=0)
    down_j_per_byte: float | None = Field(default=None, ge=0)
    j_per_gflop: float | None = Field(default=None, ge=0)


class DeviceTable(Table):
    """The devices."""

    model: Plugin | None = None
    training: TrainingTable = TrainingTable()
    collaboration: CollaborationTable = CollaborationTable()
    supernet: SupernetTable | None = None
    policy: "PolicyTable | None" = None
    tiers: tuple[TierTable, ...] = Field(default=(), strict=False)
    speeds: str | None = None
    history: int = Field(default=50, ge=1)
    fusion: FusionTable | None = None
    items: Literal["resident", "resident-int8", "streamed"] = "resident"
    cache_rows: int = Field(default=512, ge=1)
    runtime: Literal["torch", "onnxruntime", "onnxruntime-int8"] = "torch"
    states: Literal["recomputed", "incremental"] = "recomputed"
    slate: int = Field(default=10, ge=1)
    energy: EnergyTable = EnergyTable()


MERGED_LISTS = 4
"""So many lists' candidates fit into a merged pool where its slots are not given."""


FLOORS = ("device.policy:Never", "device.policy:Always")
DECIDES_ITSELF = {"device.policy:Every": "steps", "device.policy:Random": "p"}
"""Option with which a class asks as often as it says, whatever the price."""


class PolicyTable(BaseModel):
    """A policy: its class and options, either a price or a wanted request ratio, and what becomes of a new list."""

    model_config = ConfigDict(extra="allow", frozen=True)
    class_: str = Field(alias="class")
    name: str | None = None
    price: float = 0.0
    request_ratio: float | None = Field(default=None, gt=0, lt=1)
    update: Literal["replace", "merge"] = "replace"
    slots: int | None = Field(default=None, ge=1)
    delta: bool = False
    fusion: Literal["constant", "by-age"] = "constant"
    length: int | None = Field(default=None, ge=1)
    own: int = Field(default=0, ge=0)
    resident: float = Field(default=1.0, gt=0, le=1)
    family: Literal["floor", "published", "ours", "ablation", "custom"] | None = None

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
        words += [] if self.update == "replace" else ["delta" if self.delta else "merge"]
        words += [f"own={self.own}"] if self.own else []
        words += [f"{self.request_ratio:.0%}"] if self.request_ratio else []
        return " ".join(words)

    @property
    def swept(self) -> bool:
        """Whether a sweep tries it at each of its request ratios: no price, no ratio, no class that decides alone."""
        decides = self.class_ in FLOORS or self.options.get(DECIDES_ITSELF.get(self.class_, "")) is not None
        return not decides and self.request_ratio is None and "price" not in self.model_fields_set

    def listed(self, pool: int) -> int:
        """Candidates per list; `pool` is [cloud] pool."""
        return self.length or pool

    def held(self, pool: int) -> int:
        """Candidates that a device's pool holds; `pool` is [cloud] pool."""
        return self.listed(pool) if self.update == "replace" else self.slots or MERGED_LISTS * self.listed(pool)


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
    window_s: float = Field(default=0.0, ge=0, description="width of a wave under servers or a budget; 0 is exact")


class SweepTable(Table):
    """`tandemrec sweep`: every policy without a price or ratio of its own at every request ratio, for every seed."""

    request_ratios: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(0.05, 0.1, 0.2, 0.3, 0.5, 0.8), strict=False, min_length=1
    )
    seeds: tuple[int, ...] = Field(default=(1, 2, 3), strict=False, min_length=1)
    processes: int = Field(default=2, ge=1)
    bound_size: int = Field(default=100_000_000, ge=0)
    vary: dict[str, Any] = Field(default={})


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
    sweep: SweepTable = SweepTable()

    @property
    def all_policies(self) -> tuple[PolicyTable, ...]:
        """`[[policies]]`, or the one of `[device.policy]`."""
        return self.policies or ((self.device.policy,) if self.device.policy else ())


DeviceTable.model_rebuild()
ExperimentConfig.model_rebuild()
