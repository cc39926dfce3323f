"""CKI (AAAI 2025, arXiv 2501.07596): splice two trained nets of one shape, weight by weight, by their compatibility.

For the formulas see `cloud.personalizers.splicing`; the two nets are constants in them. What is deployed is spliced by
the formula of the training; the released code deploys by another one, which is taken for a bug.

Spliced here are two heads behind one body: a static one, shared by all devices, and the dynamic one that DUET generates
for each device as an offset of it. This is reconstructed: the released code splices the heads of nets of two seeds,
which do not agree on what a channel means, so that a mean of their weights is neither net. Reconstructed as well: body,
both heads and P learn in one training, which begins with the weights of a trained shared model, where the released code
trains both nets before P.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cloud.personalizers.duet import Duet, Loss, next_item_loss
from cloud.personalizers.splicing import first_share, square
from device.errors import ConfigError
from device.models.personal_head import PersonalHead, head_layers
from device.models.sasrec import SASRec
from device.personal import Layout


class Cki(nn.Module):
    """The shared head of a DUET spliced with the one that it generates for each device; reconstructed, see the module.

    W1 = B, W2 = B + z A, so what travels is (1 - s) z A: a patch of `head`, on DUET's device half, of the same bytes.
    The two nets learn by DUET's loss, P and what lies before the heads by that of the spliced net too, whose gradients
    stop at both heads.

    Args:
        backbone: of the device, trained; it learns on, in place, together with everything else.
        code, uploaded, negatives: as in `Duet`.
        alone: as in `Duet`; above 0, for otherwise the shared head is no net of its own.
        loss: "softmax" (default) or "bce" (the paper's), as in `Duet`.
    """

    def __init__(
        self,
        backbone: SASRec,
        *,
        code: int = 32,
        uploaded: int | None = None,
        alone: float = 0.1,
        loss: Loss = "softmax",
        negatives: int = 4,
    ) -> None:
        super().__init__()
        if not 0 < alone < 1 or loss == "positions":
            raise ConfigError(
                f"CKI: alone = {alone}, loss = {loss!r}; it splices two heads, so some rows, but not all, have to "
                "learn with the shared one alone (0 < alone < 1), and it learns by 'softmax' or 'bce'"
            )
        self.duet = Duet(backbone, code=code, uploaded=uploaded, alone=alone, loss=loss, negatives=negatives)
        self.n_items, self.length = self.duet.n_items, self.duet.length
        self.maps = nn.ModuleList(square(self.duet.device.width) for _ in range(4))  # W1, b1, W2, b2

    def reset(self) -> None:
        """Draw all weights but the backbone's anew from torch's global generator; that gets back what it came with."""
        self.duet.reset()
        for local_map in self.maps:
            local_map.reset_parameters()  # type: ignore[operator]

    @property
    def device(self) -> PersonalHead:
        """What is installed: DUET's device half."""
        return self.duet.device

    @property
    def layout(self) -> Layout:
        """What a patch holds."""
        return self.device.layout

    def patches(self, history: Tensor) -> dict[str, Tensor]:
        """`head` [B, P] for devices with `history` [B, L]."""
        return {"head": self._spliced(self.duet.patches(history)["head"])}

    def _spliced(self, generated: Tensor) -> Tensor:
        """(1 - s) `generated` [B, P]; gradients reach the maps alone."""
        static, dynamic = self.device.shared.detach(), generated.detach()
        layers = (head_layers(weights, self.device.width) for weights in (static, dynamic))
        parts = [_let_through(*layer) for layer in zip(*layers, self.maps, strict=True)]
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] on devices whose patches were made of the same `history` [B, L]."""
        scores: Tensor = self.device(history, candidates, **self.patches(history))
        return scores

    def catalogue(self, history: Tensor) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue."""
        return self.device.catalogue(history, **self.patches(history))

    def training_loss(self, history: Tensor, target: Tensor, *, epoch: int, generator: torch.Generator) -> Tensor:
        """Losses of the dynamic and of the spliced net for the next items `target` [B] after `history` [B, L], added.

        `Duet.alone` of the rows are of the static net in both.
        """
        state, generated = self.device.before(history), self.duet.patches(history)["head"]
        kept_out = self.device.shared.detach() - self.device.shared  # zeros that take the gradient of W1 back
        total = torch.zeros(())
        for head in (generated, self._spliced(generated) + kept_out):
            net: Any = _Behind(self.device, state, head)
            total = total + next_item_loss(
                net, history, target, loss=self.duet.loss, negatives=self.duet.negatives, generator=generator
            )
        return total


@dataclass(frozen=True, slots=True)
class _Behind:
    """Devices whose body has read its history, under the patches `head` [B, P], as `next_item_loss` takes a module."""

    device: PersonalHead
    state: Tensor  # [B, d]
    head: Tensor

    @property
    def n_items(self) -> int:
        return self.device.n_items

    def catalogue(self, history: Tensor) -> Tensor:
        return self.device.catalogue_behind(self.state, head=self.head)

    def __call__(self, history: Tensor, candidates: Tensor) -> Tensor:
        return self.device.behind(self.state, candidates, head=self.head)


def _let_through(static: Tensor, generated: Tensor, local_map: nn.Module) -> Tensor:
    """(1 - s) of what was generated, [B, *shape], for `static` [*shape] spliced with `static + generated`."""
    weight: Tensor = local_map.weight  # type: ignore[assignment]
    return (1 - first_share(static, static + generated, weight)) * generated
