"""Pseudo-labels in supernet training: which rows count, by hand; who teaches, and who learns."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from elastic_parts import KINDS, elastic
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cloud.supernet import Supernet
from cloud.unlabelled import HIDDEN, Guess, Unlabelled, thinned
from device.errors import ConfigError
from device.models.elastic import ElasticSASRec
from device.models.slimming import narrowed

HISTORY = torch.tensor([[0, 0, 4, 9], [1, 2, 3, 4], [0, 0, 0, 7]])
TARGET = torch.tensor([5, 6, 30])


class Says(nn.Module):
    """Gives every row's newest item's row of a table [n + 1, n + 1] as scores."""

    def __init__(self, table: list[list[float]]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor(table))
        self.n_items = len(table) - 1

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        return self.table[history[:, -1]].gather(1, candidates)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_confident_and_unconfident_rows_by_hand() -> None:
    third = math.log(8)
    teacher = Says(
        [[0.0] * 6, [0, 0, 0, third, 0, 0], [0, 0, 0, 0, 0, 0], [0, 9, 9, 9, 9, 9], [0.0] * 6, [0.0] * 6],
    )  # fmt: skip
    history, target = torch.tensor([[0, 1], [0, 2], [4, 3]]), torch.tensor([2, 1, 5])
    guess = Unlabelled(threshold=0.8, candidates=5, dropped=0.0).guess(teacher, history, target, generator())
    # User 0 does not choose among 1 and 2: 3, 4 and 5 are left with 8 : 1 : 1, so 3 has 0.8. User 1: 3, 4, 5 alike.
    # User 2: 1 and 2 are left, alike.
    assert guess.confident.tolist() == [True, False, False]
    assert guess.candidates[guess.label[0]] == 3
    assert sorted(guess.candidates.tolist()) == [1, 2, 3, 4, 5]
    for row, known in enumerate([{1, 2}, {2, 1}, {4, 3, 5}]):
        assert set(guess.candidates[guess.chosen[row]].tolist()) == known
    student = Says([[0.0] * 6] * 6)
    # The student finds 3 among three alike: ln 3; two rows count as 0; a mean over three.
    assert guess.loss(student).item() == pytest.approx(math.log(3) / 3)
    guess.loss(student).backward()
    assert student.table.grad is not None
    assert not student.table.grad[2:].any()
    # a third of softmax minus label: (1/3 - 1) / 3 for item 3, (1/3) / 3 for 4 and 5, nothing for what was taken
    assert student.table.grad[1].tolist() == pytest.approx([0, 0, 0, -2 / 9, 1 / 9, 1 / 9])
    assert teacher.table.grad is None


def test_one_item_to_choose_from_is_no_question() -> None:
    teacher = Says([[0.0] * 4] * 4)
    guess = Unlabelled(threshold=0.5, candidates=3).guess(
        teacher, torch.tensor([[0, 1], [2, 1]]), torch.tensor([2, 3]), generator()
    )
    assert guess.confident.tolist() == [False, False]
    assert guess.loss(teacher).item() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_labelled_part_and_of_every_subnet_that_learned(kind: Any) -> None:
    model, part = elastic(kind), Unlabelled(threshold=0.05, candidates=9, weight=0.25)
    plain, net = Supernet(model, distilled=0.0), Supernet(model, distilled=0.0, unlabelled=part)
    labelled = plain.training_loss(HISTORY, TARGET, epoch=0, generator=generator(3)).item()
    loss = net.training_loss(HISTORY, TARGET, epoch=0, generator=generator(3)).item()
    used = generator(3)
    net.lesson(HISTORY, TARGET, used)
    specs = net.drawn(used)
    guess = part.guess(model, HISTORY, TARGET, used)
    assert guess.confident.any()
    taught = [model, *(narrowed(model, spec) for spec in specs)]
    expected = sum(guess.loss(one).item() for one in taught) / len(taught)
    assert loss == pytest.approx(labelled + 0.25 * expected, rel=1e-5)
    assert expected > 0
    assert net.training_loss(HISTORY, TARGET, epoch=0, generator=generator(3)).item() == loss


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_unlabelled_part_reach_the_weights(kind: Any) -> None:
    model = elastic(kind).train()
    guess = Unlabelled(threshold=0.01, candidates=9).guess(model, HISTORY, TARGET, generator())
    assert model.training  # it guessed in eval mode
    guess.loss(model).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0 or name.endswith(("key.bias", "leave.bias")), name


def test_guesses_are_made_without_dropout_and_of_the_whole_history() -> None:
    model = elastic(ElasticSASRec, dropout=0.5).train()
    part = Unlabelled(threshold=0.01, candidates=9, dropped=0.9)
    guesses = [part.guess(model, HISTORY, TARGET, generator(1)) for _ in range(2)]
    whole = part.guess(model.eval(), HISTORY, TARGET, generator(1))
    for guess in guesses:
        assert torch.equal(guess.label, whole.label)
        assert torch.equal(guess.history, whole.history)
    scores = model(HISTORY, whole.candidates.expand(3, -1)).masked_fill(whole.chosen, HIDDEN)
    assert torch.equal(scores.argmax(1), whole.label)
    assert not torch.equal(whole.history, HISTORY)


@given(
    st.lists(st.lists(st.integers(1, 9), max_size=6), min_size=1, max_size=4), st.floats(0, 0.99), st.integers(0, 99)
)
def test_thinning_keeps_order_and_the_newest(users: list[list[int]], dropped: float, seed: int) -> None:
    history = torch.tensor([[0] * (6 - len(user)) + user for user in users])
    made = thinned(history, dropped, generator(seed))
    assert made.shape == history.shape
    assert torch.equal(made[:, -1], history[:, -1])
    for row, user in zip(made.tolist(), users, strict=True):
        left = [item for item in row if item]
        assert row == [0] * (6 - len(left)) + left
        rest = iter(user)
        assert all(item in rest for item in left)  # a subsequence
    assert torch.equal(thinned(history, 0.0, generator(seed)), history)


def test_a_share_is_dropped() -> None:
    made = thinned(torch.ones(400, 51, dtype=torch.long), 0.3, generator())
    assert (made[:, :-1] == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)  # 20,000 draws: 3 sd


@pytest.mark.parametrize(
    "options", [{"threshold": 0.0}, {"threshold": 1.5}, {"candidates": 1}, {"weight": 0.0}, {"dropped": 1.0}]
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=name):
        Unlabelled(**options)


def test_a_supernet_without_the_part_learns_what_it_did() -> None:
    model = elastic(ElasticSASRec)
    with_part = Supernet(model, unlabelled=Unlabelled(threshold=1.0))  # nobody is that sure
    plain = Supernet(model)
    values = [n.training_loss(HISTORY, TARGET, epoch=0, generator=generator(2)).item() for n in (with_part, plain)]
    assert values[0] == values[1]
    nothing = Guess(HISTORY[:0], torch.tensor([1, 2]), torch.zeros(0, 2).bool(), TARGET[:0], torch.zeros(0).bool())
    assert np.isfinite(nothing.loss(model).item())
