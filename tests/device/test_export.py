import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from device.check import check_device_model
from device.errors import ConfigError, ContractError
from device.export import Exported, export_onnx, top_overlap
from device.model import DeviceModel
from device.models import onnx_file
from device.models.din import DIN
from device.models.gru4rec import GRU4Rec
from device.models.onnx_file import OnnxFile
from device.models.sasrec import SASRec
from device.models.torch_model import TorchModel
from device.seeds import rng


def ids(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.int32)


def by_hand(
    path: Path,
    *,
    id_type: int = TensorProto.INT64,
    inputs: tuple[str, str] = ("history", "candidates"),
    output: str = "scores",
    size: str | int = "b",
    factor: float = 2.0,
) -> Path:
    """An ONNX file whose score is `factor` * candidate id + the sum of the history's ids."""
    nodes = [
        helper.make_node("Cast", [inputs[0]], ["h"], to=TensorProto.FLOAT),
        helper.make_node("Cast", [inputs[1]], ["c"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["h", "axis"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["c", "factor"], ["scaled"]),
        helper.make_node("Add", ["scaled", "sum"], [output]),
    ]
    graph = helper.make_graph(
        nodes,
        "by hand",
        [
            helper.make_tensor_value_info(name, id_type, [size, dim])
            for name, dim in zip(inputs, ("l", "c"), strict=True)
        ],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [size, "c"])],
        [
            helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
            helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("id_type", [TensorProto.INT64, TensorProto.INT32])
def test_an_onnx_file_is_a_device_model(tmp_path: Path, id_type: int):
    model = OnnxFile(by_hand(tmp_path / "m.onnx", id_type=id_type))
    assert isinstance(model, DeviceModel)
    params = model.init(rng(0))
    assert sum(array.nbytes for array in params.values()) == model.nbytes == (tmp_path / "m.onnx").stat().st_size
    scores = model.score(params, ids([0, 1, 2], [3, 4, 5]), ids([7, 8], [9, 1]))
    assert scores.tolist() == [[17.0, 19.0], [30.0, 14.0]]  # 2 * 7 + (1 + 2), 2 * 8 + 3; 2 * 9 + 12, 2 * 1 + 12
    assert scores.dtype == np.float32
    check_device_model(model).raise_on_failure()


def test_one_session_per_content_and_none_when_nobody_uses_it(tmp_path: Path):
    one, same = (OnnxFile(by_hand(tmp_path / f"{name}.onnx", factor=5.0)) for name in "ab")
    other = OnnxFile(by_hand(tmp_path / "c.onnx", factor=6.0))
    assert one._session is same._session is not other._session
    digest = hashlib.sha256((tmp_path / "a.onnx").read_bytes()).hexdigest()
    assert digest in onnx_file._sessions
    del one, same
    assert digest not in onnx_file._sessions


def test_the_bytes_in_params_are_what_runs(tmp_path: Path):
    model = OnnxFile(by_hand(tmp_path / "a.onnx"))
    other = OnnxFile(by_hand(tmp_path / "b.onnx", factor=3.0))
    own, patch = model.init(rng(0)), other.init(rng(0))
    got = [model.score(params, ids([1]), ids([10])).item() for params in (own, patch, own)]
    assert got == [21.0, 31.0, 21.0]
    with pytest.raises(ContractError, match=r"params must be \{'onnx': uint8"):
        model.score({"weights": np.zeros(3)}, ids([1]), ids([10]))


def external(path: Path) -> Path:
    model = onnx.load(by_hand(path))
    onnx.external_data_helper.convert_model_to_external_data(model, location="w.bin", size_threshold=0)
    model.graph.initializer[1].data_location = TensorProto.EXTERNAL
    path.write_bytes(model.SerializeToString())
    return path


def unknown_operator(path: Path) -> Path:
    model = onnx.load(by_hand(path))
    model.graph.node[0].op_type = "Teleport"
    path.write_bytes(model.SerializeToString())
    return path


def text(path: Path) -> Path:
    path.write_text("this is a text about onnx\n" * 9)
    return path


def empty(path: Path) -> Path:
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (text, r"not an ONNX file \(Error parsing.*tandemrec export"),
        (empty, "not an ONNX file .*no graph"),
        (external, r"weight '.*' lies in another file; save the model in one file"),
        (unknown_operator, r"onnxruntime .* cannot run it .*Teleport.*; export it again"),
        (lambda path: path, "no such file; give the path"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, make, message: str):
    with pytest.raises(ConfigError, match=rf"m\.onnx: {message}"):
        OnnxFile(make(tmp_path / "m.onnx"))


def test_a_file_above_the_cap(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"m\.onnx: \d+ bytes, more than max_bytes = 100; raise max_bytes"):
        OnnxFile(by_hand(tmp_path / "m.onnx"), max_bytes=100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": ("past", "candidates")}, r"inputs \['candidates', 'past'\]; export it with the inputs"),
        ({"output": "y"}, r"outputs \['y'\]; export it with the one output scores"),
        ({"id_type": TensorProto.FLOAT}, r"input history is tensor\(float\); export item ids"),
        ({"size": 1}, "input history has shape .* two dynamic dimensions"),
    ],
)
def test_files_with_another_signature(tmp_path: Path, arguments: dict, message: str):
    with pytest.raises(ContractError, match=rf"m\.onnx: {message}"):
        OnnxFile(by_hand(tmp_path / "m.onnx", **arguments))


class Tiny(nn.Module):
    """Attention of the candidate over the history."""

    item_table = "item.weight"

    def __init__(self, n_items: int = 40, width: int = 8) -> None:
        super().__init__()
        self.item = nn.Embedding(n_items + 1, width, padding_idx=0)
        self.value = nn.Linear(width, width)

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        past, target = self.item(history), self.item(candidates)
        weight = torch.softmax((target @ past.transpose(1, 2)).masked_fill((history == 0)[:, None], -1e9), dim=-1)
        return (self.value(weight @ past) * target).sum(-1)


def drawn(module: nn.Module) -> nn.Module:
    """The module with weights that do not depend on other tests."""
    model = TorchModel(module)
    return model.loaded(model.init(rng(1)))


@pytest.fixture(scope="module")
def tiny() -> nn.Module:
    return drawn(Tiny()).train()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny: nn.Module) -> tuple[Exported, Path]:
    folder = tmp_path_factory.mktemp("export") / "tier" / "low"
    return export_onnx(tiny, folder, length=12, candidates=20), folder


