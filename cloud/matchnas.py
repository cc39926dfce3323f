"""One subnet per tier: the best that fits a tier's limits, searched with a predictor of its accuracy.

MatchNAS (Huang et al., WWW 2024, arXiv 2402.13525) chooses argmax S(subnet, R) under a budget R, without training any
subnet of its own. Its score S is zero-shot, of image networks. Reconstructed here: S is predicted from a subnet's sizes
after some subnets were measured on validation, as in Cai et al., "Once-for-All" (ICLR 2020), and the best few by S are
measured too. The training that goes before it is `cloud.supernet` with `cloud.unlabelled`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cloud.subnet_predictor import Predictor, held_out, rank_correlation
from device.errors import ConfigError
from device.seeds import rng
from device.subnet import KINDS, SubnetSpec, smallest

Floats = NDArray[np.float64]
Fits: TypeAlias = Callable[[SubnetSpec], bool]
Worth: TypeAlias = Callable[[Sequence[SubnetSpec]], Floats]
PROBES = 12
"""At most so many subnets are measured to fit the predictor; of a small space a quarter, so that it has a say."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a subnet may cost at most; None = no matter.

    Args:
        flops: of one reranking of a list, 2 per multiply-add.
        nbytes: of the encoded installation.
        latency_s: of one reranking on the tier's devices.
    """

    flops: float | None = None
    nbytes: float | None = None
    latency_s: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"limits: {name} = {value}; give a finite number > 0, or leave it out")

    def exceeded(self, cost: "Cost") -> tuple[str, ...]:
        """The limits that `cost` is above, in words; a latency that is not known is above none."""
        most, found = asdict(self), asdict(cost)
        return tuple(
            f"{name} {found[name]:.6g} > {most[name]:.6g}"
            for name in most
            if most[name] is not None and found[name] > most[name]
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """What a subnet costs a device; see Limits."""

    flops: float
    nbytes: int
    latency_s: float = math.nan  # not measured

    def __str__(self) -> str:
        latency = "" if math.isnan(self.latency_s) else f", latency_s {self.latency_s:.6g}"
        return f"flops {self.flops:.6g}, nbytes {self.nbytes}{latency}"


class Bench(Protocol):
    """Where subnets are weighed and measured; a search may ask twice for the same one."""

    def cost(self, spec: SubnetSpec) -> Cost:
        """Operations and bytes, exact and cheap; no latency."""
        ...

    def value(self, spec: SubnetSpec) -> float:
        """NDCG@10 on validation."""
        ...

    def latency_s(self, spec: SubnetSpec) -> float:
        """Seconds of one reranking on the tier's devices; asked for only where it is limited."""
        ...


@dataclass(frozen=True, slots=True)
class Tried:
    """One subnet that was measured."""

    spec: SubnetSpec
    measured: float  # NDCG@10 on validation; NaN where its latency ruled it out before
    predicted: float  # before it was measured; of a probe: by a predictor that knows the other probes alone
    cost: Cost
    exceeded: tuple[str, ...]  # the limits it is above
    why: Literal["probe", "finalist"]  # to fit the predictor, or for its predicted value


@dataclass(frozen=True, slots=True)
class Found:
    """The best subnet within the limits.

    Args:
        spec: the subnet.
        measured: its NDCG@10 on validation. It is the best of those tried, so somewhat too high.
        predicted: what was foretold of it before it was measured.
        tried: all that were measured, in this order.
        rank_correlation: Spearman's, of measured and predicted over all that were measured.
    """

    spec: SubnetSpec
    measured: float
    predicted: float
    tried: tuple[Tried, ...]
    rank_correlation: float


