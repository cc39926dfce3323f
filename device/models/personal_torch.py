"""Makes a personalised device model of the device half of a torch method."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from device.errors import ContractError
from device.model import Items, Parameters, Scores
from device.models.torch_model import TorchModel
from device.personal import Layout, Patches


class PersonalTorch:
    """A Personalized device model around a module that takes a patch beside history and candidates.

    The module has `layout: dict[str, Part]` and `forward(history [B, L], candidates [B, C], **patch [B, *shape])` ->
    [B, C], and scores as the shared model where no patch is given. It gets bool and int8 as they are and both float
    kinds as float32. What stands for no patch is True for bool and 0 for numbers, unless the module says it itself:
    `unpatched() -> dict[str, Tensor [*shape]]`. For the rest see TorchModel; `params` are the shared weights, those of
    this module only.

    Raises ContractError as TorchModel does, and for a module without a layout.
    """

    item_table: str  # set only where the module has it, so that isinstance(model, HasItemTable) tells the truth

    def __init__(self, module: nn.Module) -> None:
        if not isinstance(getattr(module, "layout", None), Mapping) or not module.layout:
            raise ContractError(
                f"{type(module).__name__} has no layout; give the device half layout = {{name: Part(shape, kind)}}"
            )
        self.module, self.shared = module, TorchModel(module)
        self.layout: Layout = dict(module.layout)
        if hasattr(module, "item_table"):
            self.item_table = str(module.item_table)

    def init(self, rng: np.random.Generator) -> Parameters:
        """See TorchModel."""
        return self.shared.init(rng)

    def score(self, params: Parameters, history: Items, candidates: Items) -> Scores:
        """Scores [B, C] float32 of the shared model."""
        return self.shared.score(params, history, candidates)

    def catalogue(self, params: Parameters, history: Items) -> Scores:
        """Scores [B, n + 1] float32 of all items by the shared model."""
        return self.shared.catalogue(params, history)

    def state(self, params: Parameters, history: Items) -> Scores:
        """State [B, d] float32 of the shared model."""
        return self.shared.state(params, history)

    def unpatched(self) -> dict[str, NDArray[np.generic]]:
        """See Personalized."""
        if hasattr(self.module, "unpatched"):
            given = {name: tensor.detach().numpy() for name, tensor in self.module.unpatched().items()}
            return {name: np.asarray(given[name], part.kind) for name, part in self.layout.items()}
        return {name: np.full(part.shape, part.kind == "bool", part.kind) for name, part in self.layout.items()}

    def score_personal(self, params: Parameters, patches: Patches, history: Items, candidates: Items) -> Scores:
        """Scores [B, C] float32, row b by row b of `patches`."""
        tensors = {name: as_tensor(patches[name]) for name in self.layout}
        return self.shared.score(params, history, candidates, **tensors)


def as_tensor(values: NDArray[np.generic]) -> Tensor:
    """Bool and int8 as they are, floats as float32; a copy."""
    return torch.from_numpy(values.astype(np.float32 if values.dtype.kind == "f" else values.dtype))
