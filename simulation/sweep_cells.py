"""One seed of a sweep: everything that its policies share, and what becomes of one policy at one price."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cloud.ledger import Ledger
from device.fleet import Setup
from device.fusion import Fusion
from device.policy import Always
from device.scoring import ModelScorer, Scorer
from simulation import schema as c
from simulation import sweep_folder as f
from simulation.calibration import Rehearsal
from simulation.choosing import Chooser, handling, learns
from simulation.config_tables import PolicyTable
from simulation.energy import device_energy, radios, reranking_energy
from simulation.metrics import parse
from simulation.prepare import Chosen, Prepared, serving, setups
from simulation.remembering import Remembering
from simulation.replay import Columns
from simulation.sharing import shared

CLOUD_S = "cloud_s"  # of a ledger: seconds that the cloud worked on a reply
NOTHING = Chosen(0.0, Fusion())
TOTALS = (f.PRICE, f.INSTALL_BYTES, f.LATENCY_P50_S, f.LATENCY_P95_S, f.ENERGY_J_PER_STEP)


@dataclass(slots=True)
class World:
    """A prepared seed. Lists and reranker states are made once and shared by all policies, on validation and test."""

    prepared: Prepared
    chooser: Chooser = field(init=False)
    base: Rehearsal = field(init=False)
    scorers: dict[tuple[int, float], Scorer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        p = self.prepared
        inner = getattr(p.service.generator, "inner", p.service.generator)
        service = replace(p.service, generator=Remembering(inner))
        self.chooser = Chooser(p)
        self.base = Rehearsal(p.timeline, service, p.model_bytes, p.config.cloud.pool)

    def live(self, policy: PolicyTable, chosen: Chosen) -> Columns:
        """One cell: what each user of the test steps met, [D], and the totals of TOTALS, [1]."""
        ledger = Ledger()
        steps = self.rehearsal(policy, chosen).run(self.setups(policy, chosen), ledger=ledger)
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
        per_step = [reranking_energy(p.config, policy, tier, len(p.popular)) for tier in p.installed]
        spent = device_energy(ledger, radios(p.config), p.timeline.tier, per_step, lived.astype(np.float64))
        totals = (
            chosen.price,
            ledger[c.NBYTES][once].sum() / users,
            *(np.percentile(latency, q) if len(latency) else np.nan for q in (50, 95)),
            spent.sum() / lived.sum(),
        )
        return each | {name: np.array([value], np.float64) for name, value in zip(TOTALS, totals, strict=True)}

    def rehearsal(self, policy: PolicyTable, chosen: Chosen) -> Rehearsal:
        """The test replay as this policy treats pools, with what it learned installed."""
        pool, extra = self.prepared.config.cloud.pool, chosen.learned_bytes
        return replace(
            self.base,
            service=serving(self.base.service, policy, pool),
            slots=policy.held(pool),
            model_bytes=[nbytes + extra for nbytes in self.base.model_bytes],
        )

    def setups(self, policy: PolicyTable, chosen: Chosen) -> list[Setup]:
        """What the devices of each tier run, with scorers that all replays of the test steps share."""
        p = self.prepared
        made = setups(p.config, p.installed, policy, chosen, p.popular)
        return [replace(setup, scorer=self.scorer(policy, setup)) for setup in made]

    def scorer(self, policy: PolicyTable, setup: Setup) -> Scorer:
        """One per tier and resident share; streamed rows change what a device knows, so there nothing is shared."""
        assert isinstance(setup.scorer, ModelScorer)
        if setup.cache_rows:
            return setup.scorer
        name, lived = (setup.tier, policy.resident if policy.own else 0.0), self.prepared.timeline
        if name not in self.scorers:
            history = lived.histories[:, -self.prepared.config.device.history :]
            self.scorers[name] = shared(setup.scorer, len(lived.devices), lived.steps, history)
        return self.scorers[name]

    def warm(self, policies: Sequence[PolicyTable]) -> None:
        """Make what several of the policies are going to ask for: lists, states, fusions by age, first experiences."""
        for policy in repeated(policies, lambda one: f"{one.length} {one.own} {one.resident if one.own else 0}"):
            for rehearsal, fleet in (
                (self.chooser.rehearsal(policy), self.chooser.all_setups(policy)),
                (self.rehearsal(policy, NOTHING), self.setups(policy, NOTHING)),
            ):
                rehearsal.run([replace(setup, policy=Always(), price=0.0) for setup in fleet])
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
        f.CLOUD_SECONDS: total(running, CLOUD_S),
    }
