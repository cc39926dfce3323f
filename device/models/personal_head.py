"""SASRec with a personal head: the half of DUET (Lv et al., WWW 2023), SOLID and CKI that is installed on a device.

The state of the shared backbone passes through two layers, d -> d tanh -> d, before it meets the item embeddings. The
head's weights are a shared part, which is installed, plus a personal part, which the cloud generates. Without a patch
the shared part works alone: a patch of zeros stands for having none.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from device.errors import ConfigError
from device.models.sasrec import SASRec
from device.personal import Layout, Part

Send = Literal["weights", "code"]
CodeKind = Literal["float32", "int8"]


def head_size(width: int) -> int:
    """Weights of a head, 2 (d d + d): 2,112 for d = 32."""
    return 2 * (width * width + width)


def head_layers(weights: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`weights` [..., P] as W1 [..., d, d], b1 [..., d], W2, b2; W[i, o] = weights[i d + o], x W + b as in DUET."""
    first, b1, second, b2 = weights.split((width * width, width) * 2, dim=-1)
    square = (width, width)
    return first.unflatten(-1, square), b1, second.unflatten(-1, square), b2


def apply_head(x: Tensor, weights: Tensor) -> Tensor:
    """tanh(x W1 + b1) W2 + b2 for x [N, d], row n with its own `weights` [N, P]; one batched product per layer."""
    w1, b1, w2, b2 = head_layers(weights, x.shape[-1])
    hidden = torch.tanh(torch.bmm(x[:, None], w1)[:, 0] + b1)
    return torch.bmm(hidden[:, None], w2)[:, 0] + b2


def bounded(personal: Tensor, shared: Tensor) -> Tensor:
    """A reconstruction of DUET's stable weight adapter: `personal` [N, P] no larger than `shared` [P], layer by layer.

    The paper keeps generated weights in the range of a trained model's; how is open (the released code has no such
    part). Here a layer's personal part is scaled down until its norm is at most that of the layer's shared part.
    """
    parts = []
    for own, trained in zip(personal.chunk(2, dim=-1), shared.chunk(2), strict=True):
        limit = trained.norm()
        parts.append(own * (limit / torch.maximum(own.norm(dim=-1, keepdim=True), limit)))
    return torch.cat(parts, dim=-1)


