"""Lessons from lists that hold their target: which prefixes count, the loss by hand, lists made once."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cloud.found import FromFound, list_loss
from cloud.generator import Generated
from cloud.lessons import Made, Recent
from cloud.options import Training
from cloud.sequences import Sequences
from device.errors import DataError
from device.model import Items, Scores
from device.seeds import Draws

OPTIONS = Training(batch=2)


class Weighted(nn.Module):
    """Score = w * item."""

    length = 5

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        return self.w * candidates


class NextThree:
    """After item i: i + 1, i + 2, i + 3, but nothing after an even item."""

    def __init__(self) -> None:
        self.asked: list[Items] = []

    def generate(self, histories: Items, k: int, *, rng: Draws) -> Generated:
        self.asked.append(histories)
        after = histories[:, -1:] + 1 + np.arange(k)
        items: Items = np.where(histories[:, -1:] % 2 == 1, after, 0).astype(np.int32)
        no_scores: Scores = np.zeros(items.shape, np.float32)
        return Generated(items, no_scores, None, None)


def lessons(*users: list[int]) -> tuple[FromFound, NextThree]:
    ends = np.cumsum([len(user) for user in users])
    starts = ends - [len(user) for user in users]
    data = Sequences(np.concatenate(users).astype(np.int32), starts.astype(np.int64), ends.astype(np.int64))
    generator = NextThree()
    return FromFound(Made(Recent(data, newest=1), generator, history=4, beams=3)), generator


def arguments(made: FromFound) -> list[dict[str, Any]]:
    steps = list(made.losses(Weighted(0.0), OPTIONS, seed=1, epoch=0))
    return [{"history": s.args[1], "items": s.args[2], **s.keywords} for s in steps]  # type: ignore[attr-defined]


def test_only_lists_that_hold_the_target_are_learned_from() -> None:
    """3 after 1 is the second of 2, 3, 4; 9 is not among 4, 5, 6; nothing follows 2; one item teaches nothing."""
    made, _ = lessons([1, 3], [3, 9], [2, 3], [7])
    (batch,) = arguments(made)
    assert batch["history"].tolist() == [[1]]
    assert batch["items"].tolist() == [[2, 3, 4]]
    assert batch["place"].tolist() == [1]


def test_the_loss_by_hand() -> None:
    """Scores .5 * (2, 3, 4): -log(e^1.5 / (e^1 + e^1.5 + e^2)); the empty place of the second list does not count."""
    history = np.array([[1], [1]], np.int32)
    items = np.array([[2, 3, 4], [4, 2, 0]], np.int32)
    first = math.log(math.exp(1.0) + math.exp(1.5) + math.exp(2.0)) - 1.5
    second = math.log(math.exp(2.0) + math.exp(1.0)) - 1.0
    loss = list_loss(Weighted(0.5), history, items, place=np.array([1, 1]))
    assert loss.item() == pytest.approx((first + second) / 2)


def test_adding_a_number_to_all_scores_changes_nothing() -> None:
    class Shifted(Weighted):
        def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
            return super().forward(history, candidates) - 5

    items, place = np.array([[2, 3, 4]], np.int32), np.array([2])
    losses = [
        list_loss(kind(0.5), np.array([[1]], np.int32), items, place=place).item() for kind in (Weighted, Shifted)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_list_is_made_once() -> None:
    made, generator = lessons([1, 3], [5, 6])
    for epoch in range(3):
        for step in made.losses(Weighted(0.1), OPTIONS, seed=1, epoch=epoch):
            assert step().item() > 0
    assert [asked.tolist() for asked in generator.asked] == [[[0, 0, 0, 1], [0, 0, 0, 5]]]


def test_nothing_found() -> None:
    made, _ = lessons([2, 3], [4, 5])
    with pytest.raises(DataError, match="raise beams"):
        arguments(made)
