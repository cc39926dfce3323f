"""Training per device: one step by hand, a loop of ordinary autograd as oracle, no device depends on another."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloud.adaptive import Adaptation, adapt, body, personal_scores, update_bytes
from device.errors import ConfigError, ContractError
from device.messages import encode_patch
from device.model import Items
from device.models.din import DIN
from device.models.gru4rec import GRU4Rec
from device.models.sasrec import SASRec
from device.seeds import draws, rng

N_ITEMS, LENGTH, DEVICES = 40, 6, 70  # more than one call
OPTIONS = Adaptation(newest=2, steps=2, rate=0.1, negatives=3)
KINDS = [SASRec, GRU4Rec, DIN]


class Slope(nn.Module):
    """Score = w * item: one number to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.2))

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        return self.w * candidates


def small(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    made = kind(N_ITEMS, width=4, length=LENGTH, dropout=0.3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        made.item.weight[0] = 0  # type: ignore[operator, union-attr, index]
    return made


def histories(devices: int = DEVICES) -> Items:
    made = rng(0, "histories").integers(1, N_ITEMS + 1, (devices, LENGTH)).astype(np.int32)
    made[1, :3] = 0
    made[2, :5] = 0  # one item: nothing to learn from
    return made


def test_one_step_by_hand() -> None:
    """History 1, 3 of a catalogue of 3: target 3 after 1, negatives among 1, 2, 3, of which only 2 counts.

    Slope of the loss at w = 0.2 with m twos: (3 (s(.6) - 1) + 2 m s(.4)) / (1 + m).
    """
    options = Adaptation(newest=1, steps=1, rate=0.5, negatives=5)
    items = np.array([[1, 3]], np.int32)
    made = adapt(Slope(), items, np.array([9]), n_items=3, seed=1, options=options)
    drawn = 1 + np.floor(draws(1, "adaptation", [9]).uniform(5)[0] * 3)
    twos = int((drawn == 2).sum())
    assert 0 < twos < 5
    logistic = [1 / (1 + math.exp(-0.2 * item)) for item in (2, 3)]
    slope = (3 * (logistic[1] - 1) + twos * 2 * logistic[0]) / (1 + twos)
    assert made.deltas.shape == (1, 1)
    assert made.deltas[0, 0] == pytest.approx(-0.5 * slope, rel=1e-5)
    scores = personal_scores(Slope(), made, items, np.array([[2, 1]], np.int32))
    np.testing.assert_allclose(scores, [[2 * (0.2 - 0.5 * slope), 0.2 - 0.5 * slope]], rtol=1e-5)


def by_loop(model: nn.Module, history: Items, device: int, seed: int) -> tuple[dict[str, Tensor], int]:
    """The same training with ordinary autograd, one target after the other; (weights, targets learned from)."""
    items = history[history > 0].tolist()
    lottery = draws(seed, "adaptation", [device]).uniform(OPTIONS.newest * OPTIONS.negatives)[0]
    others = (1 + np.floor(lottery * N_ITEMS)).astype(int).reshape(OPTIONS.newest, -1)
    pairs = [
        (items[: len(items) - 1 - back], items[-1 - back], [i for i in others[back].tolist() if i not in items])
        for back in range(OPTIONS.newest)
        if len(items) - 1 - back >= 1
    ]
    chosen = [p for name, p in sorted(model.named_parameters()) if name in body(model)]
    for _ in range(OPTIONS.steps if pairs else 0):
        losses = []
        for prefix, target, negative in pairs:
            padded = torch.tensor([[0] * (LENGTH - 1 - len(prefix)) + prefix])
            logits = model(padded, torch.tensor([[target, *negative]]))[0]
            labels = torch.tensor([1.0] + [0.0] * len(negative))
            losses.append(F.binary_cross_entropy_with_logits(logits, labels, reduction="none"))
        for parameter, slope in zip(chosen, torch.autograd.grad(torch.cat(losses).mean(), chosen), strict=True):
            with torch.no_grad():
                parameter.sub_(OPTIONS.rate * slope)
    return {name: p.detach() for name, p in sorted(model.named_parameters()) if name in body(model)}, len(pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_against_a_loop(kind: type[nn.Module]) -> None:
    made = adapt(small(kind), histories(), np.arange(DEVICES) + 5, n_items=N_ITEMS, seed=1, options=OPTIONS)
    start = torch.cat(
        [p.detach().flatten() for name, p in sorted(small(kind).named_parameters()) if name in body(small(kind))]
    )
    learned = []
    for device in (0, 1, 2, 66):
        weights, targets = by_loop(small(kind).eval(), histories()[device], device + 5, 1)
        learned.append(targets)
        wanted = torch.cat([w.flatten() for w in weights.values()]) - start
        np.testing.assert_allclose(made.deltas[device], wanted.numpy(), atol=2e-6)
        assert (np.abs(made.deltas[device]).max() > 1e-3) == (targets > 0)
    assert learned == [2, 2, 0, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_does_not_depend_on_the_others(kind: type[nn.Module]) -> None:
    model, past, devices = small(kind), histories(), np.arange(DEVICES)
    pool = rng(0, "pool").integers(1, N_ITEMS + 1, (DEVICES, 5)).astype(np.int32)
    whole = adapt(model, past, devices, n_items=N_ITEMS, seed=1, options=OPTIONS)
    scores = personal_scores(model, whole, past, pool)
    some = np.array([69, 3, 40])
    part = adapt(model, past[some], devices[some], n_items=N_ITEMS, seed=1, options=OPTIONS)
    assert part.deltas.tobytes() == whole.deltas[some].tobytes()
    assert personal_scores(model, part, past[some], pool[some]).tobytes() == scores[some].tobytes()
    other = adapt(model, past, devices, n_items=N_ITEMS, seed=2, options=OPTIONS)
    assert (other.deltas != whole.deltas).any()


@pytest.mark.parametrize("kind", KINDS)
def test_personal_scores_are_those_of_the_changed_model(kind: type[nn.Module]) -> None:
    past, pool = histories(), rng(0, "pool").integers(0, N_ITEMS + 1, (DEVICES, 5)).astype(np.int32)
    made = adapt(small(kind), past, np.arange(DEVICES), n_items=N_ITEMS, seed=1, options=OPTIONS)
    scores = personal_scores(small(kind), made, past, pool)
    for device in (0, 2, 65):
        model, at = small(kind).eval(), 0
        with torch.no_grad():
            for name, parameter in sorted(model.named_parameters()):
                if name in made.shapes:
                    delta = torch.from_numpy(made.deltas[device, at : at + parameter.numel()])
                    parameter.add_(delta.view(parameter.shape))
                    at += parameter.numel()
            alone = model(torch.from_numpy(past[[device]]).long(), torch.from_numpy(pool[[device]]).long())
        assert at == made.deltas.shape[1]
        np.testing.assert_allclose(scores[device], alone[0].numpy(), atol=1e-5)


def test_the_shared_model_stays_as_it_was() -> None:
    model = small(SASRec).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    adapt(model, histories(), np.arange(DEVICES), n_items=N_ITEMS, seed=1, options=OPTIONS)
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_more_steps_fit_the_own_items_better() -> None:
    """The score of the target over the other items of the catalogue rises with every step."""
    model, past = small(SASRec), histories()
    everything = np.tile(np.arange(1, N_ITEMS + 1, dtype=np.int32), (DEVICES, 1))
    margins = []
    for steps in (1, 5, 20):
        options = Adaptation(newest=1, steps=steps, rate=0.1, negatives=20)
        made = adapt(model, past, np.arange(DEVICES), n_items=N_ITEMS, seed=1, options=options)
        scores = personal_scores(model, made, np.pad(past[:, :-1], ((0, 0), (1, 0))), everything)
        own = np.take_along_axis(scores, past[:, -1:].astype(np.int64) - 1, axis=1)[:, 0]
        margins.append((own - scores.mean(1)).mean())
    assert margins[0] < margins[1] < margins[2]


def test_what_is_trained_and_its_bytes() -> None:
    """All parameters but the table of item embeddings, which no update carries."""
    model = small(SASRec)
    made = adapt(model, histories(), np.arange(DEVICES), n_items=N_ITEMS, seed=1, options=OPTIONS)
    shapes = {name: tuple(part.shape) for name, part in model.named_parameters() if name != "item.weight"}
    assert made.shapes == shapes
    assert len(shapes) == len(list(model.parameters())) - 1
    assert made.deltas.shape == (DEVICES, sum(int(np.prod(shape)) for shape in shapes.values()))
    message = encode_patch({name: np.zeros(shape, np.float32) for name, shape in sorted(shapes.items())})
    assert update_bytes(model, body(model)) == len(message)
    table = 4 * model.item.weight.numel()
    assert update_bytes(model, list(dict(model.named_parameters()))) > update_bytes(model, body(model)) + table


def test_what_cannot_be_trained() -> None:
    model = small(SASRec)
    with pytest.raises(ContractError, match="L >= 2"):
        adapt(model, histories()[:, :1], np.arange(DEVICES), n_items=N_ITEMS, seed=1, options=OPTIONS)
    with pytest.raises(ConfigError, match="steps=0"):
        Adaptation(steps=0)
