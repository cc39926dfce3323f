import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy, kendalltau

from device import consistency
from device.consistency import (
    MEASURES,
    RBO,
    Entropy,
    Footrule,
    JensenShannon,
    KendallTau,
    TopOverlap,
    measure,
)
from device.errors import ConfigError, ContractError

ORDERS = [Footrule(), KendallTau(), TopOverlap(2), RBO(0.9)]
ALL = [*ORDERS, JensenShannon(0.7), Entropy(3)]


def order_scores(order):
    """Scores under which the pool 0..n-1 is ranked in this order."""
    scores = np.zeros(len(order), np.float32)
    scores[list(order)] = np.arange(len(order), 0, -1)
    return scores


def one(value, cloud, device, valid=None):
    cloud, device = np.atleast_2d(np.float32(cloud)), np.atleast_2d(np.float32(device))
    return value(cloud, device, np.ones(cloud.shape, bool) if valid is None else np.atleast_2d(valid)).item()


def slow_rbo(a, b, p):
    """Equation 32 of Webber, Moffat and Zobel (2010) as it is printed, s <= l, both lists sliced at every depth."""
    short, long = sorted((list(a), list(b)), key=len)
    s, end = len(short), len(long)
    common = [0] + [len(set(short[:d]) & set(long[:d])) for d in range(1, end + 1)]
    first = sum(common[d] / d * p**d for d in range(1, end + 1))
    second = sum(common[s] * (d - s) / (s * d) * p**d for d in range(s + 1, end + 1))
    return (1 - p) / p * (first + second) + ((common[end] - common[s]) / end + common[s] / s) * p**end


def test_by_hand():
    cloud, device = order_scores([0, 1, 2, 3]), order_scores([1, 0, 3, 2])
    # ranks 1 2 3 4 against 2 1 4 3: footrule 1 + 1 + 1 + 1 = 4 of floor(16 / 2) = 8
    assert one(Footrule(), cloud, device) == 0.5
    # pairs (0, 1) and (2, 3) of 6 are discordant
    assert one(KendallTau(), cloud, device) == pytest.approx(2 / 6)
    # tops of 1 have nothing in common, of 2 everything, of 3 two of three ({0, 1, 2} and {1, 0, 3})
    assert [one(TopOverlap(k), cloud, device) for k in (1, 2, 3, 9)] == pytest.approx([1, 0, 1 / 3, 0])
    # X / d = 0, 1, 2/3, 1; p = 0.5: (0.25 + 0.125 * 2/3 + 0.0625) + 0.0625 = 0.4583333
    assert one(RBO(0.5), cloud, device) == pytest.approx(1 - (0.25 + 0.125 * 2 / 3 + 0.0625 + 0.0625))


def test_identical_and_reversed_orders():
    up = np.arange(7, dtype=np.float32)
    assert [one(value, up, up) for value in ORDERS] == pytest.approx([0, 0, 0, 0], abs=1e-15)
    # reversed: floor(49 / 2) = 24 = 6 + 4 + 2 + 0 + 2 + 4 + 6; all 21 pairs; tops of 2 disjoint
    assert [one(value, up, -up) for value in ORDERS[:3]] == [1, 1, 1]
    assert one(JensenShannon(), up, up) == 0
    two = np.array([0, 1000], np.float32)  # standardised -1 and 1: shares 1 / (1 + e^2) = 0.1192 and 0.8808
    assert one(JensenShannon(), two, two[::-1]) == pytest.approx(1 - entropy([0.1192029, 0.8807971], base=2))
    assert one(JensenShannon(0.02), two, two[::-1]) == pytest.approx(1)


def test_random_orders_give_the_known_means():
    rng = np.random.default_rng(0)
    cloud, device = rng.random((2, 4000, 50)).astype(np.float32)
    valid = np.ones(cloud.shape, bool)
    # exactly (N^2 - 1) / 3 / floor(N^2 / 2) = 833 / 1250 = 0.6664 for N = 50, and 1/2; top 10 of 50 share 2
    assert Footrule()(cloud, device, valid).mean() == pytest.approx(833 / 1250, abs=0.005)
    assert KendallTau()(cloud, device, valid).mean() == pytest.approx(0.5, abs=0.005)
    assert TopOverlap(10)(cloud, device, valid).mean() == pytest.approx(0.8, abs=0.01)


