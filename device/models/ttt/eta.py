"""ETA: test-time training that skips the steps where the model is sure of itself.

An inner update is made only where the entropy of the softmax over the k best scores is above a threshold. Over the
whole catalogue the entropy tells little and the filter collapses (published: NDCG@10 of .0237 instead of .0418).

Reconstructed: which scores decide about an item. Here those that the device had when the user took it, so they cost
nothing more than the scores of the step before; the first item is always learned from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from device.model import Items
from device.models.ttt.model import State, TTT4Rec, where

SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)


class ETA(nn.Module):
    """A trained TTT4Rec that updates where the entropy exceeds `threshold` (in nats); the weights are `model`'s.

    Item by item, because whether an item is learned from hangs on the state before it. It is not for training.

    Args:
        model: trained without skipping.
        threshold: -inf skips nothing, inf everything but the first item.
        k: of the best scores.
    """

    item_table = "model.item.weight"

    def __init__(self, model: TTT4Rec, threshold: float, *, k: int = 50) -> None:
        super().__init__()
        self.model, self.threshold, self.k = model, threshold, k
        self.n_items, self.length = model.n_items, model.length

    def reset(self) -> None:
        """See TTT4Rec."""
        self.model.reset()

    def begin(self, history: Tensor) -> State:
        """The state after `history` [B, L] (left-padded), of any length."""
        counts = {name: torch.zeros(len(history), dtype=torch.int64) for name in ("seen", "skipped")}
        state = self.model.empty(len(history)) | counts
        for items in history.T:
            state = where(items != 0, self.step(state, items), state)
        return state

    def step(self, state: State, item: Tensor) -> State:
        """The state after one more item [B]."""
        update = (self.entropy(state) > self.threshold) | (state["seen"] == 0)
        inner = {name: value for name, value in state.items() if name not in ("seen", "skipped")}
        counts = {"seen": state["seen"] + 1, "skipped": state["skipped"] + ~update}
        return self.model.step(inner, item, update) | counts

    def entropy(self, state: State) -> Tensor:
        """[B] nats, of the softmax over the k best scores after `state`."""
        scores = (self.hidden(state) @ self.model.item.weight[1:].T).topk(min(self.k, self.n_items)).values
        return torch.distributions.Categorical(logits=scores, validate_args=False).entropy()

    def hidden(self, state: State) -> Tensor:
        """[B, d] whose products with rows of `model.item` are the scores."""
        return self.model.hidden(state)

    def states(self, history: Tensor) -> Tensor:
        """States [B, L, d] after each position of `history` [B, L] (left-padded); those of padding are zero."""
        history = history[:, -self.length :]
        state, found = self.begin(history[:, :0]), []
        for items in history.T:
            state = where(items != 0, self.step(state, items), state)
            found.append(self.hidden(state))
        return torch.stack(found, dim=1)

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] after `history` [B, L]."""
        hidden = self.hidden(self.begin(history[:, -self.length :]))
        return torch.einsum("bd,bcd->bc", hidden, self.model.item(candidates))

    def catalogue(self, history: Tensor) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue; column 0 (padding) is meaningless."""
        return self.hidden(self.begin(history[:, -self.length :])) @ self.model.item.weight.T

    def skipped(self, history: Tensor) -> float:
        """Share of inner updates skipped over all items of `history` [B, L]."""
        state = self.begin(history[:, -self.length :])
        return float(state["skipped"].sum() / state["seen"].sum().clamp(min=1))

    def flops(self, length: int, candidates: int) -> float:
        """Floating-point operations of one `forward` for one user (2 per multiply-add), as if nothing were skipped.

        The entropies need the scores of the catalogue after every item but the last.
        """
        d = self.model.item.embedding_dim
        return length * self.model.flops_step(0) + 2.0 * d * ((length - 1) * self.n_items + candidates)

    def flops_step(self, candidates: int) -> float:
        """Floating-point operations of one `step` and scoring; the catalogue is scored for the entropy."""
        return self.model.flops_step(candidates + self.n_items)


@dataclass(frozen=True, slots=True)
class Tried:
    """One threshold on validation steps."""

    threshold: float
    skipped: float  # share of inner updates
    value: float  # higher is better


def choose_threshold(
    model: TTT4Rec, histories: Items, measure: Callable[[ETA], float], *, shares: Sequence[float] = SHARES
) -> tuple[Tried, list[Tried]]:
    """(the best, all tried): thresholds at the quantiles `shares` of the entropies on validation `histories` [V, L].

    `measure` is the validation value, such as NDCG@10. Among equal values the one that skips most is the best.
    """
    model.eval()
    known = torch.from_numpy(histories.astype(np.int64))
    with torch.inference_mode():
        entropies = observed(model, known)
        limits = [float("-inf") if share == 0 else float(torch.quantile(entropies, share)) for share in shares]
        made = [ETA(model, limit).eval() for limit in limits]
        tried = [Tried(eta.threshold, eta.skipped(known), measure(eta)) for eta in made]
    return max(tried, key=lambda one: (one.value, one.skipped)), tried


def observed(model: TTT4Rec, history: Tensor) -> Tensor:
    """[N] entropies after all items of `history` [B, L] but the newest, where nothing is skipped."""
    eta = ETA(model, float("-inf"))
    after = model.states(history)[:, :-1]
    return eta.entropy({"last": after[history[:, -model.length :][:, :-1] != 0]})
