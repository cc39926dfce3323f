"""One seed of a sweep: everything that its policies share, and what becomes of one policy at one price."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cloud.ledger import Ledger
from device.fusion import Fusion
from device.policies.fitting import PredictsGain
from device.policy import Always
from simulation import schema as c
from simulation.choosing.chooser import Chooser, handling, learns
from simulation.choosing.chosen import Chosen
from simulation.choosing.stage import Stage, on_test
from simulation.config.tables import PolicyTable
from simulation.energy import joules_per_step
from simulation.metrics import parse
from simulation.prepare import Prepared
from simulation.replay import Columns
from simulation.sweep import folder as f
from simulation.sweep.predicted_gains import calibrated

NOTHING = Chosen(0.0, Fusion())
CALIBRATED_USERS = 1000
TOTALS = (f.PRICE, f.INSTALL_BYTES, f.LATENCY_P50_S, f.LATENCY_P95_S, f.ENERGY_J_PER_STEP)


@dataclass(slots=True)
class World:
    """A prepared seed. Lists and reranker states are made once and shared by all policies, on validation and test."""

    prepared: Prepared
    chooser: Chooser = field(init=False)
    stage: Stage = field(init=False)
    some: Stage = field(init=False)  # users whose predicted gains are compared with what came

    def __post_init__(self) -> None:
        self.chooser, self.stage = Chooser(self.prepared), on_test(self.prepared)
        self.some = on_test(self.prepared, CALIBRATED_USERS)

    def live(self, policy: PolicyTable, chosen: Chosen) -> Columns:
        """One cell: what each user of the test steps met, [D], and the totals of TOTALS, [1]."""
        ledger = Ledger()
        rehearsal = self.stage.rehearsal(policy, chosen.learned_bytes)
        steps = rehearsal.run(self.stage.setups(policy, chosen), ledger=ledger)
        return self.measured(policy, chosen, steps, ledger.columns())

    def measured(self, policy: PolicyTable, chosen: Chosen, steps: Columns, ledger: Columns) -> Columns:
        """What `live` returns, from a replay's tables."""
        p, device = self.prepared, steps[c.DEVICE]
        users = len(p.users)
        lived = np.bincount(device, minlength=users)
        each = traffic(ledger, users) | {f.N_STEPS: lived}
        each[f.REQUESTS] = np.bincount(device, steps[c.ASKED], users)
        for name in p.config.metrics:
            values = parse(name).of(steps[c.RANK], steps[c.TIES])
            each[name] = np.bincount(device, values, users) / lived
        once = np.isin(ledger[c.KIND], c.INSTALLATION_KINDS)
        latency = steps[c.LATENCY_S][np.isfinite(steps[c.LATENCY_S])]
        totals = (
            chosen.price,
            ledger[c.NBYTES][once].sum() / users,
            *(np.percentile(latency, q) if len(latency) else np.nan for q in (50, 95)),
            joules_per_step(p, policy, steps, ledger),
        )
        return each | {name: np.array([value], np.float64) for name, value in zip(TOTALS, totals, strict=True)}

    def calibration(self, policy: PolicyTable, chosen: Chosen) -> Columns:
        """Predicted gains beside those that came (see `sweep.predicted_gains`); nothing where none is predicted."""
        fleet = self.some.setups(policy, chosen)
        if not isinstance(fleet[0].policy, PredictsGain):
            return {}
        return calibrated(self.some.rehearsal(policy), fleet)

    def warm(self, policies: Sequence[PolicyTable]) -> None:
        """Make what several of the policies are going to ask for: lists, states, fusions by age, first experiences."""
        for policy in repeated(policies, lambda one: f"{one.length} {one.own} {one.resident if one.own else 0}"):
            for stage in (self.chooser.staged(), self.stage, self.some):
                fleet = stage.setups(policy, NOTHING)
                stage.rehearsal(policy).run([replace(setup, policy=Always(), price=0.0) for setup in fleet])
        for policy in repeated([one for one in policies if learns(one)], lambda one: f"{one.fusion} {handling(one)}"):
            self.chooser.first_experience(policy, self.chooser.start(policy))


def repeated(policies: Sequence[PolicyTable], trait: Callable[[PolicyTable], str]) -> Iterator[PolicyTable]:
    """The first policy of each trait that several have."""
    traits = [trait(policy) for policy in policies]
    for i, policy in enumerate(policies):
        if traits.count(traits[i]) > 1 and traits.index(traits[i]) == i:
            yield policy


def traffic(ledger: Columns, users: int) -> Columns:
    """[D] bytes up and down and cloud seconds of the fleet's `users` devices, the installation apart."""
    running = ~np.isin(ledger[c.KIND], c.INSTALLATION_KINDS)
    up = ledger[c.DIRECTION] == c.UP

    def total(rows: NDArray[np.bool_], name: str) -> NDArray[np.float64]:
        return np.bincount(ledger[c.DEVICE][rows], ledger[name][rows], users).astype(np.float64)

    return {
        f.BYTES_UP: total(running & up, c.NBYTES).astype(np.int64),
        f.BYTES_DOWN: total(running & ~up, c.NBYTES).astype(np.int64),
        f.CLOUD_SECONDS: total(running, c.CLOUD_S),
    }
