"""What the training of DUET, CKI and SOLID begins with: the weights of the trained shared model, and new ones."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from two_tastes import KNOWN, backbone, batch, hits, learn, untouched

from cloud.options import Training
from cloud.personalizers.cki import Cki
from cloud.personalizers.duet import Duet
from cloud.personalizers.solid import Solid
from cloud.sequences import Sequences
from cloud.training import fit
from device.models.sasrec import SASRec
from device.models.torch_model import reset

METHODS: dict[str, Callable[..., Any]] = {
    "DUET": lambda start: Duet(start, code=8),
    "DUET, int8 code": lambda start: Duet(start, code=8, send="code", kind="int8"),
    "DUET, faithful": lambda start: Duet(start, code=8, faithful=True),
    "CKI": lambda start: Cki(start, code=8),
    "SOLID": lambda start: Solid(start, code=8, groups=4),
    "SOLID, semantics": lambda start: Solid(start, code=8, groups=4, upload="semantics"),
}


def trained() -> SASRec:
    torch.manual_seed(0)
    made = backbone(KNOWN)
    learn(made, 30)
    return made


def begins_as(made: Any, wanted: dict[str, torch.Tensor]) -> bool:
    now = made.device.backbone.state_dict()
    return now.keys() == wanted.keys() and all(torch.equal(value, wanted[name]) for name, value in now.items())


@pytest.mark.parametrize("name", METHODS)
def test_a_reset_keeps_the_trained_backbone_and_draws_the_rest(name: str) -> None:
    start = trained()
    wanted = copy.deepcopy(start.state_dict())
    made = METHODS[name](start)
    before = {key: value.clone() for key, value in made.state_dict().items()}
    torch.manual_seed(9)
    reset(made)
    assert begins_as(made, wanted)
    after = made.state_dict()
    for part in ("device.shared", "trunk.gru.weight_hh_l0", "projection"):
        keys = [key for key in after if key.endswith(part)]
        assert keys
        assert not any(torch.equal(after[key], before[key]) for key in keys)
    assert untouched(made, 1) == set()  # the backbone learns on, all of it
    assert not begins_as(made, wanted)
    reset(made)
    assert begins_as(made, wanted)


@pytest.mark.parametrize("name", METHODS)
def test_the_trainer_goes_on_from_the_trained_model(name: str, tmp_path: Path) -> None:
    """One epoch of steps that are too small to see."""
    history, target = batch(20, torch.Generator().manual_seed(0))
    items = torch.cat([history, target[:, None]], 1).numpy().astype(np.int32)
    starts = np.arange(20) * (KNOWN + 1)
    start = trained()
    assert hits(start) > 0.9
    made = METHODS[name](copy.deepcopy(start))
    options = Training(epochs=1, patience=0, batch=64, learning_rate=1e-9)
    fit(made, Sequences(items.reshape(-1), starts, starts + KNOWN + 1), None, options=options, seed=1, folder=tmp_path)
    for key, value in made.device.backbone.state_dict().items():
        torch.testing.assert_close(value, start.state_dict()[key], atol=1e-6, rtol=1e-6)


def test_the_papers_training_begins_with_random_weights() -> None:
    start = trained()
    wanted = copy.deepcopy(start.state_dict())
    made = Duet(start, code=8, pretrained=False)
    assert begins_as(made, wanted)
    reset(made)
    now = made.device.backbone.state_dict()
    assert not any(torch.equal(now[name], wanted[name]) for name in ("item.weight", "blocks.0.qkv.weight"))
    assert untouched(made, 1) == set()
