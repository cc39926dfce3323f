"""SASRec under a binary mask per device: the device's half of DIET and DIETING (KDD 2024, arXiv 2406.08804).

The weights are the same on all devices; a device's patch is one bit per masked weight. In DIETING all masked layers
read one stored matrix, each through a mask of its own. Masks are unstructured: they save bytes, not time, except where
all bits of an output unit are zero. Known of the paper are the abstract and the figure of the architecture;
reconstructed here: that a bias is a weight of its layer and has a bit too, and which layers are masked.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from device.errors import ConfigError
from device.models.assembled import LAYERS, Encoder, linear
from device.models.elastic import ElasticSASRec
from device.models.sasrec import SASRec
from device.personal import Layout, Part, Patches
from device.subnet import HEAD


def stored(layers: int, width: int, *, tied: bool) -> nn.Parameter:
    """Unset weights of `layers` square layers with biases: [layers, d, d + 1], or [1, d, d + 1] that all share."""
    if layers < 1 or width < 1:
        raise ConfigError(f"masked layers: {layers} of width {width}; expected 1 or more of each")
    return nn.Parameter(torch.empty(1 if tied else layers, width, width + 1))


def through(weight: Tensor, mask: Tensor | None, layer: int) -> Tensor:
    """Weights of a layer as `linear` takes them: [d, d + 1] of all rows, or masked [B, d, d + 1]."""
    own = weight[layer % len(weight)]  # a single stored matrix serves every layer
    return own if mask is None else own * numbers(mask[:, layer])


def numbers(mask: Tensor) -> Tensor:
    """Bits as float32 0 and 1; numbers as they are."""
    if mask.dtype != torch.bool:
        return mask
    return mask.view(torch.uint8).float()  # bytes become floats seven times faster than truth values do


def draw(weight: Tensor) -> None:
    """Uniform within 1 / sqrt(fan-in), biases too, so that a frozen random layer carries signal at any mask."""
    bound = weight.shape[1] ** -0.5
    nn.init.uniform_(weight, -bound, bound)


def draw_head(weight: Tensor) -> None:
    """As `draw`, half as far from the identity instead of from zero, without biases.

    So the item table meets the body's state from the start: on MovieLens-1M ten epochs lead to a validation NDCG@10 of
    .058 instead of .039.
    """
    draw(weight)
    with torch.no_grad():
        weight *= 0.5
        weight[:, :, :-1] += torch.eye(weight.shape[1])
        weight[:, :, -1] = 0


def alive(patches: Patches) -> NDArray[np.bool_]:
    """[B, layers, d]: which output units have a bit left."""
    return np.logical_or.reduce(np.asarray(patches["mask"], np.bool_), axis=-1)


class MaskedHead(nn.Module):
    """SASRec, and behind it a personal head of masked layers d -> d with tanh between them (the part DUET generates).

    With width 32 and depth 2 a mask has 2 x 32 x 33 = 2,112 bits = 264 bytes.

    Args:
        n_items, width, blocks, length, dropout: as those of `device.models.sasrec.SASRec`.
        heads: of the attention; None = 2, or with relative positions one per 8 channels, the only choice there.
        depth: layers of the head.
        tied: they share one stored matrix (DIETING).
        relative: positions count from item to item (`device.models.elastic.ElasticSASRec`), so that the body can go on
            from a state item by item. Not in the paper.
    """

    item_table = "body.item.weight"

    def __init__(
        self,
        n_items: int,
        *,
        width: int = 32,
        blocks: int = 2,
        heads: int | None = None,
        length: int = 50,
        dropout: float = 0.2,
        depth: int = 2,
        tied: bool = False,
        relative: bool = False,
    ) -> None:
        super().__init__()
        self.n_items, self.width, self.length, self.depth = n_items, width, length, depth
        sizes = {"width": width, "blocks": blocks, "length": length, "dropout": dropout}
        self.body = _body(n_items, heads, sizes, relative=relative)
        self.weight = stored(depth, width, tied=tied)
        self.layout: Layout = {"mask": Part((depth, width, width + 1), "bool")}
        self.reset()

    @property
    def item(self) -> nn.Embedding:
        """The item table, for losses that need it."""
        return self.body.item

    def reset(self) -> None:
        """Draw all weights anew from torch's global generator."""
        self.body.reset()
        draw_head(self.weight)

    def states(self, history: Tensor, mask: Tensor | None = None) -> Tensor:
        """States [B, L, d] after each position of `history` [B, L]; `mask` [B, depth, d, d + 1], 0 or 1."""
        return self._head(self.body.states(history), mask)

    def forward(self, history: Tensor, candidates: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] after `history` [B, L]; `mask` [B, depth, d, d + 1], 0 or 1."""
        return self.behind(self.before(history), candidates, mask)

    def catalogue(self, history: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue; column 0 (padding) is meaningless."""
        return self.catalogue_behind(self.before(history), mask)

    def before(self, history: Tensor) -> Tensor:
        """States [B, d] of the body after `history` [B, L], on which masks have no influence."""
        made = self.body._encode(history, newest=True)
        return (made[0] if isinstance(made, tuple) else made)[:, -1]

    def behind(self, state: Tensor, candidates: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] by states [B, d] of the body."""
        return torch.einsum("bd,bcd->bc", self.shown(state, mask), self.item(candidates))

    def catalogue_behind(self, state: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue by states [B, d] of the body."""
        return self.shown(state, mask) @ self.item.weight.T

    def shown(self, state: Tensor, mask: Tensor | None = None) -> Tensor:
        """The newest of `states`, [B, d], by states [B, d] of the body."""
        return self._head(state[:, None], mask)[:, -1]

    def _head(self, x: Tensor, mask: Tensor | None) -> Tensor:
        for layer in range(self.depth):
            x = linear(x if not layer else torch.tanh(x), through(self.weight, mask, layer))
        return x

    def flops(self, length: int, candidates: int) -> float:
        """Floating-point operations of one `forward` for one user (2 per multiply-add), with every bit set."""
        return self.body.flops(length, candidates) + 2.0 * self.depth * self.width**2

    def flops_step(self, candidates: int) -> float:
        """The same of one item more after a state, with relative positions."""
        assert isinstance(self.body, ElasticSASRec)  # others keep no state
        return self.body.flops_step(candidates) + 2.0 * self.depth * self.width**2

    def flops_of(self, patches: Patches, length: int, candidates: int) -> NDArray[np.float64]:
        """[B] the same on devices with these patches: a unit without a bit costs nothing, nor does reading it."""
        units = alive(patches).sum(-1)
        read = np.concatenate([np.full((len(units), 1), self.width), units[:, :-1]], axis=1)
        return self.body.flops(length, 0) + 2.0 * ((read * units).sum(1) + candidates * units[:, -1])