def test_both_files_are_there_and_described(exported: tuple[Exported, Path], tiny: nn.Module):
    result, folder = exported
    assert sorted(path.name for path in folder.iterdir()) == ["fp32.onnx", "int8.onnx"]
    assert [file.precision for file in result.files] == ["fp32", "int8"]
    for file in result.files:
        content = Path(file.path).read_bytes()
        assert (file.nbytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert 0 < file.p50_ms <= file.p95_ms
        assert 0 <= file.top10_overlap <= 1
    fp32, _ = result.files
    assert fp32.max_difference < 1e-5
    assert fp32.top10_overlap == 1.0
    assert (result.exporter, result.length, result.candidates, result.runs) == ("dynamo", 12, 20, 200)
    assert result.host["torch"] == torch.__version__
    assert tiny.training  # the module itself stays as it was


def test_the_result_is_json(exported: tuple[Exported, Path]):
    result, _ = exported
    back = json.loads(json.dumps(result.to_dict()))
    assert back["files"][1]["sha256"] == result.files[1].sha256
    assert set(back) == {"files", "length", "candidates", "runs", "exporter", "host"}


def test_the_file_scores_as_the_module_at_any_size(exported: tuple[Exported, Path], tiny: nn.Module):
    _, folder = exported
    file, module = OnnxFile(folder / "fp32.onnx"), TorchModel(tiny)
    weights = {name: tensor.numpy() for name, tensor in tiny.state_dict().items()}
    for batch, length, count in [(1, 1, 1), (4, 30, 2), (64, 5, 40)]:
        history = rng(2, batch).integers(1, 41, (batch, length), dtype=np.int32)
        candidates = rng(3, batch).integers(1, 41, (batch, count), dtype=np.int32)
        np.testing.assert_allclose(
            file.score(file.init(rng(0)), history, candidates),
            module.score(weights, history, candidates),
            atol=1e-5,
        )
    check_device_model(file, n_items=40).raise_on_failure()


def test_the_int8_file_runs_and_differs_little(exported: tuple[Exported, Path], tiny: nn.Module):
    result, folder = exported
    int8 = OnnxFile(folder / "int8.onnx")
    assert 0 < result.files[1].max_difference < 0.1 * abs(largest_score(tiny))
    assert int8.score(int8.init(rng(0)), ids([1, 2]), ids([3, 4, 5])).shape == (1, 3)


def largest_score(module: nn.Module) -> float:
    """Largest |score| of the module over all pairs of one history item and one candidate."""
    items = torch.arange(1, 41)
    with torch.no_grad():
        return float(module(items[:, None], items.expand(40, 40)).abs().max())


def test_a_recurrent_module_keeps_its_dynamic_length(tmp_path: Path):
    result = export_onnx(drawn(GRU4Rec(30, width=8)), tmp_path, length=10, candidates=6, int8=False)
    assert (result.exporter, [file.precision for file in result.files]) == ("torchscript", ["fp32"])
    assert result.files[0].max_difference < 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ["fp32.onnx"]


@pytest.mark.parametrize(("make", "exporter"), [(SASRec, "dynamo"), (DIN, "dynamo"), (GRU4Rec, "torchscript")])
def test_our_rerankers_are_exported_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str], make, exporter: str):
    result = export_onnx(drawn(make(30, width=8)), tmp_path, length=10, candidates=6)
    assert (result.exporter, len(result.files)) == (exporter, 2)
    assert result.files[0].max_difference < 1e-5
    assert capfd.readouterr() == ("", "")


