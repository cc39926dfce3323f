"""What the tables of a configuration file are made of, and the tables of the data."""

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


class EveryTable(Table):
    """`when = { every = 3 }`."""

    every: int = Field(ge=1)


class PersonalizerTable(BaseModel):
    """`class` and options of a personalised method, its training, and when a device gets a patch."""

    model_config = ConfigDict(extra="allow", frozen=True)
    class_: str = Field(alias="class")
    training: TrainingTable = TrainingTable()
    when: Literal["installation", "request"] | EveryTable = "request"

    @property
    def plugin(self) -> Plugin:
        """The method's class and its options."""
        return Plugin.model_validate({"class": self.class_, **(self.model_extra or {})})

    @property
    def every(self) -> int:
        """A new patch with every so manieth answered request; 0 = none after the installation."""
        return self.when.every if isinstance(self.when, EveryTable) else int(self.when == "request")


SEARCH = "search"
"""Stands for a tier's subnet that is yet to be found."""


class LimitsTable(Table):
    """What a subnet may cost a tier's devices (`cloud.matchnas:Limits`)."""

    flops: float | None = Field(default=None, gt=0)
    nbytes: float | None = Field(default=None, gt=0)
    latency_s: float | None = Field(default=None, gt=0)


class UnlabelledTable(Table):
    """What a supernet learns from items without feedback (`cloud.unlabelled:Unlabelled`)."""

    threshold: float = Field(default=0.5, gt=0, le=1)
    candidates: int = Field(default=100, ge=2)
    weight: float = Field(default=1.0, gt=0)
    dropped: float = Field(default=0.2, ge=0, lt=1)


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
    users: int | None = Field(default=None, ge=2, description="so many users, the same for every seed")
    stream: bool = Field(default=False, description="the other users' clicks are what the cloud sees happen")
    split: SplitTable = SplitTable(leave_last=3)
    clock: ClockTable = ClockTable()
    synthetic: SyntheticTable = SyntheticTable()