def test_ties_go_by_pool_position():
    assert one(Footrule(), [1, 1, 1], [3, 2, 1]) == 0
    assert one(Footrule(), [1, 1, 1], [1, 2, 3]) == 1


def test_rbo_by_hand_and_published():
    # X = 1, 1, 3: (0.1 / 0.9) * (0.9 + 0.5 * 0.81 + 0.729) + 0.729 = 0.226 + 0.729
    assert one(RBO(0.9), order_scores([0, 1, 2]), order_scores([0, 2, 1])) == pytest.approx(1 - 0.955)
    # the worked example in the documentation of the Scala library rankmeasures
    assert one(RBO(0.9), order_scores([0, 1, 2, 3, 4]), order_scores([1, 2, 3, 0, 4])) == pytest.approx(0.172, abs=5e-4)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 8), st.floats(0.05, 0.99), st.randoms())
def test_rbo_equals_the_printed_equation(size, p, random):
    a, b = (random.sample(range(size), size) for _ in range(2))
    assert one(RBO(p), order_scores(a), order_scores(b)) == pytest.approx(1 - slow_rbo(a, b, p), abs=1e-12)


def brute(cloud, device):
    """Footrule, Kendall, overlap at 2 and RBO at 0.9 of one row, by sorting lists."""
    n = len(cloud)
    a, b = (sorted(range(n), key=lambda i: -scores[i]) for scores in (cloud, device))
    moved = sum(abs(a.index(i) - b.index(i)) for i in range(n))
    pairs = itertools.combinations(range(n), 2)
    crossed = sum((a.index(i) < a.index(j)) != (b.index(i) < b.index(j)) for i, j in pairs)
    k = min(2, n)
    if n < 2:
        return [0, 0, 0, 0]
    return [
        moved / (n * n // 2),
        crossed / math.comb(n, 2),
        1 - len(set(a[:k]) & set(b[:k])) / k,
        1 - slow_rbo(a, b, 0.9),
    ]


pools = st.integers(0, 7).flatmap(
    lambda width: st.lists(
        st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3), st.booleans()), min_size=width, max_size=width),
        min_size=1,
        max_size=4,
    )
)


def columns(rows):
    cells = np.array(rows, np.float64).reshape(len(rows), -1, 3)
    return cells[..., 0].astype(np.float32), cells[..., 1].astype(np.float32), cells[..., 2] > 0


@settings(max_examples=150, deadline=None)
@given(pools)
def test_measures_equal_brute_force_and_keep_their_range(rows):
    cloud, device, valid = columns(rows)
    found = [value(cloud, device, valid) for value in ORDERS]
    for row, keep in enumerate(valid):
        expected = brute(cloud[row][keep], device[row][keep])
        np.testing.assert_allclose([column[row] for column in found], expected, atol=1e-12)
    for value in ALL:
        out = value(cloud, device, valid)
        assert out.shape == (len(rows),)
        assert out.dtype == np.float64
        assert ((out >= 0) & (out <= 1)).all()


@settings(max_examples=80, deadline=None)
@given(pools)
def test_symmetry_and_monotone_transforms(rows):
    cloud, device, valid = columns(rows)
    for value in [*ORDERS, JensenShannon()]:
        np.testing.assert_allclose(value(cloud, device, valid), value(device, cloud, valid), atol=1e-12)
    for value in ORDERS:
        bent = value(np.exp(cloud), 5 * device**3 - 2, valid)
        np.testing.assert_array_equal(value(cloud, device, valid), bent)


@settings(max_examples=80, deadline=None)
@given(pools, st.floats(0.01, 100), st.floats(-50, 50))
def test_jensen_shannon_minds_neither_scale_nor_shift(rows, scale, shift):
    cloud, device, valid = columns(rows)
    value = JensenShannon()(cloud, device, valid)
    moved = (device.astype(np.float64) * scale + shift).astype(np.float32)
    np.testing.assert_allclose(JensenShannon()(cloud, moved, valid), value, atol=1e-3)
    np.testing.assert_allclose(JensenShannon()(cloud, (4 * cloud).astype(np.float32), valid), 0, atol=1e-12)
    np.testing.assert_allclose(JensenShannon()(3 * cloud - 1, device, valid), value, atol=1e-5)


