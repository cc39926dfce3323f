"""DCRec's network: from a noised sequence, a time and the clean history to a guess of the clean sequence.

Shapes: B requests, W slots (right-aligned, the last one holds the unknown next item), d width.
"""

import math
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeysValues: TypeAlias = tuple[Tensor, Tensor]  # each [B, heads, W, d / heads]


@dataclass(frozen=True, slots=True)
class Sight:
    """What attention may see; None = no restriction. A query with mask 0 attends to all keys evenly."""

    queries: Tensor | None  # float [B, 1, W, 1], multiplies the queries
    own: Tensor | None  # bool [B, 1, 1, W], keys of the sequence that may be attended to
    history: Tensor | None  # bool [B, 1, 1, W], keys of the clean history that may be attended to

    def of_last(self) -> "Sight":
        """The same for the last slot alone, which is never padding."""
        return replace(self, queries=None)


@dataclass(frozen=True, slots=True)
class Context:
    """What all sampling steps of a batch of requests share."""

    history: Tensor  # [B, W, d], the clean history's embeddings
    memory: tuple[KeysValues, ...]  # one per block: cross-attention's keys and values of the history
    sight: Sight


class Attention(nn.Module):
    """Multi-head attention whose keys and values can be computed once and used many times."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def keys_values(self, x: Tensor) -> KeysValues:
        """Keys and values of x [B, W, d]."""
        return self._split(self.key(x)), self._split(self.value(x))

    def forward(self, x: Tensor, memory: KeysValues, *, queries: Tensor | None, keys: Tensor | None) -> Tensor:
        """[B, Q, d]: queries from x [B, Q, d] attend to `memory` within `queries` and `keys` (see Sight)."""
        q = self._split(self.query(x))
        q = q if queries is None else q * queries
        rate = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, *memory, attn_mask=keys, dropout_p=rate)
        merged: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return merged

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class Block(nn.Module):
    """Self-attention behind an adaptive layer norm, cross-attention to the clean history, a two-layer network."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.modulation = zero_linear(width)
        self.own, self.cross = Attention(width, heads, dropout), Attention(width, heads, dropout)
        self.memory_norm, self.cross_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inner_norm, self.outer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.inner = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.Dropout(dropout))
        self.drop = nn.Dropout(dropout)

    def memory(self, history: Tensor) -> KeysValues:
        """Cross-attention's keys and values of the clean history [B, W, d]."""
        return self.cross.keys_values(self.memory_norm(history))

    def forward(self, x: Tensor, condition: Tensor, memory: KeysValues, sight: Sight, *, last: bool = False) -> Tensor:
        """[B, W, d], or [B, 1, d] with `last`, from x and condition [B, W, d]."""
        y = adaptive_norm(x, self.drop(self.modulation(condition)))
        own = self.own.keys_values(y)
        if last:  # the other slots matter as keys and values only
            x, y, sight = x[:, -1:], y[:, -1:], sight.of_last()
        x = x + self.own(y, own, queries=sight.queries, keys=sight.own)
        x = x + self.cross(self.cross_norm(x), memory, queries=sight.queries, keys=sight.history)
        u = self.inner_norm(x)
        deeper: Tensor = self.outer_norm(u + self.inner(u))
        return x + deeper


class Denoiser(nn.Module):
    """Blocks and a last adaptive layer norm, conditioned per slot on the time plus the clean history (paper, sec. 4).

    `time_scale` multiplies the step before its sinusoid.
    """

    def __init__(self, *, width: int, blocks: int, heads: int, dropout: float, time_scale: int) -> None:
        super().__init__()
        self.width, self.time_scale = width, time_scale
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(blocks))
        self.clock = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.modulation = zero_linear(width)

    def context(self, history: Tensor, sight: Sight) -> Context:
        """What depends on the clean history [B, W, d] alone."""
        return Context(history, tuple(cast(Block, block).memory(history) for block in self.blocks), sight)

    def forward(self, state: Tensor, step: Tensor, context: Context, *, last: bool = False) -> Tensor:
        """Guess of the clean sequence [B, W, d], or of its last slot [B, 1, d] with `last`.

        `state` is [B, W, d], `step` int64 [B], or [1] for all.
        """
        times = sinusoid((step - 1) * self.time_scale, self.width).to(state.dtype)
        condition = F.silu(self.clock(times)[:, None] + context.history)
        x = state
        for i, (block, memory) in enumerate(zip(self.blocks, context.memory, strict=True), start=1):
            x = block(x, condition, memory, context.sight, last=last and i == len(self.blocks))
        return adaptive_norm(x, self.modulation(condition[:, -x.shape[1] :]))

    def multiply_adds(self, slots: int, *, last: bool = False) -> int:
        """Multiply-adds of one call of one request, without what `context` computed before."""
        seen = 1 if last else slots
        inner = (len(self.blocks) - 1) * self._block_multiply_adds(slots, slots)
        outer = self._block_multiply_adds(slots, seen)
        return inner + outer + (4 + 2 * seen) * self.width**2

    def context_multiply_adds(self, slots: int) -> int:
        """Multiply-adds of `context` for one request."""
        return 2 * len(self.blocks) * slots * self.width**2

    def _block_multiply_adds(self, slots: int, seen: int) -> int:
        # everywhere: modulation (2 d^2), keys and values (2); where seen: 2 queries, 2 outputs, 2 layers; 2 attentions
        return (4 * slots + 6 * seen) * self.width**2 + 4 * seen * slots * self.width


def zero_linear(width: int) -> nn.Linear:
    """Linear layer d -> 2 d whose output starts at zero, so that an adaptive norm starts as a plain one."""
    layer = nn.Linear(width, 2 * width)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def adaptive_norm(x: Tensor, modulation: Tensor) -> Tensor:
    """LayerNorm(x) * (1 + scale) + shift, where `modulation` [..., 2 d] holds shift, then scale."""
    shift, scale = modulation.chunk(2, dim=-1)
    return F.layer_norm(x, x.shape[-1:]) * (1.0 + scale) + shift


def sinusoid(time: Tensor, width: int) -> Tensor:
    """[B, width] float32: cosines, then sines, of time [B] at frequencies 10000^(-2 i / width)."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000.0) / half * torch.arange(half, device=time.device))
    angles = time[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
