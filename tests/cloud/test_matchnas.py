"""The search: limits hold, finalists beat drawn ones, predictors order planted worth; nothing depends on a clock."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.matchnas import Cost, Found, Limits, search
from cloud.subnet_predictor import Predictor, bits, features, held_out, rank_correlation, solved
from device.errors import ConfigError
from device.seeds import rng
from device.subnet import SubnetSpec, grid, smallest

SPACE = grid(SubnetSpec(32, 2, 32))  # 4 widths x 2 depths x 4 item widths x 2 tables


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


def within(specs: tuple[SubnetSpec, ...], limits: Limits) -> list[SubnetSpec]:
    """Those that cost no more, by looking at everything."""
    desk = Desk()
    return [
        spec
        for spec in specs
        if not limits.exceeded(Cost(desk.cost(spec).flops, desk.cost(spec).nbytes, desk.latency_s(spec)))
    ]


amounts = st.none() | st.floats(0.01, 1.2)


@settings(max_examples=20, deadline=None)
@given(amounts, amounts, amounts, st.integers(0, 3))
def test_limits_hold_and_the_winner_is_the_best_of_those_measured(
    flops: float | None, nbytes: float | None, latency: float | None, seed: int
) -> None:
    desk, largest = Desk(), Desk().cost(SPACE[-1])
    limits = Limits(
        flops and flops * largest.flops,
        nbytes and nbytes * largest.nbytes,
        latency and latency * desk.latency_s(SPACE[-1]),
    )
    if not within(SPACE, limits):
        with pytest.raises(ConfigError, match=f"the smallest, {smallest(SPACE)}, costs flops"):
            search(SPACE, desk, limits, seed=seed)
        return
    found = search(SPACE, desk, limits, seed=seed)
    cost = desk.cost(found.spec)
    assert not limits.exceeded(Cost(cost.flops, cost.nbytes, desk.latency_s(found.spec)))
    assert found.measured == planted(found.spec) == max(t.measured for t in found.tried if not t.exceeded)
    assert len(found.tried) <= 12 + 4
    assert len({one.spec for one in found.tried}) == len(found.tried)


LIMITS = [
    Limits(shares[0] * 3648, shares[1] * 13824, None if shares[2] is None else 1e-4 + shares[2] * 3648e-6)
    for shares in (
        (0.9, 0.9, None),
        (0.5, 0.5, None),
        (0.3, 0.8, None),
        (0.8, 0.3, None),
        (0.2, 0.2, None),
        (1, 1, 0.4),
    )
]
"""Shares of what SPACE[-1] costs: 3648 operations, 13824 bytes, and a microsecond for each operation beyond 1e-4 s."""


def with_drawn_finalists(found: Found, fitting: list[SubnetSpec], seed: int) -> float:
    """Worth of the best had the finalists been drawn from what fits, with the same probes."""
    probes = [one.spec for one in found.tried if one.why == "probe"]
    others = [spec for spec in fitting if spec not in probes]
    drawn = rng(seed, "test finalists").permutation(len(others))[: len(found.tried) - len(probes)]
    return max(map(planted, [*(spec for spec in probes if spec in fitting), *(others[row] for row in drawn)]))


@pytest.mark.parametrize("specs", [SPACE, SPACE[::3]], ids=["12 probes of 64", "5 probes of 22"])
def test_finalists_by_the_predictor_beat_drawn_ones(specs: tuple[SubnetSpec, ...]) -> None:
    regrets = []
    for limits in LIMITS:
        fitting = within(specs, limits)
        most = max(map(planted, fitting))
        for seed in range(3):
            found = search(specs, Desk(), limits, seed=seed)
            regrets.append((most - found.measured, most - with_drawn_finalists(found, fitting, seed)))
    predicted, drawn = np.array(regrets).T
    assert np.mean(predicted <= drawn) >= 0.9
    assert predicted.mean() < drawn.mean() / 2


def test_a_small_space_is_not_all_probes_and_the_largest_is_one() -> None:
    # a quarter, 2 at least, 12 at most
    for size, probes in ((2, 2), (7, 2), (12, 3), (47, 11), (48, 12), (64, 12)):
        found = search(SPACE[-size:], Desk(), Limits(flops=1e9), seed=1)
        assert sum(one.why == "probe" for one in found.tried) == probes
        assert sum(one.why == "finalist" for one in found.tried) == min(4, size - probes)
    tables = tuple(SubnetSpec(8, 1, 8, kind) for kind in ("code4", "code2", "code8", "int8", "float32"))
    for kinds, *ends in ((tables, "code2", "float32"), (tables[:3], "code2", "code8"), (tables[2:4], "code8", "int8")):
        tried = search(kinds, Desk(), Limits(flops=1e9), seed=1, probes=2).tried
        assert [one.spec.table for one in tried[:2]] == ends


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


def test_held_out_values_are_foretold_without_them() -> None:
    values = np.array([planted(spec) for spec in SPACE[::8]])
    found = held_out(SPACE[::8], values)
    for row in range(len(values)):
        changed = values.copy()
        changed[row] += 5.0  # neither the weights nor the ridge may know
        assert held_out(SPACE[::8], changed)[row] == found[row]
    assert rank_correlation(found, values) > 0.9
    assert held_out(SPACE[:2], np.array([1.0, 3.0])).tolist() == [3.0, 1.0]


def test_features_and_rank_correlation_by_hand() -> None:
    (row,) = features([SubnetSpec(16, 2, 8, "int8")]).tolist()
    # logarithms 4, 1, 3 and, of 8 numbers of 8 bits, 6; then the products of each with itself and what follows
    assert row == [4, 1, 3, 6, 16, 4, 12, 24, 1, 3, 6, 9, 18, 36]
    # 8 numbers of 32 bits, of 8 bits; four codes of 8 bits
    assert [bits(SubnetSpec(16, 2, 8, kind)) for kind in ("float32", "int8", "code4")] == [256, 64, 32]
    # ranks 1 2.5 2.5 4 against 1 2 3 4: deviations -1.5 0 0 1.5 and -1.5 -.5 .5 1.5: 4.5 / sqrt(4.5 x 5)
    assert rank_correlation(np.array([1, 5, 5, 9]), np.array([1, 2, 3, 4])) == pytest.approx(4.5 / math.sqrt(22.5))
    assert math.isnan(rank_correlation(np.ones(3), np.arange(3.0)))


def test_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="nbytes = -1"):
        Limits(nbytes=-1)
    with pytest.raises(ConfigError, match="probes = 1"):
        search(SPACE, Desk(), Limits(), seed=0, probes=1)
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
