"""SOLID (Lv et al., ACM MM 2024, arXiv 2408.00123): personal weights generated from semantics rather than from items.

Items fall into a few hundred semantic groups. One generator reads the groups of the uploaded history and makes the
weights; a second one reads its items, each replaced by a decoded code of a semantic codebook, and may change every
weight by 0.01 at most: W = W_groups + clip(W_items, -0.01, 0.01). The device half and the wire are those of DUET.

Reconstructed, where the sources are open or their way is not at hand:
* Groups are k-means clusters of the item embeddings of the trained model that it goes on from, their centres are the
  codes (frozen) and the group embeddings begin there. The released code takes the embeddings of a DUET trained on
  categories for that; groups that come from elsewhere (texts, pictures) are handed over as a `Codebook`.
* Item embeddings and body begin as the trained model's, so that "the code nearest to an item" means something from the
  start, and what is new is what the method adds to that model.
* The decoder, d -> 2 d -> d (32 -> 64 -> 32), has a ReLU between its layers.
Other than in the released code the projections are trained; the shared part of the head is installed, as in `Duet`.
"""

import copy
import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn
from torch.nn import functional as F

from cloud.personalizers.duet import Loss, Trunk, next_item_loss, without_some
from device.errors import ConfigError
from device.models.personal_head import PersonalHead, draw_projection, head_size
from device.models.sasrec import SASRec
from device.personal import Layout
from device.seeds import rng

Upload = Literal["items", "semantics"]
LIMIT = 0.01  # of what the items add to a weight
PULL = 0.1  # weight of the codebook's term in the loss


@dataclass(frozen=True, slots=True)
class Codebook:
    """Semantic groups of a catalogue.

    Args:
        groups: [n_items + 1] int64, the group 1..K of each item; 0 for padding.
        codes: [K + 1, d] float32, the centre of each group among the trained item embeddings; row 0 = zeros.
    """

    groups: NDArray[np.int64]
    codes: NDArray[np.float32]

    @property
    def id_bytes(self) -> int:
        """Of one group id in an item's row: 1 for up to 255 groups, else 2."""
        return 1 if len(self.codes) <= 256 else 2


