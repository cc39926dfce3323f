"""From configuration tables to objects: data, generator, device tiers, policies, links."""

import dataclasses
import hashlib
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import cloud.losses
import cloud.sequences
import cloud.training
from cloud.gateway import Carrier
from cloud.generator import CandidateGenerator, as_generator, sized
from cloud.generators.digits import DigitWriter
from cloud.item_rows import Rows
from cloud.options import Training
from cloud.sequences import HeldOut, Sequences
from cloud.training import Log, fit
from device.errors import ConfigError, ContractError
from device.messages import encode_patch
from device.model import DeviceModel, Parameters
from device.models.torch_model import as_device_model
from device.policy import Learned, LearnedPolicy, RequestPolicy
from device.seeds import draws, rng
from simulation import network
from simulation.build import build, imported
from simulation.collaboration import STAGES, Course
from simulation.config_tables import DataTable, ExperimentConfig, NetworkTable, Plugin, PolicyTable, TierTable
from simulation.data.clock import Clock
from simulation.data.dataset import Dataset, Split, windows
from simulation.data.read import read
from simulation.data.splits import global_time, leave_last, pre_split
from simulation.data.synthetic import synthetic
from simulation.metrics import parse

Say = Callable[[str], None]
SHARED_FOLDERS = ("models", "generators")  # one file per model: the neighbours do not matter


def given(n_items: int, length: int) -> dict[str, int]:
    """What every model may ask for by name; an option of the same name is refused, for only these fit the data."""
    return {"n_items": n_items, "length": length}


def make_split(table: DataTable, seed: int) -> Split:
    """Read (or make) the interactions and cut them into training, validation and test."""
    clock = Clock(table.clock.median_s, table.clock.sigma)
    split = table.split
    if split.files is not None:
        train, validation, test = (Path(f) if table.path is None else Path(table.path) / f for f in split.files)
        return pre_split(
            train, validation, test, seed=seed, format=table.format, permute_ids=table.permute_ids, clock=clock
        )
    data = make_data(table, seed, clock)
    if split.global_time is not None:
        return global_time(data, *split.global_time)
    assert split.leave_last is not None  # the configuration is checked
    return leave_last(data, split.leave_last, split.validation, split.min_train)


def make_data(table: DataTable, seed: int, clock: Clock) -> Dataset:
    """The interactions of a file, or of the synthetic source where no path is given."""
    if table.path is None:
        return synthetic(seed=seed, clock=clock, **table.synthetic.model_dump())
    return read(
        table.path,
        seed=seed,
        format=table.format,
        permute_ids=table.permute_ids,
        k_core=table.k_core,
        min_rating=table.min_rating,
        clock=clock,
        limit_users=table.users,
    )


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


def make_generator(config: ExperimentConfig, shelf: Shelf) -> CandidateGenerator:
    """The trained candidate generator, with the errors it is asked to make."""
    n, errors = shelf.split.data.n_items, config.cloud.generator_errors
    made, _ = shelf.trained(config.cloud.generator, config.cloud.training.options(), "[cloud.generator]")
    generator = as_generator(made, n_items=n, length=shelf.length, hide_seen=config.cloud.hide_seen)
    return generator if errors is None else DigitWriter(generator, n, **errors.model_dump())


def tiers(config: ExperimentConfig) -> tuple[TierTable, ...]:
    """The tiers; one called "phone" where none is named."""
    return config.device.tiers or (TierTable(name="phone", share=1.0),)


def assign_tiers(config: ExperimentConfig, devices: int) -> NDArray[np.int64]:
    """[D] tier of each device, drawn by the shares, the same whatever the order."""
    shares = np.array([tier.share for tier in tiers(config)])
    edges = np.cumsum(shares / shares.sum())[:-1]
    return np.searchsorted(edges, draws(config.seed, "tier", np.arange(devices)).uniform()[:, 0], side="right")


@dataclass(frozen=True, slots=True)
class Installed:
    """One tier's reranker as its devices hold it."""

    model: DeviceModel
    params: Parameters
    nbytes: int  # of the installation
    rows: Rows | None  # streamed item embeddings


def trained_reranker(config: ExperimentConfig, shelf: Shelf, tier: TierTable) -> Any:
    """A tier's reranker after its own training and the collaborative one that [device.collaboration] asks for."""
    plugin, training = tier.model or config.device.model, config.device.training.options()
    made, _ = shelf.trained(plugin, training, f"[device.model] of tier {tier.name!r}")
    stages = STAGES[config.device.collaboration.training]
    course(config, shelf).go_on(made, shelf.folder(plugin, training).name, stages)
    return made


