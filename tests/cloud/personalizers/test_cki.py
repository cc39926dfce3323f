"""CKI: a generated head spliced with the shared one, what learns by which loss, and that it learns."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from two_tastes import KNOWN, WIDTH, backbone, batch, fast_step, hits, learn, shared_hits, untouched

from cloud.options import Training
from cloud.personalizers.cki import Cki
from cloud.personalizers.splicing import first_share
from cloud.personalizers.trained import TrainedPersonalizer
from cloud.sequences import Sequences
from cloud.training import fit
from device.errors import ConfigError
from device.models.personal_head import head_layers
from device.models.personal_torch import PersonalTorch
from device.seeds import draws

HISTORY = torch.tensor([[0, 0, 0, 4, 9, 2], [0, 0, 0, 0, 0, 7], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 0]])
CANDIDATES = torch.tensor([[3, 8, 2], [7, 10, 1], [6, 5, 12], [1, 2, 3]])


def personal(**options: Any) -> Cki:
    torch.manual_seed(3)
    made = Cki(backbone(), **{"code": 8, "uploaded": KNOWN, **options}).eval()
    with torch.no_grad():
        made.duet.trunk.out.weight *= 10
    return made


def test_the_trainer_keeps_and_restores_it(tmp_path: Path) -> None:
    history, target = batch(20, torch.Generator().manual_seed(0))
    items = torch.cat([history, target[:, None]], 1).numpy().astype(np.int32)
    starts = np.arange(20) * (KNOWN + 1)
    data = Sequences(items.reshape(-1), starts, starts + KNOWN + 1)
    options = Training(epochs=1, patience=0, batch=64, learning_rate=0.01, loss="full")
    made, again = personal(), personal()
    fit(made, data, None, options=options, seed=1, folder=tmp_path)
    fit(again, data, None, options=options, seed=1, folder=tmp_path)
    with torch.no_grad():
        assert torch.equal(made(history, history), again(history, history))


def test_a_generated_head_is_spliced_with_the_shared_one() -> None:
    """W = s B + (1 - s) (B + z A), layer by layer, by the formula of two static nets."""
    made = personal().requires_grad_(False)
    shared, width = made.device.shared, WIDTH
    generated = made.duet.patches(HISTORY)["head"]
    patch = made.patches(HISTORY)["head"]
    for row in range(4):
        merged = []
        dynamic = head_layers(shared + generated[row], width)
        for first, second, local_map in zip(head_layers(shared, width), dynamic, made.maps, strict=True):
            s = first_share(first, second, local_map.weight)  # type: ignore[arg-type]
            merged.append((s * first + (1 - s) * second).flatten())
        torch.testing.assert_close(shared + patch[row], torch.cat(merged), atol=1e-6, rtol=1e-5)
    ratio = patch[:3] / generated[:3]
    assert (ratio > 0.41).all()
    assert (ratio < 0.59).all()
    assert not patch[3].any()
    assert {name: part.nbytes for name, part in made.layout.items()} == {"head": 2 * (16 * 16 + 16) * 4}


def test_a_batch_equals_single_devices_and_the_halves_the_whole() -> None:
    made = personal().requires_grad_(False)
    whole, scores = made.patches(HISTORY)["head"], made(HISTORY, CANDIDATES)
    for row in range(4):
        torch.testing.assert_close(made.patches(HISTORY[row : row + 1])["head"][0], whole[row], atol=1e-6, rtol=1e-5)
    changed = (scores - made.device(HISTORY, CANDIDATES)).abs().sum(1)
    assert (changed[:3] > 1e-5).all()
    assert changed[3] == 0
    known, candidates, who = HISTORY.numpy().astype(np.int32), CANDIDATES.numpy().astype(np.int32), np.arange(4)
    personals = TrainedPersonalizer(made).personalize(known, who, rng=draws(0, "cki", who, who))
    params = {name: value.numpy() for name, value in made.device.state_dict().items()}
    wrapped = PersonalTorch(made.device).score_personal(params, personals.patches, known, candidates)
    np.testing.assert_allclose(wrapped, scores, atol=1e-5)


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_everything_learns(loss: str) -> None:
    assert untouched(personal(loss=loss), 2) == set()


def gradients(made: Cki, loss: Callable[..., torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of a loss that draws what it draws from the same numbers each time."""
    made.train().zero_grad()
    torch.manual_seed(6)
    total = loss(HISTORY, torch.tensor([3, 8, 7, 1]), epoch=0, generator=torch.Generator().manual_seed(0))
    torch.autograd.backward(total)
    return {name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None}


def test_the_spliced_net_teaches_neither_head() -> None:
    """The heads learn by DUET's loss alone, the maps by that of the spliced net, what lies before the heads by both."""
    made = personal()
    both, duets = gradients(made, made.training_loss), gradients(made, made.duet.training_loss)
    heads = {name for name in duets if name.endswith("shared") or "projection" in name or "trunk" in name}
    assert len(heads) == 2 + 8
    for name, gradient in duets.items():
        assert torch.allclose(both[name], gradient, atol=1e-6) == (name in heads), name
    assert both.keys() - duets.keys() == {f"maps.{i}.weight" for i in range(4)}


def test_bfloat16() -> None:
    fast_step(personal())


def test_two_opposite_tastes_survive_the_splicing() -> None:
    made = personal()
    learn(made, 100)
    assert shared_hits() < 0.6
    assert hits(made) > 0.9
    assert hits(made.device) < 0.6


def test_what_cannot_be_spliced_is_refused() -> None:
    for options in ({"alone": 0.0}, {"alone": 1.0}, {"loss": "positions"}):
        with pytest.raises(ConfigError, match="0 < alone < 1"):
            personal(**options)
