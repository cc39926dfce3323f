"""The search: limits hold, both ways of searching agree, predictors order planted worth; nothing depends on a clock."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloud.matchnas import EXHAUSTIVE, Cost, Limits, best_first, bred, ranked, search
from cloud.subnet_predictor import Predictor, bits, features, rank_correlation, solved
from device.errors import ConfigError
from device.seeds import rng
from device.subnet import SubnetSpec, grid, smallest

SPACE = grid(SubnetSpec(32, 2, 32))  # 4 widths x 2 depths x 4 item widths x 2 tables
WIDE = grid(SubnetSpec(96, 3, 96))  # 12 x 3 x 12 x 2 = 864


def planted(spec: SubnetSpec) -> float:
    """Worth that grows with every size, ever more slowly, and suffers a little from int8."""
    sizes = math.log2(spec.width) + 0.5 * math.log2(spec.blocks) + 1.5 * math.log2(spec.items)
    return 0.1 + 0.02 * sizes - 0.0005 * sizes**2 - 0.004 * (spec.table == "int8")


@dataclass
class Desk:
    """A bench with made-up costs and worth that remembers what was asked."""

    valued: list[SubnetSpec] = field(default_factory=list)
    timed: list[SubnetSpec] = field(default_factory=list)

    def cost(self, spec: SubnetSpec) -> Cost:
        bytes_each = 1 if spec.table == "int8" else 4
        return Cost(spec.blocks * spec.width**2 + 50.0 * spec.items, 100 * spec.items * bytes_each + spec.width**2)

    def value(self, spec: SubnetSpec) -> float:
        self.valued.append(spec)
        return planted(spec)

    def latency_s(self, spec: SubnetSpec) -> float:
        self.timed.append(spec)
        return 1e-4 + 1e-6 * self.cost(spec).flops


def best(specs: tuple[SubnetSpec, ...], limits: Limits) -> SubnetSpec | None:
    """By looking at everything."""
    desk = Desk()
    fitting = [
        spec
        for spec in specs
        if not limits.exceeded(Cost(desk.cost(spec).flops, desk.cost(spec).nbytes, desk.latency_s(spec)))
    ]
    return max(fitting, key=planted, default=None)


amounts = st.none() | st.floats(0.01, 1.2)


@settings(max_examples=20, deadline=None)
@given(amounts, amounts, amounts, st.integers(0, 3))
@example(None, None, 0.41796875, 0)  # the best is only the third by the predictor
def test_limits_hold_and_the_winner_is_close_to_the_best_there_is(
    flops: float | None, nbytes: float | None, latency: float | None, seed: int
) -> None:
    desk, largest = Desk(), Desk().cost(SPACE[-1])
    limits = Limits(
        flops and flops * largest.flops,
        nbytes and nbytes * largest.nbytes,
        latency and latency * desk.latency_s(SPACE[-1]),
    )
    expected = best(SPACE, limits)
    if expected is None:
        with pytest.raises(ConfigError, match=f"the smallest, {smallest(SPACE)}, costs flops"):
            search(SPACE, desk, limits, seed=seed)
        return
    found = search(SPACE, desk, limits, seed=seed)
    cost = desk.cost(found.spec)
    assert not limits.exceeded(Cost(cost.flops, cost.nbytes, desk.latency_s(found.spec)))
    assert found.measured == planted(found.spec) == max(t.measured for t in found.tried if not t.exceeded)
    assert found.measured >= planted(expected) - 0.006  # of a range of 0.08, less than the mean step between neighbours
    assert len(found.tried) <= 12 + 4
    assert len({one.spec for one in found.tried}) == len(found.tried)


def test_the_trace_says_what_was_tried_and_why() -> None:
    desk = Desk()
    limits = Limits(nbytes=3000, latency_s=1.5e-3)
    found = search(SPACE, desk, limits, seed=2)
    assert [one.why for one in found.tried] == ["probe"] * 12 + ["finalist"] * 4
    assert smallest(SPACE) in [one.spec for one in found.tried[:12]]
    assert SPACE[-1] in [one.spec for one in found.tried[:12]]
    whole = next(one for one in found.tried if one.spec == SPACE[-1])
    # 2 blocks x 32^2 + 50 x 32 = 3648 operations, so 1e-4 + 3.648e-3 s; 3200 numbers of 4 bytes + 32^2 = 13824 bytes
    assert whole.exceeded == ("nbytes 13824 > 3000", "latency_s 0.003748 > 0.0015")
    assert found.rank_correlation > 0.9
    assert found.predicted == pytest.approx(found.measured, abs=0.004)


def test_the_same_seed_finds_the_same_and_probes_do_not_depend_on_the_limits() -> None:
    one, other = (search(SPACE, Desk(), Limits(flops=2000.0), seed=5) for _ in range(2))
    assert one == other
    tight = search(SPACE, Desk(), Limits(nbytes=1500), seed=5)
    assert [t.spec for t in tight.tried[:12]] == [t.spec for t in one.tried[:12]]
    assert [t.spec for t in search(SPACE, Desk(), Limits(flops=2000.0), seed=6).tried[:12]] != [
        t.spec for t in one.tried[:12]
    ]


def test_latency_is_measured_only_where_it_is_limited_and_a_slow_finalist_is_not_measured_further() -> None:
    desk = Desk()
    search(SPACE, desk, Limits(flops=2000.0), seed=1)
    assert not desk.timed
    slow = Desk()
    slow.latency_s = lambda spec: 1.0 if spec.width > 8 and spec not in probes else 1e-3  # type: ignore[method-assign]
    probes = {t.spec for t in search(SPACE, Desk(), Limits(flops=1e9), seed=1).tried if t.why == "probe"}
    found = search(SPACE, slow, Limits(latency_s=0.01), seed=1)
    ruled_out = [t for t in found.tried if t.exceeded]
    assert ruled_out
    assert all(math.isnan(t.measured) and t.spec not in slow.valued and t.why == "finalist" for t in ruled_out)
    assert found.spec not in {t.spec for t in ruled_out}


def test_breeding_agrees_with_looking_at_everything() -> None:
    desk = Desk()
    for flops in (600.0, 3000.0, 9000.0):
        limits = Limits(flops=flops, nbytes=20_000)

        def fits(spec: SubnetSpec, limits: Limits = limits) -> bool:
            return not limits.exceeded(desk.cost(spec))

        def worth(specs: object) -> np.ndarray:
            return np.array([planted(spec) for spec in specs])  # type: ignore[attr-defined]

        everything = best_first([spec for spec in WIDE if fits(spec)], worth)
        for seed in range(2):
            found = bred(WIDE, fits, worth, seed=seed)
            assert found[0] == everything[0]
            assert all(map(fits, found))
    assert bred(WIDE, lambda spec: False, worth, seed=0) == []


def test_a_large_space_is_bred_and_a_small_one_is_not() -> None:
    huge = grid(SubnetSpec(128, 3, 128))  # 16 x 3 x 16 x 2
    asked: list[SubnetSpec] = []
    assert len(huge) == 1536 > EXHAUSTIVE
    ranked(huge, lambda spec: asked.append(spec) or True, lambda specs: np.zeros(len(specs)), seed=0)  # type: ignore[func-returns-value]
    assert 0 < len(asked) < len(huge)
    assert len(ranked(SPACE, lambda spec: True, lambda specs: np.zeros(len(specs)), seed=0)) == len(SPACE)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 100))
def test_the_predictor_orders_planted_worth_of_subnets_it_has_not_seen(seed: int) -> None:
    order = rng(seed, "test predictor").permutation(len(SPACE))
    seen, unseen = ([SPACE[row] for row in part] for part in (order[:14], order[14:]))
    noise = rng(seed, "test noise").normal(0, 0.0005, 14)
    made = Predictor.fit(seen, np.array([planted(spec) for spec in seen]) + noise)
    assert rank_correlation(made(unseen), np.array([planted(spec) for spec in unseen])) > 0.9


def test_ridge_by_hand() -> None:
    # x = -1, 0, 1 and y = 1, 2, 6: mean 3, sum of x (y - 3) = 2 + 3 = 5, sum of x^2 = 2; ridge 1 adds 3: 5 / 5 = 1.
    weights, bias = solved(np.array([[-1.0], [0.0], [1.0]]), np.array([1.0, 2.0, 6.0]), 1.0)
    assert weights.tolist() == [pytest.approx(1.0)]
    assert bias == pytest.approx(3.0)


def test_features_and_rank_correlation_by_hand() -> None:
    (row,) = features([SubnetSpec(16, 2, 8, "int8")]).tolist()
    # logarithms 4, 1, 3 and, of 8 numbers of 8 bits, 6; then the products of each with itself and what follows
    assert row == [4, 1, 3, 6, 16, 4, 12, 24, 1, 3, 6, 9, 18, 36]
    # 8 numbers of 32 bits; four codes of 8 bits; 8 numbers of 32 bits for every eighth item
    assert [bits(SubnetSpec(16, 2, 8, kind)) for kind in ("float32", "code4", "hash8")] == [256, 32, 32]
    # ranks 1 2.5 2.5 4 against 1 2 3 4: deviations -1.5 0 0 1.5 and -1.5 -.5 .5 1.5: 4.5 / sqrt(4.5 x 5)
    assert rank_correlation(np.array([1, 5, 5, 9]), np.array([1, 2, 3, 4])) == pytest.approx(4.5 / math.sqrt(22.5))
    assert math.isnan(rank_correlation(np.ones(3), np.arange(3.0)))


def test_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="nbytes = -1"):
        Limits(nbytes=-1)
    with pytest.raises(ConfigError, match="probes = 2"):
        search(SPACE, Desk(), Limits(), seed=0, probes=2)
    with pytest.raises(ConfigError, match="1 subnets; name two"):
        search(SPACE[:1], Desk(), Limits(), seed=0)
    with pytest.raises(ConfigError, match="finite values"):
        Predictor.fit(SPACE[:3], np.array([1.0, np.nan, 2.0]))
    least = smallest(SPACE)
    assert str(least) == "w8-b1-e8-int8"
    # 8^2 + 50 x 8 = 464 operations, 100 x 8 + 8^2 = 864 bytes
    with pytest.raises(ConfigError, match=r"w8-b1-e8-int8, costs flops 464, nbytes 864, so nbytes 864 > 800; raise"):
        search(SPACE, Desk(), Limits(nbytes=800), seed=0)
    desk = Desk()
    with pytest.raises(ConfigError, match=r"latency_s 0.000564, so latency_s 0.000564 > 1e-05"):
        search(SPACE, desk, Limits(latency_s=1e-5), seed=0)