def search(
    specs: Sequence[SubnetSpec],
    bench: Bench,
    limits: Limits,
    *,
    seed: int,
    probes: int | None = None,
    finalists: int = 4,
) -> Found:
    """The best of `specs` within `limits`; the same for the same seed, as far as latencies are measured the same.

    So many `probes`, the same for all limits (a quarter of `specs`, 2..PROBES), are measured to fit a predictor of
    NDCG@10, and one of latency where that is limited. Then `finalists` times the subnet that promises most is measured,
    and teaches the predictors. All that were measured and are within the limits compete. ConfigError where none is,
    naming the smallest and its cost.
    """
    count = min(PROBES, max(2, len(specs) // 4)) if probes is None else probes
    if count < 2 or finalists < 1:
        raise ConfigError(
            f"search: probes = {count}, finalists = {finalists}; expected 2 probes and 1 finalist or more"
        )
    if len(specs) < 2 or all(limits.exceeded(bench.cost(spec)) for spec in specs):
        raise nothing_fits(specs, bench, limits)
    tried = probed(specs, bench, limits, seed=seed, count=count)
    for _ in range(finalists):
        worth, fits = learned(tried, bench, limits)
        known = {one.spec for one in tried}
        ranked = best_first([spec for spec in specs if spec not in known and fits(spec)], worth)
        if not ranked:
            break
        tried.append(tested(bench, limits, ranked[0], float(worth(ranked[:1])[0])))
    fitting = [one for one in tried if not one.exceeded]
    if not fitting:
        raise nothing_fits(specs, bench, limits)
    best = max(fitting, key=lambda one: (one.measured, -one.cost.nbytes, -one.cost.flops))
    measured = [(one.measured, one.predicted) for one in tried if not math.isnan(one.measured)]
    return Found(best.spec, best.measured, best.predicted, tuple(tried), rank_correlation(*np.array(measured).T))


def probed(specs: Sequence[SubnetSpec], bench: Bench, limits: Limits, *, seed: int, count: int) -> list[Tried]:
    """The smallest, the largest, and others drawn with the seed, measured whatever they cost."""
    order = [specs[row] for row in rng(seed, "matchnas", "probes").permutation(len(specs))]
    largest = max(specs, key=lambda spec: (spec.items, spec.width, spec.blocks, -KINDS.index(spec.table)))
    drawn = list(dict.fromkeys([smallest(specs), largest, *order]))[:count]
    values = np.array([bench.value(spec) for spec in drawn])
    foretold = held_out(drawn, values)
    made = []
    for spec, value, predicted in zip(drawn, values.tolist(), foretold.tolist(), strict=True):
        cost = timed(bench, limits, spec)
        made.append(Tried(spec, value, predicted, cost, limits.exceeded(cost), "probe"))
    return made


def tested(bench: Bench, limits: Limits, spec: SubnetSpec, predicted: float) -> Tried:
    """A finalist; one that proves too slow is not measured further."""
    cost = timed(bench, limits, spec)
    exceeded = limits.exceeded(cost)
    return Tried(spec, math.nan if exceeded else bench.value(spec), predicted, cost, exceeded, "finalist")


def timed(bench: Bench, limits: Limits, spec: SubnetSpec) -> Cost:
    """The cost of a subnet, its latency measured where that matters."""
    cost = bench.cost(spec)
    return cost if limits.latency_s is None else replace(cost, latency_s=bench.latency_s(spec))


def learned(tried: Sequence[Tried], bench: Bench, limits: Limits) -> tuple[Predictor, Fits]:
    """What was measured tells of the others: what each is worth, and whether it fits, its latency estimated."""
    known = [one for one in tried if not math.isnan(one.measured)]
    worth = Predictor.fit([one.spec for one in known], np.array([one.measured for one in known]))
    if limits.latency_s is None:
        return worth, lambda spec: not limits.exceeded(bench.cost(spec))
    slow = Predictor.fit([one.spec for one in tried], np.log([one.cost.latency_s for one in tried]))

    def fits(spec: SubnetSpec) -> bool:
        cost = bench.cost(spec)
        return not limits.exceeded(cost) and not limits.exceeded(
            replace(cost, latency_s=math.exp(float(slow([spec])[0])))
        )

    return worth, fits


def best_first(specs: Sequence[SubnetSpec], worth: Worth) -> list[SubnetSpec]:
    """By predicted value; equals by label."""
    values = worth(specs).tolist() if specs else []
    return [spec for _, _, spec in sorted(zip([-value for value in values], map(str, specs), specs, strict=True))]


def nothing_fits(specs: Sequence[SubnetSpec], bench: Bench, limits: Limits) -> ConfigError:
    """What to say where no subnet is within the limits, or there is nothing to choose from."""
    if len(specs) < 2:
        return ConfigError(f"search: {len(specs)} subnets; name two at least, or install the one without a search")
    least = smallest(specs)
    cost = timed(bench, limits, least)
    return ConfigError(
        f"limits: none of {len(specs)} subnets fits; the smallest, {least}, costs {cost}, so "
        f"{' and '.join(limits.exceeded(cost)) or 'others fit no better'}; raise the limits, shorten the history or "
        "the pool, or offer smaller subnets"
    )
