"""DUET: what is trained and what is not, both transports, the losses, and that it learns what a shared model cannot."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from two_tastes import KNOWN, N_ITEMS, WIDTH, backbone, batch, fast_step, hits, learn, shared_hits, untouched

from cloud.losses import position_loss
from cloud.options import Training
from cloud.personalizers.duet import Duet, Trunk, next_item_loss, without_some
from cloud.personalizers.trained import TrainedPersonalizer
from cloud.sequences import Sequences
from cloud.training import fit
from device.errors import ConfigError
from device.models.personal_torch import PersonalTorch
from device.personal_codec import Personal, encode_personal
from device.seeds import draws

HISTORY = torch.tensor([[0, 0, 0, 4, 9, 2], [0, 0, 0, 0, 0, 7], [1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 0]])
CANDIDATES = torch.tensor([[3, 8, 2], [7, 10, 1], [6, 5, 12], [1, 2, 3]])
INT8: dict[str, Any] = {"send": "code", "kind": "int8"}
KINDS: list[dict[str, Any]] = [{}, {"send": "code"}, INT8, {"stable": True}, {"faithful": True}]


def duet(**options: Any) -> Duet:
    torch.manual_seed(3)
    return Duet(backbone(), **{"code": 8, "uploaded": KNOWN, **options}).eval()


def strong(**options: Any) -> Duet:
    """With generated weights ten times larger, so that a mistake shows."""
    made = duet(**options).requires_grad_(False)
    made.trunk.out.weight *= 10
    return made


def numbers(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("options", [{}, {"send": "code"}, INT8, {"stable": True}, {"loss": "bce"}])
def test_training_reaches_every_parameter(options: dict[str, Any]) -> None:
    made = duet(**options)
    assert {"device.shared", "trunk.gru.weight_hh_l0"} < dict(made.named_parameters()).keys()
    assert any("projection" in name for name, _ in made.named_parameters())
    assert untouched(made, 2) == untouched_by_one_item()


def untouched_by_one_item() -> set[str]:
    """A device that sees one item attends to nothing else: queries and keys have no effect there, so no gradient."""
    shared = backbone()
    return {f"device.backbone.{name}" for name in untouched(shared, 2)}


def test_a_backbone_with_a_history_leaves_nothing_untouched() -> None:
    torch.manual_seed(3)
    assert untouched(Duet(backbone(KNOWN), code=8), 2) == set()


def test_faithful_leaves_the_output_layers_as_drawn() -> None:
    made = duet(faithful=True)
    frozen = {
        name: value.clone() for name, value in made.state_dict().items() if name in ("projection", "device.shared")
    }
    learn(made, 3)
    assert len(frozen) == 2
    for name, value in frozen.items():
        assert torch.equal(made.state_dict()[name], value)
    assert made.alone == 0


def test_patches_by_hand() -> None:
    made = strong()
    z = made.codes(HISTORY)[:, -1]
    for row in range(3):
        newest = HISTORY[row][HISTORY[row] > 0][None]
        state = made.trunk.gru(made.item(newest))[1][0]
        expected = made.trunk.out(torch.tanh(made.trunk.hidden(state)))
        torch.testing.assert_close(z[row], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made.patches(HISTORY)["head"], z @ made.projection)
    assert torch.equal(made.patches(HISTORY)["head"][3], torch.zeros(2 * (WIDTH * WIDTH + WIDTH)))  # nothing known


def test_codes_know_no_later_item_and_no_padding() -> None:
    torch.manual_seed(0)
    trunk, items = Trunk(4, 3), nn.Embedding(20, 4, padding_idx=0)
    history = torch.tensor([[0, 0, 3, 8, 5]])
    codes = trunk(items(history), history != 0)
    assert torch.equal(codes[:, :2], torch.zeros(1, 2, 3))
    for end in (3, 4, 5):
        known = history[:, 2:end]
        torch.testing.assert_close(trunk(items(known), known != 0)[:, -1], codes[:, end - 1], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("options", KINDS)
def test_a_batch_equals_single_devices(options: dict[str, Any]) -> None:
    made = strong(**options)
    whole = made.patches(HISTORY)
    scores = made(HISTORY, CANDIDATES)
    for row in range(4):
        one = made.patches(HISTORY[row : row + 1])
        for name, values in one.items():
            torch.testing.assert_close(values[0], whole[name][row], atol=1e-5, rtol=1e-5)
        single = made(HISTORY[row : row + 1], CANDIDATES[row : row + 1])
        torch.testing.assert_close(single[0], scores[row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", KINDS)
def test_patches_change_scores_and_an_empty_history_changes_none(options: dict[str, Any]) -> None:
    made = strong(**options)
    changed = (made(HISTORY, CANDIDATES) - made.device(HISTORY, CANDIDATES)).abs().sum(1)
    assert (changed[:3] > 1e-5).all()
    assert changed[3] == 0


def test_the_cloud_reads_what_is_uploaded_and_no_more() -> None:
    made = strong(uploaded=3)
    other = HISTORY.clone()
    other[:, :3] = 1
    assert torch.equal(made.patches(other)["head"], made.patches(HISTORY)["head"])
    assert made.length == 3
    assert made.device.length == 1
    other[:, 3] = 5
    assert not torch.allclose(made.patches(other)["head"][2], made.patches(HISTORY)["head"][2])


def as_code(made: Duet, **options: Any) -> Duet:
    """The same weights, with the projection on the device's side of the wire."""
    coded = duet(send="code", **options).requires_grad_(False)
    missing, unexpected = coded.load_state_dict(made.state_dict(), strict=False)
    assert unexpected == ["projection"]
    assert set(missing) <= {"device.projection", "device.step"}
    coded.device.projection.copy_(made.projection)
    return coded


