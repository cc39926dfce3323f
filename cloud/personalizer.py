"""The personalizer contract: what makes parameters for single devices in the cloud."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from device.model import Items
from device.personal import Layout, Patches
from device.seeds import Draws


@dataclass(frozen=True, slots=True)
class Personals:
    """Patches for B devices, and what they cost to make."""

    patches: Patches  # name -> [B, *shape] as the device model's layout says
    flops: NDArray[np.float64] | None  # [B] floating-point operations in the cloud
    seconds: NDArray[np.float64] | None  # [B] cloud seconds, where the personalizer knows better than flops / speed


@runtime_checkable
class Personalizer(Protocol):
    """Generates personal parameters from what the cloud knows of a device."""

    @property
    def layout(self) -> Layout:
        """What its patches hold; that of the device model they are for."""
        ...

    def personalize(self, histories: Items, tiers: NDArray[np.int64], *, rng: Draws) -> Personals:
        """Patches for `histories` [B, L] of devices of `tiers` [B]; `rng` has one row per device."""
        ...