def codebook(table: NDArray[np.float32], count: int, *, seed: int) -> Codebook:
    """k-means (30 rounds from distinct items) over trained item embeddings `table` [n_items + 1, d], row 0 = padding.

    Raises ConfigError where `count` is not in 1..n_items or above 32,767. The paper's data have 3 to 22 items a group.
    """
    points = table[1:].astype(np.float64)
    if not 1 <= count <= min(len(points), 32_767):
        raise ConfigError(f"SOLID: {count} semantic groups for {len(points)} items; expected 1 to that, at most 32,767")
    start = points[np.sort(rng(seed, "semantic codebook").choice(len(points), count, replace=False))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of equal items, an empty cluster keeps its centre
        centres, nearest = kmeans2(points, start, iter=30, minit="matrix")
    groups = np.concatenate([[0], nearest.astype(np.int64) + 1])
    codes = np.concatenate([np.zeros((1, points.shape[1])), centres]).astype(np.float32)
    return Codebook(groups, codes)


def provisional(table: Tensor, count: int) -> Codebook:
    """A codebook until one is found or loaded: item i of `table` [n_items + 1, d] in group (i - 1) mod `count`, + 1."""
    numbers = table.detach().numpy().astype(np.float32)
    groups = np.arange(-1, len(numbers) - 1) % count + 1
    groups[0] = 0
    codes = np.concatenate([np.zeros_like(numbers[:1]), numbers[1 : count + 1]])
    return Codebook(groups, codes)


def begun(groups: int | Codebook, table: Tensor) -> Codebook:
    """`groups` itself where it is a codebook for `table` [n_items + 1, d]; a provisional one of at most so many groups.

    Raises ConfigError for what is neither, and for a codebook of another catalogue or width.
    """
    if isinstance(groups, int) and groups >= 1 and groups is not True:
        return provisional(table, min(groups, len(table) - 1))
    if not isinstance(groups, Codebook):
        raise ConfigError(f"SOLID: groups = {groups!r}; expected a number of 1 or more")
    if (len(groups.groups), groups.codes.shape[1]) != tuple(table.shape):
        raise ConfigError(
            f"SOLID: the codebook is of {len(groups.groups) - 1} items and {groups.codes.shape[1]} numbers a code, the "
            f"backbone of {len(table) - 1} and {table.shape[1]}; make it of embeddings of that catalogue and width"
        )
    return groups


class Solid(nn.Module):
    """SOLID: the device half with its shared head, and the two generators of the cloud.

    Args:
        backbone: of the device, trained; it learns on, in place, together with everything else.
        groups: so many, at most one per item, found by k-means when training begins; or a `Codebook`. The paper's data
            have 490 to 760.
        code: numbers between each trunk and its projection.
        uploaded: how many of the newest items the cloud hears of; None = as many as the device uses.
        upload: what patches are made of, as if a device told the cloud no more. "items": their ids. "semantics": their
            groups, which the device looks up in a table of its own (1 or 2 bytes per item more to install); items of
            one group then make one patch. A run saves no bytes by it and hides nothing: its devices upload their items
            anyway, for their lists.
        alone, loss, negatives: as in `Duet`; loss "softmax" (default) or "bce" (the paper's).
    """

    codes: Tensor  # [K + 1, d]

    def __init__(
        self,
        backbone: SASRec,
        *,
        groups: int | Codebook = 500,
        code: int = 32,
        uploaded: int | None = None,
        upload: Upload = "items",
        alone: float = 0.1,
        loss: Loss = "softmax",
        negatives: int = 4,
    ) -> None:
        super().__init__()
        if loss == "positions":
            raise ConfigError("SOLID: loss = 'positions' has no place for the codebook's term; take 'softmax' or 'bce'")
        book = begun(groups, backbone.item.weight)
        self.clusters = min(groups, backbone.n_items) if isinstance(groups, int) else 0  # to be found; 0 = none
        self.device = PersonalHead(backbone)
        self.start = copy.deepcopy(backbone.state_dict())
        self.n_items, self.uploaded, self.upload = backbone.n_items, uploaded or backbone.length, upload
        self.length = max(self.uploaded, backbone.length)
        self.alone, self.loss, self.negatives = alone, loss, negatives
        kind = torch.uint8 if book.id_bytes == 1 else torch.int16
        self._holder.register_buffer("groups", torch.from_numpy(book.groups).to(kind))
        self.register_buffer("codes", torch.tensor(book.codes))
        self._add_generators(len(book.codes), code)
        self._draw()

    def _add_generators(self, groups: int, code: int) -> None:
        width, size = self.device.width, head_size(self.device.width)
        self.group = nn.Embedding(groups, width, padding_idx=0)
        self.decoder = nn.Sequential(nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
        self.group_trunk, self.item_trunk = Trunk(width, code), Trunk(width, code)
        self.group_projection = nn.Parameter(torch.empty(code, size))
        self.item_projection = nn.Parameter(torch.empty(code, size))
        self.item_bias = nn.Parameter(torch.empty(size))

    @property
    def _holder(self) -> nn.Module:
        """Who looks up an item's group."""
        return self if self.upload == "items" else self.device

    @property
    def layout(self) -> Layout:
        """What a patch holds."""
        return self.device.layout

    def reset(self) -> None:
        """Find the groups, if they are to be found, and draw what is new, from torch's global generator.

        The backbone gets back the weights that it came with, and group embeddings begin as the codes.
        """
        self.device.backbone.load_state_dict(self.start)
        if self.clusters:
            found = codebook(self.start["item.weight"].numpy(), self.clusters, seed=int(torch.randint(2**31, ())))
            self._holder.get_buffer("groups").copy_(torch.from_numpy(found.groups))
            self.codes.copy_(torch.from_numpy(found.codes))
        self.device.reset()
        self.group_trunk.reset()
        self.item_trunk.reset()
        for layer in self.decoder:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        self._draw()

    def _draw(self) -> None:
        with torch.no_grad():
            self.group.weight.copy_(self.codes)
            draw_projection(self.group_projection, trained=True)
            draw_projection(self.item_projection, trained=True)
            self.item_projection.mul_(0.1)  # most of it inside the limit, where gradients are
            self.item_bias.zero_()

    def request(self, history: Tensor) -> Tensor:
        """What a device sends of `history` [B, L], [B, uploaded] at most: item ids, or their groups."""
        history = history[:, -self.uploaded :]
        return history if self.upload == "items" else self.device.get_buffer("groups")[history].long()

    def patches(self, history: Tensor) -> dict[str, Tensor]:
        """`head` [B, P] for devices with `history` [B, L]; of `request(history)` and nothing else."""
        return self.answer(self.request(history))

    def answer(self, request: Tensor) -> dict[str, Tensor]:
        """`head` [B, P] for requests [B, l]; zeros for an empty one."""
        groups, nearest = self._read(request)
        known = request != 0
        made = self.group_trunk(self.group(groups), known)[:, -1] @ self.group_projection
        added = self.item_trunk(self.decoder(nearest), known)[:, -1] @ self.item_projection + self.item_bias
        head = (made + added.clamp(-LIMIT, LIMIT)) * known[:, -1:]
        return {"head": without_some(head, self.alone) if self.training else head}

    def _read(self, request: Tensor) -> tuple[Tensor, Tensor]:
        """Group ids [B, l], and the codes [B, l, d] nearest to the items, or the groups' where only those are known."""
        if self.upload == "semantics":
            return request, self.codes[request]
        groups = self.get_buffer("groups")[request].long()
        with torch.no_grad():
            nearest = torch.cdist(self.device.backbone.item(request).flatten(0, 1), self.codes[1:]).argmin(1) + 1
        return groups, self.codes[nearest.view_as(request)]

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        """Scores [B, C] of `candidates` [B, C] on devices whose patches were made of the same `history` [B, L]."""
        scores: Tensor = self.device(history, candidates, **self.patches(history))
        return scores

    def catalogue(self, history: Tensor) -> Tensor:
        """Scores [B, n_items + 1] of the whole catalogue."""
        return self.device.catalogue(history, **self.patches(history))

    def training_loss(self, history: Tensor, target: Tensor, *, epoch: int, generator: torch.Generator) -> Tensor:
        """Loss of the next items `target` [B] after `history` [B, L], plus 0.1 times the codebook's term."""
        loss = next_item_loss(self, history, target, loss=self.loss, negatives=self.negatives, generator=generator)
        return loss + PULL * self.codebook_loss(history)

    def codebook_loss(self, history: Tensor) -> Tensor:
        """Mean squared distance per number between group embeddings and the codes nearest to the items, known items."""
        request = self.request(history)
        groups, nearest = self._read(request)
        known = request != 0
        return F.mse_loss(self.group(groups)[known], nearest[known])
