"""Writes a module as an ONNX file, and an int8 file from that."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from device.errors import ContractError
from device.model import Items

FIXED = "dynamo, history cut or padded to its length"
"""The name of the exporter where a module does not survive a dynamic length."""


class FixedLength(nn.Module):
    """A module that is shown histories of `length` items, whatever it is given: the newest, or padded on the left."""

    def __init__(self, module: nn.Module, length: int) -> None:
        super().__init__()
        self.module, self.length = module, length

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] after `history` [B, L]."""
        shown: Tensor = self.module(F.pad(history, (self.length, 0))[:, -self.length :], candidates)
        return shown


def write_fp32(module: nn.Module, sample: tuple[Items, Items], path: Path) -> str:
    """Write `module` with dynamic batch, history length and candidate count; returns the name of the exporter used.

    A module whose forward is a loop over positions is traced for the sample's length, see `FixedLength`.
    `sample` is (history [B, L], candidates [B, C]) to trace with, all sizes at least 2. Raises ContractError.
    """
    arguments = tuple(torch.from_numpy(array.astype(np.int64)) for array in sample)
    # torch 2.13's dynamo exporter unrolls a recurrent network, which fixes the length; the older one has ONNX's own.
    recurrent = any(isinstance(part, nn.RNNBase) for part in module.modules())
    write = _torchscript if recurrent else _dynamo
    try:
        with _quiet():
            name = write(module, arguments, path)
            path.write_bytes(bare(path.read_bytes()))
            return name
    except Exception as error:  # the exporters raise classes of their own for every kind of refusal
        cause = error.__cause__ or error
        raise ContractError(
            f"{type(module).__name__}: torch.onnx.export failed ({type(cause).__name__}: {str(cause).strip()[:300]}); "
            "write forward without Python branches on sizes or values"
        ) from error


def bare(content: bytes) -> bytes:
    """An ONNX file without what nobody runs: where in the sources each node comes from, and the shapes in between."""
    model = onnx.load_model_from_string(content)
    del model.graph.value_info[:]
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.functions):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    return bytes(model.SerializeToString())


def _dynamo(module: nn.Module, arguments: tuple[Tensor, ...], path: Path) -> str:
    try:
        program, name = _exported(module, arguments), "dynamo"
    except Exception as refused:  # classes of its own for every kind of refusal
        try:
            program, name = _exported(FixedLength(module, arguments[0].shape[1]), arguments), FIXED
        except Exception:
            raise refused from refused.__cause__  # the module's own fault, not the wrapper's
    program.save(str(path), external_data=False)
    return name


def _exported(module: nn.Module, arguments: tuple[Tensor, ...]) -> torch.onnx.ONNXProgram:
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        module,
        arguments,
        dynamo=True,
        dynamic_shapes=(dynamic, dynamic),
        input_names=["history", "candidates"],
        output_names=["scores"],
        verbose=False,
    )
    assert program is not None
    return program


def _torchscript(module: nn.Module, arguments: tuple[Tensor, ...], path: Path) -> str:
    torch.onnx.export(
        module,
        arguments,
        str(path),
        dynamo=False,
        dynamic_axes={"history": {0: "batch", 1: "length"}, "candidates": {0: "batch", 1: "count"}},
        input_names=["history", "candidates"],
        output_names=["scores"],
    )
    return "torchscript"


def write_int8(source: Path, path: Path) -> None:
    """Write `source` with its weights as int8 (onnxruntime's dynamic quantisation)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready = path.with_suffix(".ready")
    with _quiet():
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        quantize_dynamic(str(ready), str(path), weight_type=QuantType.QInt8)
    path.write_bytes(bare(path.read_bytes()))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters, which speak to stdout, stderr, logging and warnings about what nobody can mend."""
    before = logging.root.manager.disable
    silence = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)