def course(config: ExperimentConfig, shelf: Shelf) -> Course:
    """What rerankers learn from in company: the training part, validation and test left out."""
    learn, held_out = training_data(shelf.split, shelf.length, refit=shelf.refit)
    cloud_shelf, errors = replace(shelf, length=config.cloud.history), config.cloud.generator_errors
    name = cloud_shelf.folder(config.cloud.generator, config.cloud.training.options()).name
    return Course(
        config.device.collaboration,
        generator=lambda: make_generator(config, cloud_shelf),
        generator_name=name if errors is None else f"{name} {errors}",
        learn=learn,
        newest=learn,
        held_out=held_out,
        n_items=shelf.split.data.n_items,
        history=config.cloud.history,
        pool=config.cloud.pool,
        seed=shelf.seed,
        root=shelf.root,
        say=shelf.say,
    )


def install(config: ExperimentConfig, shelf: Shelf, tier: TierTable, folder: Path) -> Installed:
    """Train (or load) a tier's reranker and put it into the form that its devices run.

    What is installed is counted as it is encoded: a patch of all arrays, the ONNX file's bytes among them.
    """
    from torch import nn

    made = trained_reranker(config, shelf, tier)
    if not isinstance(made, nn.Module):
        params = made.init(rng(config.seed, "device model", tier.name))
        return laid_out(config, Installed(made, params, len(encode_patch(params)), None))
    if config.device.runtime == "onnxruntime":
        return exported(config, made, folder / tier.name)
    params = {k: v.numpy() for k, v in made.state_dict().items()}
    return laid_out(config, Installed(as_device_model(made), params, len(encode_patch(params)), None))


def laid_out(config: ExperimentConfig, made: Installed) -> Installed:
    """The item table resident in full, resident as int8, or streamed row by row as int8."""
    if config.device.items == "resident":
        return made
    name = getattr(made.model, "item_table", None)
    if name is None:
        raise ConfigError(
            f'[device] items = "{config.device.items}": {type(made.model).__name__} has no attribute item_table naming '
            'its table of item embeddings; add one, or use items = "resident"'
        )
    rows = Rows.of(made.params[name])
    params = {**made.params, name: rows.table()}
    body = {k: v for k, v in made.params.items() if k != name}
    if config.device.items == "resident-int8":
        return Installed(
            made.model,
            params,
            len(encode_patch({**body, f"{name}.codes": rows.codes, f"{name}.scale": rows.scale})),
            None,
        )
    return Installed(made.model, params, len(encode_patch(body)), rows)


def exported(config: ExperimentConfig, module: Any, folder: Path) -> Installed:
    """The reranker as an ONNX file run by onnxruntime; the file is what is installed."""
    from device.export import export_onnx
    from device.models.onnx_file import OnnxFile

    if config.device.items != "resident":
        raise ConfigError('[device] runtime = "onnxruntime" holds its item table in the file; use items = "resident"')
    made = export_onnx(module, folder, length=config.device.history, candidates=config.cloud.pool, int8=False)
    model = OnnxFile(made.files[0].path)
    params = model.init(rng(config.seed, "device model"))
    return Installed(model, params, len(encode_patch(params)), None)


def make_policy(table: PolicyTable, learned: Learned | None = None) -> RequestPolicy:
    """The policy of one table, with what it learned on validation steps."""
    made = build(table.class_, table.options, f"policy {table.label!r}")
    if not isinstance(made, RequestPolicy):
        raise ContractError(f"policy {table.class_} has no method urgency(view, draws); add one")
    return made.taught(learned) if learned is not None and isinstance(made, LearnedPolicy) else made


def make_links(config: ExperimentConfig) -> list[Carrier]:
    """One link per tier."""
    return [make_link(tier.link or config.network.link, config.network) for tier in tiers(config)]


def make_link(link: str | Plugin, table: NetworkTable) -> Carrier:
    """A built-in profile by name, or a plug-in such as `simulation.traces:TraceLink`."""
    if isinstance(link, Plugin):
        carrier: Carrier = build(link.class_, link.options, "[network.link]")
        return carrier
    made = network.link(link)
    if table.loss is None or not isinstance(made, network.SpeedLink):
        return made
    losses = dataclasses.replace(made.profile.losses, loss=table.loss)
    return network.SpeedLink(dataclasses.replace(made.profile, losses=losses))
