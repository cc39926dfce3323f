"""Everything before the replay: data, trained models, thresholds; kept in a folder that clients read."""

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud.gateway import Service
from cloud.service import Line
from device.errors import ConfigError
from device.fleet import Setup
from device.fusion import Fusion, FusionByAge
from device.lease import LEASE_BYTES
from device.messages import Codec, encode_patch
from device.policy import Learned
from device.scoring import ModelScorer
from simulation.build import build
from simulation.config_tables import ExperimentConfig, Plugin, PolicyTable
from simulation.data.audit import leakage_audit
from simulation.data.dataset import Split
from simulation.objects import (
    Installed,
    Shelf,
    assign_tiers,
    code_of,
    given,
    install,
    make_generator,
    make_links,
    make_policy,
    make_split,
    tiers,
)
from simulation.pricing import Pricing
from simulation.remembering import Remembering
from simulation.replay import Timeline

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What validation chose for one policy."""

    price: float
    fusion: Fusion | FusionByAge
    learned: Learned | None = None  # parameters of a policy that learns
    pricing: Pricing | None = None  # from which the cloud's prices start, where a budget is held by them

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        learned = None if self.learned is None else {k: np.asarray(v).tolist() for k, v in self.learned.items()}
        pricing = None if self.pricing is None else self.pricing.to_json()
        return {"price": self.price, "fusion": asdict(self.fusion), "learned": learned, "pricing": pricing}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Chosen":
        """Inverse of `to_json`."""
        kind = Fusion if "alpha" in values["fusion"] else FusionByAge
        fusion: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values["fusion"].items()}
        learned = values["learned"]
        arrays = None if learned is None else {k: np.asarray(v, np.float32) for k, v in learned.items()}
        pricing = None if values["pricing"] is None else Pricing.from_json(values["pricing"])
        return cls(values["price"], kind(**fusion), arrays, pricing)

    @property
    def learned_bytes(self) -> int:
        """Bytes of what was learned, weights of a fusion by age among it, and of the lease, as they are installed."""
        learned: dict[str, NDArray[np.float32]] = dict(self.learned or {})
        if isinstance(self.fusion, FusionByAge):
            learned |= {f"fusion.{name}": np.asarray(v, np.float32) for name, v in asdict(self.fusion).items()}
        return (len(encode_patch(learned)) if learned else 0) + (LEASE_BYTES if self.pricing else 0)


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
        """Bytes of the installation per tier."""
        return [tier.nbytes for tier in self.installed]


def setups(
    config: ExperimentConfig,
    installed: Sequence[Installed],
    policy: PolicyTable,
    chosen: Chosen,
    popular: NDArray[np.int32],
) -> list[Setup]:
    """What the devices of each tier run under one policy; `popular` [n] are all items, the most popular first."""
    streamed = config.device.items == "streamed"
    resident = np.sort(popular[: math.ceil(policy.resident * len(popular))]) if policy.own else popular[:0]
    return [
        Setup(
            scorer=ModelScorer(tier.model, tier.params, resident),
            policy=make_policy(policy, chosen.learned),
            fusion=chosen.fusion,
            price=chosen.price,
            seed=config.seed,
            cache_rows=config.device.cache_rows if streamed else 0,
            hide_seen=config.cloud.hide_seen,
            update=policy.update,
            listed=0 if policy.delta else policy.listed(config.cloud.pool),
            own=policy.own,
            tier=number,
            lease=chosen.pricing.lease(number) if chosen.pricing else None,
        )
        for number, tier in enumerate(installed)
    ]


def serving(service: Service, policy: PolicyTable, pool: int) -> Service:
    """The service as one policy uses it; `pool` is [cloud] pool."""
    return replace(service, pool=policy.listed(pool), delta_slots=policy.held(pool) if policy.delta else 0)


def prepare(config: ExperimentConfig, root: Path, say: Say) -> Prepared:
    """Read the data, train what is not trained yet, and lay out the fleet. Trained models are kept in root/models."""
    import torch

    torch.set_num_threads(config.simulation.threads or torch.get_num_threads())
    try_plugins(config)
    split = make_split(config.data, config.seed)
    audit = leakage_audit(split)
    say(described(split, audit))
    users = np.flatnonzero(split.valid_end < split.data.offsets[1:])
    if not len(users):
        raise ConfigError("[data.split] leaves no test steps; lower leave_last, validation or min_train")
    shelf = Shelf(root / "models", split, config.seed, config.device.history, say, hide_seen=config.cloud.hide_seen)
    generator = make_generator(config, replace(shelf, length=config.cloud.history))
    with tempfile.TemporaryDirectory() as scratch:
        installed = tuple(install(config, shelf, tier, Path(scratch)) for tier in tiers(config))
    tier = assign_tiers(config, len(users))
    timeline = Timeline.of(
        split.data,
        users,
        split.valid_end[users],
        split.data.offsets[users + 1],
        length=max(config.cloud.history, config.device.history),
        tier=tier,
    )
    service = Service(
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
        rows=[one.rows for one in installed],
        cache_rows=config.device.cache_rows,
        seed=config.seed,
        servers=line_of(config),
        window_s=config.simulation.window_s,
    )
    models = [shelf.folder(config.cloud.generator, config.cloud.training.options()).name]
    return Prepared(
        config, timeline, installed, service, users, split, audit, root, " ".join(models), popularity(split)
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
    build(config.cloud.generator.class_, config.cloud.generator.options, "[cloud.generator]", **small)
    for tier in tiers(config):
        plugin = tier.model or config.device.model
        build(plugin.class_, plugin.options, f"[device.model] of tier {tier.name!r}", **small)


def described(split: Split, audit: Mapping[str, Any]) -> str:
    """One paragraph: what the data are and how much of the test they leak."""
    data = split.data
    shares = [
        f"{name.replace('_', ' ')} {value:.1%}"
        for name, value in audit.items()
        if isinstance(value, float) and not name.endswith("events")
    ]
    events = ", ".join(f"{audit[f'{part}_events']:,} {part}" for part in ("train", "validation", "test"))
    return (
        f"{data.name}: {data.n_users:,} users, {data.n_items:,} items, {data.n_events:,} events ({events}); "
        f"content {data.content_hash()[:12]}\nleakage audit: {', '.join(shares)}"
    )


def fingerprint(prepared: Prepared) -> str:
    """Hash of all that choices, handout and replays depend on: configuration, data, weights and our own code.

    How the fleet is cut or driven does not belong to it.
    """
    config = prepared.config.model_dump(mode="json", by_alias=True, exclude={"name": True, "sweep": True})
    for key_ in ("runner", "threads", "devices_per_client"):
        config["simulation"].pop(key_)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    digest.update(prepared.split.data.content_hash().encode())
    digest.update(prepared.models.encode())
    digest.update(plugin_code(prepared.config))
    for tier in prepared.installed:
        for name in sorted(tier.params):
            digest.update(name.encode() + np.ascontiguousarray(tier.params[name]).tobytes())
    digest.update(own_code().encode())
    return digest.hexdigest()[:12]


def plugin_code(config: ExperimentConfig) -> bytes:
    """Sources of the classes that the configuration names, and the files that their options name."""
    links = [config.network.link, *[tier.link for tier in tiers(config)]]
    models = [config.cloud.generator, config.device.model, *[tier.model for tier in tiers(config) if tier.model]]
    plugins: list[Plugin | PolicyTable] = [*models, *config.all_policies]
    plugins += [link for link in links if isinstance(link, Plugin)]
    paths = [Path(value) for plugin in plugins for value in plugin.options.values() if isinstance(value, str)]
    contents = [path.read_bytes() for path in paths if path.is_file()]
    return b"".join([code_of(plugin.class_).encode() for plugin in plugins] + contents)


@cache
def own_code() -> str:
    """Hash of the sources of the packages that decide what happens in a run."""
    root = Path(__file__).parents[1]
    files = [file for folder in ("device", "cloud", "simulation") for file in sorted((root / folder).rglob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
