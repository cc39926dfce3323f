"""Everything before the replay: data, trained models, thresholds; kept in a folder that clients read."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud.gateway import Service
from cloud.training import write_text
from device.errors import ConfigError
from device.fleet import Setup
from device.fusion import Fusion
from device.messages import Codec
from device.seeds import key
from simulation.build import build
from simulation.calibration import Validation, find_fusion, find_price
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
from simulation.remembering import Remembering
from simulation.replay import Timeline

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What validation chose for one policy."""

    price: float
    alpha: float
    normalise: str

    @property
    def fusion(self) -> Fusion:
        """The fusion."""
        return Fusion(self.alpha, self.normalise)  # type: ignore[arg-type]


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

    @property
    def model_bytes(self) -> list[int]:
        """Bytes of the installation per tier."""
        return [tier.nbytes for tier in self.installed]


def setups(
    config: ExperimentConfig, installed: Sequence[Installed], policy: PolicyTable, chosen: Chosen
) -> list[Setup]:
    """What the devices of each tier run under one policy."""
    streamed = config.device.items == "streamed"
    return [
        Setup(
            model=tier.model,
            params=tier.params,
            policy=make_policy(policy),
            fusion=chosen.fusion,
            price=chosen.price,
            seed=config.seed,
            cache_rows=config.device.cache_rows if streamed else 0,
            hide_seen=config.cloud.hide_seen,
        )
        for tier in installed
    ]


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
    )
    models = [shelf.folder(config.cloud.generator, config.cloud.training.options()).name]
    return Prepared(config, timeline, installed, service, users, split, audit, root, " ".join(models))


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


def choose(prepared: Prepared, say: Say) -> dict[str, Chosen]:
    """Price and fusion of every policy, chosen on validation steps of some devices; kept in root/models."""
    config = prepared.config
    path = prepared.root / "models" / f"chosen-{fingerprint(prepared)}.json"
    if path.exists():
        return {label: Chosen(**values) for label, values in json.loads(path.read_text()).items()}
    validation = None
    chosen = {}
    for policy in config.all_policies:
        start = Chosen(policy.price, 0.5, "standardise")
        if policy.request_ratio is not None or config.device.fusion is None:
            validation = validation or validation_replay(prepared)
            start = choose_one(prepared, validation, policy, start)
        if config.device.fusion is not None:
            start = replace(start, alpha=config.device.fusion.alpha, normalise=config.device.fusion.normalise)
        chosen[policy.label] = start
        say(f"{policy.label}: price {start.price:.4g}, alpha {start.alpha:.1f} ({start.normalise})")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({label: asdict(one) for label, one in chosen.items()}, indent=1))
    return chosen


def choose_one(prepared: Prepared, validation: Validation, policy: PolicyTable, start: Chosen) -> Chosen:
    """The price for the wanted ratio, then the fusion at that price."""
    if policy.request_ratio is not None:
        fleet = setups(prepared.config, prepared.installed, policy, start)
        start = replace(start, price=find_price(validation, fleet, policy.request_ratio))
    if prepared.config.device.fusion is not None:
        return start
    fusion = find_fusion(validation, setups(prepared.config, prepared.installed, policy, start))
    return replace(start, alpha=fusion.alpha, normalise=fusion.normalise)


def validation_replay(prepared: Prepared) -> Validation:
    """The steps between training and test, for at most `calibration_devices` devices spread over all."""
    config, split = prepared.config, prepared.split
    able = np.flatnonzero(split.train_end[prepared.users] < split.valid_end[prepared.users])
    if not len(able):
        raise ConfigError("[data.split] leaves no validation steps to choose thresholds on; raise validation")
    count = min(config.simulation.calibration_devices, len(able))
    able = able[np.linspace(0, len(able) - 1, count).astype(int)]
    users = prepared.users[able]
    timeline = Timeline.of(
        split.data,
        users,
        split.train_end[users],
        split.valid_end[users],
        length=prepared.timeline.histories.shape[1],
        tier=prepared.timeline.tier[able],
    )
    service = replace(
        prepared.service,
        tier=timeline.tier,
        seed=key(config.seed, "validation") % 2**31,
        generator=Remembering(getattr(prepared.service.generator, "inner", prepared.service.generator)),
    )
    return Validation(timeline, service, prepared.model_bytes)


def fingerprint(prepared: Prepared) -> str:
    """Hash of all that choices, handout and replays depend on: configuration, data, weights and our own code.

    How the fleet is cut or driven does not belong to it.
    """
    config = prepared.config.model_dump(mode="json", by_alias=True, exclude={"name": True})
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
