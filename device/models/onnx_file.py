"""A device model that is an ONNX file, run by onnxruntime on one CPU thread as a phone would run it."""

import hashlib
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from device.errors import ConfigError, ContractError
from device.model import Items, Parameters, Scores

CONTENT = "onnx"  # the one parameter: the file's bytes, because they are what a device receives
_ID_TYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}

# A session of a 5 MB model takes about 6 MB beside the 10 to 15 MB of the first; thousands of devices must share one.
_sessions: "weakref.WeakValueDictionary[str, onnxruntime.InferenceSession]" = weakref.WeakValueDictionary()


class OnnxFile:
    """Runs an ONNX file with inputs `history` [B, L], `candidates` [B, C] (int64 or int32) and output `scores` [B, C].

    A file that rounds activations to the range of all rows of a call (dynamic int8) is run row by row, as a phone does:
    a device's scores must not depend on whose come with them.

    `init` returns the file's bytes as the only parameter (uint8), so that installing the model costs what it weighs;
    `score` runs the bytes in `params`, which may be another file's. One session per content is shared by all.

    Raises ConfigError for a file that is missing, larger than `max_bytes`, not ONNX, in need of other files, or that
    onnxruntime cannot run; ContractError for other inputs or outputs.
    """

    def __init__(self, path: str | Path, *, max_bytes: int = 64 * 2**20) -> None:
        self.path = Path(path)
        self._content = _read(self.path, max_bytes)
        self._session, self._alone = session(self._content, str(self.path)), rounds_by_call(self._content)
        self._params: Parameters = {CONTENT: np.frombuffer(self._content, np.uint8)}
        self._own = self._params[CONTENT]

    @property
    def nbytes(self) -> int:
        """Size of the file in bytes."""
        return len(self._content)

    def init(self, rng: np.random.Generator) -> Parameters:
        """The file's bytes; a file holds its weights, so nothing is drawn."""
        return {CONTENT: self._own}

    def score(self, params: Parameters, history: Items, candidates: Items) -> Scores:
        """Scores [B, C] float32."""
        if params is not self._params:
            self._bind(params)
        if not self._alone:
            return run(self._session, history, candidates)
        scores = np.zeros(candidates.shape, np.float32)
        again = (history == history[:1]).all(1) & (candidates == candidates[:1]).all(1)  # what fills a call up
        for i in [*range(min(1, len(history))), *np.flatnonzero(~again)]:
            scores[i] = run(self._session, history[i : i + 1], candidates[i : i + 1])[0]
        scores[again] = scores[:1]
        return scores

    def _bind(self, params: Parameters) -> None:
        if set(params) != {CONTENT} or params[CONTENT].dtype != np.uint8:
            raise ContractError(f"{self.path}: params must be {{'{CONTENT}': uint8 bytes of a file}}; use init(rng)")
        if params[CONTENT] is not self._own:
            content = params[CONTENT].tobytes()
            self._session, self._alone = session(content, f"{self.path} (params)"), rounds_by_call(content)
            self._own = params[CONTENT]
        self._params = params


def session(content: bytes, name: str) -> onnxruntime.InferenceSession:
    """The one session for this content: one thread, sequential. `name` is for messages. Raises as `OnnxFile` does."""
    digest = hashlib.sha256(content).hexdigest()
    known = _sessions.get(digest)
    if known is not None:
        return known
    _check_graph(content, name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # its failures reach us as exceptions
    try:
        made = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises classes of its own for every kind of refusal
        first = str(error).splitlines()[0]
        version = onnxruntime.__version__
        raise ConfigError(f"{name}: onnxruntime {version} cannot run it ({first}); export it again") from error
    _check_signature(made, name)
    _sessions[digest] = made
    return made


def rounds_by_call(content: bytes) -> bool:
    """Whether a file quantises activations by the smallest and largest of a whole call, batch included."""
    return any(node.op_type == "DynamicQuantizeLinear" for node in onnx.load_model_from_string(content).graph.node)


def run(session: onnxruntime.InferenceSession, history: Items, candidates: Items) -> Scores:
    """Scores [B, C] float32 of one session; ContractError where the answer has another shape or the run fails."""
    types = {value.name: _ID_TYPES[value.type] for value in session.get_inputs()}
    feed = {"history": history.astype(types["history"]), "candidates": candidates.astype(types["candidates"])}
    try:
        scores: NDArray[np.float32] = session.run(["scores"], feed)[0]
    except Exception as error:  # onnxruntime raises classes of its own for every kind of failure
        reason = str(error).splitlines()[0]
        if "out of data bounds" in reason:
            raise IndexError(f"ONNX model: {reason}") from error
        raise ContractError(
            f"ONNX model: failed on history {history.shape}, candidates {candidates.shape} "
            f"({reason}); export it with dynamic batch, history and candidates"
        ) from error
    if scores.shape != candidates.shape:
        raise ContractError(
            f"ONNX model: scores {scores.shape} for candidates {candidates.shape}; export [B, C] scores"
        )
    return scores


def _read(path: Path, max_bytes: int) -> bytes:
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the path of an .onnx file")
    if (size := path.stat().st_size) > max_bytes:
        raise ConfigError(f"{path}: {size} bytes, more than max_bytes = {max_bytes}; raise max_bytes or use int8")
    return path.read_bytes()


def _check_graph(content: bytes, name: str) -> None:
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own DecodeError
        raise ConfigError(f"{name}: not an ONNX file ({error}); make one with `tandemrec export`") from error
    if not model.ir_version or not model.graph.node:
        raise ConfigError(f"{name}: not an ONNX file (no graph in it); make one with `tandemrec export`")
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ConfigError(
                f"{name}: weight {tensor.name!r} lies in another file; save the model in one file (external_data=False)"
            )


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Every tensor anywhere in a protobuf message: initializers, constants, sparse tensors, subgraphs, functions."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if hasattr(value, "ListFields") else value:
                yield from _tensors(part)


def _check_signature(made: onnxruntime.InferenceSession, name: str) -> None:
    inputs = {value.name: value for value in made.get_inputs()}
    outputs = {value.name: value for value in made.get_outputs()}
    if set(inputs) != {"history", "candidates"}:
        raise ContractError(f"{name}: inputs {sorted(inputs)}; export it with the inputs history and candidates")
    if set(outputs) != {"scores"}:
        raise ContractError(f"{name}: outputs {sorted(outputs)}; export it with the one output scores")
    for value in inputs.values():
        if value.type not in _ID_TYPES:
            raise ContractError(f"{name}: input {value.name} is {value.type}; export item ids as int64 or int32")
    if outputs["scores"].type != "tensor(float)":
        raise ContractError(f"{name}: scores are {outputs['scores'].type}; export them as float32")
    for value in inputs.values():
        if len(value.shape) != 2 or any(isinstance(size, int) for size in value.shape):
            raise ContractError(
                f"{name}: input {value.name} has shape {value.shape}; export it with two dynamic dimensions"
            )
