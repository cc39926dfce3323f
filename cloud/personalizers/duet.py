"""DUET (Lv et al., WWW 2023, arXiv 2209.05227): a hypernetwork makes the weights of a device's own layers.

A GRU reads the uploaded history and gives a code z; the head's personal weights are z A, its shared weights B. Either
z A travels (8,448 bytes at d = 32), or z does (128 bytes, as int8 32), and A is installed on the device.

Beyond the paper, or open in it:
* The released code holds A and B in plain Python lists, so no optimiser ever sees them. Here they are trained;
  `faithful` keeps them random.
* B is installed, and what travels is what is to be added to it. A share of the training rows (`alone`) goes without a
  code, so that a device that has not heard of the cloud yet has a trained model as well.
* Training goes on from the weights of a trained shared model; the paper's begins with random ones (`pretrained`).
* The loss is a softmax over the catalogue like that of the other methods here, so that a difference between methods is
  not one between losses; "bce" is the paper's.
* The stable weight adapter is a reconstruction (`device.models.personal_head.bounded`), off by default.
"""

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from device.errors import ConfigError
from device.models.personal_head import CodeKind, PersonalHead, Send, add_weights, bounded, draw_projection, head_size
from device.models.sasrec import SASRec
from device.personal import Layout

Loss = Literal["softmax", "bce", "positions"]
WATCH = 0.01  # weight of a batch in the running mean by which the range of a code shrinks


class Trunk(nn.Module):
    """From behaviour to a code: GRU over item embeddings, then d -> d tanh -> code."""

    def __init__(self, width: int, code: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True)
        self.hidden = nn.Linear(width, width)
        self.out = nn.Linear(width, code)

    def reset(self) -> None:
        """Draw all weights anew from torch's global generator."""
        for part in (self.gru, self.hidden, self.out):
            part.reset_parameters()

    def forward(self, embedded: Tensor, known: Tensor) -> Tensor:
        """Codes [B, L, code] after each position of `embedded` [B, L, d]; zeros where `known` [B, L] is False.

        The recurrence starts at the first known position: padding is moved from the left to the right, and back.
        """
        rows = torch.arange(len(known), device=known.device)[:, None]
        column = torch.arange(known.shape[1], device=known.device)
        start = (~known).sum(1, keepdim=True)
        states: Tensor = self.gru(embedded[rows, (column + start) % known.shape[1]])[0]
        states = states[rows, (column - start) % known.shape[1]]
        codes: Tensor = self.out(torch.tanh(self.hidden(states)))
        return codes * known[:, :, None]


