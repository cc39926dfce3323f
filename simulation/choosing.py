"""Chooses on validation steps, policy by policy: what it learns, its price, the fusion of its pools' scores."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cloud.ledger import Ledger
from cloud.training import write_text
from device.errors import ConfigError
from device.fleet import Setup
from device.fusion import Fusion, FusionByAge
from device.policy import Experience, Learned, LearnedPolicy, Random
from device.scoring import ModelScorer, Scorer
from device.seeds import key, rng
from simulation.calibration import Rehearsal, find_fusion, find_fusion_by_age, find_prices
from simulation.config_tables import PolicyTable
from simulation.experience import gather, joined
from simulation.objects import make_policy, tiers
from simulation.prepare import Chosen, Prepared, Say, fingerprint, serving, setups
from simulation.pricing import budget_of, expected_ratios, pricing
from simulation.remembering import Remembering
from simulation.replay import Timeline
from simulation.sharing import shared

BEHAVIOUR = 0.15
"""Share of steps with a request, drawn at random, under which fusions by age and a first experience are learned."""
HORIZON = 4
"""Steps ahead that an experience looks."""
ROUNDS = 2
"""Experiences that a learning policy sees: the first under random requests, the others under itself."""
SEEN_PRICES = (0.05, 0.2)
"""Request ratios at which it lives its own experiences."""


def choose(prepared: Prepared, say: Say) -> dict[str, Chosen]:
    """What every policy needs, chosen on validation steps of some devices; kept in root/models."""
    path = prepared.root / "models" / f"chosen-{fingerprint(prepared)}.json"
    if path.exists():
        return {label: Chosen.from_json(values) for label, values in json.loads(path.read_text()).items()}
    chooser = Chooser(prepared)
    chosen = {}
    for policy in prepared.config.all_policies:
        budgeted = prepared.config.cloud.budget is not None
        chosen[policy.label] = chooser.priced(policy) if budgeted else chooser.choose(policy, [policy.request_ratio])[0]
        say(f"{policy.label}: price {chosen[policy.label].price:.4g}, {described_fusion(chosen[policy.label].fusion)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({label: one.to_json() for label, one in chosen.items()}))
    return chosen


def described_fusion(fusion: Fusion | FusionByAge) -> str:
    """In a few words."""
    if isinstance(fusion, Fusion):
        return f"alpha {fusion.alpha:.1f} ({fusion.normalise})"
    return f"fusion by age: cloud {fusion.cloud_weight[0]:.2f} fresh, {fusion.cloud_weight[5]:.2f} five steps old"


@dataclass(slots=True)
class Chooser:
    """Chooses for one policy after the other; what they have in common is computed once."""

    prepared: Prepared
    scorers: dict[tuple[int, float], Scorer] = field(default_factory=dict)
    fusions: dict[str, Fusion | FusionByAge] = field(default_factory=dict)
    first: dict[str, Experience] = field(default_factory=dict)
    base: Rehearsal | None = None

    def choose(self, policy: PolicyTable, ratios: Sequence[float | None]) -> list[Chosen]:
        """What the policy needs for each wanted request ratio (None = at its own price)."""
        start = self.start(policy)
        learned = self.learn(policy, start) if learns(policy) else None
        prices = self.prices(policy, Chosen(policy.price, start, learned), ratios)
        chosen = [Chosen(price, start, learned) for price in prices]
        if policy.fusion == "constant" and self.prepared.config.device.fusion:
            return chosen
        chosen = [replace(one, fusion=self.fitted(policy, self.setups(policy, one))) for one in chosen]
        if learned is None:
            return chosen
        # What users find in a pool, which a learned policy looks at, depends on the fusion: the price is found again.
        again = [self.prices(policy, one, [ratio])[0] for one, ratio in zip(chosen, ratios, strict=True)]
        return [replace(one, price=price) for one, price in zip(chosen, again, strict=True)]

    def priced(self, policy: PolicyTable) -> Chosen:
        """What the policy needs under [cloud.budget], chosen at the request ratio that the budget may pay for."""
        p, rehearsal, ledger = self.prepared, self.rehearsal(policy), Ledger()
        table, tier = p.config.cloud.budget, rehearsal.timeline.tier
        assert table is not None
        budget = budget_of(table, [one.name for one in tiers(p.config)])
        rehearsal.run([replace(s, policy=Random(BEHAVIOUR), price=0.0) for s in self.all_setups(policy)], ledger=ledger)
        ratios = expected_ratios(budget, rehearsal.timeline, ledger.columns(), devices=len(p.timeline.devices))
        chosen = self.choose(policy, [float(np.average(ratios))])[0]
        lived = rehearsal.run(self.setups(policy, chosen))
        return replace(chosen, pricing=pricing(budget, lived, tier, price=chosen.price, ratios=ratios))

    def prices(self, policy: PolicyTable, start: Chosen, ratios: Sequence[float | None]) -> list[float]:
        """The price for each ratio."""
        wanted = [ratio for ratio in ratios if ratio is not None]
        found = iter(find_prices(self.rehearsal(policy), self.setups(policy, start), wanted) if wanted else [])
        return [policy.price if ratio is None else next(found) for ratio in ratios]

    def start(self, policy: PolicyTable) -> Fusion | FusionByAge:
        """The fusion under which a policy learns and is priced first: the one given, else that of random requests."""
        fixed = self.prepared.config.device.fusion
        if fixed and policy.fusion == "constant":
            return Fusion(fixed.alpha, fixed.normalise)
        return self.first_fusion(policy) if learns(policy) or policy.fusion == "by-age" else Fusion()

    def first_fusion(self, policy: PolicyTable) -> Fusion | FusionByAge:
        """The fusion under random requests, of all policies that treat pools and scores as this one does."""
        kind = f"{handling(policy)} {policy.fusion}"
        if kind not in self.fusions:
            fleet = [replace(setup, policy=Random(BEHAVIOUR), price=0.0) for setup in self.all_setups(policy)]
            self.fusions[kind] = self.fitted(policy, fleet)
        return self.fusions[kind]

    def fitted(self, policy: PolicyTable, fleet: Sequence[Setup]) -> Fusion | FusionByAge:
        """The fusion, of the policy's kind, that serves best what `fleet` holds on validation."""
        find = find_fusion_by_age if policy.fusion == "by-age" else find_fusion
        return find(self.rehearsal(policy), fleet)

    def learn(self, policy: PolicyTable, fusion: Fusion | FusionByAge) -> Learned:
        """The parameters of a policy that learns: first from random requests, then from its own."""
        made = make_policy(policy)
        assert isinstance(made, LearnedPolicy)
        experience = self.first_experience(policy, fusion)
        learned = made.fit(experience, rng(self.prepared.config.seed, "policy", policy.class_))
        for _ in range(ROUNDS - 1):
            lived = [experience]
            for price in self.prices(policy, Chosen(policy.price, fusion, learned), SEEN_PRICES):
                fleet = self.setups(policy, Chosen(price, fusion, learned))
                lived.append(gather(self.rehearsal(policy), fleet, HORIZON))
            learned = made.fit(joined(lived), rng(self.prepared.config.seed, "policy", policy.class_))
        return learned

    def first_experience(self, policy: PolicyTable, fusion: Fusion | FusionByAge) -> Experience:
        """Under random requests; the same for all policies that treat pools and scores alike."""
        kind = f"{handling(policy)} {fusion}"
        if kind not in self.first:
            fleet = [replace(s, policy=Random(BEHAVIOUR), price=0.0, fusion=fusion) for s in self.all_setups(policy)]
            self.first[kind] = gather(self.rehearsal(policy), fleet, HORIZON)
        return self.first[kind]

    def all_setups(self, policy: PolicyTable) -> list[Setup]:
        """Setups of the policy's fleet before anything is chosen."""
        return self.setups(policy, Chosen(policy.price, Fusion()))

    def setups(self, policy: PolicyTable, chosen: Chosen) -> list[Setup]:
        """What the devices of each tier run, with scorers that all replays of the validation steps share."""
        p = self.prepared
        made = setups(p.config, p.installed, policy, chosen, p.popular)
        return [replace(setup, scorer=self.scorer(policy, setup)) for setup in made]

    def scorer(self, policy: PolicyTable, setup: Setup) -> Scorer:
        """One per tier and resident share; streamed rows change what a device knows, so there nothing is shared."""
        assert isinstance(setup.scorer, ModelScorer)
        if setup.cache_rows:
            return setup.scorer
        name = (setup.tier, policy.resident if policy.own else 0.0)
        if name not in self.scorers:
            timeline = self.rehearsal(policy).timeline
            history = timeline.histories[:, -self.prepared.config.device.history :]
            self.scorers[name] = shared(setup.scorer, len(timeline.devices), timeline.steps, history)
        return self.scorers[name]

    def rehearsal(self, policy: PolicyTable) -> Rehearsal:
        """The validation replay as this policy treats pools."""
        if self.base is None:
            self.base = validation_replay(self.prepared)
        pool = self.prepared.config.cloud.pool
        return replace(self.base, service=serving(self.base.service, policy, pool), slots=policy.held(pool))


