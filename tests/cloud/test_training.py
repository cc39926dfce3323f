"""The training loop: resuming changes nothing, patience, which weights are kept, and disks that are full."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from training_parts import Stopped, stop_after

import cloud.training
from cloud.options import Training
from cloud.ranking import Neural, catalogue_ranks
from cloud.sequences import HeldOut, Sequences
from cloud.training import Log, fit
from device.errors import TandemError
from device.models.din import DIN
from device.models.gru4rec import GRU4Rec
from device.models.sasrec import SASRec
from device.seeds import rng
from simulation.metrics import NDCG

N_ITEMS, LENGTH, USERS = 20, 5, 12
ITEMS = rng(0, "training test").integers(1, N_ITEMS + 1, USERS * 8).astype(np.int32)
STARTS = np.arange(USERS) * 8
DATA = Sequences(ITEMS, STARTS, STARTS + 7)
HELD_OUT = HeldOut(DATA.windows(np.arange(USERS), STARTS + 7, LENGTH), ITEMS[STARTS + 7])
OPTIONS = Training(epochs=6, patience=6, batch=5, negatives=8, learning_rate=0.01, weight_decay=0.01)
State = dict[str, NDArray[Any]]


def small(kind: type[nn.Module] = SASRec) -> nn.Module:
    return kind(N_ITEMS, width=4, length=LENGTH, dropout=0.3)


def state(model: nn.Module) -> State:
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(one[k].tobytes() == other[k].tobytes() for k in one)


def train(model: nn.Module, folder: Path, options: Training = OPTIONS, **more: Any) -> Log:
    given: dict[str, Any] = {"seed": 1, "measure": NDCG(10).of} | more
    return fit(model, DATA, HELD_OUT, options=options, folder=folder, **given)


def scripted(*values: float) -> Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]:
    """A measure that gives these values one validation after the other; asking for more is an error."""
    left = iter(values)
    return lambda rank, ties: np.full(len(rank), next(left))


def without_time(log: Log) -> Log:
    return replace(log, seconds=0.0)


@pytest.mark.parametrize("kind", [SASRec, GRU4Rec, DIN])
@pytest.mark.parametrize("patience", [6, 0])
@pytest.mark.parametrize("loss", ["sampled", "full"])
def test_resuming_changes_nothing(kind: type[nn.Module], patience: int, loss: Any, tmp_path: Path) -> None:
    options = replace(OPTIONS, patience=patience, loss=loss)
    whole, first, second = small(kind), small(kind), small(kind)
    wanted = train(whole, tmp_path / "whole", options)
    with pytest.raises(Stopped):
        train(first, tmp_path / "parts", options, progress=stop_after(3))
    torch.manual_seed(999)  # nothing may depend on what other code drew meanwhile
    got = train(second, tmp_path / "parts", options)
    assert same(state(second), state(whole))
    assert without_time(got) == without_time(wanted)
    assert wanted.epoch == 6
    assert len(wanted.losses or []) == 6


@pytest.mark.parametrize("kind", [SASRec, GRU4Rec, DIN])
def test_half_precision_trains_float32_weights_and_resumes(kind: type[nn.Module], tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=3, precision="bfloat16")
    whole, part, exact = small(kind), small(kind), small(kind)
    log = train(whole, tmp_path / "whole", options)
    with pytest.raises(Stopped):
        train(small(kind), tmp_path / "parts", options, progress=stop_after(1))
    train(part, tmp_path / "parts", options)
    assert same(state(part), state(whole))
    assert all(values.dtype == np.float32 for values in state(whole).values())
    wanted = train(exact, tmp_path / "exact", replace(options, precision="float32"))
    assert log.losses == pytest.approx(wanted.losses, rel=0.02)  # bfloat16 keeps 8 bits
    assert log.losses != wanted.losses


def test_stopping_after_every_epoch_changes_nothing(tmp_path: Path) -> None:
    whole = small()
    train(whole, tmp_path / "whole")
    for epoch in range(1, 7):
        with pytest.raises(Stopped):
            train(small(), tmp_path / "parts", progress=stop_after(epoch))
    last = small()
    train(last, tmp_path / "parts")
    assert same(state(last), state(whole))


def test_a_stop_between_the_best_weights_and_the_checkpoint_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = small()
    train(whole, tmp_path / "whole")
    checkpoint, calls = cloud.training.checkpoint, []

    def stopped(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise Stopped
        checkpoint(*arguments)

    monkeypatch.setattr(cloud.training, "checkpoint", stopped)
    with pytest.raises(Stopped):
        train(small(), tmp_path / "parts")
    monkeypatch.undo()
    last = small()
    train(last, tmp_path / "parts")
    assert same(state(last), state(whole))


def test_seeds_matter_and_the_weights_before_do_not(tmp_path: Path) -> None:
    models = [small() for _ in range(3)]
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter.fill_(5.0)
    for number, (model, seed) in enumerate(zip(models, (1, 1, 2), strict=True)):
        train(model, tmp_path / str(number), replace(OPTIONS, epochs=2), seed=seed)
    assert same(state(models[0]), state(models[1]))
    assert not same(state(models[0]), state(models[2]))


def test_a_finished_training_is_only_loaded(tmp_path: Path) -> None:
    model, again = small(), small()
    log = train(model, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert set(before) == {"best.safetensors", "finished.json"}
    assert train(again, tmp_path, progress=stop_after(1), measure=scripted()) == log
    assert same(state(again), state(model))
    assert not again.training
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert json.loads((tmp_path / "finished.json").read_text())["options"]["patience"] == 6


@pytest.mark.parametrize(
    ("values", "patience", "every", "epochs", "stopped", "best"),
    [
        ((0.1, 0.3, 0.2, 0.29), 2, 1, 60, 4, 2),  # two validations after the best one
        ((0.1, 0.3, 0.2, 0.4, 0.4, 0.1), 2, 1, 60, 6, 4),  # an equal value is not better
        ((0.0, 0.0), 1, 1, 60, 2, 1),  # the first value counts, be it 0
        ((0.1, 0.2, 0.3), 8, 1, 3, 3, 3),  # epochs is the limit
        ((0.3, 0.2, 0.1), 2, 2, 60, 6, 2),  # validated at 2, 4, 6
        ((0.1, 0.2, 0.3), 2, 2, 5, 5, 5),  # at 2, 4 and the last
    ],
)
def test_patience_and_the_best_weights(
    values: tuple[float, ...], patience: int, every: int, epochs: int, stopped: int, best: int, tmp_path: Path
) -> None:
    model, seen = small(), [State()]
    options = replace(OPTIONS, patience=patience, validate_every=every, epochs=epochs)
    log = train(model, tmp_path, options, measure=scripted(*values), progress=lambda _: seen.append(state(model)))
    assert (log.epoch, log.best_epoch) == (stopped, best)
    assert log.values == pytest.approx(values)
    assert log.best_value == pytest.approx(max(values))
    assert same(state(model), seen[best])
    assert all(not same(state(model), seen[other]) for other in range(1, stopped + 1) if other != best)


def test_patience_survives_an_interruption(tmp_path: Path) -> None:
    options = replace(OPTIONS, patience=2, epochs=60)
    with pytest.raises(Stopped):
        train(small(), tmp_path, options, measure=scripted(0.1, 0.3, 0.2), progress=stop_after(3))
    log = train(small(), tmp_path, options, measure=scripted(0.29))
    assert (log.epoch, log.best_epoch) == (4, 2)
    assert log.values == pytest.approx([0.1, 0.3, 0.2, 0.29])


def test_no_patience_takes_the_last_weights_and_never_looks_at_validation(tmp_path: Path) -> None:
    model, seen = small(), [State()]
    options = replace(OPTIONS, patience=0, epochs=3)
    log = train(model, tmp_path, options, measure=scripted(), progress=lambda _: seen.append(state(model)))
    assert (log.epoch, log.best_epoch, log.values) == (3, 3, None)
    assert same(state(model), seen[3])


def test_validation_rows_are_the_same_ones_each_time(tmp_path: Path) -> None:
    sizes = []

    def measure(rank: NDArray[np.int64], ties: NDArray[np.int64]) -> NDArray[np.float64]:
        sizes.append(len(rank))
        return np.ones(len(rank))

    train(small(), tmp_path, replace(OPTIONS, epochs=2, validation_users=4), measure=measure)
    assert sizes == [4, 4]


@pytest.mark.parametrize("hide_seen", [True, False])
def test_what_is_measured_is_the_rank_in_the_catalogue(hide_seen: bool, tmp_path: Path) -> None:
    model, measured = small(), []

    def measure(rank: NDArray[np.int64], ties: NDArray[np.int64]) -> NDArray[np.float64]:
        measured.append((rank, ties))
        return 1.0 / rank

    train(model, tmp_path, replace(OPTIONS, epochs=1), measure=measure, hide_seen=hide_seen)
    rank, ties = catalogue_ranks(Neural(model), HELD_OUT.histories, HELD_OUT.targets, hide_seen=hide_seen)
    assert (measured[0][0] == rank).all()
    assert (measured[0][1] == ties).all()


@pytest.mark.parametrize("held_out", [None, HeldOut(HELD_OUT.histories[:0], HELD_OUT.targets[:0])])
def test_patience_without_validation_rows_is_refused(held_out: HeldOut | None, tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=2)
    with pytest.raises(TandemError, match="patience"):
        fit(small(), DATA, held_out, options=options, seed=1, folder=tmp_path, measure=NDCG(10).of)


def test_patience_without_a_measure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TandemError, match="patience"):
        train(small(), tmp_path, replace(OPTIONS, epochs=2), measure=None)


def test_a_training_learns(tmp_path: Path) -> None:
    """Items in a circle: the next one is certain."""
    circle = np.arange(USERS * 8, dtype=np.int32) % N_ITEMS + 1
    data = Sequences(circle, STARTS, STARTS + 7)
    options = Training(epochs=60, patience=0, batch=6, loss="full", learning_rate=0.02)
    model = SASRec(N_ITEMS, width=8, length=LENGTH, dropout=0.0)
    log = fit(model, data, None, options=options, seed=0, folder=tmp_path)
    assert log.losses is not None
    assert log.losses[-1] < 0.2 * log.losses[0]
    assert log.losses[0] == pytest.approx(np.log(N_ITEMS), rel=0.15)  # untrained: every item equally likely
    history = data.windows(np.arange(USERS), STARTS + 7, LENGTH)
    rank, _ = catalogue_ranks(Neural(model), history, circle[STARTS + 7])
    assert (rank == 1).all()


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def half_written(tensors: Any, path: Path, metadata: Any = None) -> None:
    path.write_bytes(b"half")
    full_disk()


@pytest.mark.parametrize("patience", [6, 0])
@pytest.mark.parametrize("after", [0, 1, 2, 5])
@pytest.mark.parametrize("broken", ["replace", "save_file"])
def test_a_full_disk_leaves_nothing_half_written(
    broken: str, after: int, patience: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPTIONS, patience=patience)
    whole, first, second = small(), small(), small()
    train(whole, tmp_path / "whole", options)
    folder, module = tmp_path / "parts", os if broken == "replace" else cloud.training
    works, calls = getattr(module, broken), []

    def fails(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) <= after:
            works(*arguments)
        elif broken == "replace":
            full_disk()
        else:
            half_written(*arguments)

    monkeypatch.setattr(module, broken, fails)
    with pytest.raises(OSError, match="No space left"):
        train(first, folder, options)
    monkeypatch.undo()
    assert {path.name for path in folder.iterdir()} <= {"best.safetensors", "last.safetensors"}
    assert (after > 0) == any(folder.iterdir())
    train(second, folder, options)
    assert same(state(second), state(whole))


def test_a_full_disk_at_the_end_leaves_no_half_written_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, again = small(), small()

    def half(path: Path, text: str, **_: Any) -> int:
        path.write_bytes(text[:10].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError, match="No space left"):
        train(model, tmp_path)
    monkeypatch.undo()
    assert {path.name for path in tmp_path.iterdir()} == {"best.safetensors", "last.safetensors"}
    assert train(again, tmp_path, measure=scripted()).epoch == 6  # nothing is trained again
    assert same(state(again), state(model))
