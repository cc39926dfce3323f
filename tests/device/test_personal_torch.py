import numpy as np
import pytest
import torch
from personal_parts import Coded, Half
from torch import nn

from device.errors import ContractError
from device.model import HasItemTable
from device.models.personal_torch import PersonalTorch
from device.personal import Part, Personalized
from device.seeds import rng

N = 30


def made(seed=0):
    torch.manual_seed(seed)
    module = Coded(N)
    params = {name: tensor.numpy() for name, tensor in module.device.state_dict().items()}
    return module, PersonalTorch(module.device), params


def inputs(size, seed=1):
    draw = np.random.default_rng(seed)
    history = draw.integers(1, N + 1, (size, 8)).astype(np.int32)
    history[::2, :3] = 0
    return history, draw.integers(1, N + 1, (size, 5)).astype(np.int32)


def patches_of(module, history):
    with torch.inference_mode():
        return {n: t.numpy() for n, t in module.eval().patches(torch.from_numpy(history).long()).items()}


def test_it_is_a_personalised_model_of_the_device_half_only():
    _, model, params = made()
    assert isinstance(model, Personalized)
    assert isinstance(model, HasItemTable)
    assert model.item_table in params
    assert model.init(rng(0, "w")).keys() == params.keys() == {"item.weight"}


def test_unpatched_is_the_shared_model_to_the_bit():
    _, model, params = made()
    history, candidates = inputs(64)
    none = {name: np.repeat(value[None], 64, axis=0) for name, value in model.unpatched().items()}
    got = model.score_personal(params, none, history, candidates)
    np.testing.assert_array_equal(got, model.score(params, history, candidates))


def test_patches_change_scores_as_by_hand():
    module, model, params = made()
    history, candidates = inputs(7)
    patches = patches_of(module, history)
    got = model.score_personal(params, patches, history, candidates)
    table = params["item.weight"].astype(np.float64)
    state = table[history].sum(1) / (history != 0).sum(1)[:, None]
    state = (state + patches["code"]) * patches["mask"]
    np.testing.assert_allclose(got, np.einsum("bd,bcd->bc", state, table[candidates]), atol=1e-5)
    assert (np.abs(got - model.score(params, history, candidates)) > 1e-3).any()


def test_a_batch_equals_single_devices():
    module, model, params = made()
    history, candidates = inputs(9)
    patches = patches_of(module, history)
    whole = model.score_personal(params, patches, history, candidates)
    for row in range(9):
        one = slice(row, row + 1)
        alone = model.score_personal(params, {n: v[one] for n, v in patches.items()}, history[one], candidates[one])
        np.testing.assert_allclose(alone, whole[one], atol=1e-6)


class Halves(Half):
    """Its code is stored as float16; 1 stands for none."""

    def __init__(self):
        super().__init__(N, 4)
        self.layout = {"code": Part((4,), "float16")}

    def unpatched(self):
        return {"code": torch.ones(4)}

    def forward(self, history, candidates, code=None):
        assert code is None or code.dtype == torch.float32
        return super().forward(history, candidates) * (1 if code is None else code[:, :1])


def test_a_module_may_say_itself_what_stands_for_none():
    model = PersonalTorch(Halves())
    assert model.unpatched()["code"].dtype == np.float16
    params = model.init(rng(0, "w"))
    history, candidates = inputs(4)
    none = {"code": np.repeat(model.unpatched()["code"][None], 4, axis=0)}
    shared = model.score(params, history, candidates)
    np.testing.assert_array_equal(model.score_personal(params, none, history, candidates), shared)


def test_a_module_without_a_layout_is_refused():
    with pytest.raises(ContractError, match="layout"):
        PersonalTorch(nn.Linear(2, 2))
