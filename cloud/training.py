"""One explicit training loop for every torch model, in the cloud and for the devices.

The loop is deterministic per (seed, epoch): an interrupted training that resumes from its checkpoint gives the same
weights as one that was not interrupted. The weights kept are those of the best validation value, never of a test value.
"""

import json
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file
from torch import nn

from cloud.losses import epoch_losses
from cloud.options import Training
from cloud.ranking import Neural, catalogue_ranks
from cloud.sequences import HeldOut, Sequences
from device.errors import ConfigError, RunError
from device.models.torch_model import reset
from device.seeds import key

Measure = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]  # (rank, ties) -> value per row
Progress = Callable[[str], None]


@dataclass(slots=True)
class Log:
    """What a training did, epoch by epoch; kept beside its weights as JSON."""

    epoch: int = 0  # epochs done
    best_epoch: int = 0
    best_value: float = -1.0
    seconds: float = 0.0
    losses: list[float] | None = None
    values: list[float] | None = None

    def worse_since(self, options: Training) -> int:
        """Validations since the best one."""
        return (self.epoch - self.best_epoch) // options.validate_every


def fit(
    model: nn.Module,
    data: Sequences,
    held_out: HeldOut | None,
    *,
    options: Training,
    seed: int,
    folder: Path,
    measure: Measure | None = None,
    hide_seen: bool = True,
    progress: Progress = lambda _: None,
) -> Log:
    """Train `model` in place, leave its best weights in it and in `folder/best.safetensors`; resumes by itself.

    A folder that holds a finished training is only loaded. `measure` turns the rank of each held-out item in the whole
    catalogue into a value; it is needed unless `options.patience` is 0. `hide_seen` leaves the items of the history out
    of that ranking, as a generator that never repeats an item does.
    """
    if options.patience and (measure is None or held_out is None or not len(held_out.targets)):
        raise ConfigError(
            f"training: patience = {options.patience} needs validation steps and a measure; set validation in "
            "[data.split], or patience = 0 for a fixed number of epochs"
        )
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "finished.json"
    if done.exists():
        load(model, folder)
        return Log(**json.loads(done.read_text())["log"])
    optimizer = torch.optim.AdamW(
        model.parameters(), options.learning_rate, weight_decay=options.weight_decay, fused=True
    )
    torch.manual_seed(key(seed, "initial weights") % 2**63)
    reset(model)
    log = resume(model, optimizer, folder)
    while log.epoch < options.epochs and not (options.patience and log.worse_since(options) >= options.patience):
        started = time.perf_counter()
        loss = train_epoch(model, optimizer, data, options=options, seed=seed, epoch=log.epoch)
        log.epoch += 1
        log.losses = [*(log.losses or []), loss]
        log.seconds += time.perf_counter() - started
        if options.patience and measure is not None and held_out is not None:
            validate(model, held_out, log, options=options, measure=measure, hide_seen=hide_seen, folder=folder)
        checkpoint(model, optimizer, log, folder)
        progress(f"epoch {log.epoch}/{options.epochs} loss {loss:.4f} best {log.best_value:.4f} @ {log.best_epoch}")
    if options.patience and not log.best_epoch and log.epoch:
        raise RunError(
            f"training diverged: no validation value is a number after {log.epoch} epochs; lower learning_rate"
        )
    if not options.patience:
        save(model, folder / "best.safetensors")
        log.best_epoch = log.epoch
    load(model, folder)
    write_text(done, json.dumps({"log": asdict(log), "options": asdict(options)}, indent=1))
    (folder / "last.safetensors").unlink(missing_ok=True)
    return log


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Sequences,
    *,
    options: Training,
    seed: int,
    epoch: int,
) -> float:
    """One pass; returns the mean loss."""
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = options.rate(epoch)
    torch.manual_seed(key(seed, "epoch", epoch) % 2**63)
    total, steps = 0.0, 0
    fast = options.precision == "bfloat16"
    for loss_of_batch in epoch_losses(model, data, options, seed=seed, epoch=epoch):
        with torch.autocast("cpu", torch.bfloat16) if fast else nullcontext():
            loss = loss_of_batch()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total, steps = total + loss.item(), steps + 1
    model.eval()
    return total / max(steps, 1)


def validate(
    model: nn.Module,
    held_out: HeldOut,
    log: Log,
    *,
    options: Training,
    measure: Measure,
    hide_seen: bool,
    folder: Path,
) -> None:
    """Measure on the fixed validation sample when it is due; keep the weights if they are the best so far."""
    if log.epoch % options.validate_every and log.epoch < options.epochs:
        return
    rows = np.linspace(0, len(held_out.targets) - 1, min(options.validation_users, len(held_out.targets))).astype(int)
    rank, ties = catalogue_ranks(Neural(model), held_out.histories[rows], held_out.targets[rows], hide_seen=hide_seen)
    value = float(measure(rank, ties).mean())
    log.values = [*(log.values or []), value]
    if value > log.best_value:
        log.best_value, log.best_epoch = value, log.epoch
        save(model, folder / "best.safetensors")


def checkpoint(model: nn.Module, optimizer: torch.optim.Optimizer, log: Log, folder: Path) -> None:
    """Write weights, optimiser state and log so that `resume` continues exactly here."""
    tensors = {f"model.{k}": v.contiguous() for k, v in model.state_dict().items()}
    names = [name for name, _ in model.named_parameters()]
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{names[index]}.{k}": v for k, v in state.items()}
    write_tensors(folder / "last.safetensors", tensors, {"log": json.dumps(asdict(log))})


def resume(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> Log:
    """Restore what `checkpoint` wrote; a fresh Log when there is nothing to resume."""
    path = folder / "last.safetensors"
    if not path.exists():
        return Log()
    from safetensors import safe_open

    tensors = load_tensors(path)
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    saved = optimizer.state_dict()
    for index, (name, _) in enumerate(model.named_parameters()):
        prefix = f"optimizer.{name}."
        saved["state"][index] = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    optimizer.load_state_dict(saved)
    with safe_open(path, "pt") as file:
        return Log(**json.loads(file.metadata()["log"]))


def save(model: nn.Module, path: Path) -> None:
    """Write a model's weights."""
    write_tensors(path, {k: v.contiguous() for k, v in model.state_dict().items()}, {})


def load(model: nn.Module, folder: Path) -> None:
    """Load the best weights of a training folder into `model`."""
    model.load_state_dict(load_tensors(folder / "best.safetensors"))
    model.eval()


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file completely or not at all."""
    temporary = path.with_suffix(".tmp")
    try:
        save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file completely or not at all."""
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
