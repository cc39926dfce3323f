"""DIN as one supernet: attention from each candidate to the history (Zhou et al., KDD 2018), by leading channels.

Unlike `device.models.din`: a factorised item table with a map into the body, heads of `HEAD` channels (a scale that
does not depend on the width), and a head of 2w hidden units with residual layers, so that each can be left out. Own
reconstruction; the paper has neither.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from device.models.elastic import joined, split
from device.subnet import HEAD, SubnetSpec, grid


class ElasticDIN(nn.Module):
    """Target-aware reranker: attend from the candidate, join both, score by a small network.

    Positions are not used, so the order of the history does not matter.

    Args:
        n_items: catalogue size; ids 1..n_items, 0 = padding.
        width, blocks: channels w of the attention, and residual layers of 2w units in the scoring network.
        items: numbers e in an item's embedding.
        length: longest history used.
        dropout: on the embeddings.
    """

    item_table = "item.weight"

    def __init__(
        self, n_items: int, *, width: int = 32, blocks: int = 2, items: int = 32, length: int = 50, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.spec = SubnetSpec(width, blocks, items)
        self.n_items, self.length, self.dropout = n_items, length, dropout
        self.item = nn.Embedding(n_items + 1, items, padding_idx=0)
        self.enter = nn.Linear(items, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.target, self.past = nn.Linear(width, 2 * width), nn.Linear(width, 2 * width, bias=False)
        self.layers = nn.ModuleList(nn.Linear(2 * width, 2 * width) for _ in range(blocks))
        self.out = nn.Linear(2 * width, 1)
        self.reset()

    def reset(self) -> None:
        """Draw all weights anew from torch's global generator; the map into the body starts as an identity."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        nn.init.normal_(self.item.weight, std=0.05)
        nn.init.eye_(self.enter.weight)
        nn.init.zeros_(self.enter.bias)
        with torch.no_grad():
            self.item.weight[0].zero_()

    def subnets(self) -> tuple[SubnetSpec, ...]:
        """All sizes by whole heads and layers, smallest first."""
        return grid(self.spec)

    def sized(self, spec: SubnetSpec) -> "ElasticDIN":
        """A new model of another size."""
        sizes = {"width": spec.width, "blocks": spec.blocks, "items": spec.items}
        return ElasticDIN(self.n_items, **sizes, length=self.length, dropout=self.dropout)

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] after `history` [B, L]; an empty history attends to nothing."""
        history = history[:, -self.length :]
        past, target = self._embed(history), self._embed(candidates)
        hidden = torch.tanh(self.target(target) + self.past(self._attend(target, past, history != 0)))
        for layer in self.layers:
            hidden = hidden + torch.tanh(layer(hidden))
        return self.out(hidden)[..., 0]

    def flops(self, length: int, candidates: int) -> float:
        """Floating-point operations of one `forward` for one user (2 per multiply-add)."""
        w, e = self.spec.width, self.spec.items
        per_candidate = e * w + w * w + 2 * length * w + 4 * w * w + len(self.layers) * 4 * w * w + 2 * w
        return 2.0 * (length * (e * w + 2 * w * w) + candidates * per_candidate)

    def _embed(self, ids: Tensor) -> Tensor:
        return self.enter(F.dropout(self.item(ids), self.dropout, self.training))

    def _attend(self, target: Tensor, past: Tensor, real: Tensor) -> Tensor:
        """What candidates [B, C, w] find in the history [B, L, w] where it is `real` [B, L]; [B, C, w]."""
        query, key, value = split(self.query(target)), split(self.key(past)), split(self.value(past))
        shown = real[:, None, None, :]
        weight = query @ key.transpose(2, 3) / HEAD**0.5
        return joined((torch.softmax(weight.masked_fill(~shown, -1e9), dim=-1) * shown) @ value)
