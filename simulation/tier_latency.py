"""What one reranking step costs a tier's devices: time measured here and scaled, memory counted, energy per operation.

No phone is measured. Time is onnxruntime's on this host, one thread, times `HOST_SCALE` (to the reference phone,
declared), times the profile's compute scale (a published figure). What does not scale, such as the runtime's overhead
per call, is scaled with the rest.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from device.errors import ConfigError
from device.model import Items
from device.models import onnx_file
from device.profile import DeviceProfile, fits
from device.seeds import rng

HOST_SCALE = 3.0
"""Declared, not measured: how many times as long the reference phone takes as one core of a server of today."""

LABEL = "scaled, not measured on a phone"
_PRECISION = {"fp32": "float32", "int8": "int8"}  # as device.export names its files
_SAME_MEMORY = {"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"}


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one step with a batch of 1, counted on the file's graph as it was exported."""

    parameters: int  # of all weights and constants
    activations: int  # most that live at once, inputs and outputs included

    @property
    def total(self) -> int:
        """Parameters and activations."""
        return self.parameters + self.activations


@dataclass(frozen=True, slots=True)
class Measured:
    """One file on this host: milliseconds of onnxruntime, batch 1, one thread, and bytes."""

    p50_ms: float
    p95_ms: float
    nbytes: int
    memory: Memory
    precision: str  # "float32" or "int8"
    host: Mapping[str, str | int]


@dataclass(frozen=True, slots=True)
class StepCost:
    """One step on one kind of device; `label` says what the milliseconds are."""

    profile: str
    p50_ms: float
    p95_ms: float
    scale: float  # times this host's milliseconds
    memory_bytes: int
    nbytes: int
    flops: float  # NaN where the model does not say
    joules: float
    battery_share: float  # of the full battery; 0 on the mains
    fits: bool
    label: str
    host: Mapping[str, str | int]

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, strings and numbers, for JSON; None for NaN."""
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in asdict(self).items()
        }


def measure(path: str | Path, *, n_items: int, length: int, candidates: int, precision: str = "fp32") -> Measured:
    """Time and memory of an ONNX reranker here, with random items; ConfigError for impossible sizes."""
    from device.export import host, latency

    if precision not in _PRECISION:
        raise ConfigError(f"precision: expected one of {', '.join(_PRECISION)}, found {precision!r}; correct it")
    for name, value in (("n_items", n_items), ("length", length), ("candidates", candidates)):
        if value < 1:
            raise ConfigError(f"measure: {name} = {value}; give at least 1")
    content = Path(path).read_bytes()
    draw = rng(0, "tier latency")
    history, pool = (draw.integers(1, n_items + 1, (1, size), dtype=np.int32) for size in (length, candidates))
    p50, p95 = latency(onnx_file.session(content, str(path)), history, pool)
    memory = step_memory(content, history, pool)
    return Measured(p50, p95, len(content), memory, _PRECISION[precision], host())


def step_cost(
    profile: DeviceProfile, measured: Measured, *, flops: float = math.nan, host_scale: float = HOST_SCALE
) -> StepCost:
    """The cost of a step on devices of this profile; `flops` as the model's `flops(length, candidates)`.

    `host_scale`: how many times as long the reference phone takes as the host that measured.
    """
    if not 0 < host_scale < math.inf:
        raise ConfigError(f"host_scale: expected a finite number > 0, found {host_scale!r}; 1 leaves it to the profile")
    scale = host_scale * profile.compute
    joules = flops / 1e9 * profile.j_per_gflop
    return StepCost(
        profile=profile.name,
        p50_ms=measured.p50_ms * scale,
        p95_ms=measured.p95_ms * scale,
        scale=scale,
        memory_bytes=measured.memory.total,
        nbytes=measured.nbytes,
        flops=flops,
        joules=joules,
        battery_share=joules / profile.battery_j,
        fits=fits(profile, measured.nbytes, measured.memory.total, precision=measured.precision),
        label=f"{LABEL}: this host x {host_scale:g} (declared) x {profile.compute:.3g} (profile {profile.name!r})",
        host=measured.host,
    )


def step_memory(content: bytes, history: Items, candidates: Items) -> Memory:
    """Memory of one run on `history` [B, L] and `candidates` [B, C].

    The graph is run once with every value as an output, for their sizes. A value lives from the node that makes it to
    the last that reads it; a reshaped one shares its source's memory. Not counted: the runtime itself, its allocator,
    the workspace within a node.
    """
    model = onnx.load_model_from_string(content)
    graph = model.graph
    parameters = sum(numpy_helper.to_array(weight).nbytes for weight in graph.initializer)
    sizes = _sizes(model, history, candidates)
    constants = {node.output[0] for node in graph.node if node.op_type == "Constant"}
    parameters += sum(sizes[name] for name in constants)
    return Memory(parameters, _peak(graph, {k: v for k, v in sizes.items() if k not in constants}))


def _sizes(model: Any, history: Items, candidates: Items) -> dict[str, int]:
    """Bytes of every value that the graph's inputs and nodes hold."""
    every = onnx.ModelProto()
    every.CopyFrom(model)
    known = {value.name for value in every.graph.output}
    made = [name for node in every.graph.node for name in node.output if name and name not in known]
    every.graph.output.extend(onnx.ValueInfoProto(name=name) for name in made)
    session = _plain_session(every.SerializeToString())
    wanted = {value.name: value.type for value in session.get_inputs()}
    feed: dict[str, NDArray[Any]] = {"history": history, "candidates": candidates}
    feed = {name: feed[name].astype(np.int64 if kind == "tensor(int64)" else np.int32) for name, kind in wanted.items()}
    names = [value.name for value in session.get_outputs()]
    results = zip(names, session.run(names, feed), strict=True)
    return {name: value.nbytes for name, value in feed.items()} | {name: np.asarray(v).nbytes for name, v in results}


def _plain_session(content: bytes) -> Any:
    """A session that leaves the graph as it is."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _peak(graph: Any, sizes: Mapping[str, int]) -> int:
    """Most bytes alive at once; `sizes` of inputs and node outputs, weights left out."""
    owner = _owners(graph, sizes)
    last = dict.fromkeys((owner(name) for name in sizes), 0)
    for at, node in enumerate(graph.node):
        for name in [*node.input, *node.output]:
            if name in sizes:
                last[owner(name)] = at
    for value in [*graph.input, *graph.output]:
        if value.name in sizes:
            last[owner(value.name)] = len(graph.node)
    alive = {value.name for value in graph.input}
    peak = sum(sizes[name] for name in alive)
    for at, node in enumerate(graph.node):
        alive |= {owner(name) for name in node.output if name in sizes}
        peak = max(peak, sum(sizes[name] for name in alive))
        alive = {name for name in alive if last[name] > at}
    return peak


def _owners(graph: Any, sizes: Mapping[str, int]) -> Callable[[str], str]:
    """The value whose memory a value lies in."""
    source = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type in _SAME_MEMORY and node.input[0] in sizes and node.output[0] in sizes
    }

    def owner(name: str) -> str:
        while name in source:
            name = source[name]
        return name

    return owner
