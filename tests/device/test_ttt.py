"""The inner models against gradients that torch takes, the model's contract, and what ETA skips."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from cloud.losses import position_loss
from cloud.options import Training
from cloud.ranking import Neural, catalogue_ranks
from device.check import check_device_model
from device.errors import ConfigError
from device.export import export_onnx
from device.models import onnx_file
from device.models.ttt import ETA, TTT4Rec
from device.models.ttt.eta import choose_threshold, observed
from device.models.ttt.layer import TTTLayer, gelu_slope, rotated

N_ITEMS, LENGTH = 30, 11
HISTORY = torch.tensor([[0] * 5 + [4, 9, 2, 9, 4, 3], [0] * 10 + [7], list(range(1, 12)), [0] * 11])
CANDIDATES = torch.tensor([[3, 8, 2], [7, 30, 1], [6, 5, 29], [1, 2, 3]])


def loud(module):
    """Weights ten times larger than those drawn, so that a mistake shows."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        if hasattr(module, "item"):
            module.item.weight[0] = 0
    return module.eval()


def model(**options):
    torch.manual_seed(1)
    return loud(TTT4Rec(N_ITEMS, **{"width": 16, "heads": 2, "length": LENGTH, "mini_batch": 4, **options}))


def made_layer(inner, mini_batch):
    torch.manual_seed(2)
    layer = TTTLayer(8, 2, inner=inner, mini_batch=mini_batch, rate=1.0)
    layer.reset()
    return loud(layer).double()


def inner_model(layer, head, weights, x):
    """f(x) = x + LN(x W + b), or with a second map after GELU."""
    z = x @ weights[0] + weights[1]
    if len(weights) == 4:
        z = F.gelu(z, approximate="tanh") @ weights[2] + weights[3]
    return x + F.layer_norm(z, z.shape, layer.scale[head, 0], layer.shift[head, 0])


def item_by_item(layer, x):
    """The layer for one row x [L, d] as the paper has it: a gradient that torch takes for every item and head."""
    q, k, v = layer.qkv(x).reshape(len(x), 3, layer.heads, -1).unbind(1)
    gates = torch.sigmoid(layer.gate(x)) * layer.rate
    out = torch.zeros(len(x), layer.heads, q.shape[-1], dtype=torch.double)
    for head in range(layer.heads):
        pairs = zip(layer.weights, layer.biases, strict=True)
        weights = [part.detach() for w, b in pairs for part in (w[head], b[head, 0])]
        for start in range(0, len(x), layer.mini_batch):
            summed = [torch.zeros_like(w) for w in weights]
            for at in range(start, min(start + layer.mini_batch, len(x))):
                place = torch.tensor([[at - start]])
                key, query = (rotated(one[at, head][None, None, None], place)[0, 0, 0] for one in (k, q))
                leaves = [w.clone().requires_grad_(True) for w in weights]
                error = inner_model(layer, head, leaves, key.detach()) - v[at, head].detach()
                gradients = torch.autograd.grad(0.5 * error.square().sum(), leaves)
                eta = max(1 / (at - start + 1) + layer.eta.detach()[at - start].item(), 0)
                gate = gates[at, head].detach()
                summed = [total + gate * gradient for total, gradient in zip(summed, gradients, strict=True)]
                now = [w - eta * total for w, total in zip(weights, summed, strict=True)]
                out[at, head] = inner_model(layer, head, now, query)
            weights = now
    return out.reshape(x.shape)


@pytest.mark.parametrize("inner", ["linear", "mlp"])
@pytest.mark.parametrize("mini_batch", [1, 4])
def test_the_dual_form_is_gradient_descent_item_by_item(inner, mini_batch):
    layer = made_layer(inner, mini_batch)
    x = torch.randn(2, 10, 8, dtype=torch.double)
    with torch.no_grad():
        got = layer(x)
    for row in range(2):
        assert torch.allclose(got[row], item_by_item(layer, x[row]).detach(), atol=1e-9)


def test_an_inner_step_lowers_the_inner_loss():
    layer = made_layer("linear", 1)
    x = torch.randn(1, 6, 8, dtype=torch.double)
    with torch.no_grad():
        layer.eta.zero_()
        repeated = x[:, :1].expand(-1, 6, -1)  # one item over and over is learned
        q, k, v, _ = layer._views(repeated, torch.zeros(1, 6).long())
        layer.qkv.weight[:8] = layer.qkv.weight[8:16]  # the view that is asked about is the one that is learned from
        errors = (layer(repeated).reshape(6, 2, 4) - v[0].transpose(0, 1)).square().sum((1, 2))
    assert (errors.diff() < 0).all()
    assert torch.allclose(k[0, 0, 0], k[0, 0, 5])
    assert q.shape == (1, 2, 6, 4)


