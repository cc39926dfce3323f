"""What tests of elastic models share: small ones with weights large enough that a mistake shows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from device.model import Items, Parameters
from device.models.elastic import ElasticSASRec
from device.models.elastic_din import ElasticDIN
from device.models.elastic_gru import ElasticGRU4Rec
from device.models.slimming import SlimmableTorch
from device.seeds import rng
from device.subnet import SubnetSpec, grid

N_ITEMS, LENGTH = 30, 7
KINDS: list[Callable[..., Any]] = [ElasticSASRec, ElasticGRU4Rec, ElasticDIN]
STATEFUL = KINDS[:2]
FULL = SubnetSpec(24, 2, 20)
SPECS = grid(FULL)


def elastic(kind: Callable[..., Any], seed: int = 1, **options: Any) -> Any:
    """An elastic module in eval mode with noise of 0.2 on all weights."""
    sizes = {"width": FULL.width, "blocks": FULL.blocks, "items": FULL.items, "length": LENGTH}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        made = kind(N_ITEMS, **{**sizes, **options}).eval()
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
        made.item.weight[0] = 0
    return made


def slimmable(module: Any) -> tuple[SlimmableTorch, Parameters]:
    """The device model around a module, and the module's weights."""
    return SlimmableTorch(module), {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}


def batch(rows: int, length: int, candidates: int, seed: int = 0) -> tuple[Items, Items]:
    """Histories [rows, length] of all fillings, the last one empty where there are several, and candidates."""
    draw = rng(seed, "elastic batch", rows, length, candidates)
    history = draw.integers(1, N_ITEMS + 1, (rows, length), dtype=np.int32)
    for row in range(1, rows):
        history[row, : draw.integers(0, length + 1)] = 0
    if rows > 1:
        history[-1] = 0
    return history, draw.integers(1, N_ITEMS + 1, (rows, candidates), dtype=np.int32)


def tensors(*arrays: Items) -> list[torch.Tensor]:
    """The same as int64 tensors."""
    return [torch.from_numpy(array.astype(np.int64)) for array in arrays]
