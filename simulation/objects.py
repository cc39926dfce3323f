"""From configuration tables to objects: data, generator, device tiers, policies, links."""

import dataclasses
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloud.gateway import Carrier
from cloud.generator import CandidateGenerator, Timed, as_generator
from cloud.generators.digits import DigitWriter
from cloud.stream import Listens
from device.errors import ConfigError, ContractError
from device.policy import Learned, LearnedPolicy, RequestPolicy
from device.profile import profile_of
from device.seeds import draws
from simulation import network
from simulation.build import build
from simulation.config.parts import DataTable, Plugin
from simulation.config.tables import ExperimentConfig, NetworkTable, PolicyTable, TierTable
from simulation.data.clock import Clock
from simulation.data.dataset import Dataset, Split
from simulation.data.read import read
from simulation.data.splits import global_time, leave_last, pre_split
from simulation.data.synthetic import synthetic
from simulation.shelf import Shelf


def make_split(table: DataTable, seed: int) -> Split:
    """Read (or make) the interactions and cut them into training, validation and test."""
    clock = Clock(table.clock.median_s, table.clock.sigma)
    split = table.split
    if table.stream and (table.path is None or split.files is not None):
        raise ConfigError("[data] stream needs one file or folder with recorded times; give [data] path, split by time")
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
        stream=table.stream,
    )


def make_generator(config: ExperimentConfig, shelf: Shelf) -> CandidateGenerator:
    """The trained candidate generator, with the errors it is asked to make."""
    n, errors = shelf.split.data.n_items, config.cloud.generator_errors
    made, _ = shelf.trained(config.cloud.generator, config.cloud.training.options(), "[cloud.generator]")
    refuse_unheard(config, made)
    if isinstance(made, Listens):
        assert shelf.split.data.outside is not None  # the table says so
        made.listen(shelf.split.data.outside)
    generator = as_generator(made, n_items=n, length=shelf.length, hide_seen=config.cloud.hide_seen)
    if errors is not None and isinstance(generator, Timed):
        raise ConfigError("[cloud.generator_errors] are not made for a generator that looks at the time; take them out")
    return generator if errors is None else DigitWriter(generator, n, **errors.model_dump())


def refuse_unheard(config: ExperimentConfig, generator: object) -> None:
    """ConfigError for a stream that the generator does not hear, and for one that hears where there is none."""
    named, listens = config.cloud.generator.class_, isinstance(generator, Listens)
    if listens and not config.data.stream:
        raise ConfigError(f"[cloud.generator] {named} learns from [data] stream; set it")
    if config.data.stream and not listens:
        raise ConfigError(
            f"[data] stream has no effect: {named} does not listen to it; take it out, or use a generator with listen"
        )


def tiers(config: ExperimentConfig) -> tuple[TierTable, ...]:
    """The tiers; one called "phone" where none is named."""
    return config.device.tiers or (TierTable(name="phone", share=1.0),)


def model_of(config: ExperimentConfig, tier: TierTable) -> Plugin:
    """The shared reranker of a tier; ConfigError where no table names one."""
    plugin = tier.model or config.device.model
    if plugin is None:
        raise ConfigError(f"[device.model] is missing: tier {tier.name!r} names no model of its own")
    return plugin


def is_personal(config: ExperimentConfig, tier: TierTable) -> bool:
    """Whether a tier's devices run the device half of [cloud.personalizer]: those without a model of their own."""
    return config.cloud.personalizer is not None and tier.model is None


def assign_tiers(config: ExperimentConfig, devices: int) -> NDArray[np.int64]:
    """[D] tier of each device, drawn by the shares, the same whatever the order."""
    shares = np.array([tier.share for tier in tiers(config)])
    edges = np.cumsum(shares / shares.sum())[:-1]
    return np.searchsorted(edges, draws(config.seed, "tier", np.arange(devices)).uniform()[:, 0], side="right")


def make_policy(table: PolicyTable, learned: Learned | None = None) -> RequestPolicy:
    """The policy of one table, with what it learned on validation steps."""
    made = build(table.class_, table.options, f"policy {table.label!r}")
    if not isinstance(made, RequestPolicy):
        raise ContractError(f"policy {table.class_} has no method urgency(view, draws); add one")
    if table.delta and getattr(made, "counts_empty", False):
        raise ConfigError(
            f"policy {table.label!r}: {table.class_} counts the places that the cloud left empty, and a delta reply "
            "leaves out what the device holds; take delta away"
        )
    return made.taught(learned) if learned is not None and isinstance(made, LearnedPolicy) else made


def make_links(config: ExperimentConfig) -> list[Carrier]:
    """One link per tier."""
    return [make_link(link_of(config, tier), config.network) for tier in tiers(config)]


def link_of(config: ExperimentConfig, tier: TierTable) -> str | Plugin:
    """The link that a tier names, else that of its profile, else that of [network]."""
    return tier.link or (profile_of(tier.profile).link if tier.profile else config.network.link)


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
