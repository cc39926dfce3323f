"""From a tier's limits to the subnet that is searched for it (`cloud.matchnas`), on validation users and cloud lists.

A subnet is worth the NDCG@10 of its own order of the cloud's lists for the first validation item of each user. Nothing
of the test part is looked at.
"""

import hashlib
import inspect
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

import cloud.matchnas
import cloud.subnet_predictor
from cloud.matchnas import Cost, Found, Limits, Tried, nothing_fits, search
from cloud.training import write_text
from device.errors import ConfigError
from device.models.slimming import SlimmableTorch
from device.subnet import SubnetSpec
from simulation.build import imported
from simulation.collaboration import Course
from simulation.config.parts import SEARCH
from simulation.config.tables import ExperimentConfig, TierTable
from simulation.installing import course
from simulation.objects import model_of, tiers
from simulation.shelf import Shelf, given
from simulation.slimming import dense, supernet, supernet_folder, trained_elastic, trained_specs
from simulation.tier_latency import HOST_SCALE, measure
from simulation.tier_profiles import profiles

Benches = dict[str, "ValidationBench"]


@dataclass(frozen=True, slots=True)
class ValidationBench:
    """Weighs and measures the subnets of one trained elastic module; the benches of several tiers share what they know.

    Args:
        module: the elastic module, in eval mode.
        worth: NDCG@10 of a dense module on validation.
        items: [device] items, how tables are held.
        length, candidates: of one reranking.
        n_items: size of the catalogue.
        scale: times this host's seconds are a device's.
    """

    module: nn.Module
    worth: Callable[[nn.Module], float]
    items: str
    length: int
    candidates: int
    n_items: int
    scale: float = math.nan
    costs: dict[SubnetSpec, Cost] = field(default_factory=dict)
    values: dict[SubnetSpec, float] = field(default_factory=dict)
    seconds: dict[SubnetSpec, float] = field(default_factory=dict)  # on this host

    def cost(self, spec: SubnetSpec) -> Cost:
        """Operations, and bytes of the installation: of its body alone where item rows are streamed.

        What it takes to read a compact item table is not among the operations.
        """
        if spec not in self.costs:
            size = SlimmableTorch(self.module).size(spec, length=self.length, candidates=self.candidates)
            self.costs[spec] = Cost(size.flops, size.body_nbytes if self.items == "streamed" else size.nbytes)
        return self.costs[spec]

    def value(self, spec: SubnetSpec) -> float:
        """NDCG@10 on validation."""
        if spec not in self.values:
            self.values[spec] = self.worth(dense(self.module, spec))
        return self.values[spec]

    def latency_s(self, spec: SubnetSpec) -> float:
        """The median of onnxruntime here, scaled: of the float32 file, however the table is installed."""
        from device.export import export_onnx

        plain = replace(spec, table="float32")
        if plain not in self.seconds:
            net, length, candidates = dense(self.module, plain), self.length, self.candidates
            with TemporaryDirectory() as scratch:
                made = export_onnx(net, scratch, length=length, candidates=candidates, int8=False, n_items=self.n_items)
                timed = measure(made.files[0].path, n_items=self.n_items, length=length, candidates=candidates)
            self.seconds[plain] = timed.p50_ms / 1000
        return self.seconds[plain] * self.scale


def searched(config: ExperimentConfig, shelf: Shelf) -> ExperimentConfig:
    """The configuration with the label that was found wherever a tier's subnet is to be searched.

    Its limits have served and are left out. ConfigError where nothing fits, and, before anything is trained, for a
    generator that looks at the time.
    """
    if not searches(config):
        return config
    refuse_timed(config)
    lessons, benches = course(config, shelf), Benches()

    def named(tier: TierTable) -> TierTable:
        if tier.subnet != SEARCH:
            return tier
        found = find(config, shelf, tier, lessons, benches)
        shelf.say(f"tier {tier.name!r}: {described(found)}")
        return tier.model_copy(update={"subnet": str(found.spec), "limits": None})

    tiers_found = tuple(map(named, config.device.tiers))
    return config.model_copy(update={"device": config.device.model_copy(update={"tiers": tiers_found})})


def searches(config: ExperimentConfig) -> bool:
    """Whether a tier's subnet is to be searched."""
    return any(tier.subnet == SEARCH for tier in config.device.tiers)


def refuse_timed(config: ExperimentConfig) -> None:
    """ConfigError for a search over the lists of a generator that looks at the time: validation pairs have none."""
    class_ = config.cloud.generator.class_
    if searches(config) and hasattr(imported(class_, "[cloud.generator]"), "generate_at"):
        raise ConfigError(
            f'[device.tiers] subnet = "{SEARCH}": {class_} makes its lists by the time of a request, which a search on '
            "validation pairs does not know; search with another generator, then name what was found"
        )