class Recurrent(nn.Module):
    """Takes the fast exporter; `mistake` says what is wrong with it."""

    n_items = 20

    def __init__(self, mistake: str) -> None:
        super().__init__()
        self.item = nn.Embedding(21, 4, padding_idx=0)
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.mistake = mistake

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        state = self.gru(self.item(history))[0][:, -1]
        if self.mistake == "length":
            state = state * float(history.shape[1])  # traced as a constant
        if self.mistake == "random":
            state = state + torch.rand(4)
        if self.mistake == "unknown":
            state = state + torch.linalg.eigvals(self.gru.weight_hh_l0[:4]).real
        return torch.einsum("bd,bcd->bc", state, self.item(candidates))


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("length", "Recurrent: the ONNX file differs from torch by .* sizes taken as constants"),
        ("random", "differs from torch by .* look for randomness"),
        ("unknown", r"Recurrent: torch\.onnx\.export failed \(.*eigvals"),
    ],
)
def test_modules_that_do_not_survive_the_export_leave_nothing_behind(tmp_path: Path, mistake: str, message: str):
    with pytest.raises(ContractError, match=message):
        export_onnx(drawn(Recurrent(mistake)), tmp_path, length=10, candidates=6, int8=False)
    assert list(tmp_path.iterdir()) == []


def test_sizes_that_cannot_be(tmp_path: Path):
    with pytest.raises(ConfigError, match="export: length = 1; give at least 2"):
        export_onnx(Tiny(), tmp_path, length=1, candidates=6)
    unnamed = nn.Sequential(nn.Embedding(3, 3))
    with pytest.raises(ContractError, match="Sequential: how many items it knows cannot be told; pass n_items"):
        export_onnx(unnamed, tmp_path, length=5, candidates=6)


def test_top_overlap_by_hand():
    expected = np.array([[4, 3, 2, 1], [1, 2, 3, 4]], np.float32)
    got = np.array([[4, 1, 3, 2], [1, 2, 3, 4]], np.float32)
    assert top_overlap(expected, got, 2) == 0.75  # {0, 1} and {0, 2} share one of two; the second row shares both
    assert top_overlap(expected, got) == 1.0  # of four columns all are among the best ten
