"""DIET: masks by hand, gradients of the estimator and of every generator, and tastes that only masks can serve."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tastes
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from training_parts import DATA, Stopped, stop_after
from training_parts import N_ITEMS as MANY

from cloud.options import Training
from cloud.personalizers.diet import Branches, Diet, Extractors, binary, corrected
from cloud.personalizers.trained import TrainedPersonalizer
from cloud.training import fit
from device.errors import ConfigError
from device.models.masked import MaskedHead, MaskedSASRec
from device.seeds import draws

N_ITEMS, LENGTH, WIDTH = 20, 5, 4
HISTORY = torch.tensor([[0, 0, 4, 9, 2], [0, 0, 0, 0, 7], [1, 2, 3, 4, 5], [0, 0, 0, 0, 0]])
SCORES = torch.tensor([[1.0, -2, 3], [4, 5, -6]])  # a layer of two inputs (and the bias) and two units
IMPORTANCE = torch.tensor([2.0, -1])
CORRECTED = [[2, -4, 6], [-4, -5, 6]]


def head(**options: Any) -> MaskedHead:
    torch.manual_seed(1)
    return MaskedHead(N_ITEMS, **{"width": WIDTH, "length": LENGTH, "blocks": 1, **options})


def diet(**options: Any) -> Diet:
    device = head()
    with torch.no_grad():
        device.item.weight.mul_(50)  # as if trained: histories look different
    return Diet(device, **options)


def test_masks_of_a_layer_in_numbers() -> None:
    values = corrected(SCORES, IMPORTANCE)
    assert values.tolist() == CORRECTED  # the first unit twice, the second turned over
    assert binary(values, 0.5).tolist() == [[1, 0, 1], [0, 0, 1]]  # three of six: 6, 6, 2
    assert binary(values, None).tolist() == [[1, 0, 1], [0, 0, 1]]  # sigmoid > 1/2 is T > 0
    assert binary(values, 1 / 3).tolist() == [[0, 0, 1], [0, 0, 1]]
    assert binary(values, 2 / 3).tolist() == [[1, 1, 1], [1, 0, 1]]  # the fourth and the fifth are equal: both stay
    assert binary(values, 0.01).tolist() == [[0, 0, 1], [0, 0, 1]]  # at least one
    assert binary(values, 1).tolist() == [[1, 1, 1], [1, 1, 1]]
    # without the correction the second unit would keep what the first keeps now
    assert binary(SCORES, 0.5).tolist() == [[0, 0, 1], [1, 1, 0]]


@pytest.mark.parametrize("keep", [0.5, None])
def test_the_gradient_goes_straight_through(keep: float | None) -> None:
    scores, importance = SCORES.clone().requires_grad_(), IMPORTANCE.clone().requires_grad_()
    weight = torch.tensor([[0.5, 1, 0], [-1, 2, 3]])  # d loss / d mask
    (binary(corrected(scores, importance), keep) * weight).sum().backward()
    assert scores.grad is not None
    assert importance.grad is not None
    assert scores.grad.tolist() == [[1, 2, 0], [1, -2, -3]]  # weight x importance, masked or not
    assert importance.grad.tolist() == [0.5 - 2, -4 + 10 - 18]  # sum of weight x score


@settings(max_examples=30)
@given(seed=st.integers(0, 2**31), keep=st.floats(0.01, 1.0))
def test_each_layer_keeps_its_share(seed: int, keep: float) -> None:
    values = torch.rand(3, 2, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mask = binary(values, keep)
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert mask.sum((-1, -2)).eq(max(1, round(keep * 20))).all()
    assert torch.equal(mask, torch.stack([binary(row, keep) for row in values]))


def test_branches_are_separate_networks() -> None:
    torch.manual_seed(0)
    made = Branches(2, (3, 4, 5))
    made.reset(start=7.0, spread=0.0)
    x = torch.randn(2, 6, 3)
    assert made(x).unique().tolist() == [7.0]
    made.reset(start=0.0)
    for branch in range(2):
        first, second = made.first[branch], made.second[branch]
        alone = torch.tanh(x[branch] @ first[:-1] + first[-1]) @ second[:-1] + second[-1]
        assert torch.allclose(made(x)[branch], alone, atol=1e-6)


def test_extractors_see_items_and_no_padding() -> None:
    torch.manual_seed(0)
    made, item = Extractors(2, WIDTH), torch.nn.Embedding(N_ITEMS + 1, WIDTH, padding_idx=0)
    read = made(HISTORY, item)
    assert read.shape == (2, 4, WIDTH)
    assert (read[:, 3] == 0).all()  # an empty history
    assert torch.allclose(made(torch.nn.functional.pad(HISTORY, (4, 0)), item), read, atol=1e-6)
    alone = torch.stack([network(item(HISTORY[:1, 2:]))[0][0, -1] for network in made.networks])
    assert torch.allclose(read[:, 0], alone, atol=1e-6)
    assert not torch.allclose(made(HISTORY.flip(1)[2:3], item), read[:, 2:3], atol=1e-3)  # their order counts


def test_patches_fit_the_layout_and_single_rows_equal_the_batch() -> None:
    for keep in (0.5, None):
        made = diet(keep=keep).eval()
        mask = made.patches(HISTORY)["mask"]
        assert mask.shape == (4, *made.device.layout["mask"].shape)
        assert mask.dtype == torch.bool
        rows = [made.patches(HISTORY[row : row + 1])["mask"] for row in range(4)]
        assert torch.equal(mask, torch.cat(rows))  # bitwise
        assert torch.equal(made.patches(torch.nn.functional.pad(HISTORY, (3, 0)))["mask"], mask)
        assert len(mask.flatten(1).unique(dim=0)) == 4  # every history a mask of its own
    short = diet(history=2).eval()
    assert torch.equal(short.patches(HISTORY)["mask"], short.patches(HISTORY[:, -2:])["mask"])


def test_the_personalizer_sends_what_the_module_makes() -> None:
    made = diet().eval()
    sent = TrainedPersonalizer(made).personalize(
        HISTORY.numpy().astype(np.int32), np.zeros(4, np.int64), rng=draws(0, "x", np.arange(4))
    )
    assert np.array_equal(sent.patches["mask"], made.patches(HISTORY)["mask"].numpy())
    assert sent.flops is not None
    # per layer a GRU of 5 steps of 6 d d, two hidden layers d d, d (d + 1) scores and d importances of d each
    assert made.patch_flops(LENGTH) == 2.0 * 2 * (5 * 6 * 16 + 2 * 16 + 4 * 20 + 16)
    assert sent.flops == pytest.approx(made.patch_flops(LENGTH))


@pytest.mark.parametrize("keep", [0.5, None])
def test_gradients_reach_every_generator_and_no_frozen_weight(keep: float | None) -> None:
    for pretrained, learning in ((True, set()), (False, {"body.item.weight", "body.position.weight"})):
        made = diet(keep=keep, pretrained=pretrained).train()
        made.training_loss(HISTORY, torch.tensor([1, 2, 3, 4]), epoch=0, generator=torch.Generator()).backward()
        for name, parameter in made.named_parameters():
            if name.startswith("device."):
                assert (parameter.grad is not None) == (name.removeprefix("device.") in learning), name
            else:
                assert parameter.grad is not None, name
                assert parameter.grad.abs().sum() > 0, name


def test_patched_scores_differ_and_a_full_mask_does_not() -> None:
    made = diet().eval()
    candidates = torch.arange(1, 5).expand(4, -1)
    shared: Tensor = made.device(HISTORY, candidates)
    assert (made(HISTORY, candidates) - shared).abs().amax(1).gt(1e-6).all()
    full = diet(keep=1.0).eval()
    assert torch.allclose(full(HISTORY, candidates), full.device(HISTORY, candidates), atol=1e-6)
    with pytest.raises(ConfigError, match="keep = 0"):
        diet(keep=0)


@pytest.mark.parametrize("pretrained", [True, False])
def test_training_keeps_what_is_frozen_and_resumes(pretrained: bool, tmp_path: Path) -> None:
    device = MaskedHead(MANY, width=WIDTH, length=LENGTH, blocks=1)
    before = {name: value.clone() for name, value in device.state_dict().items()}
    made = Diet(device, pretrained=pretrained)
    options = Training(epochs=2, patience=0, batch=50)
    with pytest.raises(Stopped):
        fit(made, DATA, None, options=options, seed=1, folder=tmp_path / "a", progress=stop_after(1))
    fit(made, DATA, None, options=options, seed=1, folder=tmp_path / "a")
    for name, value in made.device.state_dict().items():
        assert torch.equal(value, before[name]) == pretrained or "norm" in name or "bias" in name, name
    other = Diet(device, pretrained=pretrained)
    fit(other, DATA, None, options=options, seed=1, folder=tmp_path / "b")
    assert all(torch.equal(a, b) for a, b in zip(made.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("tied", [False, True])
def test_opposite_tastes_are_learned_by_masks_of_one_trained_model(tied: bool) -> None:
    torch.manual_seed(0)
    device = MaskedHead(tastes.ITEMS, width=16, blocks=1, length=1, dropout=0.0, tied=tied)
    tastes.pretrained(device)
    shared, personal = tastes.losses(Diet(device, history=5))
    assert personal < shared - 0.1


def test_opposite_tastes_are_learned_by_masks_of_a_random_body() -> None:
    torch.manual_seed(0)
    device = MaskedSASRec(tastes.ITEMS, width=16, blocks=1, length=1, dropout=0.0)
    _, personal = tastes.losses(Diet(device, history=5, keep=None, pretrained=False), steps=120)
    assert personal < np.log(12)  # whoever knows no taste takes twelve items for alike
