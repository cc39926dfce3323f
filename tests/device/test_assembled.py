"""Assembled SASRec against ordinary ones of the same blocks; bytes and operations of each structure."""

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
from device.models.assembled import Assembled
from device.models.personal_torch import PersonalTorch
from device.models.sasrec import SASRec
from device.personal import Personalized
from device.seeds import rng

N_ITEMS, LENGTH, WIDTH, BLOCKS = 20, 5, 4, 3
HISTORY = torch.tensor([[0, 0, 4, 9, 2], [0, 0, 0, 0, 7], [1, 2, 3, 4, 5], [0, 0, 0, 0, 0]])
CANDIDATES = torch.tensor([[3, 8, 2], [7, 20, 1], [6, 5, 19], [1, 2, 3]])


def sasrec(**options: Any) -> SASRec:
    """Weights ten times larger than those drawn, so that a mistake shows."""
    torch.manual_seed(1)
    made = SASRec(N_ITEMS, **{"width": WIDTH, "length": LENGTH, "blocks": BLOCKS, **options})
    made.eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.2)
    made.item.weight[0] = 0
    return made


def assembled(personal: Any = "ffn") -> Assembled:
    made = Assembled(N_ITEMS, width=WIDTH, length=LENGTH, blocks=BLOCKS, personal=personal)
    become(made.eval().requires_grad_(False), sasrec())
    return made


def patch(made: Assembled, rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(seed)
    keep = torch.rand(rows, BLOCKS, generator=numbers) < 0.6
    return keep, torch.randn(rows, *made.layout["offset"].shape, generator=numbers) * 0.3


def test_without_a_patch_it_is_the_shared_sasrec() -> None:
    made, shared = assembled(), sasrec()
    scores = shared(HISTORY, CANDIDATES)
    assert torch.allclose(made(HISTORY, CANDIDATES), scores, atol=1e-6)
    assert torch.allclose(made.states(HISTORY), shared.states(HISTORY), atol=1e-6)
    assert torch.allclose(made.catalogue(HISTORY), shared.catalogue(HISTORY), atol=1e-6)
    personal: Personalized = PersonalTorch(made)
    params = personal.init(rng(0, "start"))
    arrays = HISTORY.numpy().astype(np.int32), CANDIDATES.numpy().astype(np.int32)
    unpatched = {name: np.repeat(part[None], 4, 0) for name, part in personal.unpatched().items()}
    alone = personal.score(params, *arrays)
    assert np.allclose(personal.score_personal(params, unpatched, *arrays), alone, atol=1e-6)
    keep, offset = patch(made, 4)
    changed = personal.score_personal(params, {"keep": keep.numpy(), "offset": offset.numpy()}, *arrays)
    assert (np.abs(changed - alone).max(1) > 1e-5).all()
    check_device_model(made, n_items=N_ITEMS, length=LENGTH).raise_on_failure()
    with pytest.raises(ConfigError, match="blocks = 0"):
        Assembled(N_ITEMS, blocks=0)


@pytest.mark.parametrize("kept", [(0,), (1, 2), (0, 2), (0, 1, 2), ()])
def test_skipped_blocks_are_as_if_they_were_not_there(kept: tuple[int, ...]) -> None:
    made, smaller = assembled(), sasrec(blocks=max(len(kept), 1))
    whole = sasrec()
    for mine, index in zip(smaller.blocks, kept, strict=False):
        mine.load_state_dict(whole.blocks[index].state_dict())
    for name in ("item", "position", "norm"):
        getattr(smaller, name).load_state_dict(getattr(whole, name).state_dict())
    keep = torch.zeros(4, BLOCKS, dtype=torch.bool)
    keep[:, list(kept)] = True
    scores = made(HISTORY, CANDIDATES, keep)
    if kept:
        wanted = smaller(HISTORY, CANDIDATES)
    else:  # nothing but the newest embedding
        state = whole.norm(whole.item(HISTORY[:, -1]) + whole.position.weight[0])
        wanted = torch.einsum("bd,bcd->bc", state, whole.item(CANDIDATES))
    assert torch.allclose(scores, wanted, atol=1e-6)
    assert made.flops_of_blocks(len(kept), 50) == (smaller.flops(50, 0) if kept else 0)


@pytest.mark.parametrize("personal", ["ffn", "block"])
def test_offsets_are_added_to_the_installed_weights(personal: str) -> None:
    made, changed = assembled(personal), sasrec()
    _, offset = patch(made, 1)
    for block, own in zip(changed.blocks, offset[0], strict=True):
        parts = (block.up, block.down) if personal == "ffn" else (block.qkv, block.out, block.up, block.down)
        rows = own.flatten(0, 1).split([len(part.bias) for part in parts])
        for part, values in zip(parts, rows, strict=True):
            part.weight.add_(values[:, :-1])
            part.bias.add_(values[:, -1])
    scores = made(HISTORY, CANDIDATES, None, offset.expand(4, *offset.shape[1:]))
    assert torch.allclose(scores, changed(HISTORY, CANDIDATES), atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(rows=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_a_batch_equals_single_devices(rows: int, seed: int) -> None:
    made, numbers = assembled("block"), torch.Generator().manual_seed(seed)
    history = torch.randint(0, N_ITEMS + 1, (rows, LENGTH), generator=numbers)
    candidates = torch.randint(1, N_ITEMS + 1, (rows, 3), generator=numbers)
    given_patch = patch(made, rows, seed)
    rowwise = [
        made(history[i : i + 1], candidates[i : i + 1], *(part[i : i + 1] for part in given_patch)) for i in range(rows)
    ]
    assert torch.allclose(made(history, candidates, *given_patch), torch.cat(rowwise), atol=3e-6)


def test_bytes_by_hand() -> None:
    keep = np.array([[0, 0, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1]], np.bool_)
    layer = 32 * 33 * 4
    for personal, layers in (("ffn", 2), ("block", 6)):
        made = Assembled(N_ITEMS, personal=personal)
        assert made.layout["offset"].nbytes == 4 * layers * layer
        assert made.payload_bytes({"keep": keep}).tolist() == [1 + n * layers * layer for n in (0, 2, 4)]
    assert 2 * layer == 8448


def test_operations_follow_the_structure() -> None:
    made = Assembled(N_ITEMS)
    keep = np.array([[0, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 1]], np.bool_)
    flops = made.flops_of({"keep": keep}, 50, 20)
    assert flops.tolist() == [
        2 * 20 * 32,
        SASRec(N_ITEMS, blocks=1).flops(50, 20),
        SASRec(N_ITEMS, blocks=4).flops(50, 20),
    ]
    assert made.flops(50, 20) == flops[2]
