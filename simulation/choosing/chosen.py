"""What validation chose for a policy."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device.fusion import Fusion, FusionByAge
from device.lease import LEASE_BYTES
from device.messages import encode_patch
from device.policy import Learned
from simulation.choosing.pricing import Pricing


@dataclass(frozen=True, slots=True)
class Chosen:
    """What validation chose for one policy."""

    price: float
    fusion: Fusion | FusionByAge
    learned: Learned | None = None  # parameters of a policy that learns
    pricing: Pricing | None = None  # from which the cloud's prices start, where a budget is held by them

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        learned = None if self.learned is None else {k: np.asarray(v).tolist() for k, v in self.learned.items()}
        pricing = None if self.pricing is None else self.pricing.to_json()
        return {"price": self.price, "fusion": asdict(self.fusion), "learned": learned, "pricing": pricing}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Chosen":
        """Inverse of `to_json`."""
        kind = Fusion if "alpha" in values["fusion"] else FusionByAge
        fusion: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values["fusion"].items()}
        learned = values["learned"]
        arrays = None if learned is None else {k: np.asarray(v, np.float32) for k, v in learned.items()}
        pricing = None if values["pricing"] is None else Pricing.from_json(values["pricing"])
        return cls(values["price"], kind(**fusion), arrays, pricing)

    @property
    def learned_bytes(self) -> int:
        """Bytes of what was learned, weights of a fusion by age among it, and of the lease, as they are installed."""
        learned: dict[str, NDArray[np.float32]] = dict(self.learned or {})
        if isinstance(self.fusion, FusionByAge):
            learned |= {f"fusion.{name}": np.asarray(v, np.float32) for name, v in asdict(self.fusion).items()}
        return (len(encode_patch(learned)) if learned else 0) + (LEASE_BYTES if self.pricing else 0)
