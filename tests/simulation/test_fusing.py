"""A fusion by age finds the weights under which users chose."""

import json
from dataclasses import replace

import numpy as np
import pytest

from device.fusion import AGE_EDGES, OWN, Fusion, FusionByAge
from simulation.choosing.fusing import CLASSES, Problem, Shown, learn_fusion, of_weights

AGES = np.array([0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, OWN])  # one per class


def drawn(rows, fusion, *, candidates=20, seed=0):
    """Pools from which users took what the fusion says, P(c) = softmax(fused)_c; a tenth of the slots is empty."""
    random = np.random.default_rng(seed)
    size = (rows, candidates)
    items = np.argsort(random.random((rows, 200)), axis=1)[:, :candidates].astype(np.int32) + 1
    items[random.random(size) < 0.1] = 0
    items[:, 0] = np.maximum(items[:, 0], 1000)
    age = AGES[random.integers(0, CLASSES, size)]
    cloud = np.where(age == OWN, 0, random.normal(size=size)).astype(np.float32)
    device = random.normal(size=size).astype(np.float32)
    fused = fusion(cloud, device, items != 0, age)
    taken = (fused + random.gumbel(size=size)).argmax(1)
    return Shown(items, cloud, device, age, items[np.arange(rows), taken])


PLANTED = FusionByAge(
    1.5,
    [1.2, 1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0],
    [0.8, 0.6, 0.5, 0.4, 0.2, 0.1, 0.0, -0.2, -0.3, -0.4, -0.5, -0.6, -0.6],
)


def centred(values):
    """Biases matter up to a constant only."""
    return np.asarray(values) - np.mean(values)


def test_planted_weights_are_found():
    found = learn_fusion(drawn(15_000, PLANTED))
    # Standard errors: a class has 15,000 * 18 / 13 candidates and a tenth as many choices; about 0.03 each.
    assert found.device_weight == pytest.approx(PLANTED.device_weight, abs=0.06)
    np.testing.assert_allclose(found.cloud_weight[:-1], PLANTED.cloud_weight[:-1], atol=0.12)
    np.testing.assert_allclose(centred(found.bias), centred(PLANTED.bias), atol=0.12)


def test_other_planted_weights_are_other_weights():
    other = FusionByAge(0.2, [0.0] * 6 + [1.0] * 7, [0.0] * 12 + [2.0])
    found = learn_fusion(drawn(8_000, other, seed=1))
    assert found.device_weight == pytest.approx(0.2, abs=0.06)
    assert np.mean(found.cloud_weight[:6]) == pytest.approx(0.0, abs=0.06)
    assert np.mean(found.cloud_weight[6:12]) == pytest.approx(1.0, abs=0.06)
    assert found.bias[12] - np.mean(found.bias[:12]) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_gradient_is_that_of_finite_differences(seed):
    random = np.random.default_rng(seed)
    shown = drawn(30, PLANTED, candidates=8, seed=seed)
    problem = Problem(
        valid=shown.items != 0,
        cloud=shown.cloud.astype(np.float64),
        device=shown.device.astype(np.float64),
        kind=random.integers(0, CLASSES, shown.items.shape),
        taken=(shown.items == shown.taken[:, None]).argmax(1),
        start=random.normal(size=1 + 2 * CLASSES),
    )
    weights = random.normal(size=1 + 2 * CLASSES)
    _, gradient = problem.loss(weights)
    step = 1e-5
    for place in range(len(weights)):
        ends = [problem.loss(weights + sign * step * np.eye(len(weights))[place])[0] for sign in (1, -1)]
        assert gradient[place] == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-7)


def test_the_loss_by_hand():
    # One pool of two, device scores 1 and 0 at weight 2, no cloud: P(first) = e^2 / (e^2 + 1).
    zero = np.zeros((1, 2))
    start = np.zeros(1 + 2 * CLASSES)
    problem = Problem(np.ones((1, 2), bool), zero, np.array([[1.0, 0.0]]), zero.astype(int), np.array([0]), start)
    weights = start.copy()
    weights[0] = 2.0
    value, _ = problem.loss(weights)
    assert value == pytest.approx(-np.log(np.exp(2) / (np.exp(2) + 1)) + 1e-3 * 2.0**2)


def test_steps_whose_item_was_not_in_the_pool_tell_nothing():
    shown = drawn(400, PLANTED)
    random = np.random.default_rng(5)
    missed = Shown(
        np.concatenate([shown.items, shown.items]),
        *(np.concatenate([values, random.permutation(values)]) for values in (shown.cloud, shown.device, shown.age)),
        np.concatenate([shown.taken, np.full(400, 5000, np.int32)]),
    )
    assert learn_fusion(missed) == learn_fusion(shown)


@pytest.mark.parametrize("rubbish", [np.nan, np.inf, -np.inf, 1e30])
def test_scores_of_empty_slots_mean_nothing(rubbish):
    shown = drawn(300, PLANTED)
    empty = shown.items == 0
    assert empty.any()
    spoiled = replace(shown, device=np.where(empty, rubbish, shown.device).astype(np.float32))
    assert learn_fusion(spoiled) == learn_fusion(shown)


def test_with_nothing_to_learn_from_it_is_the_start():
    shown = drawn(5, PLANTED)
    nobody = learn_fusion(replace(shown, taken=np.full(5, 9999, np.int32)))
    assert nobody.device_weight == 1.0
    assert nobody.cloud_weight[0] == 0.5
    assert list(nobody.cloud_weight) == sorted(nobody.cloud_weight, reverse=True)
    assert set(nobody.bias) == {0.0}
    assert learn_fusion(Shown(*(getattr(shown, n)[:0] for n in Shown.__slots__))) == nobody


def test_ages_that_were_never_seen_keep_their_start():
    fresh = FusionByAge(1.0, [2.0] + [0.0] * 12, [0.0] * 13)
    shown = drawn(2_000, fresh)
    found = learn_fusion(replace(shown, age=np.zeros_like(shown.age)))
    start = learn_fusion(replace(shown, taken=np.full(2_000, 9999, np.int32)))
    np.testing.assert_allclose(found.cloud_weight[1:], start.cloud_weight[1:], atol=1e-6)
    np.testing.assert_allclose(found.bias[1:], 0, atol=1e-6)


def test_weights_survive_json():
    weights = np.random.default_rng(0).normal(size=1 + 2 * CLASSES)
    made = of_weights(weights)
    plain = json.loads(json.dumps([made.device_weight, made.cloud_weight, made.bias]))
    assert FusionByAge(plain[0], tuple(plain[1]), tuple(plain[2])) == made
    assert len(made.bias) == len(AGE_EDGES) + 1
    np.testing.assert_array_equal(np.float32(weights[1 : 1 + CLASSES]), np.float32(made.cloud_weight))


@pytest.mark.parametrize("near", [Fusion(0.3), PLANTED, FusionByAge(3.0, (2.0,) * CLASSES, (-1.0,) * CLASSES)])
def test_where_the_search_begins_does_not_matter(near):
    shown = drawn(300, PLANTED)
    found, known = learn_fusion(shown, near), learn_fusion(shown)
    np.testing.assert_allclose(found.cloud_weight, known.cloud_weight, atol=0.02)
    np.testing.assert_allclose(found.bias, known.bias, atol=0.02)
    assert found.device_weight == pytest.approx(known.device_weight, abs=0.02)