def refuse_impossible(config: ExperimentConfig, n_items: int) -> None:
    """ConfigError where no subnet is within a tier's FLOPs and bytes, which are known before anything is trained."""
    for tier in (one for one in config.device.tiers if one.subnet == SEARCH):
        net = supernet(config, model_of(config, tier), given(n_items, config.device.history)).model
        made, limits, specs = bench(config, net, n_items, lambda _: math.nan), limits_of(tier), offered(config, net)
        if len(specs) < 2:
            raise nothing_fits(specs, made, limits)
        most = {key: value for key, value in asdict(limits).items() if value is not None and key != "latency_s"}
        over = {spec: max((getattr(made.cost(spec), key) / most[key] for key in most), default=0.0) for spec in specs}
        closest = min(specs, key=over.__getitem__)
        if over[closest] > 1:
            raise ConfigError(
                f"limits of {tier.name!r}: none of {len(specs)} subnets fits; the closest, {closest}, has "
                f"{' and '.join(limits.exceeded(made.cost(closest)))}; raise the limits, shorten the history or the "
                "pool, or offer smaller subnets"
            )


def limits_of(tier: TierTable) -> Limits:
    """What a tier's subnet may cost."""
    return Limits() if tier.limits is None else Limits(**tier.limits.model_dump())


def labels(config: ExperimentConfig) -> dict[str, str]:
    """The subnet of each tier that names one, by the tier's name."""
    return {tier.name: tier.subnet for tier in config.device.tiers if tier.subnet is not None}


def find(config: ExperimentConfig, shelf: Shelf, tier: TierTable, lessons: Course, benches: Benches) -> Found:
    """The best subnet for a tier, searched once and then kept on the shelf with all that was tried.

    `lessons` know the validation lists. `benches` are those of other tiers, by the folder of their training; a new one
    is added.
    """
    limits = limits_of(tier)
    scale = math.nan if limits.latency_s is None else scale_of(config, tier)
    path = shelf.root / f"search-{fingerprint(config, shelf, tier, lessons, scale)}.json"
    if path.exists():
        return of_json(json.loads(path.read_text()))
    name = supernet_folder(config, shelf, model_of(config, tier)).name
    if name not in benches:
        module = trained_elastic(config, shelf, model_of(config, tier))
        benches[name] = bench(config, module, shelf.split.data.n_items, lessons.value())
    made = benches[name]
    found = search(offered(config, made.module), replace(made, scale=scale), limits, seed=config.seed)
    write_text(path, json.dumps(to_json(found), indent=1))
    return found


def bench(
    config: ExperimentConfig, module: nn.Module, n_items: int, worth: Callable[[nn.Module], float]
) -> ValidationBench:
    """What the subnets of an elastic module are weighed by; see there."""
    return ValidationBench(module, worth, config.device.items, config.device.history, config.cloud.pool, n_items)


def offered(config: ExperimentConfig, module: nn.Module) -> tuple[SubnetSpec, ...]:
    """The trained subnets; with int8 tables only where [device] items holds all tables so."""
    specs = trained_specs(config, module)
    return specs if config.device.items == "resident" else tuple(dict.fromkeys(replace(s, table="int8") for s in specs))


def scale_of(config: ExperimentConfig, tier: TierTable) -> float:
    """Times this host's seconds are those of the tier's devices; ConfigError for a tier without a profile."""
    names = [one.name for one in tiers(config)]
    profile = profiles(config)[names.index(tier.name)]
    if profile is None:
        raise ConfigError(f"[device.tiers] limits of tier {tier.name!r}: latency_s needs a profile; name one")
    return HOST_SCALE * profile.compute


def fingerprint(config: ExperimentConfig, shelf: Shelf, tier: TierTable, lessons: Course, scale: float) -> str:
    """Hash of all that a search depends on, the code included."""
    parts = (cloud.matchnas, cloud.subnet_predictor, inspect.getmodule(fingerprint))
    about = {
        "supernet": supernet_folder(config, shelf, model_of(config, tier)).name,
        "generator": lessons.generator_name,
        "limits": None if tier.limits is None else tier.limits.model_dump(),
        "scale": str(scale),
        "lists": [config.cloud.pool, config.cloud.history, config.device.history, config.device.items],
        "seed": config.seed,
        "code": [hashlib.sha256(Path(inspect.getfile(part)).read_bytes()).hexdigest() for part in parts if part],
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]


def described(found: Found) -> str:
    """In one line."""
    cost = next(one.cost for one in found.tried if one.spec == found.spec)
    return (
        f"subnet {found.spec} found, validation NDCG@10 {found.measured:.4f} (foretold {found.predicted:.4f}), {cost}; "
        f"{len(found.tried)} tried, rank correlation of what was foretold {found.rank_correlation:.2f}"
    )


def to_json(found: Found) -> dict[str, Any]:
    """Labels for subnets, None for NaN."""
    tried = [asdict(one) | {"spec": str(one.spec), "cost": plain(asdict(one.cost))} for one in found.tried]
    return plain(asdict(found) | {"spec": str(found.spec), "tried": [plain(one) for one in tried]})


def of_json(values: dict[str, Any]) -> Found:
    """The inverse."""
    tried = [
        Tried(**numbers(one) | {"spec": SubnetSpec.parse(one["spec"]), "cost": Cost(**numbers(one["cost"]))})
        for one in values["tried"]
    ]
    lines = tuple(replace(one, exceeded=tuple(one.exceeded)) for one in tried)
    return Found(**numbers(values) | {"spec": SubnetSpec.parse(values["spec"]), "tried": lines})


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """None for NaN."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in values.items()}


def numbers(values: dict[str, Any]) -> dict[str, Any]:
    """NaN for None."""
    return {key: math.nan if value is None else value for key, value in values.items()}
