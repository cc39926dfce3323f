"""Exports a reranker as ONNX files, fp32 and int8, and measures each: bytes, agreement with torch, latency."""

import contextlib
import copy
import hashlib
import os
import platform
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import nn

from device.errors import ConfigError, ContractError
from device.model import Items, Scores
from device.models import onnx_file
from device.models.onnx_writer import FIXED, write_fp32, write_int8
from device.seeds import rng

FP32_TOLERANCE = 1e-4  # largest |onnx - torch|, times the largest |score| where that exceeds 1; measured: below 1e-6
WARM_UP, RUNS, TOP = 20, 200, 10

Sample = tuple[Items, Items]  # history [B, L], candidates [B, C]


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """One exported file and what was measured on it.

    `max_difference` is the largest |onnx - torch| over all sample scores; `top10_overlap` the mean share of torch's ten
    best candidates among this file's ten best. Latencies are milliseconds for batch 1, one thread.
    """

    precision: str  # "fp32" or "int8"
    path: str
    nbytes: int
    sha256: str
    max_difference: float
    top10_overlap: float
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True)
class Exported:
    """The files of one model; latencies hold for `host` only, at `length` history items and `candidates` candidates."""

    files: tuple[OnnxModel, ...]
    length: int
    candidates: int
    runs: int
    exporter: str  # "dynamo", "torchscript", or FIXED: that file looks at the newest `length` items of any history
    host: dict[str, str | int]

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers, for JSON."""
        return {**asdict(self), "files": [asdict(file) for file in self.files]}


def export_onnx(
    module: nn.Module,
    folder: str | Path,
    *,
    length: int,
    candidates: int,
    int8: bool = True,
    n_items: int | None = None,
) -> Exported:
    """Write `<folder>/fp32.onnx` and `int8.onnx`, compare both with torch and time both.

    The module's weights are exported as they are, in eval mode. `n_items` is needed only where the module has neither
    `n_items` nor `item_table`. int8 is weight-only dynamic quantisation. A file appears under its name only when it
    was checked. Raises ContractError where the module cannot be exported, fails at other shapes than it was traced
    with, or is more than `FP32_TOLERANCE` away from torch in fp32; ConfigError for impossible sizes.
    """
    _check_sizes(length, candidates)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    samples = _samples(n_items or _n_items(module), length, candidates)
    module = copy.deepcopy(module).eval()
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
        made = {"fp32": Path(scratch) / "fp32.onnx"}
        exporter = write_fp32(module, samples[0], made["fp32"])
        if int8:
            made["int8"] = Path(scratch) / "int8.onnx"
            write_int8(made["fp32"], made["int8"])
        if exporter == FIXED:
            samples = [(history[:, -length:], pool) for history, pool in samples]
        expected = [_torch_scores(module, sample) for sample in samples]
        measured = [_measure(kind, path, folder, samples, expected) for kind, path in made.items()]
        _check_parity(module, measured[0], max(float(np.abs(scores).max()) for scores in expected))
        for file, path in zip(measured, made.values(), strict=True):
            os.replace(path, file.path)
    return Exported(tuple(measured), length, candidates, RUNS, exporter, host())


def host() -> dict[str, str | int]:
    """What a latency depends on: processor, cores, system, and the versions of Python, torch and onnxruntime."""
    return {
        "processor": _processor(),
        "machine": platform.machine(),
        "cores": os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def latency(session: onnxruntime.InferenceSession, history: Items, candidates: Items) -> tuple[float, float]:
    """p50 and p95 in milliseconds of `RUNS` runs after `WARM_UP` runs, conversion of ids included."""
    seconds = np.empty(WARM_UP + RUNS)
    for i in range(WARM_UP + RUNS):
        start = time.perf_counter()
        onnx_file.run(session, history, candidates)
        seconds[i] = time.perf_counter() - start
    p50, p95 = np.percentile(seconds[WARM_UP:] * 1e3, [50, 95])
    return float(p50), float(p95)


def top_overlap(expected: Scores, got: Scores, k: int = TOP) -> float:
    """Mean over rows of the share of the k best columns of `expected` [B, C] that are among the k best of `got`."""
    k = min(k, expected.shape[1])
    best = [np.argsort(-scores, axis=1, kind="stable")[:, :k] for scores in (expected, got)]
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(*best, strict=True)]))


def _check_sizes(length: int, candidates: int) -> None:
    for name, value in (("length", length), ("candidates", candidates)):
        if value < 2:
            raise ConfigError(f"export: {name} = {value}; give at least 2, or the exporter takes it for a constant")


def _n_items(module: nn.Module) -> int:
    if isinstance(size := getattr(module, "n_items", None), int):
        return size
    if isinstance(table := getattr(module, "item_table", None), str):
        return int(module.state_dict()[table].shape[0]) - 1
    raise ContractError(
        f"{type(module).__name__}: how many items it knows cannot be told; pass n_items or give it an attribute n_items"
    )


def _samples(n_items: int, length: int, candidates: int) -> list[Sample]:
    """Random ids at the asked sizes and at others, because a traced size can hide in the graph as a constant."""
    draw = rng(0, "export")
    shapes = [(2, length, candidates), (1, length, candidates), (3, max(1, length // 2), candidates + 3)]
    shapes += [(1, length + 7, 1), (16, length, candidates)]
    samples = []
    for batch, size, count in shapes:
        history = draw.integers(1, n_items + 1, (batch, size), dtype=np.int32)
        history[batch // 2 :, : size // 2] = 0
        samples.append((history, draw.integers(1, n_items + 1, (batch, count), dtype=np.int32)))
    return samples


def _measure(kind: str, path: Path, folder: Path, samples: list[Sample], expected: list[Scores]) -> OnnxModel:
    content = path.read_bytes()
    session = onnx_file.session(content, f"{kind} export")
    got = [onnx_file.run(session, *sample) for sample in samples]
    p50, p95 = latency(session, *samples[1])
    return OnnxModel(
        precision=kind,
        path=str(folder / path.name),
        nbytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        max_difference=max(float(np.abs(a - b).max()) for a, b in zip(expected, got, strict=True)),
        top10_overlap=top_overlap(expected[-1], got[-1]),
        p50_ms=p50,
        p95_ms=p95,
    )


def _check_parity(module: nn.Module, fp32: OnnxModel, largest: float) -> None:
    limit = FP32_TOLERANCE * max(1.0, largest)
    if not fp32.max_difference <= limit:  # also true for NaN
        raise ContractError(
            f"{type(module).__name__}: the ONNX file differs from torch by {fp32.max_difference:.2g}, more than "
            f"{limit:.2g}; look for randomness, sizes taken as constants, or operations without an ONNX twin"
        )


def _torch_scores(module: nn.Module, sample: Sample) -> NDArray[np.float32]:
    with torch.inference_mode():
        scores = module(*(torch.from_numpy(array.astype(np.int64)) for array in sample))
    array: NDArray[np.float32] = scores.to(torch.float32).numpy()
    return array


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
