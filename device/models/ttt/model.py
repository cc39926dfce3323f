"""TTT4Rec: next items from a layer that learns from the history while it reads it (arXiv 2409.19142).

Reconstructed: the embeddings' LayerNorm comes before their dropout; pre-norm residuals and a last LayerNorm as in
`device.models.sasrec`; GELU in the feed-forward part. Learned with the full softmax.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from device.models.ttt.layer import Inner, TTTLayer

State = dict[str, Tensor]


class Block(nn.Module):
    """One residual block; dropout on both branches."""

    def __init__(self, width: int, layer: TTTLayer, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm_ttt, self.ttt, self.norm_ffn = nn.LayerNorm(width), layer, nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, newest: Tensor | None = None) -> Tensor:
        """[B, L, d] for x [B, L, d]; with `newest` [B, 1, d] int64 (one index, repeated) only that position's."""
        mixed = self.ttt(self.norm_ttt(x))
        if newest is not None:
            x, mixed = x.gather(1, newest), mixed.gather(1, newest)
        return self._rest(x, mixed)

    def step(self, state: dict[str, Tensor], x: Tensor, update: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """(state, output [B, d]) after one more item x [B, d]."""
        state, mixed = self.ttt.step(state, self.norm_ttt(x), update)
        return state, self._rest(x, mixed)

    def _rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self._drop(self.ttt.read(mixed))
        return x + self._drop(self.down(F.gelu(self.up(self.norm_ffn(x)), approximate="tanh")))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class TTT4Rec(nn.Module):
    """Scores by the dot product of the last state and the item embedding.

    What a device keeps (`begin`, `step`) is a state of fixed size, whatever the length of its history: it goes on
    learning from everything since it began, where `states`, `forward` and `catalogue` read the newest `length` items.

    Args:
        n_items: catalogue size; ids 1..n_items, 0 = padding.
        width: embedding and state size d.
        blocks: 1 in the paper.
        heads, inner, mini_batch, rate: of the inner models, see TTTLayer.
        length: longest history used at once.
        dropout: on embeddings and residual branches.
    """

    item_table = "item.weight"

    def __init__(
        self,
        n_items: int,
        *,
        width: int = 64,
        blocks: int = 1,
        heads: int = 4,
        inner: Inner = "linear",
        mini_batch: int = 8,
        rate: float = 1.0,
        length: int = 50,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.n_items, self.length, self.dropout = n_items, length, dropout
        self.item = nn.Embedding(n_items + 1, width, padding_idx=0)
        self.norm_item, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        layers = [TTTLayer(width, heads, inner=inner, mini_batch=mini_batch, rate=rate) for _ in range(blocks)]
        self.blocks = nn.ModuleList(Block(width, layer, dropout) for layer in layers)
        self.reset()

    def reset(self) -> None:
        """Draw all weights anew from torch's global generator: N(0, 0.02)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, TTTLayer):
                module.reset()
        with torch.no_grad():
            self.item.weight[0].zero_()

    def states(self, history: Tensor) -> Tensor:
        """States [B, L, d] after each position of `history` [B, L] (left-padded); those of padding are zero.

        Mini-batches begin at the oldest item: padding is moved to the right, where nothing looks back from.
        """
        history = history[:, -self.length :]
        left, count = to_the_left(history)
        x = self._embedded(left)
        for block in self.blocks:
            x = block(x)
        column = torch.arange(left.shape[1], device=left.device)
        back = ((column + count) % left.shape[1])[:, :, None].expand(x.shape)
        return self.norm(x).gather(1, back) * (history != 0)[:, :, None]

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] after `history` [B, L]."""
        return torch.einsum("bd,bcd->bc", self._newest(history), self.item(candidates))

    def catalogue(self, history: Tensor) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue; column 0 (padding) is meaningless."""
        return self._newest(history) @ self.item.weight.T

    def empty(self, rows: int) -> State:
        """The state of `rows` devices that know no item; last [B, d] is what candidates are multiplied with."""
        blocks = [block.ttt.empty(rows) for block in self.blocks]
        named = {f"{i}.{name}": value for i, block in enumerate(blocks) for name, value in block.items()}
        return named | {"last": self.item.weight.new_zeros(rows, self.item.embedding_dim)}

    def begin(self, history: Tensor) -> State:
        """The state after `history` [B, L] (left-padded), of any length."""
        state = self.empty(len(history))
        for items in history.T:
            state = where(items != 0, self.step(state, items), state)
        return state

    def step(self, state: State, item: Tensor, update: Tensor | None = None) -> State:
        """The state after one more item [B]; the layers learn from it where `update` [B] is True (None: everywhere)."""
        x = self.norm_item(self.item(item))
        after: State = {}
        update = torch.ones_like(item, dtype=torch.bool) if update is None else update
        for i, block in enumerate(self.blocks):
            prefix = f"{i}."
            mine = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            mine, x = block.step(mine, x, update)
            after |= {prefix + name: value for name, value in mine.items()}
        return after | {"last": self.norm(x)}

    def hidden(self, state: State) -> Tensor:
        """[B, d] whose products with rows of `item` are the scores."""
        return state["last"]

    def flops(self, length: int, candidates: int) -> float:
        """Floating-point operations of one `forward` for one user (2 per multiply-add)."""
        d, ttt = self.item.embedding_dim, sum(block.ttt.flops(length) for block in self.blocks)
        positions = (len(self.blocks) - 1) * length + 1  # the last block makes one state only
        return 2.0 * (ttt + positions * 9 * d * d + candidates * d)

    def flops_step(self, candidates: int) -> float:
        """Floating-point operations of one `step` and scoring, for one user (2 per multiply-add)."""
        d = self.item.embedding_dim
        return 2.0 * (sum(block.ttt.flops_step() + 9 * d * d for block in self.blocks) + candidates * d)

    def _embedded(self, items: Tensor) -> Tensor:
        return F.dropout(self.norm_item(self.item(items)), self.dropout, self.training)

    def _newest(self, history: Tensor) -> Tensor:
        """[B, d] state after the newest item; zero for an empty history."""
        left, count = to_the_left(history[:, -self.length :])
        x = self._embedded(left)
        for block in self.blocks[:-1]:
            x = block(x)
        newest = (count - 1).clamp(min=0)[:, :, None].expand(-1, -1, x.shape[2])
        return self.norm(self.blocks[-1](x, newest))[:, 0] * (count > 0)


def to_the_left(history: Tensor) -> tuple[Tensor, Tensor]:
    """(history [B, L] with its padding on the right, items per row [B, 1])."""
    count = (history != 0).sum(1, keepdim=True)
    length = history.shape[1]
    column = torch.arange(length, device=history.device)
    return history.gather(1, (column + length - count) % length), count


def where(rows: Tensor, new: State, old: State) -> State:
    """`new` where `rows` [B] is True, else `old`."""
    return {
        name: torch.where(rows.reshape(-1, *[1] * (value.ndim - 1)), value, old[name]) for name, value in new.items()
    }
