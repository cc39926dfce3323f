"""Cuts subnets out of an elastic module: views of its leading channels to train, dense copies to install."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from device.errors import ConfigError
from device.model import Items, Parameters, Scores
from device.models.torch_model import TorchModel
from device.subnet import Size, SubnetSpec, Table, as_read, leading


@runtime_checkable
class Elastic(Protocol):
    """A module whose smaller sizes are its own leading channels and first blocks, parameter by parameter.

    So every parameter of `sized(spec)` has the name of one of the large module, and along each axis the first entries
    of it (of each gate, inside an `nn.GRU`). What is not like that (a fused query-key-value weight, the
    concatenation of two widths) has to be several parameters.
    """

    spec: SubnetSpec
    item_table: str

    def subnets(self) -> Sequence[SubnetSpec]:
        """The subnets it was made for."""
        ...

    def sized(self, spec: SubnetSpec) -> nn.Module:
        """A new module of the same class, smaller, with weights of its own."""
        ...

    def flops(self, length: int, candidates: int) -> float:
        """Floating-point operations of one `forward` for one user (2 per multiply-add)."""
        ...


def narrowed(large: nn.Module, spec: SubnetSpec) -> nn.Module:
    """The large module with all channels and blocks beyond `spec` masked: gradients reach the large one's weights.

    It computes on contiguous copies of the leading channels, so that in eval mode it equals the dense slice bit for
    bit. Its int8 table is rounded as the installed one is, with the gradient of the unrounded table (straight-through,
    Bengio et al. 2013); one of codes is so in eval mode only, for these are fitted after training. It shows the weights
    of now: make another one after an optimiser step.
    """
    small = skeleton(large, spec).train(large.training)
    stacks, weights = _stacks(large), dict(large.named_parameters())
    for name, empty in list(small.named_parameters()):
        cut = _leading(weights[name], tuple(empty.shape), stacks.get(name, 1))
        if name == large.item_table and (kind := (spec.in_training if large.training else spec).table) != "float32":
            cut = straight_through(cut, kind)
        owner, _, leaf = name.rpartition(".")
        part = small.get_submodule(owner)
        delattr(part, leaf)
        setattr(part, leaf, cut)
    return small


def skeleton(large: nn.Module, spec: SubnetSpec) -> nn.Module:
    """A module of the spec's size without memory for its weights; ConfigError for a spec beyond the large one."""
    if not spec.within(large.spec):
        raise ConfigError(f"subnet {spec}: {type(large).__name__} is only {large.spec}; choose one of its subnets()")
    with torch.device("meta"):
        small: nn.Module = large.sized(spec)
    return small


def straight_through(table: Tensor, kind: Table) -> Tensor:
    """`table` [n + 1, e] as a device reads it from its form `kind`, with the gradient of `table`."""
    read = torch.from_numpy(as_read(table.detach().cpu().numpy(), kind)).to(table.device)
    return read + (table - table.detach())


class SlimmableTorch:
    """A Slimmable device model around an elastic module; whole models are scored as by TorchModel."""

    def __init__(self, module: nn.Module) -> None:
        if not isinstance(module, Elastic):
            raise ConfigError(
                f"{type(module).__name__} cannot be slimmed; give it spec, item_table, subnets(), sized(spec) and "
                "flops(length, candidates)"
            )
        self.module: nn.Module = module
        self.whole = TorchModel(module)
        self.item_table = module.item_table

    def init(self, rng: np.random.Generator) -> Parameters:
        """Fresh parameters of the large model."""
        return self.whole.init(rng)

    def score(self, params: Parameters, history: Items, candidates: Items) -> Scores:
        """Scores [B, C] of the large model."""
        return self.whole.score(params, history, candidates)

    def catalogue(self, params: Parameters, history: Items) -> Scores:
        """[B, n + 1] of the large model."""
        return self.whole.catalogue(params, history)

    def state(self, params: Parameters, history: Items) -> Scores:
        """[B, e] of the large model; ContractError for a module without `states`."""
        return self.whole.state(params, history)

    def subnets(self) -> Sequence[SubnetSpec]:
        """The subnets it was made for, itself among them."""
        specs: Sequence[SubnetSpec] = self.module.subnets()
        return specs

    def slice(self, params: Parameters, spec: SubnetSpec) -> Parameters:
        """Leading channels and first blocks of `params`, dense copies; the table as the device reads it."""
        stacks, small = _stacks(self.module), skeleton(self.module, spec)
        cut = {
            name: leading(params[name], tuple(empty.shape), stacks.get(name, 1))
            for name, empty in small.state_dict().items()
        }
        if spec.table != "float32":
            cut[self.item_table] = as_read(cut[self.item_table], spec.table)
        return cut

    def subnet(self, spec: SubnetSpec) -> TorchModel:
        """The small dense model, to be run with what `slice` gives."""
        return TorchModel(self.dense(spec))

    def dense(self, spec: SubnetSpec, params: Parameters | None = None) -> nn.Module:
        """The small dense module in eval mode, e.g. for export; with the slice of `params` where they are given."""
        made = skeleton(self.module, spec).to_empty(device="cpu").eval()
        with torch.no_grad():
            for tensor in made.state_dict().values():
                tensor.zero_()
        if params is not None:
            made.load_state_dict({k: torch.from_numpy(v) for k, v in self.slice(params, spec).items()})
        return made

    def size(self, spec: SubnetSpec, *, length: int, candidates: int) -> Size:
        """Parameters, installed bytes and FLOPs of a subnet after `length` items, scoring `candidates`."""
        small = skeleton(self.module, spec)
        shapes = {name: tuple(tensor.shape) for name, tensor in small.state_dict().items()}
        return Size.of(shapes, spec, item_table=self.item_table, flops=small.flops(length, candidates))


def _leading(weight: Tensor, shape: tuple[int, ...], stacked: int) -> Tensor:
    """`device.subnet.leading` with a gradient; the tensor itself where nothing is cut off."""
    if tuple(weight.shape) == shape:
        return weight
    cut = weight.unflatten(0, (stacked, -1))[:, : shape[0] // stacked]
    for axis, size in enumerate(shape[1:], start=2):
        cut = cut.narrow(axis, 0, size)
    return cut.reshape(shape).contiguous()


def _stacks(module: nn.Module) -> dict[str, int]:
    """Parameters that are several matrices below each other: the three gates of an `nn.GRU`."""
    return {
        f"{prefix}.{name}": 3
        for prefix, part in module.named_modules()
        if isinstance(part, nn.GRU)
        for name, _ in part.named_parameters()
    }