def test_slope_and_turn():
    z = torch.linspace(-4, 4, 33, dtype=torch.double, requires_grad=True)
    (slope,) = torch.autograd.grad(F.gelu(z, approximate="tanh").sum(), z)
    assert torch.allclose(gelu_slope(z), slope, atol=1e-12)
    # two columns pairs of a head of 4 at place 2: columns 0 and 2 by 2 / 1000^0, columns 1 and 3 by 2 / 1000^(2/4)
    x = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.double)
    got = rotated(x[None, None, None], torch.tensor([[2]]))[0, 0, 0]
    slow = 2 / math.sqrt(1000)
    expected = [math.cos(2), math.cos(slow), math.sin(2), math.sin(slow)]
    assert got.tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"inner": "mlp"}, {"blocks": 2}, {"mini_batch": 1}])
def test_the_conformance_kit_passes(options):
    check_device_model(model(**options), n_items=N_ITEMS, length=LENGTH).raise_on_failure()


@pytest.mark.parametrize("options", [{}, {"inner": "mlp"}, {"blocks": 2}])
def test_padding_changes_nothing_and_what_is_trained_is_served(options):
    made = model(**options)
    with torch.inference_mode():
        scores, states = made(HISTORY, CANDIDATES), made.states(HISTORY)
        assert torch.allclose((states[:, -1:] * made.item(CANDIDATES)).sum(-1), scores, atol=1e-5)
        assert torch.allclose(made.catalogue(HISTORY).gather(1, CANDIDATES), scores, atol=1e-5)
        assert torch.allclose(made(HISTORY[:1, 5:], CANDIDATES[:1]), scores[:1], atol=1e-5)
        assert torch.allclose(made.states(HISTORY[:1, 5:]), states[:1, 5:], atol=1e-5)
        assert not scores[3].any()
        for at in range(1, LENGTH):  # every position is that of a history which ends there
            assert torch.allclose(made.states(HISTORY[2:3, :at])[:, -1], states[2:3, at - 1], atol=1e-5)


def test_every_parameter_learns():
    """All learn from the recommendation loss alone, through the inner steps: K and V have no other way."""
    for inner in ("linear", "mlp"):
        made = model(inner=inner).train()
        target = torch.where(HISTORY > 0, HISTORY % N_ITEMS + 1, 0)
        loss = position_loss(made, HISTORY, target, options=Training(loss="full"), generator=torch.Generator())
        torch.autograd.backward(loss)
        lazy = [name for name, p in made.named_parameters() if p.grad is None or not (p.grad != 0).any()]
        assert lazy == []
        assert all((part.abs().amax() > 0) for part in made.blocks[0].ttt.qkv.weight.grad.chunk(3))


@pytest.mark.parametrize("options", [{}, {"inner": "mlp"}, {"blocks": 2}, {"mini_batch": 1}])
@pytest.mark.parametrize("length", [1, 4, 7, 11])
def test_flops_are_those_that_torch_counts(options, length):
    made = model(**options)
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        made(torch.ones(1, length).long(), torch.ones(1, 5).long())
    assert made.flops(length, 5) == counted.get_total_flops()
    state = made.begin(HISTORY[1:2])
    with FlopCounterMode(display=False) as counted, torch.inference_mode():
        made.step(state, torch.ones(1).long())
    assert made.flops_step(0) == counted.get_total_flops()


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="width of a head must be even"):
        TTT4Rec(9, width=12, heads=4)
    with pytest.raises(ConfigError, match="mini_batch = 0"):
        TTT4Rec(9, mini_batch=0)


def test_it_learns_what_only_the_history_tells():
    """Every user takes two items of their own in turn, so what comes next is what was taken before the newest."""
    torch.manual_seed(0)
    numbers = np.random.default_rng(0)

    def users(count):
        pairs = np.argsort(numbers.random((count, 10)), axis=1)[:, :2] + 1
        return torch.from_numpy(np.tile(pairs, (1, 3)))

    made = TTT4Rec(10, width=16, heads=1, length=5, mini_batch=1, dropout=0.0)
    optimizer = torch.optim.AdamW(made.parameters(), 0.02)
    for _ in range(60):
        lived = users(64)
        target = torch.where(torch.arange(5) >= 2, lived[:, 1:], 0)
        loss = position_loss(made, lived[:, :-1], target, options=Training(loss="full"), generator=torch.Generator())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    lived = users(200)
    with torch.inference_mode():
        best = made.eval().catalogue(lived[:, :-1])[:, 1:].argmax(1) + 1
    assert (best == lived[:, -1]).float().mean() > 0.8  # of 10 items one is right by chance in .1


