"""GRU4Rec as one supernet: a gated recurrent network (Hidasi et al., ICLR 2016) whose subnets are its leading channels.

Unlike `device.models.gru4rec`: a factorised item table with maps into and out of the body, and every recurrent layer
adds to what it reads, so that a model without its last layers is still one.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from device.models.elastic import State
from device.subnet import SubnetSpec, grid


class ElasticGRU4Rec(nn.Module):
    """Scores by the dot product of the newest state, mapped to the item width, and the item embedding.

    Args:
        n_items: catalogue size; ids 1..n_items, 0 = padding.
        width, blocks: channels w and number of recurrent layers.
        items: numbers e in an item's embedding.
        length: longest history used.
        dropout: on the embeddings.
    """

    item_table = "item.weight"

    def __init__(
        self, n_items: int, *, width: int = 32, blocks: int = 2, items: int = 32, length: int = 50, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.spec = SubnetSpec(width, blocks, items)
        self.n_items, self.length, self.dropout = n_items, length, dropout
        self.item = nn.Embedding(n_items + 1, items, padding_idx=0)
        self.enter, self.leave = nn.Linear(items, width), nn.Linear(width, items)
        self.layers = nn.ModuleList(nn.GRU(width, width) for _ in range(blocks))
        self.reset()

    def reset(self) -> None:
        """Draw all weights anew from torch's global generator; the maps start as identities."""
        for layer in self.layers:
            layer.reset_parameters()
        nn.init.normal_(self.item.weight, std=0.02)
        for part in (self.enter, self.leave):
            nn.init.eye_(part.weight)
            nn.init.zeros_(part.bias)
        with torch.no_grad():
            self.item.weight[0].zero_()

    def subnets(self) -> tuple[SubnetSpec, ...]:
        """All sizes by eights of channels and by layers, smallest first."""
        return grid(self.spec)

    def sized(self, spec: SubnetSpec) -> "ElasticGRU4Rec":
        """A new model of another size."""
        sizes = {"width": spec.width, "blocks": spec.blocks, "items": spec.items}
        return ElasticGRU4Rec(self.n_items, **sizes, length=self.length, dropout=self.dropout)

    def states(self, history: Tensor) -> Tensor:
        """States [B, L, e] after each position of `history` [B, L] (left-padded); times `item` they are scores.

        An empty history has the state 0.
        """
        return self._encode(history)[0]

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] after `history` [B, L]."""
        return torch.einsum("be,bce->bc", self.states(history)[:, -1], self.item(candidates))

    def catalogue(self, history: Tensor) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue; column 0 (padding) is meaningless."""
        return self.states(history)[:, -1] @ self.item.weight.T

    def begin(self, history: Tensor) -> State:
        """State after `history` [B, L]: layers [B, blocks, w], and last [B, e], what candidates are multiplied with."""
        last, layers = self._encode(F.pad(history, (1, 0)))  # so that there is a position where there is no history
        return {"layers": torch.stack([layer[:, -1] for layer in layers], 1), "last": last[:, -1]}

    def step(self, state: State, item: Tensor) -> State:
        """State after one more `item` [B] int64."""
        x, after = self.enter(self.item(item))[None], []
        for number, layer in enumerate(self.layers):
            out, _ = layer(x, state["layers"][None, :, number].contiguous())
            x = x + out
            after.append(out[0])
        return {"layers": torch.stack(after, 1), "last": self.leave(x)[0]}

    def hidden(self, state: State) -> Tensor:
        """[B, e] whose products with rows of `item` are the scores."""
        return state["last"]

    def flops(self, length: int, candidates: int) -> float:
        """Floating-point operations of one `forward` for one user (2 per multiply-add)."""
        w, e = self.spec.width, self.spec.items
        return 2.0 * (length * (2 * e * w + 6 * w * w * len(self.layers)) + candidates * e)

    def flops_step(self, candidates: int) -> float:
        """Floating-point operations of one `step` and scoring (2 per multiply-add)."""
        return self.flops(1, candidates)

    def _encode(self, history: Tensor) -> tuple[Tensor, list[Tensor]]:
        """States [B, L, e] and every layer's outputs [B, L, w].

        Padding is moved from the left to the right, where a recurrent network never looks back from, so that the
        recurrence begins at the first item; the outputs are moved back, and are 0 where nothing was read yet.
        Inside, arrays are [L, B, ...]: with the batch first, torch chooses a matrix product by whether the weights
        need gradients, and the last bits with it.
        """
        history = history[:, -self.length :]
        length = history.shape[1]
        start = (history == 0).sum(1, keepdim=True)
        column = torch.arange(length, device=history.device)
        moved = torch.gather(history, 1, (column + start) % length)
        x = self.enter(F.dropout(self.item(moved.T), self.dropout, self.training))
        hidden = []
        for layer in self.layers:
            out = layer(x)[0]
            hidden.append(out)
            x = x + out
        back, begun = ((column - start) % length)[:, :, None], (column >= start)[:, :, None]
        states, *hidden = (
            torch.gather(part.transpose(0, 1), 1, back.expand(-1, -1, part.shape[2])) * begun
            for part in (self.leave(x), *hidden)
        )
        return states, hidden
