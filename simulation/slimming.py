"""From [device.supernet] and the tiers' subnets to one elastic model, trained once, of which each installs its part."""

import hashlib
import inspect
from dataclasses import replace
from pathlib import Path
from typing import cast

from torch import nn

import cloud.supernet
import cloud.unlabelled
import cloud.windows
import device.item_tables
import device.models.slimming
import device.subnet
from cloud.supernet import Supernet
from cloud.training import fit
from cloud.unlabelled import Unlabelled
from cloud.windows import windows
from device.errors import ConfigError
from device.model import DeviceModel, Parameters
from device.models.slimming import Elastic, SlimmableTorch
from device.models.torch_model import as_device_model
from device.subnet import SubnetSpec, installed_nbytes
from simulation.build import build
from simulation.config.parts import SEARCH, Plugin
from simulation.config.tables import ExperimentConfig, SupernetTable, TierTable
from simulation.metrics import parse
from simulation.objects import model_of, tiers
from simulation.shelf import Shelf, Start, given, spelled, training_data

WHERE = "[device.model]"


def is_slimmed(config: ExperimentConfig, tier: TierTable) -> bool:
    """Whether a tier's model is trained as a supernet.

    One is where a tier of that model names a subnet; that of [device.model] also where [device.supernet] is given.
    """
    if config.cloud.personalizer is not None:
        return False
    plugin = model_of(config, tier)
    named = any(other.subnet is not None and model_of(config, other) == plugin for other in tiers(config))
    return named or (config.device.supernet is not None and plugin == config.device.model)


def trained_elastic(config: ExperimentConfig, shelf: Shelf, plugin: Plugin) -> nn.Module:
    """The elastic module of a plug-in in eval mode after its training as a supernet; a finished one is only loaded.

    Raises ConfigError for a plug-in that makes no elastic module.
    """
    net = supernet(config, plugin, given(shelf.split.data.n_items, shelf.length))
    learn, held_out = training_data(shelf.split, shelf.length, refit=shelf.refit)
    name = f"supernet {type(net.model).__name__}"
    folder = supernet_folder(config, shelf, plugin)
    count = sum(p.numel() for p in net.parameters())
    shelf.introduce(folder, f"{name}: {count:,} parameters, {len(net.specs)} subnets")
    fit(
        net,
        windows(learn, net.length) if hasattr(net.model, "states") else learn,
        held_out,
        options=config.device.training.options(),
        seed=shelf.seed,
        folder=folder,
        measure=parse("ndcg@10").of,
        hide_seen=shelf.hide_seen,
        progress=lambda line: shelf.say(f"{name}: {spelled(line)}"),
    )
    return net.model


def cut(module: nn.Module, spec: SubnetSpec) -> tuple[DeviceModel, Parameters, int]:
    """The small dense model of a subnet, its parameters as a device reads them, and the bytes of its installation.

    Of a table that is not float32 its parts are counted, and scored is what they stand for. ConfigError for a spec
    beyond the module's size.
    """
    slimmable = SlimmableTorch(module)
    read = slimmable.slice(weights(module), spec)
    sizes = {name: (array.shape, array.itemsize) for name, array in read.items()}
    nbytes = installed_nbytes(sizes, spec, item_table=slimmable.item_table)
    return as_device_model(slimmable.dense(spec)), read, nbytes


def weights(module: nn.Module) -> Parameters:
    """The module's parameters by name, views of them."""
    return {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}


def dense(module: nn.Module, spec: SubnetSpec) -> nn.Module:
    """The small module with its weights, for export."""
    return SlimmableTorch(module).dense(spec, weights(module))


