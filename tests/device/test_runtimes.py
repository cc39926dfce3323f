"""Exported files score as the modules do, for all built-in rerankers; int8 files row by row as a phone does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from device.export import export_onnx
from device.models import onnx_file
from device.models.din import DIN
from device.models.elastic import ElasticSASRec
from device.models.elastic_din import ElasticDIN
from device.models.elastic_gru import ElasticGRU4Rec
from device.models.gru4rec import GRU4Rec
from device.models.onnx_file import OnnxFile, rounds_by_call
from device.models.onnx_writer import FIXED
from device.models.sasrec import SASRec
from device.models.torch_model import TorchModel
from device.models.ttt import TTT4Rec
from device.scoring import SCORING_BATCH, ModelScorer
from device.seeds import rng

N, LENGTH, POOL = 40, 9, 12
KINDS: dict[str, Callable[[], Any]] = {
    "gru4rec": lambda: GRU4Rec(N, width=8),
    "elastic gru4rec": lambda: ElasticGRU4Rec(N, width=16, items=8),
    "sasrec": lambda: SASRec(N, width=8, length=LENGTH),
    "din": lambda: DIN(N, width=8),
    "elastic sasrec": lambda: ElasticSASRec(N, width=16, items=8, length=LENGTH),
    "elastic din": lambda: ElasticDIN(N, width=16, items=8),
    "ttt": lambda: TTT4Rec(N, width=8, heads=2, length=LENGTH, mini_batch=4),
    "ttt mlp": lambda: TTT4Rec(N, width=8, heads=2, inner="mlp", length=LENGTH, mini_batch=5),
}
FAST = ("gru4rec", "elastic gru4rec")  # the others take torch's slower exporter


def loud(kind: str) -> Any:
    """A module with weights large enough that a mistake shows."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(2)
        made = KINDS[kind]().eval()
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        made.item.weight[0] = 0
    return made


def asked(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Histories of all fillings, the last one empty, and pools."""
    draw = rng(0, "runtimes", rows)
    history = draw.integers(1, N + 1, (rows, LENGTH), dtype=np.int32)
    for row in range(rows):
        history[row, : row % (LENGTH + 1)] = 0
    history[-1] = 0
    return history, draw.integers(1, N + 1, (rows, POOL), dtype=np.int32)


@pytest.mark.parametrize("kind", [one if one in FAST else pytest.param(one, marks=pytest.mark.slow) for one in KINDS])
def test_a_fleet_gets_the_scores_of_torch(kind: str, tmp_path: Path) -> None:
    module = loud(kind)
    made = export_onnx(module, tmp_path, length=LENGTH, candidates=POOL)
    assert (made.exporter == FIXED) == kind.startswith("ttt")
    history, pools = asked(SCORING_BATCH + 6)
    who = np.arange(len(history))
    files = [OnnxFile(file.path) for file in made.files]
    expected, fp32, int8 = (
        ModelScorer(model, params).scores(who, who, history, pools)
        for model, params in (
            (TorchModel(module), {name: tensor.numpy() for name, tensor in module.state_dict().items()}),
            *((file, file.init(rng(0))) for file in files),
        )
    )
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(fp32, expected, atol=1e-4)
    assert np.corrcoef(int8.ravel(), expected.ravel())[0, 1] > 0.98
    assert not rounds_by_call(Path(files[0].path).read_bytes())
    # a device's scores do not depend on whose come with them
    scorer = ModelScorer(files[1], files[1].init(rng(0)))
    alone = np.concatenate([scorer.scores(who[i : i + 1], who[:1], history[i : i + 1], pools[i : i + 1]) for i in who])
    np.testing.assert_array_equal(alone, int8)


def test_a_file_whose_rounding_hangs_on_the_whole_call_is_run_row_by_row(tmp_path: Path) -> None:
    """The same rows in one call of the session would give something else."""
    made = export_onnx(loud("elastic gru4rec"), tmp_path, length=LENGTH, candidates=POOL)
    content = Path(made.files[1].path).read_bytes()
    assert rounds_by_call(content)
    history, pools = asked(5)
    file = OnnxFile(made.files[1].path)
    together = onnx_file.run(onnx_file.session(content, "int8"), history, pools)
    apart = file.score(file.init(rng(0)), history, pools)
    assert apart.shape == pools.shape
    assert np.abs(together - apart).max() > 1e-4
    np.testing.assert_array_equal(file.score(file.init(rng(0)), history[:2], pools[:2]), apart[:2])
    assert file.score(file.init(rng(0)), history[:0], pools[:0]).shape == (0, POOL)


def test_a_file_holds_nothing_that_nobody_runs(tmp_path: Path) -> None:
    made = export_onnx(loud("gru4rec"), tmp_path, length=LENGTH, candidates=POOL, int8=False)
    model = onnx.load(made.files[0].path)
    assert not model.graph.value_info
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)


def test_a_table_of_int8_takes_a_quarter(tmp_path: Path) -> None:
    """5,001 rows of 16 numbers: 320,064 bytes as float32."""
    made = export_onnx(GRU4Rec(5000, width=16).eval(), tmp_path, length=LENGTH, candidates=POOL)
    fp32, int8 = (file.nbytes for file in made.files)
    assert 320_064 < fp32 < 350_000
    assert 80_016 < int8 < 110_000
