import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from views import rows, view

from device.consistency import Footrule
from device.errors import ConfigError
from device.policies.lsc4rec import BatchScore, Displacement, InvalidCount
from device.policy import RequestPolicy
from device.seeds import rng
from simulation.handout import bounds

BOTH, ORDER, INVALID = BatchScore(), BatchScore(invalid=False), BatchScore(displacement=False)


@pytest.mark.parametrize("policy", [BOTH, ORDER, INVALID, Displacement(), InvalidCount()])
def test_they_fit_the_contract(policy):
    assert isinstance(policy, RequestPolicy)
    urgency = policy.urgency(view(), rows(view()))
    assert urgency.shape == (1,)
    assert urgency.dtype == np.float64


def test_the_score_of_a_batch_by_hand():
    # Device 0: order 7 8 9 becomes 9 7 8, moves 1 + 1 + 2 = 4. Device 1: 7 8 becomes 8 7, moves 1 + 1 = 2; its empty
    # place stands at 0, behind two positive scores.
    seen = view([[7, 8, 9], [7, 8, 0]], scores=[[2, 1, 3], [1, 2, 9]], empty=[0, 1])
    # d = (4 + 2) / 5 candidates = 1.2; inv = 1: (4 + 0.3)^2 = 18.49.
    np.testing.assert_allclose(BOTH.urgency(seen, rows(seen)), [19.69, 19.69], atol=2e-7)
    np.testing.assert_allclose(ORDER.urgency(seen, rows(seen)), [1.2, 1.2], atol=2e-7)
    np.testing.assert_allclose(INVALID.urgency(seen, rows(seen)), [18.49, 18.49], atol=2e-7)
    # Batches of one: 4 / 3 + 16 and 2 / 2 + 18.49.
    np.testing.assert_allclose(BatchScore(1).urgency(seen, rows(seen)), [4 / 3 + 16, 19.49], atol=2e-7)
    np.testing.assert_allclose(Displacement().urgency(seen, rows(seen)), [4 / 3, 1])
    assert np.floor(InvalidCount().urgency(seen, rows(seen))).tolist() == [0, 1]


def test_empty_places_stand_among_the_candidates_as_released():
    seen = view([[7, 8, 9, 0, 0]], scores=[[0, -3, -1, 0, 0]], empty=[2])
    # Reranked: 7 (0, first in the list), two empty places (0), 9 (-1), 8 (-3): positions 0, 4, 3 against 0, 1, 2.
    # 0 + |4 - 1| + |3 - 2| = 4 over 3 candidates.
    np.testing.assert_allclose(ORDER.urgency(seen, rows(seen)), [4 / 3], atol=2e-7)
    # The clean form leaves them out: positions 0, 2, 1: (0 + 1 + 1) / 3.
    np.testing.assert_allclose(Displacement().urgency(seen, rows(seen)), [2 / 3])


def test_batches_are_cut_by_device_number_whatever_the_order_of_rows():
    ids, empty = np.array([17, 3, 16, 15, 40]), np.array([1, 0, 2, 0, 0])  # batches 1, 0, 1, 0, 2
    seen = view([[7, 8]] * 5, device=ids, empty=empty)
    score = INVALID.urgency(seen, rows(seen))
    # (4 + 0.3 * 3)^2 = 24.01 for devices 16 and 17, 16 for the others.
    np.testing.assert_allclose(score, [24.01, 16, 24.01, 16, 16], atol=2e-7)
    assert score[0] == score[2]  # to the last bit: a batch asks together
    assert score[1] == score[3] != score[4]  # equal batches are told apart
    turned = view([[7, 8]] * 5, device=ids[::-1], empty=empty[::-1])
    np.testing.assert_array_equal(INVALID.urgency(turned, rows(turned)), score[::-1])


def random_view(devices, width, seed=0, padding=np.nan):
    """Random orders; the last `empty` places of a list are empty, and scores of padding are `padding`."""
    generator = rng(seed, "lists")
    empty = generator.integers(0, 3, devices)
    hole = np.arange(width) >= width - empty[:, None]
    scores = np.where(hole, padding, generator.standard_normal((2, devices, width)))
    items = np.where(hole, 0, np.arange(1, width + 1))
    return view(items, cloud=scores[0], scores=scores[1], empty=empty)


