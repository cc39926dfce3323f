"""Parameters of a device's own: small arrays beside the shared ones, for whole batches of devices at once.

What the cloud generates for a device (a mask, a code, the weights of a layer) is a patch. Its layout belongs to the
installed model, so a patch on the wire is its values and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from device.model import DeviceModel, Items, Parameters, Scores

Kind = Literal["bool", "float32", "float16", "int8"]
Patches: TypeAlias = Mapping[str, NDArray[np.generic]]
"""name -> [B, *shape]: one row per device."""


@dataclass(frozen=True, slots=True)
class Part:
    """One array of a patch.

    Args:
        shape: per device.
        kind: dtype on the device; "bool" travels as bits, eight to a byte.
        kept_by: name of a bool part [n] that stands before this one [n, ...] in the layout: only the slices whose bit
            is set travel, the others are zeros. "" = all travel.
    """

    shape: tuple[int, ...]
    kind: Kind
    kept_by: str = ""

    @property
    def size(self) -> int:
        """Values per device."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """On the wire; of a part with `kept_by`, when all its slices travel."""
        return (self.size + 7) // 8 if self.kind == "bool" else self.size * np.dtype(self.kind).itemsize


Layout: TypeAlias = Mapping[str, Part]


@runtime_checkable
class Personalized(DeviceModel, Protocol):
    """A device model that takes personal parameters."""

    @property
    def layout(self) -> Layout:
        """What a patch of this model holds."""
        ...

    def unpatched(self) -> Mapping[str, NDArray[np.generic]]:
        """The patch, per device [*shape], that stands for having none: with it `score_personal` equals `score`."""
        ...

    def score_personal(self, params: Parameters, patches: Patches, history: Items, candidates: Items) -> Scores:
        """Scores [B, C] of `candidates` [B, C] after `history` [B, L]; row b is scored with row b of `patches`.

        As with `score`, no row depends on the others.
        """
        ...


@runtime_checkable
class Headed(Personalized, Protocol):
    """A personalised model of two halves: a body that no patch changes, and behind it a head where all patches work.

    So a state is computed once per history, whatever patches and pools come, or continued item by item.
    """

    def before(self, params: Parameters, history: Items) -> Scores:
        """States [B, d] float32 after `history` [B, L]."""
        ...

    def behind(self, params: Parameters, patches: Patches, state: Scores, candidates: Items) -> Scores:
        """Scores [B, C] of `candidates` [B, C] by `state` [B, d]; with `before` the same as `score_personal`."""
        ...

    def catalogue_behind(self, params: Parameters, patches: Patches, state: Scores) -> Scores:
        """Scores [B, n + 1] of all items by `state` [B, d]; column 0 is ignored."""
        ...


@runtime_checkable
class Continued(Headed, Protocol):
    """A model of two halves whose body goes on from a state, item by item (see `device/incremental.py`)."""

    def body(self) -> DeviceModel:
        """The body alone, Incremental and ShowsState: it shows what `before` gives. ContractError where it cannot."""
        ...

    def body_params(self, params: Parameters) -> Parameters:
        """The parameters of the body; the same mapping again for the same `params`."""
        ...

    def shown_behind(self, params: Parameters, state: Scores) -> Scores:
        """What `HasState.state` shows, [B, e] float32, by `state` [B, d] of the body."""
        ...
