"""What the log says of a training."""

from pathlib import Path

import pytest
from tiny import TOML, refused, tandemrec, written

from device.models.sasrec import SASRec
from simulation.shelf import said, spelled


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("[cloud.generator]", "cloud SASRec"),
        ("[device.model] of tier 'phone'", "device SASRec"),
        ("model 'SASRec'", "SASRec"),
    ],
)
def test_a_training_is_called_by_its_place(where: str, told: str) -> None:
    assert said(SASRec(n_items=3, length=2, width=4, blocks=1), where) == told


def test_the_best_value_is_told_in_words() -> None:
    head = "epoch 30/60 loss 2.8012"
    assert spelled(f"{head} best 0.4002 @ 24") == f"{head}, best validation NDCG@10 0.4002 (epoch 24)"
    assert spelled(f"{head} best -1.0000 @ 0") == head  # without validation


def test_no_measures_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    message = refused(tandemrec("run", written(tmp_path, TOML), "--set", "metrics=[]", "--runs", tmp_path / "runs"))
    assert "metrics = []: name one at least" in message
    assert not (tmp_path / "runs").exists()
