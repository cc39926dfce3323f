"""Losses against numbers by hand: three items whose logits are ln 1, ln 2, ln 3, so softmax gives fractions."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloud.losses import candidate_loss, epoch_losses, position_loss, sample
from cloud.options import Training
from cloud.sequences import Sequences

LOGITS = torch.tensor([[9.0], [0.0], [math.log(2)], [math.log(3)]])  # row 0 is padding and must not count
WEIGHT = (0, 1, 2, 3)
FULL, SAMPLED = Training(loss="full"), Training(loss="sampled", negatives=4)


class Positions(nn.Module):
    """State 1 everywhere, so the logit of item i is its only weight, ln i."""

    n_items, length = 3, 3

    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Embedding(4, 1, _weight=LOGITS.clone())

    def states(self, history: Tensor) -> Tensor:
        return torch.ones(*history.shape, 1)


class Candidates(nn.Module):
    """The logit of candidate i is ln i, whatever the history."""

    n_items, length = 3, 3

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Embedding(4, 1, _weight=LOGITS.clone())

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        logits: Tensor = self.logit(candidates)
        return logits[..., 0]


class OwnLoss(nn.Module):
    """Brings its own loss and reports what it was given."""

    n_items, length = 3, 2

    def training_loss(self, history: Tensor, target: Tensor, *, epoch: int, generator: torch.Generator) -> Tensor:
        noise = torch.rand((), generator=generator)
        return (history.sum(1) * 100 + target * 10 + epoch).sum() + noise


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawing(*wanted: int) -> torch.Generator:
    """A generator from which `sample` draws just these negatives."""
    seed = next(s for s in range(5000) if sample(3, len(wanted), generator(s)).tolist() == list(wanted))
    return generator(seed)


def at_positions(target: list[list[int]], options: Training, negatives: torch.Generator) -> float:
    y = torch.tensor(target)
    loss: Tensor = position_loss(Positions(), torch.ones_like(y), y, options=options, generator=negatives)
    return loss.item()


def of_candidates(target: list[int], options: Training, negatives: torch.Generator) -> float:
    y = torch.tensor(target)
    loss: Tensor = candidate_loss(Candidates(), torch.ones(len(y), 2).long(), y, options=options, generator=negatives)
    return loss.item()


def test_full_softmax_by_hand() -> None:
    # item 3 of 1 + 2 + 3: 3/6; item 1: 1/6; the padded position does not count. Mean of ln 2 and ln 6.
    expected = (math.log(2) + math.log(6)) / 2
    assert at_positions([[0, 3, 1]], FULL, generator(0)) == pytest.approx(expected, rel=1e-6)
    assert of_candidates([3, 1], FULL, generator(0)) == pytest.approx(expected, rel=1e-6)


def test_sampled_softmax_by_hand() -> None:
    # target 2 against 1, 3, 3, 1: 2 / (2 + 1 + 3 + 3 + 1) = 1/5
    assert at_positions([[2]], SAMPLED, drawing(1, 3, 3, 1)) == pytest.approx(math.log(5), rel=1e-6)
    assert of_candidates([2], SAMPLED, drawing(1, 3, 3, 1)) == pytest.approx(math.log(5), rel=1e-6)


def test_a_negative_that_is_the_positive_does_not_count() -> None:
    # target 2 against 2, 1, 3, 3: the 2 is dropped, 2 / (2 + 1 + 3 + 3) = 2/9
    assert at_positions([[2]], SAMPLED, drawing(2, 1, 3, 3)) == pytest.approx(math.log(9 / 2), rel=1e-6)
    assert of_candidates([2], SAMPLED, drawing(2, 1, 3, 3)) == pytest.approx(math.log(9 / 2), rel=1e-6)


def test_a_shared_negative_is_dropped_only_where_it_is_the_positive() -> None:
    # negatives 2, 2, 1, 3. Target 2: 2 / (2 + 1 + 3) = 1/3. Target 1: 1 / (1 + 2 + 2 + 3) = 1/8.
    expected = (math.log(3) + math.log(8)) / 2
    assert at_positions([[2, 1]], SAMPLED, drawing(2, 2, 1, 3)) == pytest.approx(expected, rel=1e-6)
    assert of_candidates([2, 1], SAMPLED, drawing(2, 2, 1, 3)) == pytest.approx(expected, rel=1e-6)


def test_only_collisions_leave_nothing_to_learn() -> None:
    assert at_positions([[2]], SAMPLED, drawing(2, 2, 2, 2)) == 0.0
    assert of_candidates([2], SAMPLED, drawing(2, 2, 2, 2)) == 0.0


def test_gradients_are_finite_under_collisions() -> None:
    model = Candidates()
    y = torch.tensor([2, 1])
    loss = candidate_loss(model, y[:, None], y, options=SAMPLED, generator=drawing(2, 2, 1, 3))
    (gradient,) = torch.autograd.grad(loss, [model.logit.weight])
    # target 2 has p = 2/6 and target 1 p = 1/8: d loss / d logit = (p - [is target]) / 2, negatives by their counts
    # item 1: (1/6 + 1/8 - 1) / 2, item 2: (2/6 - 1 + 4/8) / 2, item 3: (3/6 + 3/8) / 2
    expected = [0, (1 / 6 + 1 / 8 - 1) / 2, (2 / 6 - 1 + 4 / 8) / 2, (3 / 6 + 3 / 8) / 2]
    assert gradient[:, 0].tolist() == pytest.approx(expected, abs=1e-6)


def test_full_softmax_is_cross_entropy_written_out() -> None:
    torch.manual_seed(0)
    states, table = torch.randn(4, 5, 8), torch.randn(31, 8)
    target = torch.randint(0, 31, (4, 5))

    class Given(nn.Module):
        n_items = 30

        def __init__(self) -> None:
            super().__init__()
            self.item = nn.Embedding(31, 8, _weight=table)

        def states(self, history: Tensor) -> Tensor:
            return states

    terms = []
    for row, column in (target > 0).nonzero().tolist():
        logits = [float(states[row, column] @ table[i]) for i in range(1, 31)]
        terms.append(math.log(sum(map(math.exp, logits))) - logits[int(target[row, column]) - 1])
    loss = position_loss(Given(), target, target, options=FULL, generator=generator(0))
    assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    flat = target > 0
    assert loss.item() == pytest.approx(F.cross_entropy((states @ table[1:].T)[flat], target[flat] - 1).item())


def test_negatives_are_uniform_over_real_items() -> None:
    counts = torch.bincount(sample(3, 30_000, generator(1)), minlength=5).tolist()
    assert counts[0] == counts[4] == 0
    # binomial with p = 1/3: 10,000 +- 82; five standard deviations
    assert all(abs(count - 10_000) < 410 for count in counts[1:4])


USERS = Sequences(np.array([1, 2, 3, 1, 3, 2, 1], np.int32), np.array([0, 4]), np.array([4, 7]))


def losses(model: nn.Module, seed: int = 0, epoch: int = 0, options: Training = FULL) -> list[float]:
    return [make().item() for make in epoch_losses(model, USERS, options, seed=seed, epoch=epoch)]


def test_each_kind_of_model_learns_in_its_own_way() -> None:
    batch = Training(loss="full", batch=2)
    assert len(losses(Positions(), options=batch)) == 1  # 2 users
    assert len(losses(Candidates(), options=batch)) == 3  # 3 + 2 prefixes, 2 at a time
    one = losses(OwnLoss(), epoch=4, options=Training(batch=100))
    # length 2. Prefixes (1)2 (1 2)3 (2 3)1 | (3)2 (3 2)1: 100 * (1+3+5+3+5) + 10 * (2+3+1+2+1) + 5 * 4, and noise < 1
    assert 0 <= one[0] - 1810 < 1


def test_full_loss_of_an_epoch_by_hand() -> None:
    # targets 2, 3, 1 and 2, 1: probabilities 2/6, 3/6, 1/6, 2/6, 1/6 -> mean of ln 3, ln 2, ln 6, ln 3, ln 6
    expected = math.log(3 * 2 * 6 * 3 * 6) / 5
    assert losses(Positions()) == pytest.approx([expected], rel=1e-6)
    assert losses(Candidates()) == pytest.approx([expected], rel=1e-6)


def test_an_epoch_is_fixed_by_seed_and_number() -> None:
    few = Training(batch=2, negatives=2)
    first = losses(Candidates(), 1, 0, few)
    assert losses(Candidates(), 1, 0, few) == first
    assert losses(Candidates(), 1, 1, few) != first
    assert losses(Candidates(), 2, 0, few) != first


def test_batches_come_in_another_order_every_epoch() -> None:
    """Without negatives only the order is left to chance."""
    one_each = Training(loss="full", batch=1)
    epochs = [tuple(losses(Candidates(), 0, epoch, one_each)) for epoch in range(8)]
    assert len({tuple(sorted(epoch)) for epoch in epochs}) == 1
    assert len(set(epochs)) > 3
