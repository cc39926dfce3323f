"""What the benchmark of devices with masks of their own measures, and the loops that others are compared with."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from device.model import Items, Parameters
from device.models.incremental_torch import steps_of
from device.models.masked import MaskedHead
from device.models.personal_torch import PersonalTorch
from device.personal import Patches
from device.seeds import rng

ITEMS, WIDTH = 2000, 32


@dataclass(frozen=True, slots=True)
class Masked:
    """D devices, each with a random DIET mask over an untrained MaskedHead of width 32 with two blocks."""

    model: PersonalTorch
    params: Parameters
    bits: NDArray[np.uint8]  # [D, 264], masks as they travel
    items: Items  # [D, L + steps]
    pools: Items  # [D, C]
    length: int

    @property
    def who(self) -> NDArray[np.int64]:
        """[D] device numbers."""
        return np.arange(len(self.items))

    def window(self, step: int) -> Items:
        """[D, L] known after `step` steps."""
        return np.ascontiguousarray(self.items[:, step : step + self.length])

    def masks(self, rows: slice) -> Patches:
        """The unpacked masks of some devices."""
        part = self.model.layout["mask"]
        flat = np.unpackbits(self.bits[rows], axis=1, count=part.size).view(np.bool_)
        return {"mask": flat.reshape(-1, *part.shape)}

    def module(self) -> nn.Module:
        """The module with its weights, without what lies around it for numpy."""
        return self.model.shared.loaded(self.params).requires_grad_(False).eval()


def masked(devices: int, size: tuple[int, int], steps: int, *, relative: bool) -> Masked:
    """Random items and masks; `size` = (history, pool)."""
    length, pool = size
    model = PersonalTorch(MaskedHead(ITEMS, width=WIDTH, blocks=2, length=length, relative=relative))
    draw = rng(0, "bench masks")
    items = draw.integers(1, ITEMS + 1, (devices, length + steps), dtype=np.int32)
    pools = draw.integers(1, ITEMS + 1, (devices, pool), dtype=np.int32)
    bits = draw.integers(0, 256, (devices, model.layout["mask"].nbytes), dtype=np.uint8)
    return Masked(model, model.init(rng(0, "bench weights")), bits, items, pools, length)


def loop(one: Masked, sample: int) -> float:
    """Seconds of the bare module for one device after the other, its mask unpacked, from the whole history."""
    module, known, pools = one.module(), tensor(one.window(1)), tensor(one.pools)
    started = time.perf_counter()
    with torch.inference_mode():
        for row in range(sample):
            mine = slice(row, row + 1)
            module(known[mine], pools[mine], torch.from_numpy(one.masks(mine)["mask"]))
    return time.perf_counter() - started


def loop_continued(one: Masked, sample: int) -> float:
    """Seconds of that loop where each device goes on from its state, which is there before."""
    module: Any = one.module()
    steps, newest, pools = steps_of(module.body), tensor(one.window(1)[:, -1]), tensor(one.pools)
    with torch.inference_mode():
        begun = steps.begin(tensor(one.window(0)[:sample]))
        states = [{name: value[row : row + 1].clone() for name, value in begun.items()} for row in range(sample)]
        started = time.perf_counter()
        for row in range(sample):
            mine = slice(row, row + 1)
            states[row] = steps.step(states[row], newest[mine])
            mask = torch.from_numpy(one.masks(mine)["mask"])
            module.behind(steps.hidden(states[row]), pools[mine], mask)
        return time.perf_counter() - started


def tensor(items: Items) -> Tensor:
    """As a module wants them."""
    return torch.from_numpy(items).long()
