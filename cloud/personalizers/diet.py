"""DIET and DIETING: a mask per device over weights that are the same everywhere (KDD 2024, arXiv 2406.08804).

Known of the paper are the abstract and the figure of the architecture: per layer a sequence extractor, a generator of
element scores and one of filter importance, their product, a binary mask. Reconstructed here: the loss (softmax over
the catalogue), the straight-through estimator, the sizes of the generators, and that in the variant with a random body
the item table, the positions and nothing else of the device model learn.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from device.errors import ConfigError
from device.models.masked import MaskedHead, MaskedSASRec
from device.models.torch_model import reset as redraw


class Extractors(nn.Module):
    """`count` recurrent networks that read the same embedded history; padding and its length change nothing."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(nn.GRU(width, width, batch_first=True) for _ in range(count))

    def reset(self) -> None:
        """Draw the weights anew."""
        redraw(self.networks)

    def forward(self, history: Tensor, item: nn.Embedding) -> Tensor:
        """[count, B, d]: the states after the newest item of `history` [B, L]; zeros where there is none."""
        length, real = history.shape[1], (history != 0).sum(1)
        place = torch.arange(length, device=history.device) + (length - real)[:, None]
        x = item(torch.gather(history, 1, place % length))  # oldest item first in its row, padding behind the newest
        newest = (real - 1).clamp(min=0)[:, None, None].expand(-1, 1, x.shape[2])
        states = torch.stack([torch.gather(network(x)[0], 1, newest)[:, 0] for network in self.networks])
        return states * (real > 0)[:, None]


class Branches(nn.Module):
    """`count` separate networks in -> hidden -> out with tanh between, all in two batched products."""

    def __init__(self, count: int, sizes: tuple[int, int, int]) -> None:
        super().__init__()
        inputs, hidden, outputs = sizes
        self.first = nn.Parameter(torch.empty(count, inputs + 1, hidden))
        self.second = nn.Parameter(torch.empty(count, hidden + 1, outputs))

    def reset(self, *, start: float, spread: float = 1.0) -> None:
        """Draw the weights anew; outputs begin around `start`, the last layer `spread` times as wide as usual."""
        for weight, scale in ((self.first, 1.0), (self.second, spread)):
            bound = scale * (weight.shape[1] - 1) ** -0.5
            nn.init.uniform_(weight, -bound, bound)
        with torch.no_grad():
            self.second[:, -1] += start

    def forward(self, x: Tensor) -> Tensor:
        """[count, B, out] of x [count, B, in]."""
        hidden = torch.tanh(torch.baddbmm(self.first[:, -1:], x, self.first[:, :-1]))
        return torch.baddbmm(self.second[:, -1:], hidden, self.second[:, :-1])


def corrected(scores: Tensor, importance: Tensor) -> Tensor:
    """T = importance [.., o] of each output unit times the scores [.., o, i + 1] of its connections (its bias too)."""
    return scores * importance[..., None]


def binary(values: Tensor, keep: float | None) -> Tensor:
    """Masks, 0 or 1, of `values` [.., o, i + 1]; backwards they pass every gradient on as it is (straight-through).

    The round(keep x size), at least one, largest values of each layer are kept; with keep = None those whose sigmoid
    exceeds 1/2. Equal values at the border are all kept, so that a row's mask depends on that row alone.
    """
    if keep is None:
        hard = torch.sigmoid(values) > 0.5
    else:
        flat = values.detach().flatten(-2)
        least = flat.topk(max(1, round(keep * flat.shape[-1])), dim=-1).values[..., -1]
        hard = values >= least[..., None, None]
    return hard.to(values.dtype) + (values - values.detach())  # adds an exact zero


class Diet(nn.Module):
    """Masks for devices from what they did lately; the extractors and generators learn, the masked body does not.

    Args:
        device: the device model; its weights stay as they are. MaskedHead masks two layers behind a SASRec (264 bytes
            at width 32), MaskedSASRec all layers of the SASRec; either with tied layers is DIETING.
        keep: share of each layer's weights that a mask keeps; None = as many as score above zero.
        pretrained: `device` comes trained, and no draw of weights touches it; otherwise its layers are random, and its
            item table and positions learn.
        history: newest items that the cloud looks at; None = as many as the device.
    """

    def __init__(
        self,
        device: MaskedHead | MaskedSASRec,
        *,
        keep: float | None = 0.5,
        pretrained: bool = True,
        history: int | None = None,
    ) -> None:
        super().__init__()
        if (keep is not None and not 0 < keep <= 1) or (history is not None and history < 1):
            raise ConfigError(f"Diet: keep = {keep}, history = {history}; expected a share above 0 and 1 or more items")
        self.device, self.keep, self.pretrained = device, keep, pretrained
        self.n_items, self.history = device.n_items, history or device.length
        self.length = max(self.history, device.length)
        layers, width, inputs = device.layout["mask"].shape
        self.extractors = Extractors(layers, width)
        self.scores = Branches(layers, (width, width, width * inputs))
        self.importance = Branches(layers, (width, width, width))
        for name, parameter in device.named_parameters():
            parameter.requires_grad_(not pretrained and name.endswith(("item.weight", "position.weight")))
        self.reset()

    def reset(self) -> None:
        """Draw the generators anew from torch's global generator, and the device model unless it comes trained."""
        if not self.pretrained:
            self.device.reset()
        self.extractors.reset()
        self.scores.reset(start=0.0)
        self.importance.reset(start=1.0)  # so that training begins with T close to the element scores

    def patches(self, history: Tensor) -> dict[str, Tensor]:
        """{"mask": [B, layers, d, d + 1]} of `history` [B, L]: bool, while training 0.0 or 1.0 with gradients."""
        layers, width, inputs = self.device.layout["mask"].shape
        extracted = self.extractors(history[:, -self.history :], self.device.item)
        elements = self.scores(extracted).view(layers, -1, width, inputs)
        mask = binary(corrected(elements, self.importance(extracted)), self.keep).transpose(0, 1)
        return {"mask": mask if self.training else mask.bool()}

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] on devices that hold the masks of their `history` [B, L]."""
        scores: Tensor = self.device(history, candidates, **self.patches(history))
        return scores

    def catalogue(self, history: Tensor) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue; column 0 (padding) is meaningless."""
        return self.device.catalogue(history, **self.patches(history))

    def training_loss(self, history: Tensor, target: Tensor, *, epoch: int, generator: torch.Generator) -> Tensor:
        """Cross-entropy of the next items `target` [B] over the catalogue."""
        return F.cross_entropy(self.catalogue(history)[:, 1:].float(), target - 1)

    def patch_flops(self, length: int) -> float:
        """Floating-point operations in the cloud for one device's mask (2 per multiply-add)."""
        layers, width, inputs = self.device.layout["mask"].shape
        read = min(length, self.history) * 6 * width**2
        return 2.0 * layers * (read + width * width * (2 + inputs + 1))
