"""What lists hold, losses by hand, negatives that are new, targets that come after their prefix."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from training_parts import DATA, ITEMS, LENGTH, N_ITEMS, OPTIONS, STARTS, USERS, lists

from cloud.generator import Generated
from cloud.lessons import FromItems, FromLists, Lists, Made, Recent, Unseen, entry_loss
from cloud.sequences import Sequences
from device.errors import ConfigError, DataError
from device.model import Items
from device.seeds import Draws


class Scripted(nn.Module):
    """Score = table[item], whatever the history."""

    length = 3

    def __init__(self, values: list[float]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor(values))

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        return self.table[candidates]


class Fixed:
    """The same list for everybody; counts how many lists it made."""

    def __init__(self, *items: int) -> None:
        self.items, self.made = np.array(items, np.int32), 0

    def generate(self, histories: Items, k: int, *, rng: Draws) -> Generated:
        self.made += len(histories)
        rows = np.tile(self.items[:k], (len(histories), 1))
        return Generated(rows, np.zeros(rows.shape, np.float32), None, None)


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_a_list_by_hand() -> None:
    """Target 5; the generator says 9, 5, nothing, 3; recombined 9, 7, 0, 8, 6. Eight entries at most."""
    target, made, more = np.array([5], np.int32), np.array([[9, 5, 0, 3]], np.int32), np.array([[9, 7, 0, 8, 6]])
    clean = Lists(beams=4, width=8).assemble(target, made, more)
    assert clean.tolist() == [[5, 9, 3, 7, 8, 6, 0, 0]]
    faithful = Lists(beams=4, width=8, faithful=True).assemble(target, made, more)
    assert faithful.tolist() == [[5, 9, 5, 3, 0, 9, 7, 0]]  # compacted before the rest, items repeat, cut


def test_entry_loss_by_hand() -> None:
    """Scores 2, 0.5 and the padding's 1: -log s(2) and -log(1 - s(0.5)), and in faithful form -log(1 - s(1)) too."""
    model = Scripted([1.0, 2.0, 0.5])
    items, labels = np.array([[1, 2, 0]], np.int32), np.array([[1, 0, 0]], np.float32)
    parts = [-math.log(logistic(2)), -math.log(1 - logistic(0.5)), -math.log(1 - logistic(1))]
    clean = entry_loss(model, items, items, labels=labels, counted=items > 0)
    assert clean.item() == pytest.approx(sum(parts[:2]) / 2, rel=1e-6)
    assert entry_loss(model, items, items, labels=labels).item() == pytest.approx(sum(parts) / 3, rel=1e-6)


@pytest.mark.parametrize("faithful", [False, True])
def test_the_loss_of_lists_by_hand(faithful: bool) -> None:
    """One user 1, 2: target 2, list 2, 3: entries 2, 3 (clean), and 2, 2, 3 and a padding (faithful), both 2 taken."""
    data = Sequences(np.array([1, 2], np.int32), np.array([0]), np.array([2]))
    options = Lists(beams=2, width=4, augment="none", faithful=faithful)
    lessons = FromLists(Made(Recent(data), Fixed(2, 3), 3, options.asked), 3, options)
    (step,) = lessons.losses(Scripted([0.1, 0.2, 0.3, 0.4]), OPTIONS, seed=1, epoch=0)
    took, refused, padding = -math.log(logistic(0.3)), -math.log(1 - logistic(0.4)), -math.log(1 - logistic(0.1))
    wanted = (2 * took + refused + padding) / 4 if faithful else (took + refused) / 2
    assert step().item() == pytest.approx(wanted, rel=1e-6)


def test_targets_are_the_newest_items_and_the_prefix_ends_before() -> None:
    recent = Recent(DATA, newest=3)
    seen = set()
    for epoch in range(40):
        users, targets = recent.drawn(seed=1, epoch=epoch)
        assert users.tolist() == list(range(USERS))
        seen |= set((DATA.ends - targets).tolist())
    assert seen == {1, 2, 3}
    users, targets = recent.drawn(seed=1, epoch=0)
    assert targets.tolist() != recent.drawn(seed=1, epoch=1)[1].tolist()
    assert targets.tolist() != recent.drawn(seed=2, epoch=0)[1].tolist()
    for user, target, history in zip(users, targets, recent.histories(users, targets, LENGTH), strict=True):
        assert history.tolist() == ITEMS[target - LENGTH : target].tolist()
        assert target > STARTS[user]
    rows = np.concatenate(list(recent.batches(OPTIONS, LENGTH, seed=1, epoch=0)))
    assert sorted(rows.tolist()) == list(range(USERS))


def test_short_users() -> None:
    """One item teaches nothing; of two items the second is the target."""
    data = Sequences(np.array([4, 7, 8], np.int32), np.array([0, 1]), np.array([1, 3]))
    users, targets = Recent(data).drawn(seed=1, epoch=0)
    assert (users.tolist(), targets.tolist()) == ([1], [2])
    with pytest.raises(ConfigError, match="newest = 0"):
        Recent(data, newest=0)


