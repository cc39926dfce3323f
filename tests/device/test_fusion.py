import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.errors import ConfigError
from device.fusion import AGE_EDGES, OWN, Fusion, FusionByAge, age_class, normalised

ALL = np.ones((1, 4), bool)
# The last slot is empty, and holds rubbish that must not count.
PART = np.array([[True, True, True, False]])
SCORES = np.array([[3.0, 1.0, 5.0, 99.0]], np.float32)
FRESH = np.zeros((1, 4), np.int64)


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
    fused = Fusion(0.5, how)(
        np.ones((2, 3), np.float32), np.ones((2, 3), np.float32), nobody, np.zeros((2, 3), np.int64)
    )
    assert np.isneginf(fused).all()


@pytest.mark.parametrize("how", ["standardise", "minmax"])
def test_equal_scores_stay_tied(how):
    scores = np.full((1, 3), 0.1, np.float32)
    assert len(set(normalised(scores, np.ones((1, 3), bool), how)[0].tolist())) == 1


def test_the_weighted_sum_by_hand():
    device = np.array([[0.0, 4.0, 1.0, -7.0]], np.float32)
    # minmax: cloud 0.5, 0, 1; device 0, 1, 0.25. With alpha 0.3: 0.15 + 0, 0 + 0.7, 0.3 + 0.175
    fused = Fusion(0.3, "minmax")(SCORES, device, PART, FRESH)
    np.testing.assert_allclose(fused[0, :3], [0.15, 0.7, 0.475], rtol=1e-6)
    assert np.isneginf(fused[0, 3])


@pytest.mark.parametrize("how", ["standardise", "minmax", "rank"])
def test_the_ends_look_at_one_side_only(how):
    cloud, device = SCORES, -SCORES
    for alpha, seen, other in ((1.0, cloud, "device"), (0.0, device, "cloud")):
        unusable = np.full_like(cloud, np.nan)
        given_scores = {"cloud": cloud, "device": device} | {other: unusable}
        fused = Fusion(alpha, how)(given_scores["cloud"], given_scores["device"], PART, FRESH)
        np.testing.assert_array_equal(fused[PART], normalised(seen, PART, how)[PART])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from(["standardise", "minmax", "rank"]))
def test_rows_do_not_mix_and_scale_does_not_matter(seed, alpha, how):
    random = np.random.default_rng(seed)
    cloud, device = random.normal(size=(2, 5, 6)).astype(np.float32)
    valid = random.random((5, 6)) < 0.7
    age = random.integers(OWN, 4, (5, 6))
    fusion = Fusion(alpha, how)
    fused = fusion(cloud, device, valid, age)
    parts = [slice(i, i + 1) for i in range(5)]
    alone = np.concatenate([fusion(cloud[i], device[i], valid[i], age[i]) for i in parts])
    np.testing.assert_allclose(fused, alone, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fused, fusion(4 * cloud, device * 0.5, valid, age), rtol=1e-3, atol=1e-4)


def test_a_candidate_of_the_devices_own_counts_as_the_last_of_the_clouds():
    cloud = np.array([[3.0, 1.0, 0.0, 5.0, 99.0]], np.float32)
    device = np.array([[0.0, 4.0, 2.0, 1.0, 99.0]], np.float32)
    valid = np.array([[True, True, True, True, False]])
    age = np.array([[0, 2, OWN, 7, 0]])
    # minmax: cloud 0.5, 0, like the last: 0, 1; device 0, 1, 0.5, 0.25. With alpha 0.4: 0.2, 0.6, 0.3, 0.4 + 0.15
    fused = Fusion(0.4, "minmax")(cloud, device, valid, age)
    np.testing.assert_allclose(fused, [[0.2, 0.6, 0.3, 0.55, -np.inf]], rtol=1e-6)
    only_own = Fusion(1.0, "minmax")(cloud, device, valid, np.full((1, 5), OWN))
    np.testing.assert_array_equal(only_own, [[0, 0, 0, 0, -np.inf]])  # the cloud says nothing about any of them


def by_age(device_weight=2.0):
    """Weights 10, 11, ... and biases 0.1, 0.2, ... of the classes; the last are the device's own."""
    size = len(AGE_EDGES) + 1
    return FusionByAge(device_weight, [10.0 + i for i in range(size)], [0.1 * (i + 1) for i in range(size)])


def test_fusion_by_age_by_hand():
    cloud = np.array([[1.0, -1.0, 0.5, 2.0, 0.0, 7.0]], np.float32)
    device = np.array([[0.0, 1.0, -2.0, 3.0, 4.0, np.nan]], np.float32)
    age = np.array([[0, 7, 9, 1000, OWN, 0]])
    valid = np.array([[True] * 5 + [False]])
    # Classes: 0; 6 (ages 6 and 7); 7 (8 and 9); 11 (20 and more); 12 (own), by the edges 0..6, 8, 10, 13, 16, 20.
    expected = [
        2 * 0 + 10 * 1 + 0.1,
        2 * 1 + 16 * -1 + 0.7,
        2 * -2 + 17 * 0.5 + 0.8,
        2 * 3 + 21 * 2 + 1.2,
        2 * 4 + 22 * 0 + 1.3,
        -np.inf,
    ]
    np.testing.assert_allclose(by_age()(cloud, device, valid, age), [expected], rtol=1e-6)


def test_classes_of_ages():
    assert AGE_EDGES == (0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20)
    ages = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 15, 16, 19, 20, 21, 10**6, OWN]
    classes = [0, 1, 2, 3, 4, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 11, 12]
    assert age_class(np.array([ages])).tolist() == [classes]


def test_a_fusion_by_age_without_a_number_for_every_class_is_named():
    for weights, biases in ((12, 13), (13, 12), (0, 0)):
        with pytest.raises(ConfigError, match=f"{weights} weights and {biases} biases; expected 13 each"):
            FusionByAge(1.0, [0.5] * weights, [0.0] * biases)


def test_who_looks_at_device_scores():
    assert [Fusion(alpha).looks_at_device for alpha in (0.0, 0.99, 1.0)] == [True, True, False]
    assert by_age(0.0).looks_at_device


def test_wrong_settings_are_named():
    for alpha in (-0.1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match="alpha = "):
            Fusion(alpha)
    with pytest.raises(ConfigError, match="normalise = 'softmax'"):
        Fusion(0.5, "softmax")