class Duet(nn.Module):
    """The device half with its shared head, and the cloud half that makes patches for it.

    Args:
        backbone: of the device, trained together with everything else, in place.
        send, kind, code: what travels; see `PersonalHead`.
        uploaded: how many of the newest items the cloud looks at; None = as many as the device.
        pretrained: training begins with the weights that `backbone` comes with; otherwise with random ones, as in the
            paper.
        faithful: B and A random and untrained, and no rows alone, as in the released code.
        stable: limit the personal part (reconstructed).
        alone: share of the training rows that learn with the shared head only.
        loss: "softmax" over the catalogue or "bce" with sampled negatives, for the newest item of each prefix;
            "positions" leaves the loss to the trainer: its softmax at all positions of a window at once, as the shared
            model learns, many times cheaper for long histories. It needs `uploaded` = None.
        negatives: per positive, for "bce"; the paper's data have 4.
    """

    projection: Tensor  # [code, P], with `send = "weights"`

    def __init__(
        self,
        backbone: SASRec,
        *,
        send: Send = "weights",
        kind: CodeKind = "float32",
        code: int = 32,
        uploaded: int | None = None,
        pretrained: bool = True,
        faithful: bool = False,
        stable: bool = False,
        alone: float = 0.1,
        loss: Loss = "softmax",
        negatives: int = 4,
    ) -> None:
        super().__init__()
        self.device = PersonalHead(backbone, send=send, code=code, kind=kind, trained=not faithful, stable=stable)
        self.start = copy.deepcopy(backbone.state_dict()) if pretrained else None
        self.n_items, self.uploaded = backbone.n_items, uploaded or backbone.length
        self.length = max(self.uploaded, backbone.length)
        self.alone, self.loss, self.negatives, self.faithful = 0.0 if faithful else alone, loss, negatives, faithful
        self.trunk = Trunk(self.device.width, code)
        if send == "weights":
            add_weights(self, "projection", (code, head_size(self.device.width)), trained=not faithful)
        if loss != "positions":
            self.training_loss = self._training_loss  # the trainer looks for it
        elif uploaded is not None:
            raise ConfigError(f"loss = 'positions' with uploaded = {uploaded}: leave uploaded out, or take 'softmax'")
        self._draw()

    @property
    def layout(self) -> Layout:
        """What a patch holds."""
        return self.device.layout

    @property
    def item(self) -> nn.Embedding:
        """The one item table, of device and cloud."""
        return self.device.backbone.item

    def reset(self) -> None:
        """Draw all weights anew from torch's global generator, but give a trained backbone back what it came with."""
        if self.start is None:
            self.device.backbone.reset()
        else:
            self.device.backbone.load_state_dict(self.start)
        self.device.reset()
        self.trunk.reset()
        self._draw()

    def _draw(self) -> None:
        if self.device.send == "weights":
            draw_projection(self.projection, trained=not self.faithful)

    def codes(self, history: Tensor) -> Tensor:
        """Codes z [B, L, code] after each position of the newest `uploaded` items of `history`; an empty one's is 0."""
        history = history[:, -self.uploaded :]
        codes: Tensor = self.trunk(self.item(history), history != 0)
        if not self.training:
            return codes
        if self.device.kind == "int8":
            self._watch(codes.detach().float())
        return without_some(codes, self.alone)

    def _watch(self, codes: Tensor) -> None:
        """Let 127 steps of int8 reach the largest |z| of each number: a batch's at once, later slowly falling.

        A code out of reach has no gradient: were the steps to follow slowly, training would stand still.
        """
        largest = codes.abs().flatten(0, 1).amax(0) / 127
        self.device.step.copy_(torch.maximum(self.device.step.lerp(largest, WATCH), largest))

    def patches(self, history: Tensor) -> dict[str, Tensor]:
        """`head` [B, P] or `code` [B, code] for devices with `history` [B, L]; int8 only outside training."""
        return self._made(self.codes(history)[:, -1])

    def _made(self, codes: Tensor) -> dict[str, Tensor]:
        """Patches [N, ...] of codes [N, code]."""
        if self.device.send == "code":
            return {"code": self._counted(codes) if self.device.kind == "int8" else codes}
        head = codes @ self.projection
        return {"head": bounded(head, self.device.shared) if self.device.stable else head}

    def _counted(self, codes: Tensor) -> Tensor:
        steps = (codes / self.device.step).clamp(-127, 127)
        if not self.training:
            return steps.round().to(torch.int8)
        return steps + (steps.round() - steps).detach()  # rounded values, gradients as if not

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] on devices whose patches were made of the same `history` [B, L]."""
        scores: Tensor = self.device(history, candidates, **self.patches(history))
        return scores

    def catalogue(self, history: Tensor) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue."""
        return self.device.catalogue(history, **self.patches(history))

    def states(self, history: Tensor) -> Tensor:
        """Head outputs [B, L, d] after each position, each with the head made of the history up to it."""
        x = self.device.backbone.states(history)
        patches = self._made(self.codes(history[:, -self.device.length :]).flatten(0, 1))
        return self.device.personal(x.flatten(0, 1), **patches).view_as(x)

    def _training_loss(self, history: Tensor, target: Tensor, *, epoch: int, generator: torch.Generator) -> Tensor:
        """Loss of the next items `target` [B] after `history` [B, L]."""
        return next_item_loss(self, history, target, loss=self.loss, negatives=self.negatives, generator=generator)


def without_some(patches: Tensor, share: float) -> Tensor:
    """`patches` [B, ...] with about `share` of the rows set to zero, by torch's global generator."""
    if not share:
        return patches
    kept = torch.rand(len(patches), device=patches.device) >= share
    return patches * kept.view(-1, *[1] * (patches.dim() - 1))


def next_item_loss(
    module: nn.Module, history: Tensor, target: Tensor, *, loss: Loss, negatives: int, generator: torch.Generator
) -> Tensor:
    """Mean loss of the next items `target` [B] after `history` [B, L].

    "softmax": cross-entropy over the catalogue, through `module.catalogue`. "bce": binary cross-entropy of the sigmoid
    of target and `negatives` uniform items per row (DUET, SOLID, CKI); a negative that is the target does not count.
    """
    if loss != "bce":
        logits: Tensor = module.catalogue(history)  # type: ignore[operator]
        return F.cross_entropy(logits[:, 1:].float(), target - 1)
    n_items = int(module.n_items)  # type: ignore[arg-type]
    others = torch.randint(1, n_items + 1, (len(target), negatives), generator=generator).to(target.device)
    scores: Tensor = module(history, torch.cat([target[:, None], others], dim=1)).float()
    label = torch.zeros_like(scores)
    label[:, 0] = 1
    counts = torch.cat([torch.ones_like(target[:, None], dtype=torch.bool), others != target[:, None]], dim=1)
    each = F.binary_cross_entropy_with_logits(scores, label, reduction="none")
    return each[counts].mean()
