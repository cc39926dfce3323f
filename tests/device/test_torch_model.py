import numpy as np
import pytest
import torch
from torch import Tensor, nn

from device.errors import ContractError
from device.model import DeviceModel, HasItemTable
from device.models.din import DIN
from device.models.gru4rec import GRU4Rec
from device.models.sasrec import SASRec
from device.models.torch_model import TorchModel, as_device_model
from device.seeds import rng


class Mean(nn.Module):
    """Dot product of the mean of the history's embeddings and the candidate's, plus a bias."""

    def __init__(self, n_items: int = 4, width: int = 2) -> None:
        super().__init__()
        self.item = nn.Embedding(n_items + 1, width, padding_idx=0)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        real = (history != 0).sum(1, keepdim=True).clamp(min=1)
        return torch.einsum("bd,bcd->bc", self.item(history).sum(1) / real, self.item(candidates)) + self.bias


def ids(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.int32)


TABLE = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [2, -1]], np.float32)


def test_scores_by_hand():
    params = {"item.weight": TABLE, "bias": np.array([0.5], np.float32)}
    scores = TorchModel(Mean()).score(params, ids([0, 1, 2]), ids([3, 4]))
    # mean of (1, 0) and (0, 1) is (0.5, 0.5); . (1, 1) = 1, . (2, -1) = 0.5; plus 0.5
    assert scores.tolist() == [[1.5, 1.0]]
    assert scores.dtype == np.float32


def test_init_follows_the_generator_and_leaves_torchs_alone():
    model = TorchModel(Mean())
    before = torch.random.get_rng_state()
    a, b, c = model.init(rng(1, "w")), model.init(rng(1, "w")), model.init(rng(2, "w"))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert list(a) == ["item.weight", "bias"] or list(a) == ["bias", "item.weight"]
    assert np.array_equal(a["item.weight"], b["item.weight"])
    assert not np.array_equal(a["item.weight"], c["item.weight"])
    assert a["item.weight"][0].tolist() == [0, 0]


@pytest.mark.parametrize("make", [SASRec, GRU4Rec, DIN])
def test_init_does_not_depend_on_how_the_module_was_constructed(make):
    torch.manual_seed(1)
    one = make(20, width=8)
    torch.manual_seed(2)
    other = make(20, width=8)
    a, b = TorchModel(one).init(rng(1)), TorchModel(other).init(rng(1))
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("make", [SASRec, GRU4Rec, DIN])
def test_score_is_the_modules_own_in_eval_mode(make):
    model = TorchModel(make(20, width=8))
    params = model.init(rng(3))
    history, candidates = ids([0, 0, 5, 6], [1, 2, 3, 4]), ids([7, 8, 9], [10, 11, 12])
    module = model.loaded(params)
    expected = module(torch.from_numpy(history).long(), torch.from_numpy(candidates).long()).detach().numpy()
    np.testing.assert_allclose(model.score(params, history, candidates), expected, rtol=1e-6, atol=1e-7)
    assert isinstance(model, HasItemTable)
    assert params[model.item_table].shape == (21, 8)


def test_the_module_given_is_never_touched():
    module = Mean().train()
    weight = module.item.weight.detach().clone()
    model = TorchModel(module)
    model.score(model.init(rng(3)), ids([1]), ids([2]))
    assert module.training
    assert torch.equal(module.item.weight, weight)


def test_same_params_are_loaded_once_and_changes_in_place_are_seen(monkeypatch: pytest.MonkeyPatch):
    model = TorchModel(Mean())
    loads: list[int] = []
    bind = TorchModel._bind
    monkeypatch.setattr(TorchModel, "_bind", lambda self, params: (loads.append(id(params)), bind(self, params))[1])
    first = {"item.weight": TABLE.copy(), "bias": np.zeros(1, np.float32)}
    second = {"item.weight": 2 * TABLE, "bias": np.zeros(1, np.float32)}
    assert [model.score(p, ids([3]), ids([3])).item() for p in (first, first, second, first)] == [2.0, 2.0, 8.0, 2.0]
    assert loads == [id(first), id(second), id(first)]
    first["bias"] += 1
    assert model.score(first, ids([3]), ids([3])).item() == 3.0


def test_arrays_as_they_come_from_the_wire():
    frozen = TABLE.astype(np.float16)
    frozen.flags.writeable = False
    params = {"item.weight": frozen[::1], "bias": np.zeros(2, np.float32)[::-1][:1]}
    assert TorchModel(Mean()).score(params, ids([3]), ids([4])).tolist() == [[1.0]]  # (1, 1) . (2, -1) = 1


def test_tied_weights_count_once():
    class Tied(Mean):
        def __init__(self) -> None:
            super().__init__()
            self.out = self.item

    model = TorchModel(Tied())
    assert sorted(model.init(rng(0))) == ["bias", "item.weight"]


def test_transformers_of_torch_itself_are_drawn_from_the_seed():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.item = nn.Embedding(9, 4, padding_idx=0)
            self.attention = nn.MultiheadAttention(4, 1, batch_first=True)

        def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
            x, c = self.item(history), self.item(candidates)
            return (self.attention(c, x, x, need_weights=False)[0] * c).sum(-1)

    a, b = (TorchModel(Attention()).init(rng(5)) for _ in range(2))
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert np.unique(a["attention.in_proj_weight"]).size > 10


def test_bare_random_parameters_are_refused_with_a_cure():
    class Bare(Mean):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.randn(3))

    with pytest.raises(ContractError, match=r"Bare: .* bare parameter position .* reset\(\)"):
        TorchModel(Bare())


def test_training_the_module_does_not_move_what_init_starts_bare_parameters_from():
    module = Mean()
    model = TorchModel(module)
    with torch.no_grad():
        module.bias += 7
    assert model.init(rng(0))["bias"].tolist() == [0.0]


GOOD = {"item.weight": TABLE, "bias": np.zeros(1, np.float32)}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"bias": GOOD["bias"]}, r"Mean: params lack item\.weight; start from init"),
        ({**GOOD, "extra": TABLE}, "unknown extra; remove"),
        ({**GOOD, "item.weight": TABLE[:3]}, r"item\.weight is \(3, 2\) in params, \(5, 2\) in the module"),
    ],
)
def test_params_that_do_not_fit_are_refused(params, message):
    model = TorchModel(Mean())
    with pytest.raises(ContractError, match=message):
        model.score(params, ids([1]), ids([2]))
    assert model.score(GOOD, ids([1]), ids([1])).item() == 1.0


def test_wrong_answers_are_refused():
    class Flat(Mean):
        def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
            return super().forward(history, candidates)[:, 0]

    model = TorchModel(Flat())
    with pytest.raises(ContractError, match=r"Flat: forward returned \(1,\) for candidates \(1, 2\); return one score"):
        model.score(GOOD, ids([1]), ids([2, 3]))


def test_as_device_model():
    model = as_device_model(Mean())
    assert isinstance(model, DeviceModel)
    assert not isinstance(model, HasItemTable)
    assert as_device_model(model) is model
    with pytest.raises(ContractError, match=r"int is no device model; give it init\(rng\)"):
        as_device_model(3)
    with pytest.raises(ContractError, match="Module: no forward"):
        TorchModel(nn.Module())
