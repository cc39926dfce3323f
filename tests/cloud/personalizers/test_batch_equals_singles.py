"""A batch of n devices with parameters of their own equals n single devices, of every method and on both sides.

Masks, int8 codes and kept blocks bitwise, all other numbers to 1e-5: the products of a batch add in another order.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from personal_parts import Coded
from torch import nn

from cloud.personalizers.cki import Cki
from cloud.personalizers.diet import Diet
from cloud.personalizers.duet import Duet
from cloud.personalizers.forward_ofa import ForwardOFA
from cloud.personalizers.solid import Solid
from cloud.personalizers.trained import TrainedPersonalizer
from device.model import Items, Scores
from device.models.assembled import Assembled
from device.models.masked import MaskedHead, MaskedSASRec
from device.models.personal_torch import PersonalTorch
from device.models.sasrec import SASRec
from device.personal import Patches
from device.personal_codec import Personal, decode_personal, encode_personal
from device.personal_scoring import PersonalScorer
from device.scoring import ModelScorer, Rows
from device.seeds import draws
from simulation.commands.catalogue import built_in

N_ITEMS, LENGTH, WIDTH, MOST = 20, 5, 8, 9
SIZES: dict[str, Any] = {"width": WIDTH, "blocks": 1, "length": LENGTH, "dropout": 0.0}


def backbone() -> SASRec:
    return SASRec(N_ITEMS, **SIZES)


METHODS: dict[str, Callable[[], nn.Module]] = {
    "tiny": lambda: Coded(N_ITEMS, LENGTH),
    "DIET": lambda: Diet(MaskedHead(N_ITEMS, **SIZES)),
    "DIET, scores above zero": lambda: Diet(MaskedHead(N_ITEMS, **SIZES), keep=None),
    "DIET of the body": lambda: Diet(MaskedSASRec(N_ITEMS, **SIZES)),
    "DIETING": lambda: Diet(MaskedHead(N_ITEMS, **SIZES, tied=True)),
    "DIETING of the body": lambda: Diet(MaskedSASRec(N_ITEMS, **SIZES, tied=True)),
    "Forward-OFA": lambda: ForwardOFA(Assembled(N_ITEMS, **SIZES | {"blocks": 3})),
    "Forward-OFA with budgets": lambda: ForwardOFA(Assembled(N_ITEMS, **SIZES | {"blocks": 3}), budgets=(0.0, 1e5)),
    "DUET": lambda: Duet(backbone(), code=6),
    "DUET, stable": lambda: Duet(backbone(), code=6, stable=True),
    "DUET, faithful": lambda: Duet(backbone(), code=6, faithful=True),
    "DUET, code": lambda: Duet(backbone(), code=6, send="code"),
    "DUET, int8 code": lambda: Duet(backbone(), code=6, send="code", kind="int8"),
    "SOLID": lambda: Solid(backbone(), code=6, groups=4),
    "SOLID, semantics": lambda: Solid(backbone(), code=6, groups=4, upload="semantics"),
    "CKI": lambda: Cki(backbone(), code=6),
}
EXACT = ("bool", "int8")


@cache
def method(name: str) -> tuple[TrainedPersonalizer, ModelScorer, PersonalTorch, str]:
    """Cloud half, shared model, device half, class; embeddings as wide as trained ones, so that devices differ."""
    torch.manual_seed(2)
    made: Any = METHODS[name]()
    with torch.no_grad():
        for embedding in (part for part in made.modules() if isinstance(part, nn.Embedding)):
            embedding.weight.mul_(30)
            embedding.weight[0] = 0
        if isinstance(made, ForwardOFA):
            made.controller.second[:, -1] = 0  # which begins with keeping every block of every device
    cloud, half = TrainedPersonalizer(made), PersonalTorch(made.device)
    params = {key: value.numpy() for key, value in made.device.state_dict().items()}
    resident = np.arange(1, N_ITEMS + 1, dtype=np.int32)
    return cloud, ModelScorer(half, params, resident), half, f"{type(made).__module__}:{type(made).__name__}"


def histories(seed: int, devices: int) -> Items:
    """[B, LENGTH] of none to all places filled, oldest first."""
    numbers = np.random.default_rng(seed)
    items = numbers.integers(1, N_ITEMS + 1, (devices, LENGTH)).astype(np.int32)
    items[np.arange(LENGTH) < numbers.integers(0, LENGTH + 1, (devices, 1))] = 0
    return items


def ask(cloud: TrainedPersonalizer, known: Items, who: Rows) -> Patches:
    """Patches of devices `who`, as they come out of the wire."""
    made = cloud.personalize(known, who % 2, rng=draws(0, "personalizer", who, who * 0))
    return decode_personal(encode_personal(Personal(who, who * 0, made.patches), cloud.layout), cloud.layout).patches


def score(shared: ModelScorer, patches: Patches, who: Rows, known: Items, pools: Items) -> tuple[Scores, Scores]:
    """(scores of pools, scores of own candidates) of devices `who` of a fleet that holds `patches` [D, ...]."""
    (size,) = {len(values) for values in patches.values()}
    assert isinstance(shared.model, PersonalTorch)
    scorer, step = PersonalScorer(shared, shared.model, np.arange(size)), np.zeros(len(who), np.int64)
    scorer.held = {name: np.asarray(values) for name, values in patches.items()}
    return scorer.scores(who, step, known, pools), scorer.own(who, step, known, 3)[1]


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=8, deadline=None)
@given(devices=st.integers(1, MOST), seed=st.integers(0, 2**31))
def test_a_batch_equals_singles(name: str, devices: int, seed: int) -> None:
    cloud, shared, half, _ = method(name)
    known, who = histories(seed, devices), np.arange(devices)
    pools = np.random.default_rng(seed + 1).integers(1, N_ITEMS + 1, (devices, 6)).astype(np.int32)
    made = ask(cloud, known, who)
    whole, own = score(shared, made, who, known, pools)
    for d in range(devices):
        one = slice(d, d + 1)
        alone = ask(cloud, known[one], who[one])
        for part, values in alone.items():
            tolerance = 0.0 if cloud.layout[part].kind in EXACT else 1e-5
            pair = values.astype(np.float64), made[part][one].astype(np.float64)
            np.testing.assert_allclose(*pair, rtol=tolerance, atol=tolerance)
        single, single_own = score(shared, made, who[one], known[one], pools[one])
        np.testing.assert_allclose(single, whole[one], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(single_own, own[one], rtol=1e-5, atol=1e-5)
        direct = half.score_personal(shared.params, alone, known[one], pools[one])
        np.testing.assert_allclose(direct, whole[one], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_devices_hold_different_parameters(name: str) -> None:
    """So the equality above is not one of empty patches."""
    cloud, shared, half, _ = method(name)
    known, who = histories(1, MOST), np.arange(MOST)
    pools = np.tile(np.arange(1, 7, dtype=np.int32), (MOST, 1))
    made = ask(cloud, known, who)
    assert all(len(np.unique(values.reshape(MOST, -1), axis=0)) > 1 for values in made.values())
    patched = score(shared, made, who, known, pools)[0]
    plain = half.score(shared.params, known, pools)
    assert (np.abs(patched - plain).max(1) > 1e-4).sum() > 2


def test_every_personalizer_is_tried() -> None:
    assert {method(name)[3] for name in METHODS} - {"personal_parts:Coded"} == {
        entry["class"] for entry in built_in("personalizer")
    }
