"""SASRec as one supernet: causal attention (Kang and McAuley, ICDM 2018) whose subnets are its leading channels.

Unlike `device.models.sasrec`: a factorised item table with maps into and out of the body, heads of `HEAD` channels,
rotary positions (Su et al., RoFormer, 2021) and attention to the newest `length` items of each position. Nothing
depends on how far an item is from the end of the history, so keys and values stay right as items arrive.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from device.subnet import HEAD, SubnetSpec, grid

FREQUENCIES = tuple(10_000.0 ** (-i / (HEAD // 2)) for i in range(HEAD // 2))  # radians per position, RoFormer eq. 15
State = dict[str, Tensor]  # batch first


class ElasticBlock(nn.Module):
    """One pre-norm transformer block; dropout on both residual branches."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm_attention, self.norm_ffn = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)

    def remember(self, x: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
        """Rotated keys and values [B, heads, L, HEAD] of positions x [B, L, w] at angle [..., L, HEAD / 2]."""
        known = self.norm_attention(x)
        return rotated(split(self.key(known)), angle), split(self.value(known))

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor], allowed: Tensor, angle: Tensor) -> Tensor:
        """x [B, Q, w] after looking at `memory` of K positions where `allowed` [B, 1, Q, K]; angle of the queries."""
        query = rotated(split(self.query(self.norm_attention(x))), angle)
        drop = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(query, *memory, attn_mask=allowed, dropout_p=drop)
        x = x + self._drop(self.out(joined(seen)))
        return x + self._drop(self.down(F.gelu(self.up(self.norm_ffn(x)), approximate="tanh")))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class ElasticSASRec(nn.Module):
    """Scores by the dot product of the newest state, mapped to the item width, and the item embedding.

    Args:
        n_items: catalogue size; ids 1..n_items, 0 = padding.
        width, blocks: channels w and depth of the body; w is a multiple of HEAD.
        items: numbers e in an item's embedding.
        length: newest items that each position attends to, itself included. A state knows of
            blocks * (length - 1) + 1 items; older ones are cut off.
        dropout: on embeddings, attention and residual branches.
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
        self.blocks = nn.ModuleList(ElasticBlock(width, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.reset()

    def reset(self) -> None:
        """Draw all weights anew from torch's global generator: N(0, 0.02), and the maps as identities.

        So each subnet starts as a plain SASRec of its own width.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        nn.init.normal_(self.item.weight, std=0.02)
        nn.init.eye_(self.enter.weight)
        nn.init.eye_(self.leave.weight)
        with torch.no_grad():
            self.item.weight[0].zero_()

    def subnets(self) -> tuple[SubnetSpec, ...]:
        """All sizes by whole heads and blocks, smallest first."""
        return grid(self.spec)

    def sized(self, spec: SubnetSpec) -> "ElasticSASRec":
        """A new model of another size."""
        sizes = {"width": spec.width, "blocks": spec.blocks, "items": spec.items}
        return ElasticSASRec(self.n_items, **sizes, length=self.length, dropout=self.dropout)

    def states(self, history: Tensor) -> Tensor:
        """States [B, L, e] after each position of `history` [B, L] (left-padded); times `item` they are scores."""
        return self._encode(history, newest=False)[0]

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] after `history` [B, L]."""
        state = self._encode(history, newest=True)[0][:, -1]
        return torch.einsum("be,bce->bc", state, self.item(candidates))

    def catalogue(self, history: Tensor) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue; column 0 (padding) is meaningless."""
        return self._encode(history, newest=True)[0][:, -1] @ self.item.weight.T

    def begin(self, history: Tensor) -> State:
        """State after `history` [B, L], to be continued item by item.

        keys, values [B, blocks, length, w]: a ring of the newest items, the item at position p in slot p mod `length`,
        keys rotated; filled [B] int64: how many slots are taken; position [B] int64: of the newest item, here 0; last
        [B, e]: what candidates are multiplied with.
        """
        history = F.pad(history, (1, 0))  # so that there is a position where there is no history
        last, memories = self._encode(history, newest=True)
        kept = [torch.stack([joined(m) for m in kind], 1)[:, :, -self.length :] for kind in zip(*memories, strict=True)]
        keys, values = (F.pad(kind, (0, 0, self.length - kind.shape[2], 0)).roll(1, 2) for kind in kept)
        filled = (history != 0).sum(1).clamp(max=self.length)
        return {"keys": keys, "values": values, "filled": filled, "position": filled * 0, "last": last[:, -1]}

    def step(self, state: State, item: Tensor) -> State:
        """State after one more `item` [B] int64; keys and values of one position are computed, and written in place."""
        position, filled = state["position"] + 1, (state["filled"] + 1).clamp(max=self.length)
        slot, row = position % self.length, torch.arange(len(item), device=item.device)
        age = (position[:, None] - torch.arange(self.length, device=item.device)) % self.length
        allowed, angle = (age < filled[:, None])[:, None, None], angles(position)[:, None, None]
        x = self.enter(self.item(item))[:, None]
        for number, block in enumerate(self.blocks):
            key, value = block.remember(x, angle)
            state["keys"][row, number, slot] = joined(key)[:, 0]
            state["values"][row, number, slot] = joined(value)[:, 0]
            x = block(x, (split(state["keys"][:, number]), split(state["values"][:, number])), allowed, angle)
        return {**state, "filled": filled, "position": position, "last": self.leave(self.norm(x))[:, 0]}

    def hidden(self, state: State) -> Tensor:
        """[B, e] whose products with rows of `item` are the scores."""
        return state["last"]

    def flops(self, length: int, candidates: int) -> float:
        """Floating-point operations of one `forward` for one user (2 per multiply-add)."""
        w, e = self.spec.width, self.spec.items
        seen = min(length, self.length)
        full = length * (6 * w * w + 2 * seen * w)
        last = length * 2 * w * w + 4 * w * w + 2 * seen * w  # keys and values of all positions, one query
        return 2.0 * (length * e * w + (len(self.blocks) - 1) * full + last + w * e + candidates * e)

    def flops_step(self, candidates: int) -> float:
        """Floating-point operations of one `step` with a full memory, and scoring (2 per multiply-add)."""
        w, e = self.spec.width, self.spec.items
        return 2.0 * (2 * e * w + len(self.blocks) * (6 * w * w + 2 * self.length * w) + candidates * e)

    def _encode(self, history: Tensor, *, newest: bool) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """States [B, L, e], or the newest [B, 1, e], and every block's keys and values."""
        history = history[:, -(len(self.blocks) * (self.length - 1) + 1) :]
        length = history.shape[1]
        angle = angles(torch.arange(length, device=history.device) - (length - 1))
        allowed = band(history, self.length)
        x = self.enter(F.dropout(self.item(history), self.dropout, self.training))
        memories = []
        for number, block in enumerate(self.blocks, start=1):
            memories.append(block.remember(x, angle))
            if newest and number == len(self.blocks):
                x, allowed, angle = x[:, -1:], allowed[:, :, -1:], angle[-1:]
            x = block(x, memories[-1], allowed, angle)
        return self.leave(self.norm(x)), memories


def band(history: Tensor, length: int) -> Tensor:
    """[B, 1, L, L] bool: query may see key: not later, among its newest `length`, no padding; itself always."""
    place = torch.arange(history.shape[1], device=history.device)
    age = place[:, None] - place[None, :]
    return (((age >= 0) & (age < length) & (history != 0)[:, None, :]) | (age == 0))[:, None]


def angles(position: Tensor) -> Tensor:
    """[..., HEAD / 2] radians of the pairs of a head at integer `position` [...]; only differences matter."""
    return position[..., None].to(torch.float32) * torch.tensor(FREQUENCIES, device=position.device)


def rotated(x: Tensor, angle: Tensor) -> Tensor:
    """x [..., L, HEAD] with channel i turned against channel i + HEAD / 2 by angle [..., L, HEAD / 2]."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def split(x: Tensor) -> Tensor:
    """[B, L, w] as [B, heads, L, HEAD]; head h has channels h * HEAD and following, so few channels are few heads."""
    return x.unflatten(2, (-1, HEAD)).transpose(1, 2)


def joined(x: Tensor) -> Tensor:
    """[B, heads, L, HEAD] as [B, L, w]."""
    return x.transpose(1, 2).flatten(2)