@pytest.mark.slow
@pytest.mark.parametrize("inner", ["linear", "mlp"])
def test_the_exported_file_scores_as_torch_does(tmp_path, inner):
    """Two mini-batches, the second unfinished; shorter histories are padded, and padding changes nothing."""
    made = model(inner=inner, length=6)
    result = export_onnx(made, tmp_path, length=6, candidates=3, int8=False)
    assert result.files[0].max_difference < 1e-5
    session = onnx_file.session((tmp_path / "fp32.onnx").read_bytes(), "ttt")
    for length in (1, 4, 6, 11):  # of eleven the newest six
        history = HISTORY[:, -length:]
        with torch.inference_mode():
            expected = made(history, CANDIDATES).numpy()
        got = onnx_file.run(session, history.numpy().astype(np.int32), CANDIDATES.numpy().astype(np.int32))
        np.testing.assert_allclose(got, expected, atol=1e-4)


# ETA


@given(st.floats(0, 3.4))
@settings(max_examples=5, deadline=None)
def test_a_higher_threshold_skips_and_no_threshold_changes_nothing(threshold):
    made = model()
    with torch.inference_mode():
        nothing, some = ETA(made, float("-inf"), k=8), ETA(made, threshold, k=8)
        assert torch.allclose(nothing.states(HISTORY), made.states(HISTORY), atol=1e-5)
        assert torch.allclose(nothing(HISTORY, CANDIDATES), made(HISTORY, CANDIDATES), atol=1e-5)
        assert nothing.skipped(HISTORY) == 0
        assert torch.allclose(some.states(HISTORY)[:, -1] @ made.item.weight.T, some.catalogue(HISTORY), atol=1e-5)
        # at most the steps whose predecessor was sure: one item per row is always learned from
        assert 0 <= some.skipped(HISTORY) <= (6 - 1 + 1 - 1 + 11 - 1) / 18


def test_everything_skipped_leaves_the_initial_weights_after_the_first_item():
    made = model(mini_batch=1)
    with torch.inference_mode():
        state = ETA(made, float("inf")).begin(HISTORY)
        alone = made.begin(HISTORY[:, :1] * 0 + torch.tensor([[4], [7], [1], [0]]))
    assert torch.equal(state["0.w0"], alone["0.w0"])
    assert (state["seen"].tolist(), state["skipped"].tolist()) == ([6, 1, 11, 0], [5, 0, 10, 0])
    assert ETA(made, float("inf")).skipped(HISTORY) == pytest.approx(15 / 18)


def test_the_entropy_is_of_the_best_scores_only():
    made = model()
    eta = ETA(made, 0.0, k=3)
    last = made.item.weight[5:7].detach()
    scores = np.sort((last @ made.item.weight[1:].T.detach()).numpy().astype(np.float64), axis=1)[:, -3:]
    share = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert eta.entropy({"last": last}).tolist() == pytest.approx((share * -np.log(share)).sum(1), abs=1e-5)
    assert ETA(made, 0.0, k=99).entropy({"last": last * 0}).tolist() == pytest.approx([math.log(N_ITEMS)] * 2)


def test_validation_chooses_the_threshold():
    made, histories = model(), HISTORY[:3].numpy().astype(np.int32)
    targets = np.array([8, 30, 29], np.int32)

    def measure(eta: nn.Module) -> float:
        rank, _ = catalogue_ranks(Neural(eta), histories, targets, hide_seen=False)
        return float((1 / np.log2(rank + 1)).mean())

    best, tried = choose_threshold(made, histories, measure, shares=(0.0, 0.3, 0.6))
    assert tried[0].skipped == 0
    assert tried[1].skipped > 0
    assert best.value == max(one.value for one in tried)
    same, tried = choose_threshold(made, histories, lambda eta: 1.0, shares=(0.0, 0.3, 0.6))
    assert same.skipped == max(one.skipped for one in tried) > 0
    with torch.inference_mode():
        assert observed(made, HISTORY).shape == (5 + 0 + 10,)
    assert ETA(made, 1.0).flops(3, 5) == 3 * made.flops_step(0) + 2 * 16 * (2 * 30 + 5)
