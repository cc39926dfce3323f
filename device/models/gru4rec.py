"""GRU4Rec: a gated recurrent network over the history (Hidasi et al., ICLR 2016), with softmax losses."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GRU4Rec(nn.Module):
    """Scores by the dot product of the last state and the item embedding.

    Args:
        n_items: catalogue size; ids 1..n_items, 0 = padding.
        width: embedding and state size d.
        layers, dropout: of the recurrent network; dropout acts on its input.
        length: longest history used.
    """

    item_table = "item.weight"

    def __init__(
        self, n_items: int, *, width: int = 32, layers: int = 1, length: int = 50, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.n_items, self.length, self.dropout, self.layers = n_items, length, dropout, layers
        self.item = nn.Embedding(n_items + 1, width, padding_idx=0)
        self.gru = nn.GRU(width, width, layers, batch_first=True)
        self.out = nn.Linear(width, width)
        self.reset()

    def reset(self) -> None:
        """Draw all weights anew from torch's global generator."""
        self.gru.reset_parameters()
        self.out.reset_parameters()
        nn.init.normal_(self.item.weight, std=0.02)
        with torch.no_grad():
            self.item.weight[0].zero_()

    def states(self, history: Tensor) -> Tensor:
        """States [B, L, d] after each position of `history` [B, L] (left-padded).

        The recurrence restarts from zero at the first real item: left padding is moved to the right, where a
        recurrent network never looks back from, and the states are moved back.
        """
        history = history[:, -self.length :]
        length = history.shape[1]
        start = (history == 0).sum(1, keepdim=True)
        column = torch.arange(length, device=history.device)
        left = torch.gather(history, 1, (column + start) % length)
        x = F.dropout(self.item(left), self.dropout, self.training)
        known = (history != 0).any(1)[:, None, None]  # an empty history has no state, however long its padding
        states = self.gru(x)[0]
        back = ((column - start) % length)[:, :, None].expand(-1, -1, states.shape[2])
        return self.out(torch.gather(states, 1, back)) * known

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] after `history` [B, L]."""
        return torch.einsum("bd,bcd->bc", self.states(history)[:, -1], self.item(candidates))

    def catalogue(self, history: Tensor) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue; column 0 (padding) is meaningless."""
        return self.states(history)[:, -1] @ self.item.weight.T

    def flops(self, length: int, candidates: int) -> float:
        """Floating-point operations of one `forward` for one user (2 per multiply-add)."""
        d = self.item.embedding_dim
        return 2.0 * (length * (6 * d * d * self.layers + d * d) + candidates * d)
