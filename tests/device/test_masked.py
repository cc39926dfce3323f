"""Masked models: one layer in numbers, equality with the shared model, bytes, and what vanished units save."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_weights import become
from torch import Tensor

from device.check import check_device_model
from device.errors import ConfigError
from device.models.assembled import linear
from device.models.masked import MaskedHead, MaskedSASRec, through
from device.models.personal_torch import PersonalTorch
from device.models.sasrec import SASRec
from device.models.torch_model import TorchModel
from device.personal import Personalized
from device.personal_codec import Personal, encode_personal
from device.seeds import rng

N_ITEMS, LENGTH, WIDTH = 20, 5, 4
KINDS: list[Callable[..., Any]] = [MaskedHead, MaskedSASRec]
HISTORY = torch.tensor([[0, 0, 4, 9, 2], [0, 0, 0, 0, 7], [1, 2, 3, 4, 5], [0, 0, 0, 0, 0]])
CANDIDATES = torch.tensor([[3, 8, 2], [7, 20, 1], [6, 5, 19], [1, 2, 3]])


def model(kind: Callable[..., Any], **options: Any) -> Any:
    """Weights ten times larger than those drawn, so that a mistake shows."""
    torch.manual_seed(1)
    made = kind(N_ITEMS, **{"width": WIDTH, "length": LENGTH, **options}).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    made.item.weight[0] = 0
    return made


def masks(made: Any, rows: int, seed: int = 0) -> Tensor:
    return torch.rand(rows, *made.layout["mask"].shape, generator=torch.Generator().manual_seed(seed)) < 0.6


def test_a_layer_of_two_units_and_two_inputs_in_numbers() -> None:
    weight = torch.tensor([[[1.0, 2, 10], [3, 4, 20]]])  # one layer, the bias last
    mask = torch.tensor([[[[1, 0, 1], [0, 0, 1]]], [[[0, 1, 0], [1, 1, 0]]]], dtype=torch.bool)  # of two devices
    x = torch.tensor([[[5.0, 7.0]], [[5.0, 7.0]]])
    assert linear(x, through(weight, None, 0)).tolist() == [[[29, 63]]] * 2  # 5 + 14 + 10, 15 + 28 + 20
    assert linear(x, through(weight, mask, 0)).tolist() == [[[15, 20]], [[14, 43]]]  # 5 + 10, 20 | 14, 15 + 28


def test_tied_layers_read_one_matrix_through_their_own_masks() -> None:
    weight = torch.tensor([[[1.0, 2, 10], [3, 4, 20]]])
    mask = torch.tensor([[[[1, 0, 0], [1, 0, 0]], [[0, 0, 1], [0, 0, 0]]]], dtype=torch.bool)
    assert through(weight, mask, 0).tolist() == [[[1, 0, 0], [3, 0, 0]]]
    assert through(weight, mask, 1).tolist() == [[[0, 0, 10], [0, 0, 0]]]
    with pytest.raises(ConfigError, match="1 or more"):
        MaskedHead(N_ITEMS, depth=0)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_bit_set_is_the_shared_model_and_others_are_not(kind: Callable[..., Any], tied: bool) -> None:
    made = model(kind, tied=tied)
    personal: Personalized = PersonalTorch(made)
    params = personal.init(rng(0, "start"))
    history, candidates = HISTORY.numpy().astype(np.int32), CANDIDATES.numpy().astype(np.int32)
    unpatched = {name: np.repeat(part[None], 4, 0) for name, part in personal.unpatched().items()}
    shared = personal.score(params, history, candidates)
    assert np.allclose(personal.score_personal(params, unpatched, history, candidates), shared, atol=1e-6)
    changed = personal.score_personal(params, {"mask": masks(made, 4).numpy()}, history, candidates)
    assert (np.abs(changed - shared).max(1) > 1e-5).all()
    check_device_model(made, n_items=N_ITEMS, length=LENGTH).raise_on_failure()


@pytest.mark.parametrize("kind", KINDS)
def test_catalogue_and_states_agree_with_forward(kind: Callable[..., Any]) -> None:
    made = model(kind)
    mask = masks(made, 4)
    for given_mask in (None, mask):
        scores = made(HISTORY, CANDIDATES, given_mask)
        assert torch.allclose(made.catalogue(HISTORY, given_mask).gather(1, CANDIDATES), scores, atol=1e-6)
        state = made.states(HISTORY, given_mask)[:, -1]
        assert torch.allclose(torch.einsum("bd,bcd->bc", state, made.item(CANDIDATES)), scores, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(rows=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_a_batch_equals_single_devices(kind: Callable[..., Any], rows: int, seed: int) -> None:
    made, numbers = model(kind), torch.Generator().manual_seed(seed)
    history = torch.randint(0, N_ITEMS + 1, (rows, LENGTH), generator=numbers)
    candidates = torch.randint(1, N_ITEMS + 1, (rows, 3), generator=numbers)
    mask = masks(made, rows, seed)
    one_by_one = [made(history[i : i + 1], candidates[i : i + 1], mask[i : i + 1]) for i in range(rows)]
    assert torch.allclose(made(history, candidates, mask), torch.cat(one_by_one), atol=1e-6)


def test_a_masked_body_is_a_sasrec_whose_weights_are_masked() -> None:
    sasrec, made = model(SASRec), model(MaskedSASRec)
    become(made, sasrec)
    assert torch.allclose(made(HISTORY, CANDIDATES), sasrec(HISTORY, CANDIDATES), atol=1e-6)
    assert torch.allclose(made.states(HISTORY), sasrec.states(HISTORY), atol=1e-6)
    mask = masks(made, 1)
    for index, block in enumerate(sasrec.blocks):
        for part, first, count in ((block.qkv, 0, 3), (block.out, 3, 1), (block.up, 4, 1), (block.down, 5, 1)):
            bits = mask[0, 6 * index + first : 6 * index + first + count].flatten(0, 1)
            part.weight.mul_(bits[:, :-1])
            part.bias.mul_(bits[:, -1])
    assert torch.allclose(made(HISTORY, CANDIDATES, mask.expand(4, -1, -1, -1)), sasrec(HISTORY, CANDIDATES), atol=1e-6)


def test_bytes_of_a_mask_by_hand() -> None:
    head, body = MaskedHead(N_ITEMS), MaskedSASRec(N_ITEMS)
    assert head.layout["mask"].nbytes == 2 * 32 * 33 // 8 == 264
    assert body.layout["mask"].nbytes == 12 * 32 * 33 // 8 == 1584
    one = np.ones((1, 2, 32, 33), np.bool_)
    message = encode_personal(Personal(np.array([3]), np.array([5]), {"mask": one}), head.layout)
    assert len(message[0]) == 264 + 8


def installed(made: torch.nn.Module) -> int:
    return sum(array.nbytes for array in TorchModel(made).init(rng(0, "install")).values())


def test_bytes_installed_with_one_stored_matrix() -> None:
    matrix = 32 * 33 * 4
    assert installed(MaskedHead(N_ITEMS)) - installed(MaskedHead(N_ITEMS, tied=True)) == matrix
    assert installed(MaskedHead(N_ITEMS, depth=6)) - installed(MaskedHead(N_ITEMS, depth=6, tied=True)) == 5 * matrix
    assert installed(MaskedSASRec(N_ITEMS)) - installed(MaskedSASRec(N_ITEMS, tied=True)) == 11 * matrix
    tables = (N_ITEMS + 1 + 50) * 32 * 4 + 5 * 2 * 32 * 4  # items and positions, five norms
    assert installed(MaskedSASRec(N_ITEMS, tied=True)) == tables + matrix


def test_flops_of_full_masks_are_those_of_the_shared_model() -> None:
    full = np.ones((2, 12, 32, 33), np.bool_)
    made = MaskedSASRec(N_ITEMS)
    assert made.flops_of({"mask": full}, 50, 20).tolist() == [SASRec(N_ITEMS).flops(50, 20)] * 2
    assert made.flops(50, 20) == SASRec(N_ITEMS).flops(50, 20)
    head = MaskedHead(N_ITEMS)
    assert head.flops(50, 20) == SASRec(N_ITEMS).flops(50, 20) + 2 * 2 * 32 * 32
    assert head.flops_of({"mask": full[:, :2]}, 50, 20).tolist() == [head.flops(50, 20)] * 2


def test_only_units_that_vanish_save_operations() -> None:
    head = MaskedHead(N_ITEMS)
    mask = np.ones((4, 2, 32, 33), np.bool_)
    mask[0, :, :, 1:] = False  # all units keep one bit of 33: nothing saved
    mask[1, 0, 7] = False  # a hidden unit: 32 products to make it, 32 to read it
    mask[2, 1, 7] = False  # a unit of the state: 32 to make it, one per candidate
    mask[3, 0, :] = False  # no hidden unit left: both layers are free
    saved = head.flops(50, 20) - head.flops_of({"mask": mask}, 50, 20)
    assert saved.tolist() == [0, 2 * 64, 2 * (32 + 20), 2 * 2 * 32 * 32]
    body = MaskedSASRec(N_ITEMS, blocks=1)
    mask = np.ones((4, 6, 32, 33), np.bool_)
    mask[0, 0, 3] = False  # query: 32 at the newest position, and 50 of its products with the keys
    mask[1, 2, 3] = False  # value: 32 at 50 positions, 50 to weigh them, 32 in the output layer
    mask[2, 4, 3] = False  # feed-forward: 32 up, 32 down
    mask[3, :2, 3] = False  # query and key: the 50 products are saved once
    saved = body.flops(50, 20) - body.flops_of({"mask": mask}, 50, 20)
    assert saved.tolist() == [2 * (32 + 50), 2 * (50 * 32 + 50 + 32), 2 * 64, 2 * (32 + 50 * 32 + 50)]


def test_vanished_units_can_be_left_out() -> None:
    made = model(MaskedHead)
    mask = masks(made, 1)
    mask[0, 0, [0, 2]] = False
    x = made.body.states(HISTORY)[:, -1]
    first, second = (through(made.weight, mask, layer)[0] for layer in range(2))
    left = [1, 3]
    hidden = torch.tanh(x @ first[left, :-1].T + first[left, -1])
    state = hidden @ second[:, left].T + second[:, -1]
    scores = torch.einsum("bd,bcd->bc", state, made.item(CANDIDATES))
    assert torch.allclose(made(HISTORY, CANDIDATES, mask.expand(4, -1, -1, -1)), scores, atol=1e-6)
