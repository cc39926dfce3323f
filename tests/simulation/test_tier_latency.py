import json
import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from device.errors import ConfigError
from device.export import export_onnx
from device.models.gru4rec import GRU4Rec
from device.models.sasrec import SASRec
from device.profile import DeviceProfile
from simulation.tier_latency import HOST_SCALE, LABEL, Measured, Memory, measure, step_cost, step_memory

PHONE = DeviceProfile("phone", 4.0, 10_000_000, 10_000, ("float32",), "4g", 0.5, 1000.0, "test")
HERE = {"processor": "test"}


def by_hand(n_items=9, width=4, *, half=False):
    """Scores = sum of the candidate's row, plus the number of history items: a graph small enough to count."""
    table = np.ones((n_items + 1, width), np.float16 if half else np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "candidates"], ["rows"]),  # [B, C, d]
        helper.make_node("Cast", ["rows"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["wide", "shape"], ["flat"]),  # [B * C, d], shares its memory
        helper.make_node("Reshape", ["flat", "back"], ["again"]),
        helper.make_node("ReduceSum", ["again", "axis"], ["sums"], keepdims=0),  # [B, C]
        helper.make_node("Cast", ["history"], ["old"], to=TensorProto.FLOAT),  # [B, L]
        helper.make_node("ReduceMean", ["old"], ["mean"], axes=[1], keepdims=1),  # [B, 1]
        helper.make_node("Add", ["sums", "mean"], ["scores"]),
    ]
    weights = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(np.array([-1, width], np.int64), "shape"),
        numpy_helper.from_array(np.array([1, -1, width], np.int64), "back"),
        numpy_helper.from_array(np.array([2], np.int64), "axis"),
    ]
    ids = [helper.make_tensor_value_info(k, TensorProto.INT64, ["b", k]) for k in ("history", "candidates")]
    scores = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["b", "candidates"])]
    graph = helper.make_graph(nodes, "small", ids, scores, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def ids(size):
    return np.ones((1, size), np.int32)


def test_memory_by_hand():
    # Parameters: table 10 x 4 x 4 B = 160, shapes 2 + 3 + 1 int64 = 48.
    # Alive: history 5 x 8 = 40 and candidates 3 x 8 = 24 all the time; most at the Cast: rows and wide, 3 x 4 x 4 = 48
    # each (the reshaped ones lie in wide). 40 + 24 + 48 + 48 = 160.
    assert step_memory(by_hand(), ids(5), ids(3)) == Memory(160 + 48, 160)
    # Half precision rows: 24 instead of 48; the table 80.
    assert step_memory(by_hand(half=True), ids(5), ids(3)) == Memory(80 + 48, 136)
    # With a long history its float copy counts: 100 x 8 + 24 + sums 12 + old 400 + mean 4.
    assert step_memory(by_hand(), ids(100), ids(3)) == Memory(208, 800 + 24 + 12 + 400 + 4)


def test_a_batch_holds_more():
    one, four = (step_memory(by_hand_batch(), np.ones((n, 5), np.int32), np.ones((n, 3), np.int32)) for n in (1, 4))
    assert four.parameters == one.parameters
    assert four.activations == 4 * one.activations


def by_hand_batch():
    nodes = [
        helper.make_node("Gather", ["table", "candidates"], ["rows"]),
        helper.make_node("Cast", ["history"], ["old"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["old"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Add", ["rows", "mean"], ["scores"]),
    ]
    weights = [numpy_helper.from_array(np.ones(10, np.float32), "table")]
    inputs = [helper.make_tensor_value_info(k, TensorProto.INT32, ["b", k]) for k in ("history", "candidates")]
    scores = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["b", "candidates"])]
    graph = helper.make_graph(nodes, "batch", inputs, scores, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_cost_by_hand():
    measured = Measured(1.0, 2.0, 9_000, Memory(8_000, 1_000), "float32", HERE)
    cost = step_cost(PHONE, measured, flops=2e6, host_scale=5.0)
    # 5 x 4 = 20 times the host: 20 and 40 ms; 2e6 operations at 0.5 J per 1e9 = 0.001 J, of 1000 J: a millionth
    assert (cost.scale, cost.p50_ms, cost.p95_ms) == (20.0, 20.0, 40.0)
    assert cost.memory_bytes == 9_000
    assert cost.joules == pytest.approx(0.001)
    assert cost.battery_share == pytest.approx(1e-6)
    assert cost.fits
    assert cost.label == f"{LABEL}: this host x 5 (declared) x 4 (profile 'phone')"
    assert json.loads(json.dumps(cost.to_dict()))["host"] == HERE


def test_what_does_not_fit_says_so():
    def fits(nbytes, memory, precision):
        return step_cost(PHONE, Measured(1.0, 1.0, nbytes, Memory(memory, 0), precision, HERE)).fits

    assert fits(10_000, 500_000, "float32")  # 5% of 10 MB
    assert not fits(10_001, 500_000, "float32")
    assert not fits(10_000, 500_001, "float32")
    assert not fits(10_000, 500_000, "int8")


def test_unknown_operations_are_unknown_not_free():
    cost = step_cost(PHONE, Measured(1.0, 1.0, 1, Memory(1, 0), "float32", HERE))
    assert cost.scale == HOST_SCALE * 4
    assert math.isnan(cost.joules)
    assert math.isnan(cost.battery_share)
    assert cost.to_dict()["joules"] is None


@pytest.mark.parametrize("module", [SASRec(300, width=16, blocks=1), GRU4Rec(300, width=16)])
def test_exported_models(tmp_path, module):
    exported = export_onnx(module, tmp_path, length=20, candidates=10)
    fp32, int8 = (
        measure(file.path, n_items=300, length=20, candidates=10, precision=file.precision) for file in exported.files
    )
    held = sum(value.numel() for value in module.parameters()) * 4
    # The exporters fold what they can, and add constants of shapes.
    assert 0.95 * held < fp32.memory.parameters < 1.05 * held
    assert int8.memory.parameters < 0.5 * fp32.memory.parameters
    assert (fp32.precision, int8.precision) == ("float32", "int8")
    assert fp32.nbytes == exported.files[0].nbytes
    assert 0 < fp32.p50_ms <= fp32.p95_ms
    # At least the pool's rows; at most every value at once would be far more.
    assert 10 * 16 * 4 < fp32.memory.activations < 20 * 20 * 16 * 4 * 4
    assert fp32.host == exported.host
    fast, slow = (step_cost(PHONE, fp32, host_scale=scale) for scale in (1.0, 2.0))
    assert slow.p50_ms == pytest.approx(2 * fast.p50_ms)


def test_counting_leaves_the_file_as_it_is(tmp_path):
    content = by_hand()
    path = tmp_path / "small.onnx"
    path.write_bytes(content)
    measured = measure(path, n_items=9, length=5, candidates=3)
    assert measured.memory == Memory(208, 160)
    assert path.read_bytes() == content
    assert len(onnx.load(path).graph.output) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "measure: length = 0; give at least 1"),
        ({"n_items": 0}, "measure: n_items = 0; give at least 1"),
        ({"precision": "int4"}, "expected one of fp32, int8, found 'int4'"),
    ],
)
def test_wrong_measurements(tmp_path, options, message):
    path = tmp_path / "small.onnx"
    path.write_bytes(by_hand())
    with pytest.raises(ConfigError, match=message):
        measure(path, **({"n_items": 9, "length": 5, "candidates": 3} | options))


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_wrong_host_scales(scale):
    with pytest.raises(ConfigError, match="host_scale: expected a finite number > 0"):
        step_cost(PHONE, Measured(1.0, 1.0, 1, Memory(1, 0), "float32", HERE), host_scale=scale)
