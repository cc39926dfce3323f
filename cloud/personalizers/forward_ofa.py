"""Forward-OFA: a structure and its weights for each device in one forward pass (KDD 2025, arXiv 2501.02837).

Known of the paper are the abstract and the figure of the architecture: an extractor, a structure controller (keep or
skip per block, Gumbel-softmax with a hard forward pass), a structure vector by a policy projection, and a
structure-guided mapper with an extractor and a hypernetwork branch per block. Reconstructed here: the loss (softmax
over the catalogue), temperature and sizes, generated offsets in place of whole weights, a structure vector made from
the probabilities of keeping, limits per tier by masking logits, and the cost term.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cloud.personalizers.diet import Branches, Extractors
from device.errors import ConfigError
from device.models.assembled import Assembled


def affordable(logits: Tensor, most: Tensor) -> Tensor:
    """`logits` [B, 2, N] (keep, skip) with keep = -inf for all but the `most` [B] blocks that want most to be kept.

    Wanted = keep - skip; of equals the earlier block. Whatever noise is added later, no more than `most` are kept.
    """
    wanted = (logits[:, 0] - logits[:, 1]).detach()
    place = wanted.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    refused = place >= most[:, None]
    return torch.stack([logits[:, 0].masked_fill(refused, float("-inf")), logits[:, 1]], dim=1)


def gumbel(shape: torch.Size, generator: torch.Generator | None) -> Tensor:
    """Standard Gumbel numbers; from torch's global generator where none is given."""
    uniform = torch.rand(shape, generator=generator).clamp(1e-20, 1 - 1e-7)
    return -torch.log(-torch.log(uniform))


def hard_choice(logits: Tensor, noise: Tensor | None, temperature: float) -> Tensor:
    """[B, N] 1 = keep, 0 = skip, of `logits` [B, 2, N]; with noise a draw whose gradient is that of the softmax.

    Jang, Gu and Poole, ICLR 2017 (straight-through Gumbel-softmax). A tie keeps.
    """
    if noise is None:
        return (logits[:, 0] >= logits[:, 1]).to(logits.dtype)
    soft = torch.softmax((logits + noise) / temperature, dim=1)[:, 0]
    hard = (soft >= 0.5).to(logits.dtype)
    return hard + (soft - soft.detach())  # adds an exact zero


