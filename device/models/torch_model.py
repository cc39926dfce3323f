"""Makes a device model of any `torch.nn.Module` with `forward(history, candidates)`."""

import copy
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from device.errors import ContractError
from device.model import DeviceModel, Items, Parameters, Scores


@runtime_checkable
class Resettable(Protocol):
    """A module that draws all its weights anew from torch's global generator."""

    def reset(self) -> None:
        """Draw the weights anew."""
        ...


class TorchModel:
    """A DeviceModel around a module with `forward(history [B, L] int64, candidates [B, C] int64)` -> [B, C].

    `init` calls the module's `reset()` where it has one, otherwise `reset_parameters()` of every part; what belongs to
    neither (bare parameters, buffers) starts as the constructor left it. `score` binds the arrays of `params` to a
    private copy of the module in eval mode, without copying them, and keeps them bound: a call with the same mapping
    object again costs nothing. An array changed in place is seen; an entry replaced in that mapping is not, so make a
    new mapping. CPU only; not for use from several threads.

    Raises ContractError where `forward` is missing, where bare parameters hold random numbers (nobody could draw them
    again from a seed), where `params` do not fit the module, and where an answer is not [B, C].
    """

    item_table: str  # set only where the module has it, so that isinstance(model, HasItemTable) tells the truth

    def __init__(self, module: nn.Module) -> None:
        if type(module).forward is nn.Module.forward:
            raise ContractError(f"{_name(module)}: no forward; write forward(history, candidates) -> scores [B, C]")
        self.module = module
        self._bound = copy.deepcopy(module).requires_grad_(False).eval()
        self._tensors = _tensors(self._bound)
        self._start = {name: self._tensors[name].clone() for name in _left_alone(module)}
        self._params: Parameters | None = None
        if hasattr(module, "item_table"):
            self.item_table = str(module.item_table)

    def init(self, rng: np.random.Generator) -> Parameters:
        """Fresh parameters as numpy copies of the state dict, one entry for tensors that are tied."""
        fresh = copy.deepcopy(self.module)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(int(rng.integers(2**63 - 1)))
            reset(fresh)
            tensors = _tensors(fresh)
            for name, value in self._start.items():
                tensors[name].copy_(value)
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}

    def score(self, params: Parameters, history: Items, candidates: Items, **more: Tensor) -> Scores:
        """Scores [B, C] float32; `more` are further arguments of the module's forward."""
        if params is not self._params:
            self._bind(params)
        with torch.inference_mode():
            scores = self._bound(_ids(history), _ids(candidates), **more)
        if not isinstance(scores, Tensor) or scores.shape != candidates.shape:
            shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ContractError(
                f"{_name(self.module)}: forward returned {shape} for candidates {candidates.shape}; "
                "return one score per candidate, [B, C], and do not squeeze sizes of 1"
            )
        array: Scores = scores.to(torch.float32).numpy()
        return array

    def catalogue(self, params: Parameters, history: Items) -> Scores:
        """Scores [B, n + 1] float32 of all items; through the module's `catalogue(history)` where it has one."""
        if params is not self._params:
            self._bind(params)
        with torch.inference_mode():
            known = _ids(history)
            if hasattr(self._bound, "catalogue"):
                scores = self._bound.catalogue(known)
            elif not hasattr(self._bound, "n_items"):
                raise ContractError(f"{_name(self.module)} does not say how many items it knows; give it n_items")
            else:
                every = torch.arange(int(self._bound.n_items) + 1).split(1024)
                scores = torch.cat([self._bound(known, part.expand(len(known), -1)) for part in every], dim=1)
        array: Scores = scores.to(torch.float32).numpy()
        return array

    def state(self, params: Parameters, history: Items) -> Scores:
        """State [B, d] float32 after the newest item; ContractError for a module without `states(history)`."""
        if not hasattr(self.module, "states"):
            raise ContractError(f"{_name(self.module)} shows no state; give it states(history) -> [B, L, d]")
        if params is not self._params:
            self._bind(params)
        with torch.inference_mode():
            array: Scores = self._bound.states(_ids(history))[:, -1].to(torch.float32).numpy()
        return array

    def loaded(self, params: Parameters) -> nn.Module:
        """A copy of the module in eval mode that holds copies of `params`, for training or export."""
        self._bind(params)
        return copy.deepcopy(self._bound).requires_grad_(True)

    def _bind(self, params: Parameters) -> None:
        self._params = None  # until all fit
        self._check(params)
        for name, tensor in self._tensors.items():
            tensor.data = _as_tensor(params[name]).to(tensor.dtype)
        self._params = params

    def _check(self, params: Parameters) -> None:
        if missing := sorted(self._tensors.keys() - params.keys()):
            raise ContractError(f"{_name(self.module)}: params lack {_few(missing)}; start from init(rng)")
        if unknown := sorted(params.keys() - self._tensors.keys()):
            raise ContractError(f"{_name(self.module)}: params hold unknown {_few(unknown)}; remove them")
        for name, tensor in self._tensors.items():
            if params[name].shape != tuple(tensor.shape):
                raise ContractError(
                    f"{_name(self.module)}: {name} is {params[name].shape} in params, {tuple(tensor.shape)} in the "
                    "module; use params of the same subnet"
                )


