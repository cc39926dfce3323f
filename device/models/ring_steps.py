"""How ElasticSASRec goes on from a state: rings of keys and values, in as few and as large operations as can be."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from device.models.elastic import FREQUENCIES, ElasticBlock, ElasticSASRec
from device.subnet import HEAD

Tensors = dict[str, Tensor]
Pair = tuple[Tensor, Tensor]
SPEED = torch.tensor(FREQUENCIES * 2).double()  # [HEAD] radians per position, rounded to float32 as in ElasticSASRec


class RingSteps:
    """ElasticSASRec in fewer and larger operations than its own `step`, which decide the time of a single position.

    Per block i, "i.keys" [B, heads, HEAD, length], rotated, and "i.values" [B, heads, length, HEAD] are rings: the item
    at position p is at place p % length, so one place is written, and what is multiplied lies as the product wants it.
    position [B] int64 is the newest item's, 0 at the beginning; filled [B] int64 counts the places in use; last [B, e]
    is what candidates are multiplied with.
    """

    def __init__(self, module: ElasticSASRec) -> None:
        self.module = module
        self.blocks = [Fused.of(block) for block in module.blocks]

    def begin(self, history: Tensor) -> Tensors:
        """See Steps."""
        made = self.module.begin(history)
        state = {name: made[name] for name in ("filled", "position", "last")}
        for number in range(len(self.blocks)):
            keys, values = (made[name][:, number].unflatten(2, (-1, HEAD)) for name in ("keys", "values"))
            state[f"{number}.keys"] = keys.permute(0, 2, 3, 1).contiguous()
            state[f"{number}.values"] = values.transpose(1, 2).contiguous()
        return state

    def step(self, state: Tensors, item: Tensor) -> Tensors:
        """See Steps."""
        return {**state, **self.step_at(state, item, state, torch.arange(len(item)))}

    def step_at(self, state: Mapping[str, Tensor], item: Tensor, held: Mapping[str, Tensor], rows: Tensor) -> Tensors:
        """The state's small parts after one more `item` [B]; the rings at `rows` [B] of `held` are written to.

        `state` is read after that: it shows these rows as they are when it is asked for them.
        """
        module = self.module
        position, filled = state["position"] + 1, (state["filled"] + 1).clamp(max=module.length)
        place, hidden, turn = position % module.length, unused(position, filled, module.length), far_turn(position)
        x = module.enter(module.item(item))
        for number, block in enumerate(self.blocks):
            mapped = block.maps(x).unflatten(1, (5, -1, HEAD))
            query, key = torch.addcmul(mapped[:, :2] * turn[0], mapped[:, 3:], turn[1]).unbind(1)
            held[f"{number}.keys"][rows, :, :, place] = key
            held[f"{number}.values"][rows, :, place] = mapped[:, 2]
            fit = query[:, :, None] @ state[f"{number}.keys"]
            seen = (fit if hidden is None else fit + hidden).softmax(-1) @ state[f"{number}.values"]
            x = block.rest(x, seen.flatten(1))
        return {"filled": filled, "position": position, "last": module.leave(module.norm(x))}

    def hidden(self, state: Mapping[str, Tensor]) -> Tensor:
        """See Steps."""
        return state["last"]


@dataclass(frozen=True, slots=True)
class Fused:
    """An ElasticBlock's weights [out, in] and biases for one position at a time, without the calls of its modules.

    `maps` makes query, key, value, and the first two as a quarter turn makes them: turned by an angle is cosine times
    the first form plus sine times the second. Queries are divided by sqrt(HEAD).
    """

    heard: Pair  # of the norm before attention
    known: Pair  # of the norm before the feed-forward part
    every: Pair  # of the one map
    out: Pair
    up: Pair
    down: Pair
    eps: float

    @classmethod
    def of(cls, block: ElasticBlock) -> "Fused":
        """The weights of `block`."""
        query, key, value = (
            torch.cat([part.weight, part.bias[:, None]], dim=1) for part in (block.query, block.key, block.value)
        )
        query = query * HEAD**-0.5
        every = torch.cat([query, key, value, quarter(query), quarter(key)])
        return cls(
            heard=(block.norm_attention.weight, block.norm_attention.bias),
            known=(block.norm_ffn.weight, block.norm_ffn.bias),
            every=(every[:, :-1].contiguous(), every[:, -1].contiguous()),
            out=(block.out.weight, block.out.bias),
            up=(block.up.weight, block.up.bias),
            down=(block.down.weight, block.down.bias),
            eps=block.norm_attention.eps,
        )

    def maps(self, x: Tensor) -> Tensor:
        """[B, 5 w] of x [B, w]."""
        return F.linear(torch.layer_norm(x, x.shape[1:], *self.heard, self.eps), *self.every)

    def rest(self, x: Tensor, seen: Tensor) -> Tensor:
        """[B, w] after what attention saw [B, w] was taken into x [B, w]."""
        x = x + F.linear(seen, *self.out)
        inner = F.linear(torch.layer_norm(x, x.shape[1:], *self.known, self.eps), *self.up)
        return x + F.linear(F.gelu(inner, approximate="tanh"), *self.down)


def quarter(rows: Tensor) -> Tensor:
    """Rows [w, n] of a map whose outputs are, head by head, those of `rows` turned by a right angle."""
    first, second = rows.unflatten(0, (-1, HEAD)).chunk(2, dim=1)
    return torch.cat([-second, first], dim=1).flatten(0, 1)


def unused(position: Tensor, filled: Tensor, length: int) -> Tensor | None:
    """[B, 1, 1, length] -inf at the places of a ring that hold no item yet, else 0; None where all rings are full."""
    if bool((filled == length).all()):
        return None
    age = (position[:, None] - torch.arange(length)) % length
    return torch.zeros(age.shape).masked_fill(age >= filled[:, None], float("-inf"))[:, None, None]


def far_turn(position: Tensor) -> tuple[Tensor, Tensor]:
    """(cosine, sine) [B, 1, 1, HEAD] of the angles at `position` [B], once per half head; exact however far it is."""
    angle = (position[:, None] * SPEED)[:, None, None]
    return angle.cos().float(), angle.sin().float()
