"""Collaborative training: resuming changes nothing, the best value is kept, a folder belongs to its start."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from training_parts import DATA, LENGTH, N_ITEMS, OPTIONS, Stopped, lists, stop_after

from cloud.cooperative import COOPERATIVE, INDEPENDENT, train
from cloud.lessons import FromItems, Lessons, Lists, Recent
from cloud.options import Training
from device.errors import ConfigError, RunError
from device.models.din import DIN
from device.models.sasrec import SASRec


def small(kind: type[nn.Module] = SASRec) -> nn.Module:
    torch.manual_seed(1)
    return kind(N_ITEMS, width=4, length=LENGTH, dropout=0.3)


def state(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.detach().numpy().tobytes() for name, tensor in model.state_dict().items()}


def test_the_released_numbers() -> None:
    assert (INDEPENDENT.epochs, INDEPENDENT.batch, INDEPENDENT.negatives, INDEPENDENT.learning_rate) == (
        10,
        128,
        4,
        1e-3,
    )
    assert (COOPERATIVE.epochs, COOPERATIVE.batch, COOPERATIVE.patience, COOPERATIVE.weight_decay) == (10, 32, 0, 0)
    assert (Lists().beams, Lists().width) == (20, 100)  # 1 + 20 + 79


LESSONS: dict[str, Callable[[], Lessons]] = {
    "items": lambda: FromItems(Recent(DATA), N_ITEMS),
    "digits": lists,
    "next-best": lambda: lists(augment="next-best"),
    "faithful": lambda: lists(faithful=True),
}


@pytest.mark.parametrize(("name", "kind"), [*((name, SASRec) for name in LESSONS), ("digits", DIN)])
def test_resuming_changes_nothing(name: str, kind: type[nn.Module], tmp_path: Path) -> None:
    whole = small(kind)
    log = train(whole, LESSONS[name](), options=OPTIONS, seed=1, folder=tmp_path / "whole")
    for epoch in (1, 3):
        parts, stop = small(kind), stop_after(epoch)
        with pytest.raises(Stopped):
            train(parts, LESSONS[name](), options=OPTIONS, seed=1, folder=tmp_path / "parts", progress=stop)
    parts = small(kind)
    again = train(parts, LESSONS[name](), options=OPTIONS, seed=1, folder=tmp_path / "parts")
    assert state(parts) == state(whole)
    assert again.losses == log.losses
    assert log.best_epoch == 4
    loaded = small(kind)
    assert train(loaded, LESSONS[name](), options=OPTIONS, seed=1, folder=tmp_path / "whole").losses == log.losses
    assert state(loaded) == state(whole)
    other = small(kind)
    train(other, LESSONS[name](), options=OPTIONS, seed=2, folder=tmp_path / "other")
    assert state(other) != state(whole)


@pytest.mark.parametrize("name", ["items", "digits", "faithful"])
def test_training_goes_on_and_learns(name: str, tmp_path: Path) -> None:
    model = small()
    first = train(model, LESSONS["items"](), options=OPTIONS, seed=1, folder=tmp_path / "first", fresh=True)
    begun = state(model)
    options = replace(OPTIONS, epochs=12)
    log = train(model, LESSONS[name](), options=options, seed=1, folder=tmp_path / "second")
    assert first.losses
    assert log.losses
    assert log.losses[-1] < log.losses[0] - 0.05
    assert state(model) != begun
    same_start = small()
    train(same_start, LESSONS["items"](), options=OPTIONS, seed=1, folder=tmp_path / "third", fresh=True)
    assert state(same_start) == begun  # fresh weights depend on the seed alone


def test_the_best_value_is_kept_and_the_start_takes_part(tmp_path: Path) -> None:
    model, given = small(), iter([0.5, 0.2, 0.6, 0.3, 0.1, 0.9])
    options = replace(OPTIONS, epochs=9, patience=2)
    log = train(model, lists(), options=options, seed=1, folder=tmp_path / "a", value=lambda _: next(given))
    assert (log.best_epoch, log.best_value, log.epoch) == (2, 0.6, 4)
    assert log.values == [0.5, 0.2, 0.6, 0.3, 0.1]
    short = small()
    train(short, lists(), options=replace(OPTIONS, epochs=2), seed=1, folder=tmp_path / "b")
    assert state(model) == state(short)
    begun, worse = small(), iter([0.5, 0.2, 0.1])
    kept = train(begun, lists(), options=options, seed=1, folder=tmp_path / "c", value=lambda _: next(worse))
    assert kept.best_epoch == 0
    assert state(begun) == state(small())


def test_a_value_that_is_never_a_number(tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=1, patience=1)
    with pytest.raises(RunError, match="diverged"):
        train(small(), lists(), options=options, seed=1, folder=tmp_path, value=lambda _: math.nan)


def test_a_folder_belongs_to_its_start(tmp_path: Path) -> None:
    train(small(), lists(), options=OPTIONS, seed=1, folder=tmp_path)
    changed = small()
    with torch.no_grad():
        changed.item.weight[3, 1] += 1  # type: ignore[operator, union-attr, index]
    others: list[tuple[nn.Module, Lessons, Training]] = [
        (changed, lists(), OPTIONS),
        (small(), lists(faithful=True), OPTIONS),
        (small(), LESSONS["items"](), OPTIONS),
        (small(), lists(), replace(OPTIONS, epochs=5)),
    ]
    for model, lessons, options in others:
        with pytest.raises(RunError, match="name another folder"):
            train(model, lessons, options=options, seed=1, folder=tmp_path)


def test_patience_needs_a_value(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="patience = 3"):
        train(small(), lists(), options=replace(OPTIONS, patience=3), seed=1, folder=tmp_path)
