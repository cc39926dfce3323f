"""The lists, and patches, that devices of a fleet get when they always ask over a link that takes no time."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from device.fleet import Fleet
from device.model import Items, Scores
from device.personal import Layout, Patches, Personalized
from device.policy import Always
from device.scoring import ModelScorer
from device.setup import Setup
from simulation.choosing.rehearsal import Rehearsal
from simulation.network import Ideal


@dataclass(frozen=True, slots=True)
class Lists:
    """Collects what some of the devices hold at each step."""

    row: NDArray[np.int64]  # [devices of the fleet] where each stands below
    items: Items  # [D, S, C]
    cloud: Scores
    patches: Patches  # [D, S, *shape]; {} = none

    def see(self, fleet: Fleet, who: NDArray[np.int64], taken: NDArray[np.int32]) -> None:
        """See choosing.rehearsal.Watches."""
        where = self.row[fleet.devices[who]], fleet.observed[who]
        self.items[where], self.cloud[where] = fleet.pool.items[who], fleet.pool.cloud[who]
        for name, values in self.patches.items():
            assert fleet.personal is not None
            values[where] = fleet.personal.held[name][who]


def layout_of(setup: Setup) -> Layout:
    """What patches of a tier's devices hold; {} = they get none."""
    model = setup.scorer.model if isinstance(setup.scorer, ModelScorer) else None
    return model.layout if isinstance(model, Personalized) else {}


def collected(rehearsal: Rehearsal, fleet: Sequence[Setup], device: NDArray[np.int64], layout: Layout) -> Lists:
    """The lists of devices [D], and patches of `layout`, from a replay in which they alone live and always ask."""
    lived, service = rehearsal.timeline, rehearsal.service
    row = np.full(len(lived.devices), -1, np.int64)
    row[device] = np.arange(len(device))
    alone = replace(
        lived,
        items=np.where(row[:, None] >= 0, lived.items, 0),
        at=np.where(row[:, None] >= 0, lived.at, np.inf),
    )
    links = [Ideal() for _ in service.carriers]
    service = replace(service, carriers=links, seconds=0.0, servers=None, tariff=None)
    shape = (len(device), int((lived.items[device] != 0).sum(1).max()), rehearsal.slots)
    patches = {name: np.zeros((*shape[:2], *part.shape), part.kind) for name, part in layout.items()}
    lists = Lists(row, np.zeros(shape, np.int32), np.zeros(shape, np.float32), patches)
    always = [replace(setup, policy=Always(), price=0.0) for setup in fleet]
    replace(rehearsal, timeline=alone, service=service).run(always, lists)
    return lists
