"""SOLID: the codebook, the two generators and their clip, what a request carries, and that it learns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from two_tastes import KNOWN, N_ITEMS, WIDTH, backbone, batch, fast_step, hits, learn, shared_hits, untouched

from cloud.options import Training
from cloud.personalizers.solid import LIMIT, Codebook, Solid, codebook
from cloud.personalizers.trained import TrainedPersonalizer
from cloud.sequences import Sequences
from cloud.training import fit
from device.errors import ConfigError
from device.models.personal_torch import PersonalTorch
from device.models.sasrec import SASRec
from device.seeds import draws

HISTORY = torch.tensor([[0, 0, 0, 4, 9, 2], [0, 0, 0, 0, 0, 7], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 0]])
CANDIDATES = torch.tensor([[3, 8, 2], [7, 10, 1], [6, 5, 12], [1, 2, 3]])
GROUPS = np.array([0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4])


def book() -> Codebook:
    """Four groups of three neighbours on the circle, far from one another."""
    return Codebook(GROUPS, np.concatenate([np.zeros((1, WIDTH)), 2 * np.eye(4, WIDTH)]).astype(np.float32))


def table() -> NDArray[np.float32]:
    """Item embeddings close to the codes of their groups; zeros for padding."""
    spread = 0.05 * np.random.default_rng(0).standard_normal((N_ITEMS + 1, WIDTH))
    made: NDArray[np.float32] = ((book().codes[GROUPS] + spread) * (GROUPS > 0)[:, None]).astype(np.float32)
    return made


def shared(length: int = 1) -> SASRec:
    """A model with these embeddings."""
    torch.manual_seed(3)
    made = backbone(length)
    with torch.no_grad():
        made.item.weight.copy_(torch.from_numpy(table()))
    return made


def solid(**options: Any) -> Solid:
    return Solid(shared(), **{"groups": book(), "code": 8, "uploaded": KNOWN, **options}).eval()


def strong(**options: Any) -> Solid:
    made = solid(**options).requires_grad_(False)
    made.group_trunk.out.weight *= 10
    made.item_trunk.out.weight *= 30
    return made


def test_k_means_finds_planted_groups_again() -> None:
    found = codebook(table(), 4, seed=1)
    again = codebook(table(), 4, seed=1)
    assert np.array_equal(found.groups, again.groups)
    assert np.array_equal(found.codes, again.codes)
    assert found.groups[0] == 0
    assert not found.codes[0].any()
    for group in range(1, 5):
        members = found.groups == group
        np.testing.assert_allclose(found.codes[group], table()[members].mean(0), atol=1e-6)
        assert len(set(GROUPS[members])) == 1  # none is cut, and four of them are all there is


def test_what_a_request_carries() -> None:
    items, semantics = solid(), solid(upload="semantics")
    assert torch.equal(items.request(HISTORY), HISTORY)
    assert semantics.request(HISTORY)[0].tolist() == [0, 0, 0, 2, 3, 1]  # items 4, 9, 2
    assert "groups" not in items.device.state_dict()
    groups = semantics.device.state_dict()["groups"]
    assert groups.numel() * groups.element_size() == N_ITEMS + 1  # a byte per item to install
    assert "groups" not in {name.split(".")[0] for name in semantics.state_dict()}


def test_semantics_hide_which_item_of_a_group_it_was() -> None:
    twin = torch.tensor([[0, 0, 0, 5, 7, 3], [0, 0, 0, 0, 0, 8], [2, 3, 1, 6, 4, 5], [0, 0, 0, 0, 0, 0]])
    blind, seeing = strong(upload="semantics"), strong()
    assert torch.equal(blind.patches(HISTORY)["head"], blind.patches(twin)["head"])
    other = twin.clone()
    other[0, 3] = 12
    assert not torch.allclose(blind.patches(HISTORY)["head"][0], blind.patches(other)["head"][0])
    # With the codebook's own embeddings an item's nearest code is that of its group: both hear the same.
    torch.testing.assert_close(seeing.patches(HISTORY)["head"], blind.patches(HISTORY)["head"])


def test_the_clip_by_hand() -> None:
    """A group part of 0.5 and item parts of 0.004, 0.3, -0.02 make 0.504, 0.51, 0.49."""
    made = solid().requires_grad_(False)
    made.group_projection.zero_()
    made.group_trunk.out.weight.zero_()
    made.group_trunk.out.bias.fill_(0.5)
    made.group_projection[0] = 1.0
    made.item_projection.zero_()
    made.item_bias[:3] = torch.tensor([0.004, 0.3, -0.02])
    head = made.patches(HISTORY)["head"]
    torch.testing.assert_close(head[:3, :4], torch.tensor([[0.504, 0.51, 0.49, 0.5]] * 3))
    assert not head[3].any()  # an empty history makes no patch, in spite of the bias


def test_items_change_no_weight_by_more_than_the_limit() -> None:
    made = strong()
    both = made.patches(HISTORY)["head"]
    made.item_projection.zero_()
    groups_only = made.patches(HISTORY)["head"]
    moved = (both - groups_only).abs()
    assert LIMIT * 0.99 < moved.max() <= LIMIT + 1e-6
    assert (moved[:3].amax(1) > 1e-4).all()


def test_an_item_is_replaced_by_the_code_nearest_to_its_embedding() -> None:
    made = strong()
    groups, nearest = made._read(HISTORY)
    assert groups[0].tolist() == [0, 0, 0, 2, 3, 1]
    assert torch.equal(nearest[0, 3:], made.codes[[2, 3, 1]])
    made.device.backbone.item.weight[4] = made.codes[4] + 0.1  # an item that has moved over in training
    groups, nearest = made._read(HISTORY)
    assert groups[0, 3] == 2
    assert torch.equal(nearest[0, 3], made.codes[4])


def test_the_codebook_term_by_hand() -> None:
    """Group embeddings begin as the codes, so 0; moved by 3 in one of 16 numbers of group 1: 9 / 16 of its share."""
    made = solid().requires_grad_(False)
    assert made.codebook_loss(HISTORY) == 0
    made.group.weight[1, 0] += 3
    # of the 3 + 1 + 6 known items 2, and 1, 2, 3 are of group 1
    assert made.codebook_loss(HISTORY).item() == pytest.approx(9 / 16 * 4 / 10, rel=1e-6)
    generator = torch.Generator().manual_seed(0)
    target = torch.tensor([1, 2, 3, 4])
    plain = torch.nn.functional.cross_entropy(made.catalogue(HISTORY)[:, 1:], target - 1)
    made.device.backbone.train(False)
    loss = made.training_loss(HISTORY, target, epoch=0, generator=generator)
    torch.testing.assert_close(loss, plain + 0.1 * 9 / 16 * 0.4)


def test_the_decoder_is_32_64_32() -> None:
    made = Solid(backbone(width=32), groups=4)
    assert [tuple(p.shape) for p in made.decoder.parameters()] == [(64, 32), (64,), (32, 64), (32,)]
    assert {name: part.nbytes for name, part in made.layout.items()} == {"head": 8448}


@pytest.mark.parametrize("options", [{}, {"upload": "semantics"}, {"loss": "bce"}])
def test_training_reaches_every_parameter_and_no_code(options: dict[str, Any]) -> None:
    made = Solid(shared(KNOWN), groups=book(), code=8, **options)
    codes = made.codes.clone()
    assert untouched(made, 2) == set()
    assert torch.equal(made.codes, codes)


def test_fresh_weights_keep_the_codebook() -> None:
    made = solid()
    learn(made, 2)
    made.reset()
    torch.testing.assert_close(made.device.backbone.item.weight, torch.from_numpy(table()))
    assert torch.equal(made.group.weight, made.codes)


@pytest.mark.parametrize("upload", ["items", "semantics"])
def test_a_batch_equals_single_devices_and_the_halves_the_whole(upload: str) -> None:
    made = strong(upload=upload)
    whole, scores = made.patches(HISTORY)["head"], made(HISTORY, CANDIDATES)
    for row in range(4):
        torch.testing.assert_close(made.patches(HISTORY[row : row + 1])["head"][0], whole[row], atol=1e-6, rtol=1e-5)
    changed = (scores - made.device(HISTORY, CANDIDATES)).abs().sum(1)
    assert (changed[:3] > 1e-3).all()
    assert changed[3] == 0
    known, candidates, who = HISTORY.numpy().astype(np.int32), CANDIDATES.numpy().astype(np.int32), np.arange(4)
    personals = TrainedPersonalizer(made).personalize(known, who, rng=draws(0, "solid", who, who))
    params = {name: value.numpy() for name, value in made.device.state_dict().items()}
    wrapped = PersonalTorch(made.device).score_personal(params, personals.patches, known, candidates)
    np.testing.assert_allclose(wrapped, scores, atol=1e-5)


@pytest.mark.parametrize("upload", ["items", "semantics"])
def test_two_opposite_tastes_show_in_their_groups(upload: str) -> None:
    made = solid(upload=upload)
    learn(made, 60)
    assert shared_hits() < 0.6
    assert hits(made) > 0.9
    assert hits(made.device) < 0.6


def test_the_trainer_keeps_and_restores_it(tmp_path: Path) -> None:
    history, target = batch(20, torch.Generator().manual_seed(0))
    items = torch.cat([history, target[:, None]], 1).numpy().astype(np.int32)
    starts = np.arange(20) * (KNOWN + 1)
    data = Sequences(items.reshape(-1), starts, starts + KNOWN + 1)
    made, again = solid(upload="semantics"), solid(upload="semantics")
    options = Training(epochs=1, patience=0, batch=64, learning_rate=0.01)
    fit(made, data, None, options=options, seed=1, folder=tmp_path)
    fit(again, data, None, options=options, seed=1, folder=tmp_path)  # finished: loaded only
    with torch.no_grad():
        assert torch.equal(made(history, history), again(history, history))
    fast_step(made)


def clustered(**options: Any) -> Solid:
    """One that goes on from a model with the planted embeddings, and has to find their groups itself."""
    return solid(groups=4, **options)


@pytest.mark.parametrize("upload", ["items", "semantics"])
def test_groups_are_found_when_training_begins(upload: str, tmp_path: Path) -> None:
    made = clustered(upload=upload)
    assert made._holder.get_buffer("groups").tolist() == [0, *[1, 2, 3, 4] * 3]  # none found yet
    made.reset()
    groups = made._holder.get_buffer("groups").clone()
    found = {int(groups[i]): set(GROUPS[groups == groups[i]]) for i in range(1, N_ITEMS + 1)}
    assert sorted(found) == [1, 2, 3, 4]
    assert all(len(planted) == 1 for planted in found.values())
    assert torch.equal(made.group.weight, made.codes)
    for group in found:
        torch.testing.assert_close(made.codes[group], torch.from_numpy(table()[groups == group]).mean(0))
    again = clustered(upload=upload)
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.patches(HISTORY)["head"], made.patches(HISTORY)["head"])  # found groups are kept


def test_there_are_no_more_groups_than_items() -> None:
    made = Solid(backbone())
    assert made.codes.shape == (N_ITEMS + 1, WIDTH)
    made.reset()
    assert sorted(made.get_buffer("groups").tolist()) == list(range(N_ITEMS + 1))
    assert Solid(backbone(), groups=3).get_buffer("groups").dtype == torch.uint8


def test_wrong_codebooks_are_refused() -> None:
    for groups in (0, "many"):
        with pytest.raises(ConfigError, match="1 or more"):
            solid(groups=groups)
    with pytest.raises(ConfigError, match="embeddings of that catalogue and width"):
        Solid(backbone(width=8), groups=book())
    with pytest.raises(ConfigError, match="no place for the codebook's term"):
        solid(loss="positions")
