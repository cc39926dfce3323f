"""Everything before the replay: data, trained models, thresholds; kept in a folder that clients read."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud.gateway import Service
from cloud.generator import CandidateGenerator
from cloud.item_rows import Rows
from cloud.service import Line
from device.errors import ConfigError
from device.messages import Codec
from device.row_cache import NOTHING
from device.scoring import ModelScorer
from device.setup import Setup
from simulation.build import build
from simulation.choosing.chosen import Chosen
from simulation.config.tables import ExperimentConfig, PolicyTable
from simulation.data.audit import leakage_audit
from simulation.data.dataset import Split
from simulation.installing import Installed, install, largest_installation, looked_through, with_states
from simulation.objects import (
    assign_tiers,
    is_personal,
    make_generator,
    make_links,
    make_policy,
    make_split,
    model_of,
    refuse_unheard,
    tiers,
)
from simulation.personalizing import device_half, personalization, trained_method, untrained_method
from simulation.remembering import Remembering
from simulation.replay import Timeline
from simulation.searching import refuse_impossible, searched
from simulation.shelf import Shelf, given
from simulation.slimming import is_slimmed, untrained_subnet
from simulation.tier_profiles import refuse_misfits

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """An experiment that is ready to be replayed."""

    config: ExperimentConfig
    timeline: Timeline
    installed: tuple[Installed, ...]  # one per tier
    service: Service
    users: NDArray[np.int64]  # [D] user of each device
    split: Split
    audit: Mapping[str, Any]
    root: Path
    models: str  # names the trained models, the generator's too
    popular: NDArray[np.int32]  # [n] all items, those with most training events first

    @property
    def model_bytes(self) -> list[int]:
        """Bytes of the installation per tier, without a share of streamed rows."""
        return [tier.nbytes for tier in self.installed]

    def share(self, policy: PolicyTable) -> NDArray[np.int32]:
        """The items that a device looks through for candidates of its own under one policy."""
        return looked_through(policy, self.popular)

    def installation(self, policy: PolicyTable) -> list[int]:
        """Bytes of the installation per tier under one policy: what a device looks through, it holds."""
        return [tier.nbytes_with(self.share(policy)) for tier in self.installed]

    @property
    def largest(self) -> list[int]:
        """Bytes of the largest installation per tier, see `largest_installation`."""
        return largest_installation(self.config, self.installed, self.popular)


def setups(
    config: ExperimentConfig,
    installed: Sequence[Installed],
    policy: PolicyTable,
    chosen: Chosen,
    popular: NDArray[np.int32],
) -> list[Setup]:
    """What the devices of each tier run under one policy; `popular` [n] are all items, the most popular first."""
    streamed = config.device.items == "streamed"
    resident = looked_through(policy, popular)
    return [
        Setup(
            scorer=ModelScorer(tier.model, tier.params, resident),
            policy=make_policy(policy, chosen.learned),
            fusion=chosen.fusion,
            price=chosen.price,
            seed=config.seed,
            cache_rows=config.device.cache_rows if streamed else 0,
            installed=resident if streamed else NOTHING,
            hide_seen=config.cloud.hide_seen,
            update=policy.update,
            listed=0 if policy.delta else policy.listed(config.cloud.pool),
            own=policy.own,
            tier=number,
            incremental=config.device.states == "incremental",
            lease=chosen.pricing.lease(number) if chosen.pricing else None,
        )
        for number, tier in enumerate(installed)
    ]


def serving(service: Service, policy: PolicyTable, pool: int, installed: NDArray[np.int32] = NOTHING) -> Service:
    """The service as one policy uses it; `pool` is [cloud] pool, `installed` [M] are rows that are not streamed."""
    delta = policy.held(pool) if policy.delta else 0
    return replace(service, pool=policy.listed(pool), delta_slots=delta, installed=installed)


def prepare(config: ExperimentConfig, root: Path, say: Say) -> Prepared:
    """Read the data, train what is not trained yet, and lay out the fleet. Trained models are kept in root/models."""
    import torch

    torch.set_num_threads(config.simulation.threads or torch.get_num_threads())
    try_plugins(config)
    split = make_split(config.data, config.seed)
    refuse_impossible(config, split.data.n_items)
    audit = leakage_audit(split)
    say(described(split, audit))
    users = np.flatnonzero(split.valid_end < split.data.offsets[1:])
    if not len(users):
        raise ConfigError("[data.split] leaves no test steps; lower leave_last, validation or min_train")
    shelf = Shelf(root / "models", split, config.seed, config.device.history, say, hide_seen=config.cloud.hide_seen)
    generator = make_generator(config, replace(shelf, length=config.cloud.history))
    config = searched(config, shelf)
    with tempfile.TemporaryDirectory() as scratch:
        installed = tuple(install(config, shelf, tier, Path(scratch)) for tier in tiers(config))
    popular = popularity(split)
    refuse_misfits(config, installed, largest_installation(config, installed, popular))
    service = serves(config, split, generator, [one.rows for one in installed], assign_tiers(config, len(users)))
    if config.cloud.personalizer is not None:
        service = replace(service, personalization=personalization(config, trained_method(config, shelf)))
    name = shelf.folder(config.cloud.generator, config.cloud.training.options()).name
    return Prepared(
        config,
        lived(config, split, users, service.tier),
        installed,
        service,
        users,
        split,
        audit,
        root,
        name,
        popular,
    )


def lived(config: ExperimentConfig, split: Split, users: NDArray[np.int64], tier: NDArray[np.int64]) -> Timeline:
    """The test steps of `users` [D] on devices of `tier` [D]."""
    return Timeline.of(
        split.data,
        users,
        split.valid_end[users],
        split.data.offsets[users + 1],
        length=max(config.cloud.history, config.device.history),
        tier=tier,
    )


def serves(
    config: ExperimentConfig,
    split: Split,
    generator: CandidateGenerator,
    rows: Sequence[Rows | None],
    tier: NDArray[np.int64],
) -> Service:
    """What the cloud offers to devices of `tier` [D]; `rows` per tier are streamed."""
    return Service(
        generator=Remembering(generator) if len(config.all_policies) > 1 else generator,
        n_items=split.data.n_items,
        pool=config.cloud.pool,
        history=config.cloud.history,
        upload=config.device.history,
        codec=Codec(config.network.ids, config.network.scores),
        gflops=config.cloud.gflops,
        seconds=config.cloud.seconds_per_request,
        carriers=make_links(config),
        tier=tier,
        rows=rows,
        cache_rows=config.device.cache_rows,
        seed=config.seed,
        servers=line_of(config),
        window_s=config.simulation.window_s,
    )


def line_of(config: ExperimentConfig) -> Line | None:
    """The finite servers, where there are any."""
    table = config.cloud.servers
    if table is None:
        return None
    return Line(table.count) if table.max_wait_s is None else Line(table.count, table.max_wait_s)


def popularity(split: Split) -> NDArray[np.int32]:
    """[n] all item ids, those with most training events first, equals by id."""
    events = split.data.item[split.part() == 0]
    counts = np.bincount(events, minlength=split.data.n_items + 1)[1:]
    return (np.argsort(-counts, kind="stable") + 1).astype(np.int32)


def try_plugins(config: ExperimentConfig) -> None:
    """Make every plug-in once in a small size, so that a wrong option is not found only after hours of training."""
    for policy in config.all_policies:
        make_policy(policy)
    make_links(config)
    small = given(n_items=2, length=2)
    plugin = config.cloud.generator
    refuse_unheard(config, build(plugin.class_, plugin.options, "[cloud.generator]", **small))
    for tier in tiers(config):
        if is_slimmed(config, tier):
            with_states(config, untrained_subnet(config, tier, small))
        elif not is_personal(config, tier):
            plugin = model_of(config, tier)
            made = build(plugin.class_, plugin.options, f"[device.model] of tier {tier.name!r}", **small)
            with_states(config, made)
    if config.cloud.personalizer is not None:
        method = untrained_method(config, small)
        personalization(config, method)
        with_states(config, device_half(method))


def described(split: Split, audit: Mapping[str, Any]) -> str:
    """One paragraph: what the data are and how much of the test they leak."""
    data = split.data
    shares = [
        f"{name.replace('_', ' ')} {value:.1%}"
        for name, value in audit.items()
        if isinstance(value, float) and not name.endswith("events")
    ]
    events = ", ".join(f"{audit[f'{part}_events']:,} {part}" for part in ("train", "validation", "test"))
    outside = f"; {len(data.outside):,} clicks of others, heard as they happen" if data.outside else ""
    return (
        f"{data.name}: {data.n_users:,} users, {data.n_items:,} items, {data.n_events:,} events ({events}){outside}; "
        f"content {data.content_hash()[:12]}\nleakage audit: {', '.join(shares)}"
    )