def test_padding_takes_no_part_whatever_its_score():
    rng = np.random.default_rng(1)
    cloud, device = rng.random((2, 6, 9)).astype(np.float32)
    valid = np.arange(9) < np.array([0, 1, 2, 5, 8, 9])[:, None]
    for value in ALL:
        plain = value(cloud, device, valid)
        for odd in (1e30, -np.inf, np.inf, np.nan):
            one, two = np.where(valid, cloud, np.float32(odd)), np.where(valid, device, np.float32(odd))
            np.testing.assert_array_equal(value(one, two, valid), plain)
        if not isinstance(value, Entropy):
            assert plain[:2].tolist() == [0, 0]


def test_kendall_and_scipy_agree_in_chunks(monkeypatch):
    monkeypatch.setattr(consistency, "_CHUNK_CELLS", 3 * 20 * 20)
    rng = np.random.default_rng(2)
    cloud, device = rng.random((2, 10, 20)).astype(np.float32)
    expected = [(1 - kendalltau(a, b).statistic) / 2 for a, b in zip(cloud, device, strict=True)]
    np.testing.assert_allclose(KendallTau()(cloud, device, np.ones(cloud.shape, bool)), expected)


def test_score_features_and_scipy_agree():
    rng = np.random.default_rng(3)
    cloud, device = rng.normal(0, 2, (2, 5, 8)).astype(np.float32)
    valid = np.ones(cloud.shape, bool)
    standard = [(s - s.mean(axis=1, keepdims=True)) / s.std(axis=1, keepdims=True) for s in (cloud, device)]
    soft = [np.exp(s / 0.7) / np.exp(s / 0.7).sum(axis=1, keepdims=True) for s in standard]
    np.testing.assert_allclose(
        JensenShannon(0.7)(cloud, device, valid), jensenshannon(*soft, base=2, axis=1) ** 2, rtol=1e-5
    )
    top = np.sort(device.astype(float), axis=1)[:, -3:]
    shares = np.exp(top) / np.exp(top).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(Entropy(3)(cloud, device, valid), entropy(shares, axis=1) / np.log(3), rtol=1e-5)
    # two alike: one bit of one; certain: none
    assert one(Entropy(2), [0, 0, 0], [5, 5, 1]) == pytest.approx(1)
    assert one(Entropy(50), [0, 0], [500, 1]) == pytest.approx(0)


def test_infinite_scores_rank_and_nan_is_refused():
    assert one(Footrule(), [np.inf, 0, -np.inf], [-np.inf, 0, np.inf]) == 1
    for value in ALL:
        with pytest.raises(ContractError, match="NaN in row 0"):
            one(value, [np.nan, 1], [np.nan, 1])


def test_measures_are_made_by_name():
    assert measure("rbo", p=0.5) == RBO(0.5)
    assert measure("overlap", k=5) == TopOverlap(5)
    assert [measure(name) for name in MEASURES] == [
        Footrule(),
        KendallTau(),
        TopOverlap(10),
        RBO(0.9),
        JensenShannon(1.0),
        Entropy(50),
    ]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("footrle", {}, "did you mean 'footrule'"),
        ("xyz", {}, "expected one of footrule, kendall"),
        ("js", {"temprature": 1.0}, "did you mean 'temperature'"),
        ("kendall", {"p": 1.0}, "expected no options, found 'p'"),
        ("rbo", {"p": 1.0}, "rbo.p: expected a number between 0 and 1"),
        ("overlap", {"k": 0}, "overlap.k"),
        ("overlap", {"k": 2.5}, "whole number"),
        ("js", {"temperature": 0}, "js.temperature"),
        ("js", {"temperature": "hot"}, "found 'hot'"),
    ],
)
def test_wrong_names_and_options(name, options, message):
    with pytest.raises(ConfigError, match=message):
        measure(name, **options)