def learns(policy: PolicyTable) -> bool:
    """Whether the policy's class learns on validation steps."""
    return isinstance(make_policy(policy), LearnedPolicy)


def handling(policy: PolicyTable) -> str:
    """What a policy does with lists and pools, in words that tell two ways apart."""
    return f"{policy.update} {policy.slots} {policy.delta} {policy.length} {policy.own} {policy.resident}"


def validation_replay(prepared: Prepared) -> Rehearsal:
    """The steps between training and test, for at most `calibration_devices` devices spread over all."""
    config, split = prepared.config, prepared.split
    able = np.flatnonzero(split.train_end[prepared.users] < split.valid_end[prepared.users])
    if not len(able):
        raise ConfigError("[data.split] leaves no validation steps to choose thresholds on; raise validation")
    count = min(config.simulation.calibration_devices, len(able))
    able = able[np.linspace(0, len(able) - 1, count).astype(int)]
    users = prepared.users[able]
    timeline = Timeline.of(
        split.data,
        users,
        split.train_end[users],
        split.valid_end[users],
        length=prepared.timeline.histories.shape[1],
        tier=prepared.timeline.tier[able],
    )
    service = replace(
        prepared.service,
        tier=timeline.tier,
        seed=key(config.seed, "validation") % 2**31,
        generator=Remembering(getattr(prepared.service.generator, "inner", prepared.service.generator)),
        servers=None,
    )
    return Rehearsal(timeline, service, prepared.model_bytes, config.cloud.pool)
