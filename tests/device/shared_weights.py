"""Weights of a SASRec in models that keep those of its layers elsewhere: an oracle for masked and assembled ones.

A block's layers are query, key, value, output, up and down, each [d, d + 1] with the bias in the last column.
"""

from typing import Any

import torch
from torch import nn

from device.models.sasrec import SASRec


def become(made: Any, trained: SASRec) -> None:
    """Give `made`, with `encoder` and `weight` of the same sizes, all weights of `trained`."""
    blocks: Any = trained.blocks
    norms = [norm for block in blocks for norm in (block.norm_attention, block.norm_ffn)]
    layers: list[nn.Linear] = [m for b in blocks for m in (b.qkv, b.out, b.up, b.down)]
    with torch.no_grad():
        made.encoder.item.load_state_dict(trained.item.state_dict())
        made.encoder.position.load_state_dict(trained.position.state_dict())
        for mine, theirs in zip(made.encoder.norms, [*norms, trained.norm], strict=True):
            mine.load_state_dict(theirs.state_dict())
        rows = torch.cat([torch.cat([m.weight, m.bias[:, None]], dim=1) for m in layers])
        made.weight.copy_(rows.view_as(made.weight))
