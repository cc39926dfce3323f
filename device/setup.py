"""What all devices of a fleet share."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from device.fusion import Fuses
from device.lease import Lease
from device.policy import RequestPolicy
from device.row_cache import NOTHING
from device.scoring import Scorer

Update = Literal["replace", "merge"]


@dataclass(frozen=True, slots=True)
class Setup:
    """What all devices of a fleet share.

    Args:
        scorer: the reranker.
        policy, price: a device asks where the policy's urgency exceeds the price.
        incremental: devices keep the reranker's state and go on from it; without it they read their history each time.
            A scorer that is shared between replays sees to that itself.
        lease: how long a device keeps to the price that the cloud told it, which then counts instead of `price`; None =
            the cloud tells none.
        fusion: of the cloud's and the reranker's scores.
        seed: of the experiment.
        cache_rows: capacity of the row cache; 0 = the item table is resident.
        installed: [M] items whose rows are installed where the others are streamed.
        hide_seen: never show again what the user has taken.
        update: what becomes of the old list when a new one comes: "replace" drops it, "merge" keeps its candidates
            behind the new ones as long as there are slots.
        listed: candidates that a whole reply lists; places that the cloud left empty are told to policies.
        own: candidates of its own, best of the resident catalogue, that a device adds to its pool at every step.
        tier: number of the tier.
    """

    scorer: Scorer
    policy: RequestPolicy
    fusion: Fuses
    price: float
    seed: int
    cache_rows: int = 0
    installed: NDArray[np.int32] = field(default_factory=lambda: NOTHING)
    hide_seen: bool = True
    update: Update = "replace"
    listed: int = 0
    own: int = 0
    tier: int = 0
    incremental: bool = False
    lease: Lease | None = None