@pytest.mark.parametrize("clients", [1, 2, 4])
def test_clients_of_whole_batches_decide_alike(clients):
    whole = random_view(64, 6)
    expected = BOTH.urgency(whole, rows(whole))
    for part in np.split(np.arange(64), clients):
        seen = view(
            whole.candidates[part],
            cloud=whole.cloud_scores[part],
            scores=whole.device_scores[part],
            empty=whole.empty[part],
            device=part,
        )
        np.testing.assert_array_equal(BOTH.urgency(seen, rows(seen)), expected[part])


@pytest.mark.parametrize(
    ("devices", "parts", "alike"),
    [
        (64, 2, True),  # cut at 32
        (40, 3, False),  # devices_per_client = 16 makes three clients: cut at 13 and 26, not at 16 and 32
        (40, 2, False),  # at 20
    ],
)
def test_cuts_agree_where_no_batch_is_cut(devices, parts, alike):
    whole = view([[7, 8]] * devices, empty=np.arange(devices))  # a batch's sum changes with each member
    expected = INVALID.urgency(whole, rows(whole))
    cut = [np.arange(*bounds(devices, part, parts)) for part in range(parts)]
    views = [view([[7, 8]] * len(part), device=part, empty=whole.empty[part]) for part in cut]
    found = np.concatenate([INVALID.urgency(seen, rows(seen)) for seen in views])
    assert np.array_equal(found, expected) == alike


def test_the_score_decomposes_into_its_halves():
    seen = random_view(16 * 40, 50)
    draws = rows(seen)
    halves = [policy.urgency(seen, draws) for policy in (ORDER, INVALID)]
    np.testing.assert_allclose(BOTH.urgency(seen, draws), sum(halves), atol=2e-7)
    # One more empty place weighs 0.3 * (8 + 0.3 * (2 inv + 1)) > 2.4; unrelated orders differ by less: d of 16 lists
    # of about 50 is near (N^2 - 1) / (3 N) = 16.66 (5-95% range 16.0-17.3). So the count decides.
    assert abs(halves[0].mean() - 16.66) < 0.5
    assert halves[0].std() < 1
    order, invalid = halves[0][::16], halves[1][::16]
    assert np.corrcoef(BOTH.urgency(seen, draws)[::16], invalid)[0, 1] > 0.98
    assert abs(np.corrcoef(BOTH.urgency(seen, draws)[::16], order)[0, 1]) < 0.6


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 1000))
def test_displacement_is_the_footrule_up_to_a_factor(devices, width, seed):
    seen = random_view(devices, width, seed)
    size = seen.valid.sum(axis=1)
    footrule = Footrule()(seen.cloud_scores, seen.device_scores, seen.valid)
    expected = footrule * (size * size // 2) / np.maximum(size, 1)
    np.testing.assert_allclose(Displacement().urgency(seen, rows(seen)), expected)


@pytest.mark.parametrize("policy", [BOTH, ORDER, INVALID, Displacement(), InvalidCount()])
def test_scores_of_padding_mean_nothing(policy):
    views = [random_view(40, 8, padding=padding) for padding in (np.nan, -1e30, 0, 1e30)]
    expected, *others = (policy.urgency(seen, rows(seen)) for seen in views)
    for other in others:
        np.testing.assert_array_equal(other, expected)


def test_a_count_of_invalid_places_reaches_any_ratio():
    seen = view([[7, 8]] * 2000, empty=[0] * 1000 + [1] * 1000)
    urgency = InvalidCount().urgency(seen, rows(seen))
    # Price 1.5: of those with one empty place, half; of the others, nobody.
    assert not (urgency[:1000] > 1.5).any()
    assert abs((urgency[1000:] > 1.5).mean() - 0.5) < 5 * 0.5 / np.sqrt(1000)


def test_a_batch_without_any_candidate_has_no_displacement():
    seen = view([[0, 0]], empty=[2])
    np.testing.assert_allclose(BOTH.urgency(seen, rows(seen)), [4.6**2], atol=2e-7)
    assert Displacement().urgency(seen, rows(seen)).tolist() == [0]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BatchScore(0), "batch = 0; expected 1 or more"),
        (lambda: BatchScore(16, False, False), "both false; switch one"),
    ],
)
def test_wrong_options_are_errors_at_once(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