def as_device_model(model: object) -> DeviceModel:
    """`model` itself where it has init and score, a module wrapped by TorchModel; ContractError for anything else."""
    if isinstance(model, DeviceModel):
        return model
    if isinstance(model, nn.Module):
        return TorchModel(model)
    raise ContractError(
        f"{type(model).__name__} is no device model; give it init(rng) and score(params, history, candidates), "
        "or pass a torch.nn.Module with forward(history, candidates)"
    )


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """The state dict's live tensors by name; of tied tensors only the first, so that no byte is counted twice."""
    kept = dict(module.named_parameters()) | dict(module.named_buffers())
    return {name: kept[name] for name in module.state_dict() if name in kept}


def reset(module: nn.Module) -> None:
    """Draw all weights of `module` anew, in place, from torch's global generator, by `reset()` or part by part."""
    if isinstance(module, Resettable):
        module.reset()
        return
    for part in reversed(list(module.modules())):  # children first: a parent may overrule what its children drew
        if redraw := _redraw(part):
            redraw()


def _redraw(part: nn.Module) -> Callable[[], None] | None:
    """The part's own way to draw its weights; `nn.MultiheadAttention` and `nn.Transformer` hide theirs."""
    found: Callable[[], None] | None = getattr(part, "reset_parameters", None) or getattr(
        part, "_reset_parameters", None
    )
    return found


def _left_alone(module: nn.Module) -> list[str]:
    """Names of the tensors that no reset reaches; ContractError where one of them is a parameter of random numbers."""
    if isinstance(module, Resettable):
        return []
    names = [
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules()
        if _redraw(part) is None
        for name, _ in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
    ]
    for name, parameter in module.named_parameters():
        if name in names and parameter.numel() > 1 and bool((parameter != parameter.flatten()[0]).any()):
            raise ContractError(
                f"{_name(module)}: nobody can draw the bare parameter {name} again from a seed; "
                "give the module a method reset() that sets all its weights"
            )
    return [name for name in names if name in _tensors(module)]


def _ids(items: Items) -> Tensor:
    return torch.from_numpy(items.astype(np.int64))


def _as_tensor(array: NDArray[np.generic]) -> Tensor:
    """Tensor on the array's own memory; a copy where torch could not promise to leave it as it is."""
    usable = array.flags.writeable and all(stride >= 0 for stride in array.strides) and array.dtype.isnative
    return torch.from_numpy(array if usable else array.astype(array.dtype.newbyteorder("="), order="C"))


def _name(module: nn.Module) -> str:
    return type(module).__name__


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
