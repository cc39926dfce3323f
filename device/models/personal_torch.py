"""Makes a personalised device model of the device half of a torch method."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from device.errors import ContractError
from device.model import Items, Parameters, Scores
from device.models.incremental_torch import IncrementalTorch
from device.models.torch_model import TorchModel
from device.personal import Layout, Patches

BODY = "body"
"""Name of the part of a module that goes on from a state."""


class PersonalTorch:
    """A Personalized device model around a module that takes a patch beside history and candidates.

    The module has `layout: dict[str, Part]` and `forward(history [B, L], candidates [B, C], **patch [B, *shape])` ->
    [B, C], and scores as the shared model where no patch is given. It gets bool and int8 as they are and both float
    kinds as float32. What stands for no patch is True for bool and 0 for numbers, unless the module says it itself:
    `unpatched() -> dict[str, Tensor [*shape]]`. For the rest see TorchModel; `params` are the shared weights, those of
    this module only.

    The model is Headed where the module has `before(history)` -> state [B, d], `behind(state, candidates, **patch)` ->
    [B, C] and `catalogue_behind(state, **patch)` -> [B, n + 1]. These three look at a copy of the last `params` they
    saw, found again by the mapping's identity, so an array changed in place is not seen.

    It is Continued where it also has `shown(state)` -> [B, e], the newest of `states(history)` by a state, and a part
    `body`. Whether that goes on from a state is seen when it is asked for; see IncrementalTorch.

    Raises ContractError as TorchModel does, and for a module without a layout.
    """

    # set only where the module has them, so that isinstance(model, HasItemTable) and (model, Headed) tell the truth
    item_table: str
    before: Callable[[Parameters, Items], Scores]
    behind: Callable[[Parameters, Patches, Scores, Items], Scores]
    catalogue_behind: Callable[[Parameters, Patches, Scores], Scores]
    body: Callable[[], IncrementalTorch]
    body_params: Callable[[Parameters], Parameters]
    shown_behind: Callable[[Parameters, Scores], Scores]

    def __init__(self, module: nn.Module) -> None:
        if not isinstance(getattr(module, "layout", None), Mapping) or not module.layout:
            raise ContractError(
                f"{type(module).__name__} has no layout; give the device half layout = {{name: Part(shape, kind)}}"
            )
        self.module, self.shared = module, TorchModel(module)
        self.layout: Layout = dict(module.layout)
        if hasattr(module, "item_table"):
            self.item_table = str(module.item_table)
        self._halves, self._params = module, cast(Parameters | None, None)
        if hasattr(module, "before"):
            self.before, self.behind, self.catalogue_behind = self._before, self._behind, self._catalogue_behind
        if hasattr(module, "shown"):
            self.body, self.body_params, self.shown_behind = self._body, self._body_params, self._shown_behind
        self._going_on = cast(IncrementalTorch | None, None)
        self._body_of = cast(tuple[Parameters, Parameters] | None, None)

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
        return self.shared.score(params, history, candidates, **self._patch(patches))

    def _before(self, params: Parameters, history: Items) -> Scores:
        return self._asked(params, lambda halves: halves.before(torch.from_numpy(history.astype(np.int64))))

    def _behind(self, params: Parameters, patches: Patches, state: Scores, candidates: Items) -> Scores:
        known, pool = torch.tensor(state), torch.from_numpy(candidates.astype(np.int32))
        return self._asked(params, lambda halves: halves.behind(known, pool, **self._patch(patches)))

    def _catalogue_behind(self, params: Parameters, patches: Patches, state: Scores) -> Scores:
        return self._asked(params, lambda halves: halves.catalogue_behind(torch.tensor(state), **self._patch(patches)))

    def _body(self) -> IncrementalTorch:
        if self._going_on is None:
            try:
                self._going_on = IncrementalTorch(self.module.get_submodule(BODY))
            except ContractError as error:
                raise ContractError(f"the body of {type(self.module).__name__} keeps no state: {error}") from error
        return self._going_on

    def _body_params(self, params: Parameters) -> Parameters:
        if self._body_of is None or self._body_of[0] is not params:
            mine = {n.removeprefix(f"{BODY}."): v for n, v in params.items() if n.startswith(f"{BODY}.")}
            self._body_of = params, mine
        return self._body_of[1]

    def _shown_behind(self, params: Parameters, state: Scores) -> Scores:
        return self._asked(params, lambda halves: halves.shown(torch.tensor(state)))

    def _patch(self, patches: Patches) -> dict[str, Tensor]:
        return {name: as_tensor(patches[name]) for name in self.layout}

    def _asked(self, params: Parameters, ask: Callable[[Any], Tensor]) -> Scores:
        if params is not self._params:
            self._halves, self._params = self.shared.loaded(params).requires_grad_(False).eval(), params
        with torch.inference_mode():
            found: Scores = ask(self._halves).to(torch.float32).numpy()
        return found


def as_tensor(values: NDArray[np.generic]) -> Tensor:
    """Bool and int8 as they are, floats as float32; a copy."""
    return torch.from_numpy(values.astype(np.float32 if values.dtype.kind == "f" else values.dtype))
