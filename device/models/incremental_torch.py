"""Torch models that go on from a state: the elastic models, TTT4Rec and ETA by themselves, GRU4Rec by what is here."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from device.errors import ContractError
from device.incremental import OnDemand, State
from device.model import Items, Parameters, Scores
from device.models.elastic import ElasticSASRec
from device.models.gru4rec import GRU4Rec
from device.models.ring_steps import RingSteps
from device.models.sasrec import SASRec
from device.models.torch_model import TorchModel

Tensors = dict[str, Tensor]


@runtime_checkable
class Steps(Protocol):
    """How a module goes on from a state: tensors by name, the batch first."""

    def begin(self, history: Tensor) -> Tensors:
        """The state after `history` [B, L] (left-padded)."""
        ...

    def step(self, state: Tensors, item: Tensor) -> Tensors:
        """The state after one more `item` [B] int64; the tensors of `state` may be written to and returned."""
        ...

    def hidden(self, state: Mapping[str, Tensor]) -> Tensor:
        """[B, e] whose products with the rows of the item table are the scores."""
        ...


class IncrementalTorch:
    """A TorchModel that is Incremental too, for a module with `item_table`, `begin`, `step` and `hidden` (see Steps).

    Like TorchModel it keeps the weights of the last
    `params` it saw, found again by the mapping's identity; but as a copy, so an array changed in place is not seen.

    Raises ContractError for a module whose states cannot be continued.
    """

    def __init__(self, module: nn.Module) -> None:
        self._steps = steps_of(module)
        self.inner, self.module = TorchModel(module), module
        self.item_table: str = self.inner.item_table
        self._params: Parameters | None = None
        self._table = torch.empty(0)

    def init(self, rng: np.random.Generator) -> Parameters:
        """See TorchModel."""
        return self.inner.init(rng)

    def score(self, params: Parameters, history: Items, candidates: Items) -> Scores:
        """Scores [B, C] float32, from the history."""
        return self.inner.score(params, history, candidates)

    def catalogue(self, params: Parameters, history: Items) -> Scores:
        """Scores [B, n + 1] float32 of all items, from the history."""
        return self.inner.catalogue(params, history)

    def state(self, params: Parameters, history: Items) -> Scores:
        """State [B, d] float32 after the newest item, from the history."""
        return self.inner.state(params, history)

    def start(self, params: Parameters, history: Items) -> State:
        """See Incremental."""
        self._bind(params)
        with torch.inference_mode():
            return _arrays(self._steps.begin(torch.from_numpy(history.astype(np.int64))))

    def advance(self, params: Parameters, state: State, item: NDArray[np.int32]) -> State:
        """See Incremental."""
        self._bind(params)
        with torch.inference_mode():
            return _arrays(self._steps.step(dict(_tensors(state)), torch.from_numpy(item.astype(np.int64))))

    def advance_at(
        self, params: Parameters, state: State, item: NDArray[np.int32], held: State, rows: NDArray[np.int64]
    ) -> None:
        """See AdvancesInPlace."""
        self._bind(params)
        with torch.inference_mode():
            known, ids = _tensors(state), torch.from_numpy(item.astype(np.int64))
            if isinstance(self._steps, RingSteps):
                after = self._steps.step_at(known, ids, _tensors(held), torch.from_numpy(rows))
            else:
                after = self._steps.step(dict(known), ids)
            for name, value in after.items():
                held[name][rows] = value.numpy()

    def score_state(self, params: Parameters, state: State, candidates: Items) -> Scores:
        """See Incremental."""
        self._bind(params)
        with torch.inference_mode():
            rows = F.embedding(torch.from_numpy(candidates), self._table)
            scores: Scores = (rows @ self._steps.hidden(_tensors(state))[:, :, None])[:, :, 0].numpy()
        return scores

    def catalogue_state(self, params: Parameters, state: State) -> Scores:
        """See RanksFromState."""
        self._bind(params)
        with torch.inference_mode():
            scores: Scores = (self._steps.hidden(_tensors(state)) @ self._table.T).numpy()
        return scores

    def shown(self, params: Parameters, state: State) -> Scores:
        """See ShowsState."""
        self._bind(params)
        with torch.inference_mode():
            found: Scores = np.array(self._steps.hidden(_tensors(state)).numpy())
        return found

    def _bind(self, params: Parameters) -> None:
        if params is self._params:
            return
        module = self.inner.loaded(params).requires_grad_(False).eval()
        self._steps, self._table = steps_of(module), module.get_parameter(self.item_table)
        self._params = params


def steps_of(module: nn.Module) -> Steps:
    """How a module's state is continued; ContractError where no exact way is known."""
    if isinstance(module, ElasticSASRec):
        return RingSteps(module)
    if isinstance(module, GRU4Rec):
        return GRUSteps(module)
    if isinstance(module, SASRec):
        raise ContractError(
            "SASRec counts positions from the newest item, so with every item all its keys and values change and none "
            "can be kept; use device.models.elastic:ElasticSASRec, whose positions are relative"
        )
    if not isinstance(module, Steps) or not hasattr(module, "item_table"):
        raise ContractError(
            f"{type(module).__name__} cannot go on from a state; give it item_table, begin(history), "
            "step(state, item) and hidden(state), or use it as TorchModel"
        )
    return module


class GRUSteps:
    """GRU4Rec: what its layers hold, layers [B, layers, d]."""

    def __init__(self, module: GRU4Rec) -> None:
        self.module = module

    def begin(self, history: Tensor) -> Tensors:
        """See Steps; the state of an empty history is zero."""
        gru, count = self.module.gru, (history != 0).sum(1)
        layers = torch.zeros(len(history), gru.num_layers, gru.hidden_size)
        rows = count.nonzero()[:, 0]
        if len(rows):
            column = torch.arange(history.shape[1])
            left = history[rows].gather(1, (column - count[rows, None]) % len(column))
            x = nn.utils.rnn.pack_padded_sequence(
                self.module.item(left), count[rows], batch_first=True, enforce_sorted=False
            )
            layers[rows] = gru(x)[1].transpose(0, 1)
        return {"layers": layers, "last": self.module.out(layers[:, -1]) * (count > 0)[:, None]}

    def step(self, state: Tensors, item: Tensor) -> Tensors:
        """See Steps."""
        before = state["layers"].transpose(0, 1).contiguous()
        after = self.module.gru(self.module.item(item)[:, None], before)[1].transpose(0, 1)
        return {"layers": after.contiguous(), "last": self.module.out(after[:, -1])}

    def hidden(self, state: Mapping[str, Tensor]) -> Tensor:
        """See Steps."""
        return state["last"]


def _arrays(state: Tensors) -> State:
    return {name: value.numpy() for name, value in state.items()}


def _tensors(state: State) -> Mapping[str, Tensor]:
    return OnDemand(state, lambda name: torch.from_numpy(state[name]))
