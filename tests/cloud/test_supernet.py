"""Training of supernets: what is drawn, what is learned, from which windows, and that small subnets gain by it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from elastic_parts import KINDS, STATEFUL, elastic
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cloud.losses import candidate_loss, position_loss
from cloud.options import Training
from cloud.sequences import Sequences, prefix_batches
from cloud.supernet import Supernet, distillation, learned, logits
from cloud.training import fit
from cloud.windows import windows
from device.errors import ConfigError
from device.models.elastic import ElasticSASRec
from device.models.slimming import narrowed
from device.seeds import rng
from device.subnet import SubnetSpec

HISTORY = torch.tensor([[0, 0, 4, 9], [1, 2, 3, 4], [0, 0, 0, 7]])
TARGET = torch.tensor([5, 6, 30])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loss(net: Supernet, seed: int = 0) -> Tensor:
    return net.training_loss(HISTORY, TARGET, epoch=0, generator=generator(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_alone_learns_what_the_usual_losses_teach(kind: Any) -> None:
    model = elastic(kind)
    net = Supernet(model, subnets=[model.spec], random=0, negatives=None)
    options = Training(loss="full")
    if kind in STATEFUL:
        target = torch.tensor([[0, 0, 9, 5], [2, 3, 4, 6], [0, 0, 0, 30]])
        expected = position_loss(model, HISTORY, target, options=options, generator=generator())
    else:
        expected = candidate_loss(model, HISTORY, TARGET, options=options, generator=generator())
    # Both nets of the step are the largest: the second agrees with the first, so half of it is the data, half nothing.
    assert loss(net).item() == pytest.approx((1 + 0.5) / 2 * expected.item(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_weight_and_more_of_them_for_leading_channels(kind: Any) -> None:
    net = Supernet(elastic(kind).train(), negatives=9)
    loss(net).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0 or name.endswith("key.bias"), name  # softmax ignores a shift of all keys


def test_only_leading_weights_learn_from_a_subnet() -> None:
    model = elastic(ElasticSASRec).train()
    lesson = Supernet(model, negatives=None).lesson(HISTORY, TARGET, generator())
    learned(logits(narrowed(model, SubnetSpec(8, 1, 16, "int8")), lesson)).backward()
    grad = model.blocks[0].up.weight.grad
    assert grad[:8, :8].abs().min() > 0
    assert not grad[8:].any()
    assert not grad[:, 8:].any()
    assert not model.item.weight.grad[:, 16:].any()
    assert (model.item.weight.grad[1:, :16] != 0).all()
    assert model.blocks[1].up.weight.grad is None


def test_the_largest_learns_nothing_from_distillation() -> None:
    teacher, student = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    distillation(student, teacher).backward()
    assert teacher.grad is None
    # d KL(p || softmax(s)) / d s = softmax(s) - p, here a mean over four rows
    expected = (torch.softmax(student, 1) - torch.softmax(teacher, 1)).detach() / 4
    torch.testing.assert_close(student.grad, expected)


@given(st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=6))
def test_nets_that_agree_have_nothing_to_distil(values: list[float]) -> None:
    scores = torch.tensor([values])
    assert distillation(scores, scores + 3).item() == pytest.approx(0, abs=1e-5)  # a shift of all scores is none
    assert distillation(scores, torch.zeros_like(scores)).item() >= -1e-6


def test_distillation_by_hand() -> None:
    teacher, student = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert distillation(student, teacher).item() == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5))


def test_the_smallest_is_always_there_and_the_rest_is_drawn_from_the_generator() -> None:
    net = Supernet(elastic(ElasticSASRec), random=3)
    draws = [net.drawn(generator(seed)) for seed in range(40)]
    assert {str(specs[0]) for specs in draws} == {"w8-b1-e8-int8"}
    assert len({str(spec) for specs in draws for spec in specs[1:]}) > 30  # of 36
    assert draws == [net.drawn(generator(seed)) for seed in range(40)]
    assert loss(net, 1).item() == loss(net, 1).item() != loss(net, 2).item()


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_that_is_the_target_does_not_compete_with_itself(kind: Any) -> None:
    model = elastic(kind)
    lesson = Supernet(model, negatives=None).lesson(HISTORY, TARGET, generator())
    scores = logits(model, lesson)
    assert scores.shape == (len(lesson.target), 1 + 30)
    assert ((scores < -1e8).sum(1) == 1).all()
    rows = torch.arange(len(scores))
    assert (scores[rows, lesson.target] < -1e8).all()  # column of item i is i, as the target stands before item 1
    if kind in STATEFUL:
        assert lesson.target.tolist() == [9, 5, 2, 3, 4, 6, 30]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"subnets": []}, "0 subnets"), ({"random": -1}, "random = -1"), ({"distilled": 2.0}, "distilled = 2"),
     ({"negatives": 0}, "negatives = 0")],
)  # fmt: skip
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Supernet(elastic(ElasticSASRec), **options)
    with pytest.raises(ConfigError, match="Linear has no subnets to train"):
        Supernet(nn.Linear(2, 2))


def sequences(*users: list[int]) -> Sequences:
    ends = np.cumsum([len(user) for user in users])
    return Sequences(np.concatenate(users).astype(np.int32), ends - [len(user) for user in users], ends)


def test_windows_by_hand() -> None:
    made = windows(sequences([1, 2, 3], [4], list(range(11, 21))), 4)
    found = [
        (h[h > 0].tolist(), t) for hs, ts in prefix_batches(made, 4, 2, rng(0)) for h, t in zip(hs, ts, strict=True)
    ]
    assert sorted(found, key=lambda pair: pair[1]) == [
        ([1, 2], 3),
        ([11, 12, 13], 14),  # 20, 18, 16 and 14: half of 4 apart, until a window begins where the user does
        ([12, 13, 14, 15], 16),
        ([14, 15, 16, 17], 18),
        ([16, 17, 18, 19], 20),
    ]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(1, 12))
def test_windows_show_every_item_but_the_first_as_a_target(sizes: list[int], length: int) -> None:
    users = [list(range(100 * u + 1, 100 * u + 1 + size)) for u, size in enumerate(sizes)]
    seen: list[int] = []
    for histories, targets in prefix_batches(windows(sequences([], *users), length), length, 3, rng(0)):
        for history, target in zip(histories, targets, strict=True):
            window = [*history[history > 0].tolist(), int(target)]
            assert window == list(range(window[0], window[-1] + 1))
            assert 2 <= len(window) <= length + 1
            seen += window[1:]
    assert set(seen) == {item for user in users for item in user[1:]}
    assert max((seen.count(item) for item in set(seen)), default=0) <= (3 if length % 2 else 2)


def planted(n_items: int, users: int, length: int) -> tuple[Sequences, Tensor]:
    """After item i comes `after[i]`, always; users start anywhere."""
    draw = rng(0, "planted")
    after = draw.permutation(n_items)
    items = [draw.integers(0, n_items, users)]
    for _ in range(length - 1):
        items.append(after[items[-1]])
    starts = np.arange(users) * length
    return Sequences((np.stack(items, 1).ravel() + 1).astype(np.int32), starts, starts + length), torch.tensor(
        after
    ) + 1


def test_a_small_subnet_is_better_than_a_slice_of_a_model_trained_alone(tmp_path: Path) -> None:
    data, after = planted(20, 60, 6)
    small, options = SubnetSpec(8, 1, 8), Training(epochs=12, patience=0, batch=20, learning_rate=0.02, loss="full")
    alone = ElasticSASRec(20, width=16, blocks=1, items=16, length=5, dropout=0.0)
    fit(alone, data, None, options=options, seed=1, folder=tmp_path / "alone")
    net = Supernet(
        ElasticSASRec(20, width=16, blocks=1, items=16, length=5, dropout=0.0),
        subnets=[small, alone.spec], random=0, negatives=None,
    )  # fmt: skip
    log = fit(net, windows(data, 5), None, options=options, seed=1, folder=tmp_path / "net")
    assert log.losses is not None
    right = {}
    for name, model in (("alone", alone), ("net", net.model)):
        for spec in (small, alone.spec):
            with torch.inference_mode():
                best = narrowed(model, spec).catalogue(torch.arange(1, 21)[:, None])[:, 1:].argmax(1) + 1
            right[name, str(spec)] = int((best == after).sum())
    assert right["alone", "w16-b1-e16"] >= 18
    assert right["net", "w16-b1-e16"] >= 18
    assert right["net", "w8-b1-e8"] >= 18 > 12 > right["alone", "w8-b1-e8"]
