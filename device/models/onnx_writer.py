"""Writes a module as an ONNX file, and an int8 file from that."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from device.errors import ContractError
from device.model import Items


def write_fp32(module: nn.Module, sample: tuple[Items, Items], path: Path) -> str:
    """Write `module` with dynamic batch, history length and candidate count; returns the name of the exporter used.

    `sample` is (history [B, L], candidates [B, C]) to trace with, all sizes at least 2. Raises ContractError.
    """
    arguments = tuple(torch.from_numpy(array.astype(np.int64)) for array in sample)
    # torch 2.13's dynamo exporter unrolls a recurrent network, which fixes the length; the older one has ONNX's own.
    recurrent = any(isinstance(part, nn.RNNBase) for part in module.modules())
    write = _torchscript if recurrent else _dynamo
    try:
        with _quiet():
            write(module, arguments, path)
    except Exception as error:  # the exporters raise classes of their own for every kind of refusal
        cause = error.__cause__ or error
        raise ContractError(
            f"{type(module).__name__}: torch.onnx.export failed ({type(cause).__name__}: {str(cause).strip()[:300]}); "
            "write forward without Python branches on sizes or values"
        ) from error
    return "torchscript" if recurrent else "dynamo"


def _dynamo(module: nn.Module, arguments: tuple[torch.Tensor, ...], path: Path) -> None:
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
    program.save(str(path), external_data=False)


def _torchscript(module: nn.Module, arguments: tuple[torch.Tensor, ...], path: Path) -> None:
    torch.onnx.export(
        module,
        arguments,
        str(path),
        dynamo=False,
        dynamic_axes={"history": {0: "batch", 1: "length"}, "candidates": {0: "batch", 1: "count"}},
        input_names=["history", "candidates"],
        output_names=["scores"],
    )


def write_int8(source: Path, path: Path) -> None:
    """Write `source` with its weights as int8 (onnxruntime's dynamic quantisation)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready = path.with_suffix(".ready")
    with _quiet():
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        quantize_dynamic(str(ready), str(path), weight_type=QuantType.QInt8)


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
