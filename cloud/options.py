"""The hyper-parameters of a training; what changes the machine (threads, folders) is not among them."""

from dataclasses import dataclass
from typing import Literal

from device.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Training:
    """What changes the science of a training; the keys of a `[...training]` table.

    Args:
        epochs: at most this many passes; exactly this many when `patience` is 0.
        patience: stop after this many validations without a better value; 0 = never look at validation.
        batch: users (or prefixes) per step.
        learning_rate, weight_decay: of AdamW.
        schedule: "constant", or "linear": the learning rate falls from epoch to epoch, in the last to 1/epochs of it.
        loss: "sampled" softmax with uniform negatives shared by a batch, or "full" softmax over the catalogue.
        negatives: how many shared negatives.
        validate_every: epochs between validations.
        validation_users: validation rows used while training; the same ones each time.
        precision: "bfloat16" runs matrix products in bfloat16 (several times faster where the CPU has it).
    """

    epochs: int = 60
    patience: int = 8
    batch: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: Literal["constant", "linear"] = "constant"
    loss: Literal["sampled", "full"] = "sampled"
    negatives: int = 256
    validate_every: int = 1
    validation_users: int = 2000
    precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        for name, least in (("epochs", 0), ("patience", 0), ("batch", 1), ("negatives", 1), ("validate_every", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"training: {name} = {getattr(self, name)}; expected {least} or more")
        if not self.learning_rate > 0 or self.validation_users < 1 or self.weight_decay < 0:
            raise ConfigError(
                f"training: learning_rate = {self.learning_rate}, validation_users = {self.validation_users}, "
                f"weight_decay = {self.weight_decay}; expected positive numbers, 1 or more, 0 or more"
            )

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, from 0."""
        return self.learning_rate * (1 - epoch / self.epochs if self.schedule == "linear" else 1)
