"""SASRec: causal self-attention over the history (Kang and McAuley, ICDM 2018).

The same class is the large cloud recommender and the small reranker. Departures from the 2018 code, which the tuned
references share: pre-norm blocks, GELU in the feed-forward part, positions counted from the newest item, padded keys
masked, softmax losses instead of one negative per positive (see `cloud.training`).
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

    def forward(self, x: Tensor, allowed: Tensor, *, newest: bool = False) -> Tensor:
        """x [B, L, d]; allowed [B, 1, L, L] bool (query, key). Returns [B, L, d], or the newest position [B, 1, d]."""
        keys = self.norm_attention(x)
        if newest:
            x, queries, allowed = x[:, -1:], keys[:, -1:], allowed[:, :, -1:]
        else:
            queries = keys
        x = x + self._drop(self._attend(queries, keys, allowed))
        return x + self._drop(self.down(F.gelu(self.up(self.norm_ffn(x)), approximate="tanh")))

    def _attend(self, queries: Tensor, keys: Tensor, allowed: Tensor) -> Tensor:
        width = queries.shape[2]
        weight, bias = self.qkv.weight.split((width, 2 * width)), self.qkv.bias.split((width, 2 * width))
        q = self._heads(F.linear(queries, weight[0], bias[0]))
        k, v = (self._heads(part) for part in F.linear(keys, weight[1], bias[1]).chunk(2, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=self.dropout if self.training else 0.0)
        return self.out(y.transpose(1, 2).reshape(queries.shape))

    def _heads(self, x: Tensor) -> Tensor:
        """[B, L, d] as [B, heads, L, d / heads]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

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
        return self._encode(history, newest=False)

    def _encode(self, history: Tensor, *, newest: bool) -> Tensor:
        history = history[:, -self.length :]
        length = history.shape[1]
        newest_first = (length - 1) - torch.arange(length, device=history.device)
        x = self.item(history) + self.position(newest_first)
        x = F.dropout(x, self.dropout, self.training)
        allowed = attention_mask(history)
        for block in self.blocks[:-1]:
            x = block(x, allowed)
        return self.norm(self.blocks[-1](x, allowed, newest=newest))

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] after `history` [B, L]."""
        state = self._encode(history, newest=True)[:, -1]
        return torch.einsum("bd,bcd->bc", state, self.item(candidates))

    def catalogue(self, history: Tensor) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue; column 0 (padding) is meaningless."""
        return self._encode(history, newest=True)[:, -1] @ self.item.weight.T

    def flops(self, length: int, candidates: int) -> float:
        """Floating-point operations of one `forward` for one user (2 per multiply-add)."""
        d = self.item.embedding_dim
        full = length * (6 * d * d + 2 * length * d)
        last = length * 2 * d * d + 4 * d * d + 2 * length * d  # keys and values of all positions, one query
        return 2.0 * ((len(self.blocks) - 1) * full + last + candidates * d)


def attention_mask(history: Tensor) -> Tensor:
    """[B, 1, L, L] bool: query may see key. Causal, padded keys hidden; a padded query sees itself, never nothing."""
    length = history.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=history.device).tril()
    own = torch.eye(length, dtype=torch.bool, device=history.device)
    return ((causal & (history != 0)[:, None, :]) | own)[:, None]
