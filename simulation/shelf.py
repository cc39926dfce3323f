"""Where trained models are kept, and what they learn from."""

import dataclasses
import hashlib
import inspect
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import cloud.losses
import cloud.sequences
import cloud.training
from cloud.generator import sized
from cloud.options import Training
from cloud.sequences import HeldOut, Sequences
from cloud.training import Log, fit
from device.errors import ConfigError
from simulation.build import BACKBONE, build, goes_on_from, imported
from simulation.config.parts import Plugin
from simulation.data.dataset import Split, windows
from simulation.metrics import parse

__all__ = ["BACKBONE", "Shelf", "Start", "built", "code_of", "given", "said", "spelled", "training_data"]
Say = Callable[[str], None]
SHARED_FOLDERS = ("models", "generators", "personalizers")
"""One file per model: the neighbours do not matter, unless it takes something from them."""
SHARED_PACKAGES = ("device.models.", "cloud.generators.", "cloud.personalizers.")


@dataclass(frozen=True, slots=True)
class Start:
    """A trained model that another training goes on from."""

    name: str  # of its folder
    model: Any


def given(n_items: int, length: int) -> dict[str, int]:
    """What every model may ask for by name; an option of the same name is refused, for only these fit the data."""
    return {"n_items": n_items, "length": length}