def _body(n_items: int, heads: int | None, sizes: dict[str, Any], *, relative: bool) -> SASRec | ElasticSASRec:
    """What stands before the head; with relative positions its items are as wide as its states."""
    width = sizes["width"]
    if not relative:
        return SASRec(n_items, heads=2 if heads is None else heads, **sizes)
    if heads not in (None, width // HEAD):
        raise ConfigError(f"relative = true with heads = {heads}: a head has {HEAD} channels there; leave heads out")
    return ElasticSASRec(n_items, items=width, **sizes)


class MaskedSASRec(nn.Module):
    """SASRec with a mask on every linear layer of its body.

    A block has six layers d -> d (query, key, value, output, up, down): with width 32 and two blocks a mask has
    12 x 32 x 33 = 12,672 bits = 1,584 bytes.

    Args:
        n_items, width, blocks, heads, length, dropout: as those of `device.models.sasrec.SASRec`.
        tied: all layers share one stored matrix (DIETING).
    """

    item_table = "encoder.item.weight"

    def __init__(
        self,
        n_items: int,
        *,
        width: int = 32,
        blocks: int = 2,
        heads: int = 2,
        length: int = 50,
        dropout: float = 0.2,
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.n_items, self.width, self.blocks, self.length = n_items, width, blocks, length
        self.encoder = Encoder(n_items, width=width, blocks=blocks, heads=heads, length=length, dropout=dropout)
        self.weight = stored(LAYERS * blocks, width, tied=tied)
        self.layout: Layout = {"mask": Part((LAYERS * blocks, width, width + 1), "bool")}
        self.reset()

    @property
    def item(self) -> nn.Embedding:
        """The item table, for losses that need it."""
        return self.encoder.item

    def reset(self) -> None:
        """Draw all weights anew from torch's global generator."""
        self.encoder.reset()
        draw(self.weight)

    def states(self, history: Tensor, mask: Tensor | None = None) -> Tensor:
        """States [B, L, d] after each position of `history` [B, L]; `mask` [B, 6 x blocks, d, d + 1], 0 or 1."""
        return self._encode(history, mask, newest=False)

    def forward(self, history: Tensor, candidates: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] after `history` [B, L]; `mask` [B, 6 x blocks, d, d + 1], 0 or 1."""
        return torch.einsum("bd,bcd->bc", self._encode(history, mask, newest=True)[:, -1], self.item(candidates))

    def catalogue(self, history: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue; column 0 (padding) is meaningless."""
        return self._encode(history, mask, newest=True)[:, -1] @ self.item.weight.T

    def _encode(self, history: Tensor, mask: Tensor | None, *, newest: bool) -> Tensor:
        def layers(block: int) -> Sequence[Tensor]:
            return [through(self.weight, mask, LAYERS * block + layer) for layer in range(LAYERS)]

        return self.encoder(history, layers, newest=newest)

    def flops(self, length: int, candidates: int) -> float:
        """Floating-point operations of one `forward` for one user (2 per multiply-add), with every bit set."""
        every = np.ones((1, *self.layout["mask"].shape), np.bool_)
        return float(self.flops_of({"mask": every}, length, candidates)[0])

    def flops_of(self, patches: Patches, length: int, candidates: int) -> NDArray[np.float64]:
        """[B] the same on devices with these patches: a unit without a bit costs nothing, nor does reading it."""
        units = alive(patches)
        total = np.full(len(units), 2.0 * candidates * self.width)  # residual paths keep all units of the state
        for block in range(self.blocks):
            mine = units[:, LAYERS * block : LAYERS * (block + 1)]
            queries = length if block < self.blocks - 1 else 1
            total += 2.0 * _block_products(mine, length, queries)
        return total


def _block_products(units: NDArray[np.bool_], length: int, queries: int) -> NDArray[np.float64]:
    """[B] multiply-adds of one block whose layers have these `units` [B, 6, d] left."""
    width = units.shape[2]
    q, k, v, out, up, down = units.sum(-1, dtype=np.float64).T
    both = (units[:, 0] & units[:, 1]).sum(-1)  # a query unit matters only where its key unit is left too
    return length * width * (k + v) + queries * (width * (q + up) + length * (both + v) + v * out + up * down)