@pytest.mark.parametrize("stable", [False, True])
def test_codes_and_weights_say_the_same(stable: bool) -> None:
    made = strong(stable=stable)
    coded = as_code(made, stable=stable)
    assert {name: part.nbytes for name, part in coded.layout.items()} == {"code": 32}  # 8 float32
    torch.testing.assert_close(coded(HISTORY, CANDIDATES), made(HISTORY, CANDIDATES), atol=1e-5, rtol=1e-5)


def test_int8_codes_are_whole_steps_of_the_trained_range() -> None:
    made = duet().requires_grad_(False)
    small = as_code(made, kind="int8")
    small.device.step.copy_(made.codes(HISTORY).abs().flatten(0, 1).amax(0) / 127)
    code = small.patches(HISTORY)["code"]
    assert code.dtype == torch.int8
    assert small.layout["code"].nbytes == 8
    assert code[:3].abs().max() > 60
    z = made.codes(HISTORY)[:, -1]
    assert ((code * small.device.step - z).abs() <= small.device.step / 2 + 1e-7).all()
    torch.testing.assert_close(small(HISTORY, CANDIDATES), made(HISTORY, CANDIDATES), atol=1e-3, rtol=0.02)
    small.device.step /= 100
    assert small.patches(HISTORY)["code"].min() >= -127  # a code out of range stops at the last step


def test_training_follows_the_range_of_codes() -> None:
    made = duet(**INT8).train()
    made.alone = 0.0
    largest = made.codes(HISTORY).abs().flatten(0, 1).amax(0)
    assert largest.max() < 1  # where the range begins
    torch.testing.assert_close(made.device.step * 127, 0.99 * torch.ones(8) + 0.01 * largest)
    with torch.no_grad():
        made.trunk.out.bias[0] = 5.0  # one number out of reach, and within it at once: only there are gradients
    largest = made.codes(HISTORY).detach().abs().flatten(0, 1).amax(0)
    assert largest[0] > 4
    assert float(made.device.step[0] * 127) == pytest.approx(float(largest[0]))
    code = made.patches(HISTORY)["code"]
    assert code.dtype == torch.float32  # of whole steps, with gradients
    assert torch.equal(code, code.round())
    assert code.requires_grad


@pytest.mark.parametrize("options", [{}, {"send": "code"}, INT8])
def test_the_halves_meet_again_in_numpy(options: dict[str, Any]) -> None:
    """Cloud half wrapped, patch on the wire, device half wrapped: the scores of the whole module."""
    made = strong(**options)
    known, candidates = HISTORY.numpy().astype(np.int32), CANDIDATES.numpy().astype(np.int32)
    who = np.arange(4)
    personals = TrainedPersonalizer(made).personalize(known, who, rng=draws(0, "duet", who, who))
    sent = encode_personal(Personal(who, who, personals.patches), made.layout)
    assert {len(body) for body in sent} == {8 + sum(part.nbytes for part in made.layout.values())}
    model = PersonalTorch(made.device)
    params = {name: value.numpy() for name, value in made.device.state_dict().items()}
    scores = model.score_personal(params, personals.patches, known, candidates)
    np.testing.assert_allclose(scores, made(HISTORY, CANDIDATES), atol=1e-5)


