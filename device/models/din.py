"""DIN: attention from each candidate to the history (Zhou et al., KDD 2018), with the layer sizes of LSC4Rec's SRM."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DIN(nn.Module):
    """Target-aware reranker: attend from the candidate, concatenate, 2d -> 128 -> 64 -> 1.

    Reconstructed from the sizes in LSC4Rec's code: separate key, value and query maps, scaled dot product, padding
    masked. Positions are not used, so the order of the history does not matter.

    Args:
        n_items: catalogue size; ids 1..n_items, 0 = padding.
        width: embedding size d.
        length: longest history used.
        dropout: on the embeddings.
    """

    item_table = "item.weight"

    def __init__(self, n_items: int, *, width: int = 32, length: int = 50, dropout: float = 0.1) -> None:
        super().__init__()
        self.n_items, self.length, self.dropout = n_items, length, dropout
        self.item = nn.Embedding(n_items + 1, width, padding_idx=0)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.head = nn.Sequential(nn.Linear(2 * width, 128), nn.Tanh(), nn.Linear(128, 64), nn.Tanh(), nn.Linear(64, 1))
        self.reset()

    def reset(self) -> None:
        """Draw all weights anew from torch's global generator."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
        nn.init.normal_(self.item.weight, std=0.05)
        with torch.no_grad():
            self.item.weight[0].zero_()

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] after `history` [B, L]; an empty history attends to nothing."""
        history = history[:, -self.length :]
        past = F.dropout(self.item(history), self.dropout, self.training)
        target = F.dropout(self.item(candidates), self.dropout, self.training)
        weight = self.query(target) @ self.key(past).transpose(1, 2) / past.shape[2] ** 0.5
        real = (history != 0)[:, None, :]
        weight = torch.softmax(weight.masked_fill(~real, -1e9), dim=-1) * real
        return self.head(torch.cat([target, weight @ self.value(past)], dim=-1))[..., 0]

    def flops(self, length: int, candidates: int) -> float:
        """Floating-point operations of one `forward` for one user (2 per multiply-add)."""
        d = self.item.embedding_dim
        per_candidate = d * d + 2 * length * d + 2 * d * 128 + 128 * 64 + 64
        return 2.0 * (2 * length * d * d + candidates * per_candidate)
