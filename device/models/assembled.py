"""SASRec whose blocks are kept, skipped and adjusted per device: the device's half of Forward-OFA (KDD 2025).

Known of arXiv 2501.02837 are the abstract and the figure of the architecture: a controller keeps or skips each block,
a hypernetwork branch per block makes its weights, skipped blocks become skip connections. Reconstructed here: that the
blocks are the backbone's own, that what is sent are offsets of the installed weights (so that a device without a patch
is the shared SASRec), and that by default only the feed-forward half of a block is personal.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from device.errors import ConfigError
from device.models.sasrec import attention_mask
from device.personal import Layout, Part, Patches

LAYERS = 6  # of a block: query, key, value, output, up, down; each [d, d + 1], the bias in the last column


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """[B, L, o] of x [B, L, i] and `weight` [o, i + 1] for all rows or [B, o, i + 1] per row; last column = bias."""
    if weight.dim() == 2:
        return F.linear(x, weight[:, :-1], weight[:, -1])
    return torch.baddbmm(weight[:, None, :, -1], x, weight[..., :-1].transpose(1, 2))


def block_flops(width: int, length: int, *, newest: bool) -> float:
    """Floating-point operations of one block (2 per multiply-add), at all positions or at the newest one only."""
    if newest:
        return 2.0 * (length * 2 * width**2 + 4 * width**2 + 2 * length * width)
    return 2.0 * length * (6 * width**2 + 2 * length * width)


class Encoder(nn.Module):
    """SASRec without its linear layers, whose weights each call hands over: shared ones or one set per row.

    Args:
        n_items, width, blocks, heads, length, dropout: as those of `device.models.sasrec.SASRec`.
    """

    def __init__(self, n_items: int, *, width: int, blocks: int, heads: int, length: int, dropout: float) -> None:
        super().__init__()
        self.blocks, self.heads, self.length, self.dropout = blocks, heads, length, dropout
        self.item = nn.Embedding(n_items + 1, width, padding_idx=0)
        self.position = nn.Embedding(length, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2 * blocks + 1))
        self.reset()

    def reset(self) -> None:
        """Draw embeddings anew, N(0, 0.02), from torch's global generator; norms to one and zero."""
        for norm in self.norms:
            norm.reset_parameters()
        for table in (self.item, self.position):
            nn.init.normal_(table.weight, std=0.02)
        with torch.no_grad():
            self.item.weight[0].zero_()

    def forward(
        self, history: Tensor, layers: Callable[[int], Sequence[Tensor]], keep: Tensor | None = None, *, newest: bool
    ) -> Tensor:
        """States [B, L, d] after each position of `history` [B, L], or after the newest only [B, 1, d].

        `layers(n)` gives the six weights of block n as `linear` takes them; `keep` [B, blocks], 0 or 1, turns blocks of
        a row into skip connections.
        """
        history = history[:, -self.length :]
        length = history.shape[1]
        newest_first = (length - 1) - torch.arange(length, device=history.device)
        x = F.dropout(self.item(history) + self.position(newest_first), self.dropout, self.training)
        allowed = attention_mask(history)
        for index in range(self.blocks):
            last = newest and index == self.blocks - 1
            made = self._block(index, x, layers(index), allowed[:, :, -1:] if last else allowed)
            if keep is None:
                x = made
            else:
                kept = keep[:, index, None, None].to(x.dtype)
                x = kept * made + (1 - kept) * x[:, -made.shape[1] :]
        return self.norms[-1](x[:, -1:] if newest else x)

    def _block(self, index: int, x: Tensor, layers: Sequence[Tensor], allowed: Tensor) -> Tensor:
        """One pre-norm block for the newest positions, as many as `allowed` [B, 1, queries, L] has queries."""
        keys = self.norms[2 * index](x)
        x = x[:, -allowed.shape[2] :]
        q, k, v = (
            linear(y, weight).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for y, weight in zip((keys[:, -x.shape[1] :], keys, keys), layers, strict=False)
        )
        drop = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, dropout_p=drop)
        x = x + F.dropout(linear(y.transpose(1, 2).reshape(x.shape), layers[3]), drop)
        hidden = F.gelu(linear(self.norms[2 * index + 1](x), layers[4]), approximate="tanh")
        return x + F.dropout(linear(hidden, layers[5]), drop)


