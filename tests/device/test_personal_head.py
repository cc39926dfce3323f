"""The personal head: its arithmetic, its two transports, its bytes, and that no device sees another."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from device.check import check_device_model
from device.errors import ConfigError
from device.models.personal_head import PersonalHead, apply_head, bounded, head_layers, head_size
from device.models.personal_torch import PersonalTorch
from device.models.sasrec import SASRec

N_ITEMS, LENGTH, WIDTH = 30, 6, 8
HISTORY = torch.tensor([[0, 0, 0, 4, 9, 2], [0, 0, 0, 0, 0, 7], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 0]])
CANDIDATES = torch.tensor([[3, 8, 2], [7, 30, 1], [6, 5, 29], [1, 2, 3]])


def head(width: int = WIDTH, **options: Any) -> PersonalHead:
    torch.manual_seed(1)
    made = PersonalHead(SASRec(N_ITEMS, width=width, length=LENGTH), **options).eval()
    with torch.no_grad():
        made.backbone.item.weight[1:].normal_()
    return made.requires_grad_(False)


def patch(made: PersonalHead, rows: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    (name, part), *_ = made.layout.items()
    generator = torch.Generator().manual_seed(2)
    values = scale * torch.randn(rows, *part.shape, generator=generator)
    return {name: (values * 30).round().clamp(-127, 127).to(torch.int8) if part.kind == "int8" else values}


def test_reshape_order_and_arithmetic_by_hand() -> None:
    """Of 12 numbers W1 = [[1, 2], [3, 4]], b1 = [.5, -.5], W2 = [[1, 0], [0, 2]], b2 = [0, 1]; x = [.1, .2].

    x W1 = [.1 1 + .2 3, .1 2 + .2 4] = [.7, 1.0]; + b1 = [1.2, .5]; tanh = [.833655, .462117]; W2, b2 make of that
    [.833655, 1.924234].
    """
    weights = torch.tensor([[1.0, 2, 3, 4, 0.5, -0.5, 1, 0, 0, 2, 0, 1]])
    assert head_size(2) == weights.shape[1] == 12
    w1, b1, w2, b2 = head_layers(weights, 2)
    assert w1[0, 0, 1] == 2  # W[i, o] = weights[i d + o]
    assert b1.tolist() == [[0.5, -0.5]]
    assert w2[0].tolist() == [[1, 0], [0, 2]]
    assert b2.tolist() == [[0, 1]]
    expected = [[math.tanh(1.2), 1 + 2 * math.tanh(0.5)]]
    np.testing.assert_allclose(apply_head(torch.tensor([[0.1, 0.2]]), weights), expected, rtol=1e-6)
    np.testing.assert_allclose(expected, [[0.833655, 1.924234]], atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 9), width=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_a_batch_of_heads_equals_one_network_each(rows: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, weights = (torch.randn(rows, n, generator=generator) for n in (width, head_size(width)))
    made = apply_head(x, weights)
    for row in range(rows):
        w1, b1, w2, b2 = head_layers(weights[row], width)
        single = F.linear(torch.tanh(F.linear(x[row], w1.T, b1)), w2.T, b2)
        torch.testing.assert_close(made[row], single, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "name", "nbytes"),
    [
        ({}, "head", 8448),  # 2 (32 32 + 32) = 2,112 float32
        ({"send": "code"}, "code", 128),
        ({"send": "code", "kind": "int8"}, "code", 32),
    ],
)
def test_bytes_on_the_wire_and_installed(options: dict[str, Any], name: str, nbytes: int) -> None:
    made = head(32, **options)
    assert {key: part.nbytes for key, part in made.layout.items()} == {name: nbytes}
    installed = sum(v.numel() * v.element_size() for v in made.state_dict().values())
    backbone = sum(v.numel() * v.element_size() for v in made.backbone.state_dict().values())
    projection = 32 * 2112 * 4 if "send" in options else 0  # with the shared head 279 KB
    steps = 32 * 4 if "kind" in options else 0
    assert installed == backbone + 2112 * 4 + projection + steps


@pytest.mark.parametrize("options", [{}, {"send": "code"}, {"send": "code", "kind": "int8"}, {"trained": False}])
class TestEveryTransport:
    def test_a_patch_changes_scores_and_none_is_zeros(self, options: dict[str, Any]) -> None:
        made = head(**options)
        shared, personal = made(HISTORY, CANDIDATES), made(HISTORY, CANDIDATES, **patch(made, 4))
        assert (shared - personal).abs().min() > 1e-4
        none = {name: torch.zeros_like(values) for name, values in patch(made, 4).items()}
        assert torch.equal(made(HISTORY, CANDIDATES, **none), shared)

    def test_the_wrapped_model_agrees(self, options: dict[str, Any]) -> None:
        made = head(**options)
        model = PersonalTorch(made)
        params = {name: value.numpy() for name, value in made.state_dict().items()}
        history, candidates = HISTORY.numpy().astype(np.int32), CANDIDATES.numpy().astype(np.int32)
        arrays = {name: values.numpy() for name, values in patch(made, 4).items()}
        np.testing.assert_allclose(
            model.score_personal(params, arrays, history, candidates),
            made(HISTORY, CANDIDATES, **patch(made, 4)),
            atol=1e-6,
        )
        none = {name: np.repeat(values[None], 4, 0) for name, values in model.unpatched().items()}
        np.testing.assert_array_equal(
            model.score_personal(params, none, history, candidates), model.score(params, history, candidates)
        )
        np.testing.assert_allclose(
            np.einsum("bd,bcd->bc", model.state(params, history), params["backbone.item.weight"][candidates]),
            model.score(params, history, candidates),
            atol=1e-5,
        )

    def test_a_batch_equals_single_devices(self, options: dict[str, Any]) -> None:
        made = head(**options)
        patches = patch(made, 4)
        whole, catalogue = made(HISTORY, CANDIDATES, **patches), made.catalogue(HISTORY, **patches)
        for row in range(4):
            one = {name: values[row : row + 1] for name, values in patches.items()}
            single = made(HISTORY[row : row + 1], CANDIDATES[row : row + 1], **one)
            torch.testing.assert_close(whole[row], single[0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(whole[row], catalogue[row, CANDIDATES[row]], atol=1e-5, rtol=1e-5)

    def test_the_conformance_kit_passes(self, options: dict[str, Any]) -> None:
        report = check_device_model(head(**options).requires_grad_(True), n_items=N_ITEMS, length=LENGTH)
        report.raise_on_failure()
        assert report.ok

    def test_flops_are_those_torch_counts(self, options: dict[str, Any]) -> None:
        made = head(**options)
        shared = SASRec(N_ITEMS, width=WIDTH, length=LENGTH).eval()
        ones, three = torch.ones(1, LENGTH, dtype=torch.long), torch.ones(1, 3, dtype=torch.long)
        with FlopCounterMode(display=False) as mine:
            made(ones, three, **patch(made, 1))
        with FlopCounterMode(display=False) as its:
            shared(ones, three)
        # torch counts matrix products only, so not the 2 d biases of the head
        added = made.flops(LENGTH, 3) - shared.flops(LENGTH, 3) - 2.0 * 2 * WIDTH
        assert mine.get_total_flops() - its.get_total_flops() == added


def test_int8_counts_in_installed_steps() -> None:
    made = head(send="code", kind="int8", code=2)
    made.step.copy_(torch.tensor([0.5, 0.25]))
    expected = 1.5 * made.projection[0] - 31.75 * made.projection[1]  # 3 steps of .5, -127 of .25
    torch.testing.assert_close(made.projected(torch.tensor([[3, -127]], dtype=torch.int8))[0], expected)


def test_the_released_projection_is_truncated_and_no_parameter() -> None:
    made = head(32, send="code", trained=False)
    assert {"shared", "projection"} <= made.state_dict().keys()
    assert not {"shared", "projection"} & dict(made.named_parameters()).keys()
    for weights in (made.shared, made.projection):
        assert weights.abs().max() < 2
        # E[x^2; |x| < 2] = 0.954 - 4 phi(2) = 0.738, and 0.008 from the tails folded inwards: 0.864 squared
        assert 0.82 < weights.std() < 0.91


def test_the_bound_by_hand() -> None:
    """Width 1, layers [3, 4] (norm 5) and [1, 0] (norm 1): [30, 40] has norm 50, a tenth is left; [.3, .4] stays."""
    shared = torch.tensor([3.0, 4, 1, 0])
    personal = torch.tensor([[30.0, 40, 0.3, 0.4], [0, 0, 0, 0], [-3, 4, 0, 4]], requires_grad=True)
    made = bounded(personal, shared)
    torch.testing.assert_close(made, torch.tensor([[3.0, 4, 0.3, 0.4], [0, 0, 0, 0], [-3, 4, 0, 1]]))
    made.sum().backward()
    assert personal.grad is not None
    assert torch.isfinite(personal.grad).all()


def test_a_bounded_head_is_bounded_on_the_device() -> None:
    made, free = head(send="code", stable=True), head(send="code")
    code = patch(made, 3, 100.0)["code"]
    torch.testing.assert_close(made.projected(code), bounded(free.projected(code), free.shared))
    assert not torch.allclose(made.projected(code), free.projected(code))


def test_weights_do_not_travel_as_int8() -> None:
    with pytest.raises(ConfigError, match="only a code travels as int8"):
        head(send="weights", kind="int8")
