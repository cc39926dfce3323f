"""Forward-OFA: the structure controller by hand, its draws and limits, gradients, and planted tastes."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import tastes
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.personalizers.forward_ofa import ForwardOFA, affordable, gumbel, hard_choice
from cloud.personalizers.trained import TrainedPersonalizer
from device.errors import ConfigError
from device.models.assembled import Assembled
from device.seeds import draws

N_ITEMS, LENGTH, WIDTH, BLOCKS = 20, 5, 4, 3
HISTORY = torch.tensor([[0, 0, 4, 9, 2], [0, 0, 0, 0, 7], [1, 2, 3, 4, 5], [0, 0, 0, 0, 0]])
TARGET = torch.tensor([1, 2, 3, 4])
INFINITE = float("-inf")


def ofa(**options: Any) -> ForwardOFA:
    torch.manual_seed(1)
    device = Assembled(N_ITEMS, width=WIDTH, length=LENGTH, blocks=BLOCKS)
    with torch.no_grad():
        device.item.weight.mul_(50)  # as if trained: histories look different
    made = ForwardOFA(device, **options)
    with torch.no_grad():
        made.controller.second[:, -1] = 0  # choices differ between histories
    return made


def test_logits_of_blocks_that_cannot_be_paid_for() -> None:
    logits = torch.tensor([[[1.0, 5, 2], [0, 1, 3]]]).expand(4, -1, -1)  # wanted: 1, 4, -1
    masked = affordable(logits, torch.tensor([0, 1, 2, 3]))
    i = INFINITE
    assert masked[:, 0].tolist() == [[i, i, i], [i, 5, i], [1, 5, i], [1, 5, 2]]
    assert torch.equal(masked[:, 1], logits[:, 1])
    assert affordable(torch.zeros(1, 2, 3), torch.tensor([1]))[0, 0].tolist() == [0, i, i]  # equal: the earlier block


def test_choices_by_hand() -> None:
    logits = torch.tensor([[[1.0, 0, INFINITE], [0, 1, 0]]])
    assert hard_choice(logits, None, 1.0).tolist() == [[1, 0, 0]]
    noise = torch.tensor([[[0.0, 3, 9], [2, 0, 0]]])  # 1 < 2, 3 > 1, -inf < 0
    assert hard_choice(logits, noise, 1.0).tolist() == [[0, 1, 0]]


def test_the_gradient_of_a_hard_draw_is_that_of_the_soft_one() -> None:
    logits = torch.tensor([[[1.0, 0], [0, 1]]], requires_grad=True)
    noise = gumbel(logits.shape, torch.Generator().manual_seed(0))
    weight = torch.tensor([[2.0, -3]])
    hard = torch.autograd.grad((hard_choice(logits, noise, 0.5) * weight).sum(), logits)[0]
    soft = torch.autograd.grad((torch.softmax((logits + noise) / 0.5, dim=1)[:, 0] * weight).sum(), logits)[0]
    assert torch.equal(hard, soft)
    assert hard.abs().min() > 0
    p = torch.sigmoid((logits[0, 0] - logits[0, 1] + noise[0, 0] - noise[0, 1]) / 0.5)
    assert torch.allclose(hard[0, 0], weight[0] * p * (1 - p) / 0.5)  # p' by hand


def test_draws_follow_the_softmax_and_their_seed() -> None:
    logits = torch.tensor([[[1.0, 0, -2], [0, 0, 0]]]).expand(20_000, -1, -1)
    first, again, other = (gumbel(logits.shape, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    share = hard_choice(logits, first, 1.0).mean(0)
    # sigmoid(1), sigmoid(0), sigmoid(-2); deviation of a share below sqrt(0.25 / 20000) = 0.0036
    assert share.tolist() == pytest.approx([0.7311, 0.5, 0.1192], abs=0.015)


def test_training_draws_are_seeded() -> None:
    made = ofa(budgets=(1e9, 0.0)).train()
    made.device.eval()  # no dropout
    values = [
        made.training_loss(HISTORY, TARGET, epoch=0, generator=torch.Generator().manual_seed(seed)).item()
        for seed in (1, 1, 2, 3, 4)
    ]
    assert values[0] == values[1]
    assert len(set(values)) > 2


def test_patches_fit_the_layout_and_single_rows_equal_the_batch() -> None:
    made = ofa().eval()
    patches = made.patches(HISTORY)
    assert {name: tuple(part.shape[1:]) for name, part in patches.items()} == {
        name: part.shape for name, part in made.device.layout.items()
    }
    assert patches["keep"].dtype == torch.bool
    assert not patches["offset"][~patches["keep"]].any()  # what does not travel is zero
    assert 0 < patches["keep"].sum() < patches["keep"].numel()
    single = [made.patches(HISTORY[row : row + 1]) for row in range(4)]
    assert torch.equal(torch.cat([part["keep"] for part in single]), patches["keep"])
    assert torch.allclose(torch.cat([part["offset"] for part in single]), patches["offset"], atol=1e-6)
    longer = made.patches(torch.nn.functional.pad(HISTORY, (3, 0)))
    assert torch.allclose(longer["offset"], patches["offset"], atol=1e-6)
    again, _ = made.assemble(made.interests(HISTORY))
    assert torch.equal(again["offset"], patches["offset"])  # what a device would upload is enough


def test_the_personalizer_sends_what_the_module_makes() -> None:
    made = ofa().eval()
    sent = TrainedPersonalizer(made).personalize(
        HISTORY.numpy().astype(np.int32), np.zeros(4, np.int64), rng=draws(0, "x", np.arange(4))
    )
    assert np.array_equal(sent.patches["keep"], made.patches(HISTORY)["keep"].numpy())
    assert made.device.payload_bytes(sent.patches).tolist() == (1 + 160 * sent.patches["keep"].sum(1)).tolist()
    # four GRUs of 5 steps of 6 d d; controller d d + 6 d; projection 3 x 8; per block (d + 8) d + 40 d
    by_hand = 2.0 * (4 * 5 * 96 + 16 + 24 + 24 + 3 * (12 * 4 + 40 * 4))
    assert made.patch_flops(LENGTH) == by_hand
    assert sent.flops is not None
    assert sent.flops == pytest.approx(by_hand)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), training=st.booleans())
def test_no_tier_gets_more_than_it_can_pay_for(seed: int, training: bool) -> None:
    full, last = ofa().device.flops_of_blocks(2, LENGTH), ofa().device.flops_of_blocks(1, LENGTH)
    made = ofa(budgets=(0.0, last, full, 1e12)).train(training)
    assert made.most == (0, 1, 2, 3)
    torch.manual_seed(seed)
    history, tiers = torch.randint(0, N_ITEMS + 1, (16, LENGTH)), torch.randint(0, 4, (16,))
    keep = made.patches(history, tiers)["keep"]
    assert (keep.sum(1) <= tiers).all()
    spent = made.device.flops_of({"keep": keep.detach().numpy()}, LENGTH, 0)
    assert (spent <= np.array([0.0, last, full, 1e12])[tiers]).all()


@pytest.mark.parametrize("pretrained", [True, False])
def test_gradients_reach_every_parameter(pretrained: bool) -> None:
    made = ofa(pretrained=pretrained, cost_weight=0.1).train()
    history, target = HISTORY.repeat(8, 1), TARGET.repeat(8)
    made.training_loss(history, target, epoch=0, generator=torch.Generator().manual_seed(0)).backward()
    for name, parameter in made.named_parameters():
        if pretrained and name.startswith("device."):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_patched_scores_differ() -> None:
    made = ofa().eval()
    candidates = torch.arange(1, 5).expand(4, -1)
    assert (made(HISTORY, candidates) - made.device(HISTORY, candidates)).abs().amax(1).gt(1e-6).all()
    for wrong in ({"temperature": 0.0}, {"structure": 0}, {"budgets": (-1.0,)}, {"cost_weight": -1.0}, {"history": 0}):
        with pytest.raises(ConfigError, match="expected"):
            ofa(**wrong)


def test_a_price_on_blocks_makes_smaller_structures() -> None:
    kept = []
    numbers = torch.Generator().manual_seed(0)
    for weight in (0.0, 50.0):
        made = ofa(cost_weight=weight).train()
        value = partial(made.training_loss, HISTORY, TARGET, epoch=0, generator=numbers)
        tastes.learn(made.parameters(), value, 20)
        kept.append(made.eval().patches(HISTORY)["keep"].sum().item())
    assert kept[1] < kept[0]


@pytest.mark.parametrize("pretrained", [True, False])
def test_opposite_tastes_are_learned_by_patches(pretrained: bool) -> None:
    torch.manual_seed(0)
    device = Assembled(tastes.ITEMS, width=16, blocks=2, length=1, dropout=0.0)
    if pretrained:
        tastes.pretrained(device)
    shared, personal = tastes.losses(ForwardOFA(device, history=5, pretrained=pretrained))
    assert personal < shared - 0.1