def training_data(split: Split, length: int, *, refit: bool = False) -> tuple[Sequences, HeldOut]:
    """What models learn from, and the first validation event of every user that has one.

    With `refit` the validation part is learned from too (for a second stage with a fixed number of epochs).
    """
    data = split.data
    ends = split.valid_end if refit else split.train_end
    users = np.flatnonzero(split.valid_end > split.train_end)
    before = split.train_end[users]
    held_out = HeldOut(windows(data, users, before, length), data.item[before])
    return Sequences(data.item, data.offsets[:-1], ends), held_out


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where trained models are kept, one folder per (data, model, training, seed)."""

    root: Path
    split: Split
    seed: int
    length: int
    say: Say
    refit: bool = False
    hide_seen: bool = True
    told: set[str] = field(default_factory=set, compare=False)  # folders of trainings whose first line was said

    def introduce(self, folder: Path, line: str) -> None:
        """Say the first line of a training, once however many tiers or methods ask for its model."""
        if folder.name not in self.told:
            self.told.add(folder.name)
            self.say(line)

    def trained(
        self, plugin: Plugin, training: Training, where: str, start: Start | None = None
    ) -> tuple[Any, Log | None]:
        """The object of a plug-in, trained or fitted if it can be; a finished training is only loaded.

        A torch module is trained by `cloud.training.fit`; another object with `fit(sequences)` is fitted. `start` is
        handed to its constructor.
        """
        from torch import nn

        data = self.split.data
        made = built(plugin, where, given(data.n_items, self.length), start.model if start else None)
        sequences, held_out = training_data(self.split, self.length, refit=self.refit)
        if isinstance(made, nn.Module):
            name = said(made, where)
            sized(made, n_items=data.n_items, length=self.length)
            folder = self.folder(plugin, training, start)
            self.introduce(folder, f"{name}: {sum(p.numel() for p in made.parameters()):,} parameters")
            log = fit(
                made,
                sequences,
                held_out,
                options=training,
                seed=self.seed,
                folder=folder,
                measure=parse("ndcg@10").of,
                hide_seen=self.hide_seen,
                progress=lambda line: self.say(f"{name}: {spelled(line)}"),
            )
            return made, log
        if hasattr(made, "fit"):
            made.fit(sequences)
        return made, None

    def folder(self, plugin: Plugin, training: Training, start: Start | None = None) -> Path:
        """Folder of one training; its name holds a hash of all that the weights depend on, the code included."""
        described = json.dumps(
            {
                "data": self.split.data.content_hash(),
                "cut": hashlib.sha256(self.split.train_end.tobytes() + self.split.valid_end.tobytes()).hexdigest(),
                "class": plugin.class_,
                "options": defaults(plugin) | plugin.options,
                "code": code_of(plugin.class_),
                "training": dataclasses.asdict(training),
                "length": self.length,
                "seed": self.seed,
                "refit": self.refit,
                "hide_seen": self.hide_seen,
                **({"start": start.name} if start else {}),
            },
            sort_keys=True,
        )
        digest = hashlib.sha256(described.encode()).hexdigest()[:12]
        return self.root / f"{plugin.class_.partition(':')[2].lower()}-{digest}"


def said(made: Any, where: str) -> str:
    """What a training is called in the log: `cloud SASRec`, `device GRU4Rec`, by the table that names the model."""
    side = next((side for side in ("cloud", "device") if where.startswith(f"[{side}.")), "")
    return f"{side} {type(made).__name__}".strip()


def spelled(line: str) -> str:
    """A line of `cloud.training.fit`, whose text keys trained models, with its best value in words, if it has one."""
    line = re.sub(r" best \S+ @ 0$", "", line)
    return re.sub(r" best (\S+) @ (\d+)$", r", best validation NDCG@10 \1 (epoch \2)", line)


def built(plugin: Plugin, where: str, sizes: dict[str, int], backbone: Any = None) -> Any:
    """The object of a plug-in; one that goes on from a trained model gets it as `backbone` (or `device`).

    Raises ConfigError where that is lacking, where nobody takes it, or where its class is not the annotated one.
    """
    found = goes_on_from(imported(plugin.class_, where))
    names = list(found.classes)
    if backbone is None and found.needed:
        said = f"goes on from a trained model{found.said}"
        raise ConfigError(f"{where}: {plugin.class_} {said}; name its class in [device.model]")
    if backbone is not None and not names:
        raise ConfigError(
            f"{where}: {plugin.class_} takes no {' or '.join(BACKBONE)}, so [device.model] has no effect; take it out "
            "(a tier without patches names its own model)"
        )
    on = {} if backbone is None else dict.fromkeys(names, backbone)
    for name in on:
        if wanted := found.other_than(backbone, name):
            raise ConfigError(
                f"{where}: {plugin.class_} goes on from {wanted}, found {type(backbone).__name__}; name it in "
                "[device.model]"
            )
    return build(plugin.class_, plugin.options, where, **sizes, **on)


def defaults(plugin: Plugin) -> dict[str, str]:
    """What a plug-in's constructor takes where the table says nothing."""
    parameters = inspect.signature(imported(plugin.class_, "class")).parameters
    return {name: repr(p.default) for name, p in parameters.items() if p.default is not p.empty}


def code_of(path: str) -> str:
    """Hash of the sources behind an import path: its module (or folder of modules), and the training loop."""
    module = sys.modules[imported(path, "class").__module__]
    own = Path(module.__file__ or "")
    package = own.parent if (own.parent / "__init__.py").exists() and own.parent.name not in SHARED_FOLDERS else None
    files = sorted(package.glob("*.py")) if package else [own, *parts_of(module)]
    files += [Path(inspect.getfile(part)) for part in (cloud.training, cloud.losses, cloud.sequences)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def parts_of(module: ModuleType) -> list[Path]:
    """Files of the models that a module in a shared folder takes classes or functions from, and of theirs."""
    found: dict[str, Path] = {}
    todo = [module]
    while todo:
        values = vars(todo.pop()).values()
        names = {v.__name__ if isinstance(v, ModuleType) else getattr(v, "__module__", None) for v in values}
        near = {name for name in names if isinstance(name, str) and name.startswith(SHARED_PACKAGES)}
        new = [sys.modules[name] for name in near - found.keys() - {module.__name__}]
        found |= {one.__name__: Path(one.__file__ or "") for one in new}
        todo += new
    return [found[name] for name in sorted(found)]