class ForwardOFA(nn.Module):
    """Which blocks a device runs and what is added to their weights, from what it did lately and its tier.

    In the paper the extractors run on the device and (1 + blocks) x width numbers are uploaded; `assemble` takes those.

    Args:
        device: the device model.
        pretrained: `device` comes trained, and stays as it is; otherwise it learns together with the generators, by
            its patched scores only.
        history: newest items that the extractors look at; None = as many as the device.
        structure: size of the structure vector.
        temperature: of the Gumbel-softmax.
        budgets: per tier, floating-point operations that one ranking may spend in blocks on a full history; () = no
            limit. Training then draws a tier for each row.
        cost_weight: lambda of the cost term, the expected share of the blocks' cost that is kept.
    """

    knows_tiers = True  # `patches` takes them

    def __init__(
        self,
        device: Assembled,
        *,
        pretrained: bool = True,
        history: int | None = None,
        structure: int = 8,
        temperature: float = 1.0,
        budgets: tuple[float, ...] = (),
        cost_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if structure < 1 or not temperature > 0 or cost_weight < 0 or min(budgets, default=0) < 0 or history == 0:
            raise ConfigError(
                f"ForwardOFA: history = {history}, structure = {structure}, temperature = {temperature}, budgets = "
                f"{budgets}, cost_weight = {cost_weight}; expected 1 or more twice, a positive number, no negative ones"
            )
        self.device = device.requires_grad_(not pretrained)
        self.n_items, self.history = device.n_items, history or device.length
        self.length = max(self.history, device.length)
        self.temperature, self.cost_weight, self.pretrained = temperature, cost_weight, pretrained
        blocks, width = device.blocks, device.width
        costs = [device.flops_of_blocks(kept, device.length) for kept in range(1, blocks + 1)]
        self.most = tuple(sum(cost <= budget for cost in costs) for budget in budgets)  # blocks that a tier affords
        self.interest = Extractors(1 + blocks, width)  # one for the controller, one per block
        self.controller = Branches(1, (width, width, 2 * blocks))
        self.projection = nn.Linear(blocks, structure)
        sizes = device.layout["offset"].shape
        self.mapper = Branches(blocks, (width + structure, width, sizes[1] * sizes[2] * sizes[3]))
        self.reset()

    def reset(self) -> None:
        """Draw the generators anew from torch's global generator, and the device model unless it comes trained."""
        if not self.pretrained:
            self.device.reset()
        self.interest.reset()
        self.controller.reset(start=0.0)
        with torch.no_grad():
            self.controller.second[:, -1, : self.device.blocks] += 1.0  # begin with most blocks kept
        self.projection.reset_parameters()
        self.mapper.reset(start=0.0, spread=0.1)  # and with small offsets

    def patches(self, history: Tensor, tiers: Tensor | None = None) -> dict[str, Tensor]:
        """{"keep": [B, blocks], "offset": [B, blocks, ...]} of `history` [B, L] for devices of `tiers` [B].

        No tiers, no limits. In eval mode the likelier choice of each block, keep as bool, zeros in place of the
        offsets of skipped blocks; while training a draw, 0.0 or 1.0 with gradients, and all offsets.
        """
        return self.assemble(self.interests(history), tiers)[0]

    def interests(self, history: Tensor) -> Tensor:
        """[1 + blocks, B, d]: what the extractors read from `history` [B, L]; a device could upload just this."""
        read: Tensor = self.interest(history[:, -self.history :], self.device.item)
        return read

    def assemble(
        self, interests: Tensor, tiers: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """(patches, probability [B, blocks] that a block is kept) of `interests` [1 + blocks, B, d]."""
        logits = self.controller(interests[:1])[0].unflatten(1, (2, -1))
        if tiers is not None and self.most:
            logits = affordable(logits, torch.tensor(self.most, device=tiers.device)[tiers])
        likely = torch.softmax(logits, dim=1)[:, 0]
        keep = hard_choice(logits, gumbel(logits.shape, generator) if self.training else None, self.temperature)
        vector = self.projection(likely).expand(len(interests) - 1, -1, -1)
        offset = self.mapper(torch.cat([interests[1:], vector], dim=2)).transpose(0, 1)
        offset = offset.unflatten(2, self.device.layout["offset"].shape[1:])
        if self.training:
            return {"keep": keep, "offset": offset}, likely
        return {"keep": keep.bool(), "offset": offset * keep[:, :, None, None, None]}, likely

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] on devices that hold the patches of their `history` [B, L]."""
        scores: Tensor = self.device(history, candidates, **self.patches(history))
        return scores

    def catalogue(self, history: Tensor) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue; column 0 (padding) is meaningless."""
        return self.device.catalogue(history, **self.patches(history))

    def training_loss(self, history: Tensor, target: Tensor, *, epoch: int, generator: torch.Generator) -> Tensor:
        """Cross-entropy of the next items `target` [B] over the catalogue, and the cost term.

        Tiers and Gumbel noise come from `generator`.
        """
        tiers = torch.randint(len(self.most), (len(history),), generator=generator) if self.most else None
        patches, likely = self.assemble(self.interests(history), tiers, generator=generator)
        logits = self.device.catalogue(history, **patches)[:, 1:]
        return F.cross_entropy(logits.float(), target - 1) + self.cost_weight * likely.mean()

    def patch_flops(self, length: int) -> float:
        """Floating-point operations in the cloud for one device's patch, extractors included (2 per multiply-add)."""
        count, parts, width, inputs = self.device.layout["offset"].shape
        structure = self.projection.out_features
        read = (1 + count) * min(length, self.history) * 6 * width**2
        choose = width * (width + 2 * count) + count * structure
        return 2.0 * (read + choose + count * width * (width + structure + parts * width * inputs))