class Assembled(nn.Module):
    """SASRec assembled per device: `keep` says which blocks run, `offset` is added to the weights of those.

    Without a patch, or with all blocks kept and no offset, it is the shared SASRec. Of `offset` only the slices of kept
    blocks travel: with width 32, 8,448 bytes per kept block, 25,344 with personal="block".

    Args:
        n_items, width, blocks, heads, length, dropout: as those of `device.models.sasrec.SASRec`.
        personal: the layers that are adjusted: "ffn" = up and down, "block" = all six.
    """

    item_table = "encoder.item.weight"

    def __init__(
        self,
        n_items: int,
        *,
        width: int = 32,
        blocks: int = 4,
        heads: int = 2,
        length: int = 50,
        dropout: float = 0.2,
        personal: Literal["ffn", "block"] = "ffn",
    ) -> None:
        super().__init__()
        if blocks < 1 or personal not in ("ffn", "block"):
            raise ConfigError(
                f"Assembled: blocks = {blocks}, personal = {personal!r}; expected 1 or more, ffn or block"
            )
        self.n_items, self.width, self.blocks, self.length = n_items, width, blocks, length
        self.encoder = Encoder(n_items, width=width, blocks=blocks, heads=heads, length=length, dropout=dropout)
        self.weight = nn.Parameter(torch.empty(blocks, LAYERS, width, width + 1))
        self.first = 4 if personal == "ffn" else 0
        self.layout: Layout = {
            "keep": Part((blocks,), "bool"),
            "offset": Part((blocks, LAYERS - self.first, width, width + 1), "float32", "keep"),
        }
        self.reset()

    @property
    def item(self) -> nn.Embedding:
        """The item table, for losses that need it."""
        return self.encoder.item

    def reset(self) -> None:
        """Draw all weights anew from torch's global generator: N(0, 0.02), biases 0."""
        self.encoder.reset()
        nn.init.normal_(self.weight, std=0.02)
        with torch.no_grad():
            self.weight[..., -1].zero_()

    def forward(
        self, history: Tensor, candidates: Tensor, keep: Tensor | None = None, offset: Tensor | None = None
    ) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] after `history` [B, L], by each row's patch [B, *shape]."""
        return torch.einsum("bd,bcd->bc", self._newest(history, keep, offset), self.item(candidates))

    def catalogue(self, history: Tensor, keep: Tensor | None = None, offset: Tensor | None = None) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue; column 0 (padding) is meaningless."""
        return self._newest(history, keep, offset) @ self.item.weight.T

    def states(self, history: Tensor) -> Tensor:
        """States [B, L, d] of the shared model after each position of `history` [B, L]."""
        return self.encoder(history, self.weight.__getitem__, newest=False)

    def _newest(self, history: Tensor, keep: Tensor | None, offset: Tensor | None) -> Tensor:
        def layers(index: int) -> Sequence[Tensor]:
            own = self.weight[index]
            if offset is None:
                return own.unbind()
            return (*own[: self.first].unbind(), *(own[self.first :] + offset[:, index]).unbind(1))

        return self.encoder(history, layers, keep, newest=True)[:, -1]

    def flops(self, length: int, candidates: int) -> float:
        """Floating-point operations of one `forward` of the shared model for one user (2 per multiply-add)."""
        return self.flops_of_blocks(self.blocks, length) + 2.0 * candidates * self.width

    def flops_of_blocks(self, kept: int, length: int) -> float:
        """Of any `kept` blocks: the last one that is kept runs at the newest position only."""
        if not kept:
            return 0.0
        full, last = (block_flops(self.width, length, newest=newest) for newest in (False, True))
        return (kept - 1) * full + last

    def flops_of(self, patches: Patches, length: int, candidates: int) -> NDArray[np.float64]:
        """[B] floating-point operations of one ranking on devices with these patches; offsets are added at install."""
        cost = np.array([self.flops_of_blocks(kept, length) for kept in range(self.blocks + 1)])
        return cost[np.asarray(patches["keep"], np.bool_).sum(1)] + 2.0 * candidates * self.width

    def payload_bytes(self, patches: Patches) -> NDArray[np.int64]:
        """[B] bytes of each patch's values on the wire: a bit per block and the offsets of kept blocks."""
        one = self.layout["offset"].nbytes // self.blocks
        return self.layout["keep"].nbytes + one * np.asarray(patches["keep"], np.bool_).sum(1, dtype=np.int64)
