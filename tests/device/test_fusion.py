import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.errors import ConfigError
from device.fusion import Fusion, normalised

ALL = np.ones((1, 4), bool)
# The last slot is empty, and holds rubbish that must not count.
PART = np.array([[True, True, True, False]])
SCORES = np.array([[3.0, 1.0, 5.0, 99.0]], np.float32)


def test_standardise_by_hand():
    # 3, 1, 5: mean 3, deviations 0, -2, 2, variance (0 + 4 + 4) / 3 = 8/3
    deviation = np.sqrt(8 / 3)
    expected = [[0, -2 / deviation, 2 / deviation, 0]]
    np.testing.assert_allclose(normalised(SCORES, PART, "standardise"), expected, rtol=1e-6)


def test_minmax_by_hand():
    # 1..5 becomes 0..1: 3 -> (3 - 1) / 4
    np.testing.assert_allclose(normalised(SCORES, PART, "minmax"), [[0.5, 0, 1, 0]], rtol=1e-6)


def test_rank_by_hand():
    # 5 is first of three: 1 - 1/3; 3 second: 1 - 2/3; 1 third: 1 - 3/3
    np.testing.assert_allclose(normalised(SCORES, PART, "rank"), [[1 / 3, 0, 2 / 3, 0]], rtol=1e-6)


def test_rank_ties_go_by_position():
    scores = np.array([[2.0, 7.0, 2.0, 7.0]], np.float32)
    np.testing.assert_allclose(normalised(scores, ALL, "rank"), [[0.25, 0.75, 0.0, 0.5]])


@pytest.mark.parametrize("how", ["standardise", "minmax", "rank"])
def test_rubbish_in_empty_slots_changes_nothing(how):
    with np.errstate(all="raise"):
        plain = normalised(np.array([[3, 1, 5, 0]], np.float32), PART, how)
        for rubbish in (np.nan, np.inf, -np.inf, 3e38):
            np.testing.assert_array_equal(normalised(np.array([[3, 1, 5, rubbish]], np.float32), PART, how), plain)


@pytest.mark.parametrize("how", ["standardise", "minmax", "rank"])
def test_an_empty_pool_is_all_minus_infinity(how):
    nobody = np.zeros((2, 3), bool)
    fused = Fusion(0.5, how)(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32), nobody)
    assert np.isneginf(fused).all()


@pytest.mark.parametrize("how", ["standardise", "minmax"])
def test_equal_scores_stay_tied(how):
    scores = np.full((1, 3), 0.1, np.float32)
    assert len(set(normalised(scores, np.ones((1, 3), bool), how)[0].tolist())) == 1


def test_the_weighted_sum_by_hand():
    device = np.array([[0.0, 4.0, 1.0, -7.0]], np.float32)
    # minmax: cloud 0.5, 0, 1; device 0, 1, 0.25. With alpha 0.3: 0.15 + 0, 0 + 0.7, 0.3 + 0.175
    fused = Fusion(0.3, "minmax")(SCORES, device, PART)
    np.testing.assert_allclose(fused[0, :3], [0.15, 0.7, 0.475], rtol=1e-6)
    assert np.isneginf(fused[0, 3])


@pytest.mark.parametrize("how", ["standardise", "minmax", "rank"])
def test_the_ends_look_at_one_side_only(how):
    cloud, device = SCORES, -SCORES
    for alpha, seen, other in ((1.0, cloud, "device"), (0.0, device, "cloud")):
        unusable = np.full_like(cloud, np.nan)
        given_scores = {"cloud": cloud, "device": device} | {other: unusable}
        fused = Fusion(alpha, how)(given_scores["cloud"], given_scores["device"], PART)
        np.testing.assert_array_equal(fused[PART], normalised(seen, PART, how)[PART])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from(["standardise", "minmax", "rank"]))
def test_rows_do_not_mix_and_scale_does_not_matter(seed, alpha, how):
    random = np.random.default_rng(seed)
    cloud, device = random.normal(size=(2, 5, 6)).astype(np.float32)
    valid = random.random((5, 6)) < 0.7
    fusion = Fusion(alpha, how)
    fused = fusion(cloud, device, valid)
    alone = np.concatenate([fusion(cloud[i : i + 1], device[i : i + 1], valid[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(fused, alone, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fused, fusion(4 * cloud, device * 0.5, valid), rtol=1e-3, atol=1e-4)


def test_wrong_settings_are_named():
    for alpha in (-0.1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="alpha = "):
            Fusion(alpha)
    with pytest.raises(ConfigError, match="normalise = 'softmax'"):
        Fusion(0.5, "softmax")
