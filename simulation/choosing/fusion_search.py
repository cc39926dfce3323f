"""The fusion of the two scores that serves best on one replay of validation steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from device.fleet import Fleet
from device.fusion import Fuses, Fusion, FusionByAge, Normalisation
from device.model import Scores
from device.ranking import Ranking
from device.setup import Setup
from simulation.choosing.fusing import Shown, learn_fusion
from simulation.choosing.rehearsal import Rehearsal
from simulation.metrics import NDCG

ALPHAS = tuple(i / 10 for i in range(11))
NORMALISATIONS: tuple[Normalisation, ...] = ("standardise", "minmax", "rank")
FUSION_ROWS = 20_000
"""Validation steps on which fusions are compared, about; of devices spread over all."""


@dataclass(frozen=True, slots=True)
class Looking:
    """A fusion for which device scores are computed also where it does not look at them: another is tried on them."""

    fusion: Fuses
    looks_at_device: bool = True

    def __call__(self, cloud: Scores, device: Scores, valid: NDArray[np.bool_], age: NDArray[np.int64]) -> Scores:
        """See device.fusion.Fuses."""
        return self.fusion(cloud, device, valid, age)


@dataclass(slots=True)
class Watch:
    """Collects, per validation step of every `each`-th device, the scores that a fusion would have had to combine."""

    each: int = 1
    parts: list[Shown] = field(default_factory=list)

    def see(self, fleet: Fleet, who: NDArray[np.int64], taken: NDArray[np.int32]) -> None:
        """See Watches."""
        seen = fleet.devices[who] % self.each == 0
        if seen.any():
            self.parts.append(Shown(*fleet.candidates(who[seen]), taken[seen]))

    def together(self) -> Shown:
        """All steps."""
        return Shown(*(np.concatenate([getattr(part, name) for part in self.parts]) for name in Shown.__slots__))


def ndcg(shown: Shown, fusion: Fuses) -> float:
    """NDCG@10 of the steps under a fusion."""
    return value(shown, fusion(shown.cloud, shown.device, shown.items != 0, shown.age))


def value(shown: Shown, fused: Scores) -> float:
    """NDCG@10 of the steps under fused scores [N, C]."""
    ranking = Ranking(shown.items, fused, np.zeros(len(fused), np.int64))
    return float(NDCG(10).of(*ranking.place(shown.taken)).mean())


def constant_fusions(shown: Shown) -> Iterator[tuple[Fusion, Scores]]:
    """Every constant fusion, smaller weights of the cloud first, with what it makes of the steps, [N, C].

    Each is a mean of the cloud's and the device's normalised scores, which are made once.
    """
    valid = shown.items != 0
    ends = {
        how: [Fusion(alpha, how)(shown.cloud, shown.device, valid, shown.age) for alpha in (1.0, 0.0)]
        for how in NORMALISATIONS
    }
    for alpha, how in product(ALPHAS, NORMALISATIONS):
        cloud, device = ends[how]
        with np.errstate(invalid="ignore"):  # an infinite score of an empty slot
            fused = np.float32(alpha) * cloud + np.float32(1 - alpha) * device
        yield Fusion(alpha, how), np.where(valid, fused, np.float32(-np.inf))


def find_fusion(rehearsal: Rehearsal, setups: Sequence[Setup]) -> Fusion:
    """The constant fusion with the best NDCG@10 on the validation replay under the policy and price of `setups`.

    Equal values go to the smaller weight of the cloud. One replay serves all fusions: the pools do not depend on the
    fusion, unless a policy looks at the rank of what was taken.
    """
    shown = watched(rehearsal, setups)
    values = ((fusion, value(shown, fused)) for fusion, fused in constant_fusions(shown))
    return max(values, key=lambda found: found[1])[0]


def find_fusion_by_age(rehearsal: Rehearsal, setups: Sequence[Setup]) -> FusionByAge:
    """The fusion by age learned on the validation replay under the policy and price of `setups`."""
    return learn_fusion(watched(rehearsal, setups), setups[0].fusion)


def watched(rehearsal: Rehearsal, setups: Sequence[Setup]) -> Shown:
    """What a fusion would have had to combine on one replay."""
    watch = Watch(max(1, round(int((rehearsal.timeline.items != 0).sum()) / FUSION_ROWS)))
    rehearsal.run([replace(setup, fusion=Looking(setup.fusion)) for setup in setups], watch)
    return watch.together()
