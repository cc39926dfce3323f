"""Where policies are lived one after the other: validation or test steps, and what all replays share there."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cloud.service import Service
from device.errors import ConfigError
from device.personal import Personalized
from device.scoring import ModelScorer, Scorer
from device.seeds import key
from device.setup import Setup
from simulation.choosing.chosen import Chosen
from simulation.choosing.rehearsal import Rehearsal
from simulation.config.tables import PolicyTable
from simulation.data.dataset import Split
from simulation.objects import assign_tiers
from simulation.prepare import Prepared, serving, setups
from simulation.remembering import Remembering
from simulation.replay import Timeline
from simulation.sweep.sharing import shared


@dataclass(slots=True)
class Stage:
    """A timeline and a cloud for it. Lists and reranker states are made once and shared by all policies."""

    prepared: Prepared
    base: Rehearsal
    scorers: dict[tuple[int, float], Scorer] = field(default_factory=dict)

    def rehearsal(self, policy: PolicyTable, learned_bytes: int = 0) -> Rehearsal:
        """The replay as this policy treats pools; `learned_bytes` are installed on every device beside its model."""
        pool = self.prepared.config.cloud.pool
        return replace(
            self.base,
            service=serving(self.base.service, policy, pool, self.prepared.share(policy)),
            slots=policy.held(pool),
            model_bytes=[nbytes + learned_bytes for nbytes in self.prepared.installation(policy)],
        )

    def setups(self, policy: PolicyTable, chosen: Chosen) -> list[Setup]:
        """What the devices of each tier run."""
        p = self.prepared
        made = setups(p.config, p.installed, policy, chosen, p.popular)
        return [replace(setup, scorer=self.scorer(policy, setup)) for setup in made]

    def scorer(self, policy: PolicyTable, setup: Setup) -> Scorer:
        """One per tier and resident share; nothing is shared where rows are streamed or devices hold patches.

        When a patch came depends on the policy, and scores on the patch.
        """
        assert isinstance(setup.scorer, ModelScorer)
        if setup.cache_rows or isinstance(setup.scorer.model, Personalized):
            return setup.scorer
        name = (setup.tier, policy.resident if policy.own else 0.0)
        if name not in self.scorers:
            lived = self.base.timeline
            history = lived.histories[:, -self.prepared.config.device.history :]
            going_on = lived.items if setup.incremental else None
            self.scorers[name] = shared(setup.scorer, len(lived.devices), lived.steps, history, going_on=going_on)
        return self.scorers[name]


def on_test(prepared: Prepared, most: int | None = None) -> Stage:
    """The test steps of all devices, or of `most` devices spread over all."""
    timeline, service = prepared.timeline, remembered(prepared)
    if most is not None and most < len(timeline.devices):
        rows = np.linspace(0, len(timeline.devices) - 1, most).astype(int)
        timeline = replace(timeline.rows(rows), devices=np.arange(most))
        service = replace(service, tier=timeline.tier)
    return Stage(prepared, Rehearsal(timeline, service, prepared.model_bytes, pool(prepared)))


def on_validation(prepared: Prepared) -> Stage:
    """The steps between training and test, for at most `calibration_devices` devices spread over all that have some.

    Whether a user comes back for the test does not matter: who is going to is not known yet.
    """
    config, split = prepared.config, prepared.split
    users = validation_users(split)
    if not len(users):
        raise ConfigError("[data.split] leaves no validation steps to choose thresholds on; raise validation")
    count = min(config.simulation.calibration_devices, len(users))
    users = users[np.linspace(0, len(users) - 1, count).astype(int)]
    timeline = Timeline.of(
        split.data,
        users,
        split.train_end[users],
        split.valid_end[users],
        length=prepared.timeline.histories.shape[1],
        tier=assign_tiers(config, count),
    )
    seed = key(config.seed, "validation") % 2**31
    service = replace(remembered(prepared), tier=timeline.tier, seed=seed, servers=None)
    return Stage(prepared, Rehearsal(timeline, service, prepared.model_bytes, pool(prepared)))


def validation_users(split: Split) -> NDArray[np.int64]:
    """Users with validation steps."""
    return np.flatnonzero(split.train_end < split.valid_end)


def remembered(prepared: Prepared) -> Service:
    """The service with a generator of its own that remembers its lists, made as long as any policy wants them."""
    service = prepared.service
    inner = getattr(service.generator, "inner", service.generator)
    longest = max(policy.listed(pool(prepared)) for policy in prepared.config.all_policies)
    return replace(service, generator=Remembering(inner, longest))


def pool(prepared: Prepared) -> int:
    """[cloud] pool."""
    return prepared.config.cloud.pool
