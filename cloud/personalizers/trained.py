"""The cloud half of a trained torch method as a personalizer."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cloud.personalizer import Personalizer, Personals
from device.errors import ContractError
from device.model import Items
from device.personal import Layout, Part
from device.scoring import SCORING_BATCH, batches
from device.seeds import Draws


class TrainedPersonalizer:
    """Patches by a module with `device.layout` and `patches(history [B, L] int64)` -> name to tensor [B, *shape].

    Every call has 64 rows, the last padded, and all columns of the histories, so that a patch does not depend on who
    else gets one. A part of kind bool may come as numbers 0 and 1, one of kind int8 as whole numbers. What one patch
    costs is the module's `patch_flops(length)`; where it has none, torch counts the matrix products, convolutions and
    attention of one call.

    Args:
        module: the method; it is put into eval mode. Histories are cut to its newest `length` items, if it has that.

    Raises ContractError for a module that lacks a half, and for tensors that are not what the layout says.
    """

    def __init__(self, module: Any) -> None:
        if not hasattr(module, "patches") or not hasattr(getattr(module, "device", None), "layout"):
            raise ContractError(
                f"{type(module).__name__} is no personalised method; give it a module `device` with a layout, and "
                "patches(history) -> {name: tensor [B, *shape]}"
            )
        self.module: Any = module.eval()
        self.layout: Layout = dict(self.module.device.layout)
        self.length: int | None = getattr(module, "length", None)
        self._flops: dict[int, float] = {}

    def personalize(self, histories: Items, tiers: NDArray[np.int64], *, rng: Draws) -> Personals:
        """Patches for the newest items of `histories` [B, L]; they depend on nothing else."""
        used = histories[:, -self.length :] if self.length else histories
        patches: dict[str, NDArray[np.generic]] = {
            name: np.empty((len(used), *part.shape), part.kind) for name, part in self.layout.items()
        }
        for rows, filled in batches(len(used)):
            made = self._made(used[filled], tiers[filled])
            for name, values in patches.items():
                values[rows] = made[name][: len(rows)]
        return Personals(patches, np.full(len(used), self.flops(used.shape[1])), None)

    def flops(self, length: int) -> float:
        """Floating-point operations of one patch from `length` items."""
        if hasattr(self.module, "patch_flops"):
            return float(self.module.patch_flops(length))
        if length not in self._flops:
            with torch.inference_mode(), FlopCounterMode(display=False) as counter:
                self.module.patches(torch.ones(SCORING_BATCH, length, dtype=torch.int64))
            self._flops[length] = counter.get_total_flops() / SCORING_BATCH
        return self._flops[length]

    def _made(self, histories: Items, tiers: NDArray[np.int64]) -> dict[str, NDArray[np.generic]]:
        known = [torch.from_numpy(ids.astype(np.int64)) for ids in (histories, tiers)]
        with torch.inference_mode():
            made = self.module.patches(*known[: 2 if getattr(self.module, "knows_tiers", False) else 1])
        if made.keys() != self.layout.keys():
            raise ContractError(
                f"{type(self.module).__name__}.patches returned {sorted(made)}; give what the layout names, "
                f"{sorted(self.layout)}"
            )
        return {name: self._values(name, made[name], part) for name, part in self.layout.items()}

    def _values(self, name: str, tensor: Tensor, part: Part) -> NDArray[np.generic]:
        values: NDArray[Any] = tensor.numpy()
        if values.shape != (SCORING_BATCH, *part.shape):
            raise ContractError(
                f"{type(self.module).__name__}.patches: {name!r} is {values.shape} for {SCORING_BATCH} histories; "
                f"return {(SCORING_BATCH, *part.shape)}"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            kept = values.astype(part.kind)
        exact = part.kind in ("bool", "int8")
        if not np.isfinite(kept).all() or (exact and (kept != values).any()):
            wanted = {"bool": "0 and 1 only", "int8": "whole numbers -128..127"}.get(part.kind, f"finite {part.kind}")
            raise ContractError(
                f"{type(self.module).__name__}.patches: {name!r} holds {values.min():.4g}..{values.max():.4g}, "
                f"expected {wanted}; round or bound it in eval mode, and see that its training did not diverge"
            )
        return kept


def as_personalizer(made: Any) -> Personalizer:
    """`made` itself where it personalizes, a torch method wrapped; ContractError for anything else."""
    if isinstance(made, nn.Module):
        return TrainedPersonalizer(made)
    if isinstance(made, Personalizer):
        return made
    raise ContractError(
        f"{type(made).__name__} is no personalizer; give it a layout and personalize(histories, tiers, *, rng), or "
        "pass a torch module with `device` and patches(history)"
    )
