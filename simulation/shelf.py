"""Where trained models are kept, and what they learn from."""

import dataclasses
import hashlib
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import cloud.losses
import cloud.sequences
import cloud.training
from cloud.generator import sized
from cloud.options import Training
from cloud.sequences import HeldOut, Sequences
from cloud.training import Log, fit
from simulation.build import build, imported
from simulation.config_parts import Plugin
from simulation.data.dataset import Split, windows
from simulation.metrics import parse

Say = Callable[[str], None]
SHARED_FOLDERS = ("models", "generators")  # one file per model: the neighbours do not matter


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

    def trained(self, plugin: Plugin, training: Training, where: str) -> tuple[Any, Log | None]:
        """The object of a plug-in, trained or fitted if it can be; a finished training is only loaded.

        A torch module is trained by `cloud.training.fit`; another object with `fit(sequences)` is fitted.
        """
        from torch import nn

        data = self.split.data
        made = build(plugin.class_, plugin.options, where, **given(data.n_items, self.length))
        sequences, held_out = training_data(self.split, self.length, refit=self.refit)
        if isinstance(made, nn.Module):
            name = type(made).__name__
            sized(made, n_items=data.n_items, length=self.length)
            self.say(f"{name}: {sum(p.numel() for p in made.parameters()):,} parameters")
            log = fit(
                made,
                sequences,
                held_out,
                options=training,
                seed=self.seed,
                folder=self.folder(plugin, training),
                measure=parse("ndcg@10").of,
                hide_seen=self.hide_seen,
                progress=lambda line: self.say(f"{name}: {line}"),
            )
            return made, log
        if hasattr(made, "fit"):
            made.fit(sequences)
        return made, None

    def folder(self, plugin: Plugin, training: Training) -> Path:
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
            },
            sort_keys=True,
        )
        digest = hashlib.sha256(described.encode()).hexdigest()[:12]
        return self.root / f"{plugin.class_.partition(':')[2].lower()}-{digest}"


def defaults(plugin: Plugin) -> dict[str, str]:
    """What a plug-in's constructor takes where the table says nothing."""
    parameters = inspect.signature(imported(plugin.class_, "class")).parameters
    return {name: repr(p.default) for name, p in parameters.items() if p.default is not p.empty}


def code_of(path: str) -> str:
    """Hash of the sources behind an import path: its module (or folder of modules), and the training loop."""
    module = sys.modules[imported(path, "class").__module__]
    own = Path(module.__file__ or "")
    package = own.parent if (own.parent / "__init__.py").exists() and own.parent.name not in SHARED_FOLDERS else None
    files = sorted(package.glob("*.py")) if package else [own]
    files += [Path(inspect.getfile(part)) for part in (cloud.training, cloud.losses, cloud.sequences)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