def spec_of(config: ExperimentConfig, tier: TierTable, net: nn.Module) -> SubnetSpec:
    """The subnet of elastic module `net` that a tier runs, the whole of it where it names none.

    Where [device] items says how tables are held, it does the rounding of an int8 label: the table, or the rows, that
    devices hold are the same. ConfigError for a subnet that the module does not hold, or that is not trained.
    """
    large = cast(SubnetSpec, net.spec)
    if tier.subnet is None:
        return large
    where, spec = f"[device.tiers] subnet of tier {tier.name!r}", SubnetSpec.parse(tier.subnet)
    if not spec.within(large):
        raise ConfigError(f"{where}: {spec} is beyond {type(net).__name__} {large}; choose a smaller one")
    trained = trained_specs(config, net)
    if spec.in_training != large and spec.in_training not in {one.in_training for one in trained}:
        few = ", ".join(map(str, trained[:8])) + (", ..." if len(trained) > 8 else "")
        raise ConfigError(
            f"{where}: {spec} is not trained; choose one of {few}, or list it in [device.supernet] subnets"
        )
    return spec if config.device.items == "resident" else replace(spec, table="float32")


def trained_specs(config: ExperimentConfig, net: nn.Module) -> tuple[SubnetSpec, ...]:
    """The subnets that [device.supernet] lists, all of the module's own where it lists none.

    Of one with codes its float32 form is trained, so that counts as trained too, in both directions.
    """
    if listed := table_of(config).subnets:
        return tuple(SubnetSpec.parse(label) for label in listed)
    return tuple(net.subnets())  # type: ignore[operator]


def untrained_subnet(config: ExperimentConfig, tier: TierTable, sizes: dict[str, int]) -> DeviceModel:
    """A tier's subnet without its parameters, the whole model while it is to be searched; `sizes` as in
    `simulation.shelf.given`."""
    net = supernet(config, model_of(config, tier), sizes).model
    spec = cast(SubnetSpec, net.spec) if tier.subnet == SEARCH else spec_of(config, tier, net)
    return as_device_model(SlimmableTorch(net).dense(spec))


def table_of(config: ExperimentConfig) -> SupernetTable:
    """[device.supernet], with its defaults where it is left out."""
    return config.device.supernet or SupernetTable()


def supernet(config: ExperimentConfig, plugin: Plugin, sizes: dict[str, int]) -> Supernet:
    """The untrained supernet around the module of a plug-in; ConfigError where that is not elastic."""
    made = build(plugin.class_, plugin.options, WHERE, **sizes)
    if not isinstance(made, nn.Module) or not isinstance(made, Elastic):
        raise ConfigError(
            f"{WHERE}: {plugin.class_} has no subnets; take an elastic model such as "
            "device.models.elastic:ElasticSASRec, or take out the tiers' subnets and [device.supernet]"
        )
    table, specs = table_of(config), trained_specs(config, made)
    for spec in specs:
        if not spec.within(made.spec):
            raise ConfigError(f"[device.supernet] subnets: {spec} is beyond {type(made).__name__} {made.spec}")
    negatives = None if table.negatives == "all" else table.negatives
    unlabelled = None if table.unlabelled is None else Unlabelled(**table.unlabelled.model_dump())
    return Supernet(
        made,
        subnets=tuple(dict.fromkeys(spec.in_training for spec in specs)),
        random=table.random,
        negatives=negatives,
        distilled=table.distilled,
        unlabelled=unlabelled,
    )


def supernet_folder(config: ExperimentConfig, shelf: Shelf, plugin: Plugin) -> Path:
    """Where the supernet training of a plug-in is kept: its name holds the options and the code of that too."""
    tables = (device.item_tables, device.models.slimming, device.subnet)
    parts = (cloud.supernet, cloud.unlabelled, cloud.windows, *tables)
    code = hashlib.sha256(b"".join(Path(inspect.getfile(part)).read_bytes() for part in parts)).hexdigest()
    how = Start(f"supernet {table_of(config).model_dump_json()} {code}", None)
    plain = shelf.folder(plugin, config.device.training.options(), how)
    return plain.with_name(f"supernet-{plain.name}")