class PersonalHead(nn.Module):
    """Scores by the dot product of the head's output and the item embedding; row b with the head of device b.

    Args:
        backbone: shared by all devices; gives the state [B, d] and the item table.
        send: what a patch holds. "weights": `head` [P], added to the shared head. "code": `code` [code], of which the
            projection installed on the device makes that `head`.
        code: numbers in a code.
        kind: of the numbers of a code; "int8" counts in steps installed on the device, one per number.
        trained: False keeps the shared head and the projection as drawn, a truncated normal, as DUET's released code
            does by oversight: they are buffers then.
        stable: limit the personal part (see `bounded`). With `send = "weights"` that is done in the cloud.
    """

    item_table = "backbone.item.weight"
    shared: Tensor  # [P]
    projection: Tensor  # [code, P], with `send = "code"`
    step: Tensor  # [code], with `kind = "int8"`

    def __init__(
        self,
        backbone: SASRec,
        *,
        send: Send = "weights",
        code: int = 32,
        kind: CodeKind = "float32",
        trained: bool = True,
        stable: bool = False,
    ) -> None:
        super().__init__()
        if send == "weights" and kind != "float32":
            raise ConfigError(f"send = 'weights' with kind = {kind!r}: only a code travels as int8; set send = 'code'")
        self.backbone, self.send, self.kind, self.trained, self.stable = backbone, send, kind, trained, stable
        self.n_items, self.length = backbone.n_items, backbone.length
        self.width = backbone.item.embedding_dim
        size = head_size(self.width)
        add_weights(self, "shared", (size,), trained=trained)
        if send == "code":
            add_weights(self, "projection", (code, size), trained=trained)
        if kind == "int8":
            self.register_buffer("step", torch.full((code,), 1 / 127))
        part = Part((size,), "float32") if send == "weights" else Part((code,), kind)
        self.layout: Layout = {"head" if send == "weights" else "code": part}
        self.reset()

    def reset(self) -> None:
        """Draw the head and the projection anew from torch's global generator; the backbone stays as it is."""
        with torch.no_grad():
            if self.trained:
                w1, b1, w2, b2 = head_layers(self.shared, self.width)
                for weight, bias in ((w1, b1), (w2, b2)):
                    nn.init.xavier_uniform_(weight)
                    bias.zero_()
            else:
                self.shared.copy_(truncated(self.shared))
            if self.send == "code":
                draw_projection(self.projection, trained=self.trained)
            if self.kind == "int8":
                self.step.fill_(1 / 127)

    def personal(self, x: Tensor, *, head: Tensor | None = None, code: Tensor | None = None) -> Tensor:
        """Head outputs [N, d] for backbone states x [N, d] and patches [N, P] or [N, code]; without them the shared."""
        if code is not None:
            head = self.projected(code)
        weights = self.shared.expand(len(x), -1) if head is None else self.shared + head
        return apply_head(x, weights)

    def projected(self, code: Tensor) -> Tensor:
        """Personal parts [N, P] of the head from codes [N, code], float32 or, as sent, int8."""
        known = code.to(self.projection.dtype)
        made = (known * self.step if self.kind == "int8" else known) @ self.projection
        return bounded(made, self.shared) if self.stable else made

    def forward(
        self, history: Tensor, candidates: Tensor, *, head: Tensor | None = None, code: Tensor | None = None
    ) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] after `history` [B, L], with the patches `head` or `code` if given."""
        return self.behind(self.before(history), candidates, head=head, code=code)

    def catalogue(self, history: Tensor, *, head: Tensor | None = None, code: Tensor | None = None) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue; column 0 (padding) is meaningless."""
        return self.catalogue_behind(self.before(history), head=head, code=code)

    def states(self, history: Tensor) -> Tensor:
        """Outputs [B, L, d] of the shared head after each position of `history` [B, L]."""
        x = self.backbone.states(history)
        return self.personal(x.flatten(0, 1)).view_as(x)

    def before(self, history: Tensor) -> Tensor:
        """States [B, d] of the backbone after `history` [B, L], on which patches have no influence."""
        return self.backbone._encode(history, newest=True)[:, -1]  # the last block works for one position only

    def behind(
        self, state: Tensor, candidates: Tensor, *, head: Tensor | None = None, code: Tensor | None = None
    ) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] by states [B, d] of the backbone."""
        x = self.personal(state, head=head, code=code)
        return torch.einsum("bd,bcd->bc", x, self.backbone.item(candidates))

    def catalogue_behind(self, state: Tensor, *, head: Tensor | None = None, code: Tensor | None = None) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue by states [B, d] of the backbone."""
        return self.personal(state, head=head, code=code) @ self.backbone.item.weight.T

    def flops(self, length: int, candidates: int) -> float:
        """Floating-point operations of one `forward` for one user, the making of the head from a code included."""
        head = self.shared.numel()
        made = 2.0 * self.projection.numel() if self.send == "code" else 0.0
        return self.backbone.flops(length, candidates) + 2.0 * head + made


def add_weights(module: nn.Module, name: str, shape: tuple[int, ...], *, trained: bool) -> None:
    """Give `module` an empty parameter, or a buffer where it is not to be trained."""
    if trained:
        module.register_parameter(name, nn.Parameter(torch.empty(shape)))
    else:
        module.register_buffer(name, torch.empty(shape))


def draw_projection(projection: Tensor, *, trained: bool) -> None:
    """Fill a projection [code, P] in place: N(0, 0.02), so that heads start near the shared one, or as released."""
    with torch.no_grad():
        projection.copy_(torch.randn_like(projection) * 0.02 if trained else truncated(projection))


def truncated(like: Tensor) -> Tensor:
    """A standard normal, remainder of the division by 2: the initial weights in DUET's code."""
    return torch.fmod(torch.randn_like(like), 2)