def test_negatives_are_all_that_a_user_has_not_taken() -> None:
    """Of items 1..6, user 0 took 2, 5 (twice 2), user 1 took 1, 6: every number in [0, 1) points at one of the rest."""
    data = Sequences(np.array([2, 5, 2, 6, 1], np.int32), np.array([0, 3]), np.array([3, 5]))
    unseen = Unseen.of(data, 6)
    lottery = np.tile((np.arange(4) + 0.5) / 4, (3, 1))
    assert unseen.pick(np.array([0, 1, 0]), lottery).tolist() == [[1, 3, 4, 6], [2, 3, 4, 5], [1, 3, 4, 6]]
    with pytest.raises(DataError, match="user 1 has taken all 2"):
        Unseen.of(Sequences(np.array([1, 1, 2], np.int32), np.array([0, 1]), np.array([1, 3])), 2)


def test_the_released_loss_has_four_new_negatives_per_target() -> None:
    """User u took 10 u + 1 .. 10 u + 9 of 30 items, so nearly half of all blind draws would hit items already taken."""
    walks = (np.arange(27) // 9 * 10 + np.arange(27) % 9 + 1).astype(np.int32)
    data = Sequences(walks, np.arange(3) * 9, np.arange(1, 4) * 9)
    watched: list[list[int]] = []

    class Watched(Scripted):
        def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
            assert (history[:, -1] + 1 == candidates[:, 0]).all()  # a walk: the prefix ends right before the target
            watched.extend(candidates.tolist())
            return super().forward(history, candidates)

    for epoch in range(20):
        for step in FromItems(Recent(data), 30).losses(Watched([0.0] * 31), OPTIONS, seed=1, epoch=epoch):
            assert step().item() == pytest.approx(math.log(2))  # all scores 0
    assert len(watched) == 60
    for target, *others in watched:
        assert len(others) == 4
        assert all(item // 10 != target // 10 or item % 10 == 0 for item in others)
    assert {item for _, *others in watched for item in others} == set(range(1, 31))


@pytest.mark.parametrize("augment", ["digits", "next-best", "none"])
def test_clean_lists_hold_distinct_valid_items(augment: Any) -> None:
    lessons = lists(augment=augment, beams=5, width=30)
    users, targets = lessons.made.recent.drawn(seed=1, epoch=0)
    made = lessons.training_lists(users, targets, seed=1, epoch=0)
    assert made.shape == (USERS, 30)
    assert (made[:, 0] == ITEMS[targets]).all()
    for row in made.tolist():
        real = [i for i in row if i]
        assert len(set(real)) == len(real)
        assert all(1 <= i <= N_ITEMS for i in real)
        assert len(real) <= 6 if augment == "none" else len(real) > 12


def test_faithful_lists_lose_recombined_ids_that_do_not_exist() -> None:
    """From 1999, 305 and 42: middles 19 and 3, ends 99, 05, 42; 1905, 1942, 1999 and 305, 342, 399 exist in 1..1950
    but for 1999, whose place becomes padding."""
    data = Sequences(np.array([7, 8], np.int32), np.array([0]), np.array([2]))
    options = Lists(beams=3, width=12, faithful=True)
    lessons = FromLists(Made(Recent(data, newest=1), Fixed(1999, 305, 42), 3, options.asked), 1950, options)
    users, targets = lessons.made.recent.drawn(seed=1, epoch=0)
    (row,) = lessons.training_lists(users, targets, seed=1, epoch=0).tolist()
    assert row[:4] == [8, 1999, 305, 42]
    assert sorted(row[4:]) == [0, 0, 0, 305, 342, 399, 1905, 1942]  # two paddings at the end, one for 1999


def test_a_prefix_gets_its_list_once() -> None:
    generator = Fixed(1, 2, 3)
    lessons = FromLists(Made(Recent(DATA), generator, LENGTH, beams=3), N_ITEMS, Lists(beams=3, augment="none"))
    for epoch in range(30):
        for step in lessons.losses(Scripted([0.0] * (N_ITEMS + 1)), OPTIONS, seed=1, epoch=epoch):
            step()
    assert generator.made == 3 * USERS  # three targets per user, however many epochs


def test_a_list_needs_room_for_its_beams() -> None:
    with pytest.raises(ConfigError, match="beams = 100"):
        Lists(beams=100)


def test_lists_of_padding_only_are_finite() -> None:
    """A generator without an idea: the list is the target alone."""
    lessons = FromLists(Made(Recent(DATA), Fixed(0, 0), 3, beams=2), N_ITEMS, Lists(beams=2, width=4))
    model = Scripted([0.0] * (N_ITEMS + 1))
    values: NDArray[Any] = np.array([step().item() for step in lessons.losses(model, OPTIONS, seed=1, epoch=0)])
    np.testing.assert_allclose(values, math.log(2), rtol=1e-6)
