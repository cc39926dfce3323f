"""SASRec: causal self-attention over the history (Kang and McAuley, ICDM 2018).

The same class is the large cloud recommender and the small reranker. Departures from the 2018 code, which the tuned
references share: pre-norm blocks, GELU in the feed-forward part, positions counted from the newest item, padded keys masked, softmax losses instead of one negative per positive (see `cloud.training`).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """One pre-norm transformer block; dropout on both residual branches."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_ffn = nn.LayerNorm(width)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)

    def forward(self, x: Tensor, allowed: Tensor) -> Tensor:
        """x [B, L, d]; allowed [B, 1, L, L] bool (query, key). Returns [B, L, d]."""
        x = x + self._drop(self._attend(self.norm_attention(x), allowed))
        return x + self._drop(self.down(F.gelu(self.up(self.norm_ffn(x)), approximate="tanh")))

    def _attend(self, x: Tensor, allowed: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=self.dropout if self.training else 0.0)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class SASRec(nn.Module):
    """Scores by the dot product of the last state and the item embedding.

    Args:
        n_items: catalogue size; ids 1..n_items, 0 = padding.
        width: embedding and state size d.
        blocks, heads, dropout: of the transformer.
        length: longest history used; longer ones are cut to their newest `length` items.
    """

    item_table = "item.weight"

    def __init__(
        self, n_items: int, *, width: int = 32, blocks: int = 2, heads: int = 2, length: int = 50, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.n_items, self.length, self.dropout = n_items, length, dropout
        self.item = nn.Embedding(n_items + 1, width, padding_idx=0)
        self.position = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.reset()

    def reset(self) -> None:
        """Draw all weights anew from torch's global generator: N(0, 0.02), as in the BERT family."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        with torch.no_grad():
            self.item.weight[0].zero_()

    def states(self, history: Tensor) -> Tensor:
        """States [B, L, d] after each position of `history` [B, L] (left-padded)."""
        history = history[:, -self.length :]
        length = history.shape[1]
        newest_first = (length - 1) - torch.arange(length, device=history.device)
        x = self.item(history) + self.position(newest_first)
        x = F.dropout(x, self.dropout, self.training)
        allowed = attention_mask(history)
        for block in self.blocks:
            x = block(x, allowed)
        return self.norm(x)

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] after `history` [B, L]."""
        state = self.states(history)[:, -1]
        return torch.einsum("bd,bcd->bc", state, self.item(candidates))

    def catalogue(self, history: Tensor) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue; column 0 (padding) is meaningless."""
        return self.states(history)[:, -1] @ self.item.weight.T

    def flops(self, length: int, candidates: int) -> float:
        """Floating-point operations of one `forward` for one user (2 per multiply-add)."""
        d = self.item.embedding_dim
        per_position = len(self.blocks) * (6 * d * d + 2 * length * d)
        return 2.0 * (length * per_position + candidates * d)


def attention_mask(history: Tensor) -> Tensor:
    """[B, 1, L, L] bool: query may see key. Causal, padded keys hidden; a padded query sees itself, so no row is empty."""
    length = history.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=history.device).tril()
    own = torch.eye(length, dtype=torch.bool, device=history.device)
    return ((causal & (history != 0)[:, None, :]) | own)[:, None]
