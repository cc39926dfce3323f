"""The test-time-training layer: its hidden state is a small model that learns from the history while it reads it.

Source: TTT4Rec (arXiv 2409.19142); the layer is that of Sun et al. (arXiv 2407.04620). A head's inner model is
f(x) = x + LN(x W + b) (or two maps with GELU between them). For every item it takes a gradient step on
0.5 * |f(K x) - V x|^2, and puts out f(Q x) with the weights after that step; K, V, Q are learned outside, by the
recommendation loss through all inner steps. Gradients are taken at the weights with which an inner mini-batch began;
item t of a mini-batch (1, 2, ...) is answered with W - eta_t * sum over s <= t of rate_s * gradient_s, where rate_s is
a gate of item s and eta_t = max(1/t + learned, 0), as in the released layer.

Reconstructed: pre-norm residuals and a last LayerNorm as in `device.models.sasrec`, GELU in the feed-forward part,
rotary positions within the mini-batch (the released layer's; TTT4Rec states the base, 1000, and no more).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from device.errors import ConfigError

Inner = Literal["linear", "mlp"]
Weights = list[tuple[Tensor, Tensor]]  # per map of the inner model: [B, heads, i, o] and [B, heads, 1, o]
ROTARY_BASE = 1000.0


class TTTLayer(nn.Module):
    """The inner models of all heads.

    Args:
        width: d; heads: each has d / heads columns, an even number.
        inner: "linear", or "mlp" = two maps, four times wider between them.
        mini_batch: items whose gradients are taken at the same weights; 1 = plain online descent.
        rate: inner base rate; an item's is rate / (d / heads) * sigmoid(gate of the item).
    """

    def __init__(self, width: int, heads: int, *, inner: Inner, mini_batch: int, rate: float) -> None:
        super().__init__()
        if width % (2 * heads) or mini_batch < 1:
            raise ConfigError(
                f"TTT: width = {width}, heads = {heads}, mini_batch = {mini_batch}; the width of a head must be even, "
                "and a mini-batch holds at least 1 item"
            )
        size = width // heads
        self.heads, self.mini_batch, self.rate = heads, mini_batch, rate / size
        sizes = (size, size) if inner == "linear" else (size, 4 * size, size)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.gate = nn.Linear(width, heads)
        self.weights = nn.ParameterList(torch.empty(heads, i, o) for i, o in pairwise(sizes))
        self.biases = nn.ParameterList(torch.empty(heads, 1, o) for o in sizes[1:])
        self.scale, self.shift = nn.Parameter(torch.empty(heads, 1, size)), nn.Parameter(torch.empty(heads, 1, size))
        self.eta = nn.Parameter(torch.empty(mini_batch))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width, bias=False)

    def reset(self) -> None:
        """Draw the layer's bare parameters anew."""
        for weight, bias in zip(self.weights, self.biases, strict=True):
            nn.init.normal_(weight, std=0.02)
            nn.init.zeros_(bias)
        nn.init.ones_(self.scale)
        for parameter in (self.shift, self.eta):
            nn.init.zeros_(parameter)

    def read(self, mixed: Tensor) -> Tensor:
        """What the layer adds to its input, from the heads' outputs [..., d]."""
        return self.out(self.norm(mixed))

    def forward(self, x: Tensor) -> Tensor:
        """The heads' outputs [B, L, d] for x [B, L, d], whose first position is the oldest item's."""
        length = x.shape[1]
        q, k, v, rate = self._views(x, torch.arange(length, device=x.device)[None] % self.mini_batch)
        weights, outputs = self._initial(len(x)), []
        for start in range(0, length, self.mini_batch):
            part = slice(start, start + self.mini_batch)
            count = q[:, :, part].shape[2]
            eta = (self._etas()[:count, None] * rate[:, :, part].transpose(2, 3)).tril()
            inputs, gradients = self._gradients(weights, k[:, :, part], v[:, :, part])
            outputs.append(self._answer(weights, q[:, :, part], inputs, gradients, eta))
            if start + count < length:
                weights = stepped(weights, inputs, gradients, eta[:, :, -1:].transpose(2, 3))
        return torch.cat(outputs, dim=2).transpose(1, 2).reshape(x.shape)

    def empty(self, rows: int) -> dict[str, Tensor]:
        """The state of `rows` devices before the first item: weights, and gradients of the unfinished mini-batch."""
        state = {"place": torch.zeros(rows, dtype=torch.int64)}
        for j, (weight, bias) in enumerate(self._initial(rows)):
            state |= {f"w{j}": weight.clone(), f"b{j}": bias.clone()}
            state |= {f"gw{j}": torch.zeros_like(weight), f"gb{j}": torch.zeros_like(bias)}
        return state

    def step(self, state: dict[str, Tensor], x: Tensor, update: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """(state, output [B, d]) after one more item x [B, d]; it is learned from where `update` [B] is True."""
        place = state["place"]
        q, k, v, rate = self._views(x[:, None], place[:, None])
        rate = rate * update[:, None, None, None]
        weights = [(state[f"w{j}"], state[f"b{j}"]) for j in range(len(self.weights))]
        inputs, gradients = self._gradients(weights, k, v)
        eta, last = self._etas()[place][:, None, None, None], (place == self.mini_batch - 1)[:, None, None, None]
        after, y = {"place": (place + 1) % self.mini_batch}, q
        for j, (weight, bias) in enumerate(weights):
            scaled = rate * gradients[j]
            gw, gb = state[f"gw{j}"] + inputs[j].transpose(2, 3) @ scaled, state[f"gb{j}"] + scaled
            weight, bias = weight - eta * gw, bias - eta * gb  # noqa: PLW2901
            y = (F.gelu(y, approximate="tanh") if j else y) @ weight + bias
            after |= {
                f"w{j}": torch.where(last, weight, state[f"w{j}"]),
                f"b{j}": torch.where(last, bias, state[f"b{j}"]),
            }
            after |= {f"gw{j}": gw.masked_fill(last, 0), f"gb{j}": gb.masked_fill(last, 0)}
        return after, (q + self._normed(y)).reshape(x.shape)

    def flops(self, length: int) -> float:
        """Multiply-adds of `forward` for one row."""
        inner, total = sum(w.numel() for w in self.weights), 0.0
        back = inner - self.weights[0].numel()
        for start in range(0, length, self.mini_batch):
            count = min(self.mini_batch, length - start)
            updates = 1 if start + count < length else 0
            total += count * ((2 + updates) * inner + back)
            total += count * count * sum(w.shape[0] * (w.shape[1] + w.shape[2]) for w in self.weights)
        return total + length * (self.qkv.weight.numel() + self.gate.weight.numel())

    def flops_step(self) -> float:
        """Multiply-adds of `step` for one row."""
        inner = sum(w.numel() for w in self.weights)
        return 4 * inner - self.weights[0].numel() + self.qkv.weight.numel() + self.gate.weight.numel()

    def _initial(self, rows: int) -> Weights:
        pairs = zip(self.weights, self.biases, strict=True)
        return [(weight.expand(rows, -1, -1, -1), bias.expand(rows, -1, -1, -1)) for weight, bias in pairs]

    def _etas(self) -> Tensor:
        """[mini_batch] rate by place."""
        return (1 / torch.arange(1, self.mini_batch + 1).to(self.eta) + self.eta).clamp(min=0)

    def _views(self, x: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Q, K, V [B, heads, L, d / heads] and rates [B, heads, L, 1] of x [B, L, d] at `place` [B or 1, L]."""
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        rate = self.rate * torch.sigmoid(self.gate(x)).transpose(1, 2)[..., None]
        return rotated(q, place), rotated(k, place), v, rate

    def _gradients(self, weights: Weights, k: Tensor, v: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Per map of the inner model its input and the loss's gradient at its output, [B, heads, n, i] and [.., o]."""
        inputs, z = [k], k
        for j, (weight, bias) in enumerate(weights):
            if j:
                inputs.append(F.gelu(z, approximate="tanh"))
                slope = gelu_slope(z)
            z = inputs[j] @ weight + bias
        centred = z - z.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + self.norm.eps).sqrt()
        unit = centred / deviation
        given = (unit * self.scale + self.shift - (v - k)) * self.scale  # of x + LN(z) against v
        along = unit * (given * unit).mean(-1, keepdim=True)
        gradients = [(given - given.mean(-1, keepdim=True) - along) / deviation]
        if len(weights) == 2:
            gradients.insert(0, gradients[0] @ weights[1][0].transpose(2, 3) * slope)
        return inputs, gradients

    def _answer(
        self, weights: Weights, q: Tensor, inputs: Sequence[Tensor], gradients: Sequence[Tensor], eta: Tensor
    ) -> Tensor:
        """f(q) with each position's own weights, which are never formed (the dual form of the TTT paper)."""
        y = q
        for j, (weight, bias) in enumerate(weights):
            x = F.gelu(y, approximate="tanh") if j else y
            y = x @ weight + bias - ((x @ inputs[j].transpose(2, 3) + 1) * eta) @ gradients[j]
        return q + self._normed(y)

    def _normed(self, z: Tensor) -> Tensor:
        return F.layer_norm(z, z.shape[-1:], eps=self.norm.eps) * self.scale + self.shift


def stepped(weights: Weights, inputs: Sequence[Tensor], gradients: Sequence[Tensor], eta: Tensor) -> Weights:
    """The weights after a mini-batch whose items have rates eta [B, heads, n, 1]."""
    return [
        (weight - x.transpose(2, 3) @ (eta * gradient), bias - (eta * gradient).sum(2, keepdim=True))
        for (weight, bias), x, gradient in zip(weights, inputs, gradients, strict=True)
    ]


def gelu_slope(z: Tensor) -> Tensor:
    """Derivative of the tanh form of GELU."""
    inner = math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)
    bent = torch.tanh(inner)
    return 0.5 * (1 + bent) + 0.5 * z * (1 - bent**2) * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z**2)


def rotated(x: Tensor, place: Tensor) -> Tensor:
    """x [B, heads, L, c] turned by `place` [B or 1, L]: columns j and j + c / 2 by place / base^(2 j / c)."""
    half = x.shape[-1] // 2
    speed = ROTARY_BASE ** (-torch.arange(half, device=x.device) / half)
    angle = place[:, None, :, None] * speed
    sine, cosine = angle.sin().to(x.dtype), angle.cos().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cosine - b * sine, a * sine + b * cosine], dim=-1)
