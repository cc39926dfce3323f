"""LSC4Rec's collaborative training (Lv et al., KDD 2025): a reranker that goes on learning from where it stands.

One loop for what `cloud.training.fit` has no loss for: independent training with the released loss (`fresh`),
cooperative training on a generator's lists, and adaptive re-training, which is the independent loss on fresh items from
the weights at hand. Training per device is in `cloud.adaptive`. As in `fit`, a training is deterministic per (seed,
epoch) and resumes from its folder.
"""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from cloud.lessons import Lessons
from cloud.options import Training
from cloud.training import Log, Progress, checkpoint, load, resume, save, write_text
from device.errors import ConfigError, RunError
from device.models.torch_model import reset
from device.seeds import key

INDEPENDENT = Training(epochs=10, patience=0, batch=128, negatives=4)
"""As released: Adam at 1e-3, four negatives; also the options of the released, global adaptive re-training."""
COOPERATIVE = replace(INDEPENDENT, batch=32)
"""As released: 32 lists per step."""

Value = Callable[[nn.Module], float]


def train(
    model: nn.Module,
    lessons: Lessons,
    *,
    options: Training,
    seed: int,
    folder: Path,
    fresh: bool = False,
    value: Value | None = None,
    progress: Progress = lambda _: None,
) -> Log:
    """Train `model` in place from the weights it has (`fresh`: from drawn ones); resumes by itself.

    With `options.patience` the weights of the best `value(model)` are kept, a validation measure of the caller's from 0
    up; the starting weights take part as epoch 0. Without patience the last ones are kept. `folder` belongs to these
    starting weights, lessons and options (the caller names the data and the generator in it): RunError where it holds
    another training. ConfigError for patience without a value.
    """
    if options.patience and value is None:
        raise ConfigError(f"training: patience = {options.patience} needs a validation value; or set patience = 0")
    if fresh:
        torch.manual_seed(key(seed, "initial weights") % 2**63)
        reset(model)
    folder.mkdir(parents=True, exist_ok=True)
    claim(model, folder, {"seed": seed, "options": asdict(options)} | lessons.about)
    done = folder / "finished.json"
    if done.exists():
        load(model, folder)
        return Log(**json.loads(done.read_text())["log"])
    log = run(model, lessons, options=options, seed=seed, folder=folder, value=value, progress=progress)
    write_text(done, json.dumps({"log": asdict(log), "options": asdict(options)}, indent=1))
    (folder / "last.safetensors").unlink(missing_ok=True)
    return log


def claim(model: nn.Module, folder: Path, about: dict[str, object]) -> None:
    """Write down what a folder's training starts from, or RunError where it started from something else."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    text = json.dumps({"starting weights": digest.hexdigest()} | about, indent=1, sort_keys=True)
    path = folder / "start.json"
    if path.exists() and path.read_text() != text:
        raise RunError(f"{folder}: holds a training of other weights, lessons or options; name another folder")
    if not path.exists():
        write_text(path, text)


def run(
    model: nn.Module,
    lessons: Lessons,
    *,
    options: Training,
    seed: int,
    folder: Path,
    value: Value | None,
    progress: Progress,
) -> Log:
    """Epochs until the last one or until patience is out; the kept weights are in `folder` and in `model`."""
    optimizer = torch.optim.AdamW(
        model.parameters(), options.learning_rate, weight_decay=options.weight_decay, fused=True
    )
    log = resume(model, optimizer, folder)
    if options.patience and value is not None and not log.epoch:
        judge(model.eval(), value, log, folder)
    while log.epoch < options.epochs and not (options.patience and log.worse_since(options) >= options.patience):
        started = time.perf_counter()
        loss = train_epoch(model, optimizer, lessons, options=options, seed=seed, epoch=log.epoch)
        log.epoch += 1
        log.losses = [*(log.losses or []), loss]
        log.seconds += time.perf_counter() - started
        due = log.epoch % options.validate_every == 0 or log.epoch == options.epochs
        if options.patience and value is not None and due:
            judge(model, value, log, folder)
        checkpoint(model, optimizer, log, folder)
        progress(f"epoch {log.epoch}/{options.epochs} loss {loss:.4f} best {log.best_value:.4f} @ {log.best_epoch}")
    if options.patience and not log.best_value >= 0:
        raise RunError(f"training diverged: no value is a number after {log.epoch} epochs; lower learning_rate")
    if not options.patience:
        save(model, folder / "best.safetensors")
        log.best_epoch = log.epoch
    load(model, folder)
    return log


def train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, lessons: Lessons, *, options: Training, seed: int, epoch: int
) -> float:
    """One pass; returns the mean loss of its steps."""
    model.train()
    for group in optimizer.param_groups:
        group["lr"] = options.rate(epoch)
    torch.manual_seed(key(seed, "epoch", epoch) % 2**63)
    total, steps = 0.0, 0
    fast = options.precision == "bfloat16"
    for loss_of_batch in lessons.losses(model, options, seed=seed, epoch=epoch):
        with torch.autocast("cpu", torch.bfloat16) if fast else nullcontext():
            loss = loss_of_batch()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        total, steps = total + loss.item(), steps + 1
    model.eval()
    return total / max(steps, 1)


def judge(model: nn.Module, value: Value, log: Log, folder: Path) -> None:
    """Take the value (0 or more); keep the weights if they are the best so far."""
    found = value(model)
    log.values = [*(log.values or []), found]
    if found > log.best_value:
        log.best_value, log.best_epoch = found, log.epoch
        save(model, folder / "best.safetensors")