@pytest.mark.parametrize("options", [{}, INT8])
def test_two_opposite_tastes_need_personal_weights(options: dict[str, Any]) -> None:
    made = duet(**options)
    learn(made, 100)
    assert shared_hits() < 0.6
    assert hits(made) > 0.95
    assert 0.4 < hits(made.device) < 0.6  # without a patch it is the shared model's equal: `alone`


@pytest.mark.parametrize("options", KINDS)
def test_bfloat16(options: dict[str, Any]) -> None:
    fast_step(duet(**options))


def test_rows_alone() -> None:
    torch.manual_seed(0)
    rows = without_some(torch.ones(4000, 2, 3), 0.1)
    lost = (rows == 0).flatten(1).all(1)
    assert ((rows == 1).flatten(1).all(1) | lost).all()
    assert abs(float(lost.float().mean()) - 0.1) < 0.02  # four standard errors of .0047
    assert without_some(rows, 0.0) is rows


def test_positions_are_learned_as_the_shared_model_learns() -> None:
    torch.manual_seed(0)
    made = Duet(backbone(KNOWN), code=8, loss="positions").eval().requires_grad_(False)
    made.device.backbone.position.weight.zero_()  # counted from the end of a window, so not the same in a prefix
    assert not hasattr(made, "training_loss")  # so that the trainer asks for states
    states = made.states(HISTORY)
    for end in range(1, KNOWN + 1):
        newest = made.device.personal(
            made.device.backbone.states(HISTORY[:, :end])[:, -1], **made.patches(HISTORY[:, :end])
        )
        torch.testing.assert_close(states[2, end - 1], newest[2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(states[:, -1] @ made.item.weight.T, made.catalogue(HISTORY), atol=1e-5, rtol=1e-5)
    target = torch.tensor([[0, 0, 0, 9, 2, 1]])
    loss = position_loss(made, HISTORY[:1], target, options=Training(loss="full"), generator=numbers())
    expected = F.cross_entropy((states[0, 3:] @ made.item.weight.T)[:, 1:], target[0, 3:] - 1)
    torch.testing.assert_close(loss, expected)
    with pytest.raises(ConfigError, match="leave uploaded out"):
        duet(loss="positions")


class Fixed(nn.Module):
    """Scores of three items, the same for everybody."""

    n_items = 3

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        return torch.tensor([0.0, 1.0, 2.0, 4.0])[candidates]

    def catalogue(self, history: Tensor) -> Tensor:
        return torch.tensor([0.0, 1.0, 2.0, 4.0]).expand(len(history), -1)


def test_losses_by_hand() -> None:
    """Scores 1, 2, 4, target 2. Softmax: log(e + e^2 + e^4) - 2. BCE: log(1 + e^-2) + log(1 + e^s) per negative s."""
    history, target = torch.zeros(1, 2, dtype=torch.long), torch.tensor([2])
    softmax = next_item_loss(Fixed(), history, target, loss="softmax", negatives=0, generator=numbers())
    assert softmax.item() == pytest.approx(np.log(np.exp(1) + np.exp(2) + np.exp(4)) - 2, rel=1e-6)
    drawn = torch.randint(1, 4, (1, 5), generator=numbers())[0].tolist()
    assert {1, 2, 3} == set(drawn)  # the target is among them, and does not count
    each = [np.log1p(np.exp(-2))] + [np.log1p(np.exp({1: 1, 3: 4}[item])) for item in drawn if item != 2]
    bce = next_item_loss(Fixed(), history, target, loss="bce", negatives=5, generator=numbers())
    assert bce.item() == pytest.approx(np.mean(each), rel=1e-6)


def test_the_trainer_keeps_and_restores_it(tmp_path: Path) -> None:
    history, target = batch(20, numbers())
    items = torch.cat([history, target[:, None]], 1).numpy().astype(np.int32)
    starts = np.arange(20) * (KNOWN + 1)
    data = Sequences(items.reshape(-1), starts, starts + KNOWN + 1)
    made, again = duet(**INT8), duet(**INT8)
    options = Training(epochs=1, patience=0, batch=64, learning_rate=0.01)
    fit(made, data, None, options=options, seed=1, folder=tmp_path)
    fit(again, data, None, options=options, seed=1, folder=tmp_path)  # finished: loaded only
    with torch.no_grad():
        assert torch.equal(made(history, history), again(history, history))
    assert not torch.equal(made.device.step, torch.full((8,), 1 / 127))
    assert made.n_items == N_ITEMS
