"""Tiny personalised methods: a code per device that is added to the state, with torch and without."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from loop_parts import Dot, World
from torch import nn
from torch.nn import functional as F

from cloud.gateway import Gateway
from cloud.personalizer import Personals
from cloud.service import Personalization
from device.personal import Part


class Half(nn.Module):
    """Scores by the mean embedding of the history plus the code, over the channels that the mask leaves."""

    item_table = "item.weight"

    def __init__(self, n_items, width):
        super().__init__()
        self.n_items = n_items
        self.item = nn.Embedding(n_items + 1, width, padding_idx=0)
        self.layout = {"code": Part((width,), "float32"), "mask": Part((width,), "bool")}

    def forward(self, history, candidates, code=None, mask=None):
        known = (history != 0).sum(1, keepdim=True).clamp(min=1)
        state = self.item(history).sum(1) / known
        state = state if code is None else state + code
        state = state if mask is None else state * mask
        return torch.einsum("bd,bcd->bc", state, self.item(candidates))

    def flops(self, length, candidates):
        return 2.0 * self.item.embedding_dim * (length + candidates)


class Coded(nn.Module):
    """The method: the code is a projection of the newest item's embedding, the mask drops its negative channels."""

    def __init__(self, n_items, length=10, *, width=8):
        super().__init__()
        self.n_items, self.length = n_items, length
        self.device = Half(n_items, width)
        self.project = nn.Linear(width, width)

    def patches(self, history):
        newest = self.device.item(history[:, -1])
        soft = torch.sigmoid(100 * newest + 5)
        mask = (soft > 0.5).float() + soft - soft.detach() if self.training else soft > 0.5
        return {"code": self.project(newest), "mask": mask}

    def forward(self, history, candidates):
        return self.device(history, candidates, **self.patches(history))

    def training_loss(self, history, target, *, epoch, generator):
        every = torch.arange(1, self.n_items + 1).expand(len(history), -1)
        return F.cross_entropy(self(history, every), target - 1)


class Going(Coded):
    """Goes on from a trained device half, which stays as it is."""

    def __init__(self, backbone, length=10):
        super().__init__(backbone.n_items, length, width=backbone.item.embedding_dim)
        self.device = backbone.requires_grad_(False)

    def reset(self):
        self.project.reset_parameters()


class Forgetting(Coded):
    """As Going, but without a draw of its own."""

    def __init__(self, backbone, length=10):
        super().__init__(backbone.n_items, length, width=backbone.item.embedding_dim)
        self.device = backbone.requires_grad_(False)


class PersonalDot(Dot):
    """A Dot whose state is shifted by the device's code."""

    layout: ClassVar = {"code": Part((4,), "float32")}

    def unpatched(self):
        return {"code": np.zeros(4, np.float32)}

    def score_personal(self, params, patches, history, candidates):
        shift = np.einsum("bd,bcd->bc", patches["code"], params["table"][candidates])
        return self.score(params, history, candidates) + shift


@dataclass
class Shift:
    """Makes codes of `scale` times sine and cosine of the two newest items, at a declared cost."""

    scale: float = 1.0
    flops: float | None = 1e6
    layout: ClassVar = PersonalDot.layout
    asked: list = field(default_factory=list)  # (rows, tiers) of each call

    def personalize(self, histories, tiers, *, rng):
        self.asked.append((len(histories), tiers.tolist()))
        flops = None if self.flops is None else np.full(len(histories), self.flops)
        return Personals({"code": self.scale * code(histories)}, flops, None)


def code(histories):
    """[B, 4] float32."""
    newest = histories[:, -2:].astype(np.float32)
    return np.concatenate([np.sin(newest), np.cos(newest)], axis=1)


def personal_world(lived, n_items, *, personalizer=None, every=1, tiers=(True,), **more):
    """A World whose devices get codes."""
    world = World(lived, n_items, model=PersonalDot(n_items), **more)
    offered = Personalization(personalizer or Shift(), np.array(tiers), every)
    service = replace(world.gateway.service, personalization=offered)
    world.gateway = Gateway(service, lived.histories, world.ledger)
    return world
