"""CKI's formulas by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.personalizers.splicing import entropy, first_share, global_gate, share


def test_entropy_by_hand() -> None:
    """0, 1, .., 9 fill ten bins: log 10. 0, 0, 0, 1: the first bin 3/4, the last 1/4. Equal numbers: one bin, 0."""
    assert entropy(torch.arange(10.0)).item() == pytest.approx(math.log(10))
    quarter = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    rows = torch.tensor([[0.0, 0, 0, 1], [7, 7, 7, 7], [0, 1, 1, 0]])
    np.testing.assert_allclose(entropy(rows), [quarter, 0, math.log(2)], rtol=1e-6)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 5), size=st.integers(1, 200), seed=st.integers(0, 2**31))
def test_entropy_is_that_of_numpys_histogram(rows: int, size: int, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal((rows, size))
    for row, made in zip(values, entropy(torch.from_numpy(values)), strict=True):
        p = np.histogram(row, 10)[0] / size
        assert made.item() == pytest.approx(-(p[p > 0] * np.log(p[p > 0])).sum(), abs=1e-9)


def test_g_by_hand() -> None:
    """Equal entropies: 1/2. 500 (H1 - H2) = 1: .4 / pi pi / 4 + .5 = .6; -1: .4. Far apart: .7 and .3."""
    first = torch.tensor([1.0, 0.002, 0.0, 50.0, 0.0], dtype=torch.float64)
    second = torch.tensor([1.0, 0.0, 0.002, 0.0, 50.0], dtype=torch.float64)
    np.testing.assert_allclose(global_gate(first, second), [0.5, 0.6, 0.4, 0.7, 0.3], atol=1e-5)


def test_w1_w2_and_their_shares_by_hand() -> None:
    """g = .6, l = .25: w1 = .6 (1 - e^-.15) = .083575, w2 = .4 (1 - e^-.3) = .103673, s = e^w1 / (e^w1 + e^w2)."""
    w1, w2 = 0.6 * (1 - math.exp(-0.15)), 0.4 * (1 - math.exp(-0.4 * 0.75))
    assert (round(w1, 6), round(w2, 6)) == (0.083575, 0.103673)
    expected = math.exp(w1) / (math.exp(w1) + math.exp(w2))
    made = share(torch.tensor(0.6), torch.tensor([0.25, 0.5]))
    assert made[0].item() == pytest.approx(expected, rel=1e-6)
    assert share(torch.tensor(0.5), torch.tensor(0.5)).item() == 0.5


@settings(deadline=None)
@given(g=st.floats(0.3, 0.7), local=st.floats(0, 1))
def test_shares_stay_near_the_middle_and_mirror(g: float, local: float) -> None:
    both = torch.tensor([g, 1 - g], dtype=torch.float64), torch.tensor([local, 1 - local], dtype=torch.float64)
    first, second = share(*both).tolist()
    assert first + second == pytest.approx(1)  # nets swapped: shares swapped
    assert 0.41 < first < 0.59


def test_l_works_along_the_last_axis() -> None:
    """P = [[1, 2], [0, 1]], |W1 - W2| = [.5, .25]: l = sigmoid([1, .25]); two equal bins in both layers, so g = 1/2."""
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.25])
    made = first_share(first, second, torch.tensor([[1.0, 2.0], [0.0, 1.0]]))
    local = [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-0.25))]
    np.testing.assert_allclose(made, [share(torch.tensor(0.5), torch.tensor(x)) for x in local], rtol=1e-6)


def test_many_second_layers_are_spliced_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    first, many, local_map = (torch.randn(*s, generator=generator) for s in ((3, 4), (5, 3, 4), (4, 4)))
    made = first_share(first, many, local_map)
    for row in range(5):
        torch.testing.assert_close(made[row], first_share(first, many[row], local_map))
    assert len({round(float(g), 4) for g in global_gate(entropy(first.flatten()), entropy(many.flatten(1)))}) > 1
