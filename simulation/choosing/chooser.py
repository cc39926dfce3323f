"""Chooses on validation steps, policy by policy: what it learns, its price, the fusion of its pools' scores."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cloud.ledger import Ledger
from cloud.training import write_text
from device.fusion import Fusion, FusionByAge
from device.policies.fitting import PredictsGain
from device.policy import Always, Experience, Learned, LearnedPolicy, Never, Random, RequestPolicy
from device.seeds import rng
from device.setup import Setup
from simulation.choosing.chosen import Chosen
from simulation.choosing.experience import gather, together
from simulation.choosing.fusion_search import find_fusion, find_fusion_by_age
from simulation.choosing.price_search import adjusted_price, find_prices
from simulation.choosing.pricing import around, budget_of, expected_ratios, pricing
from simulation.choosing.rehearsal import Rehearsal
from simulation.choosing.stage import Stage, on_validation, validation_users
from simulation.config.tables import PolicyTable
from simulation.fingerprint import fingerprint
from simulation.objects import make_policy, tiers
from simulation.prepare import Prepared, Say

BEHAVIOUR = 0.15
"""Share of steps with a request, drawn at random, under which fusions by age and a first experience are learned."""
HORIZON = 4
"""Steps ahead that an experience looks, or more where a policy predicts more."""
ROUNDS = 2
"""Rounds in which a policy learns: the first from random requests, the second from these and from itself at each of
LIVED_RATIOS: three experiences in all."""
LIVED_RATIOS = (0.05, 0.2)
"""Request ratios at which it lives its own experiences, and how near to them is near enough."""
LIVED_TOLERANCE = 0.2


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
    fusions: dict[str, Fusion | FusionByAge] = field(default_factory=dict)
    first: dict[str, Experience] = field(default_factory=dict)
    stage: Stage | None = None

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
        rehearsal = self.rehearsal(policy)
        return [
            one
            if ratio is None
            else replace(one, price=adjusted_price(rehearsal, self.setups(policy, one), ratio, one.price))
            for one, ratio in zip(chosen, ratios, strict=True)
        ]

    def priced(self, policy: PolicyTable) -> Chosen:
        """What the policy needs under [cloud.budget], chosen at the request ratio that the budget may pay for."""
        p, rehearsal, ledger = self.prepared, self.rehearsal(policy), Ledger()
        table, tier = p.config.cloud.budget, rehearsal.timeline.tier
        assert table is not None
        budget = budget_of(table, [one.name for one in tiers(p.config)])
        rehearsal.run([replace(s, policy=Random(BEHAVIOUR), price=0.0) for s in self.all_setups(policy)], ledger=ledger)
        size = len(validation_users(p.split))  # of the fleet to come, as large as the one before it
        ratios = expected_ratios(budget, rehearsal.timeline, ledger.columns(), devices=size)
        chosen = self.choose(policy, [float(np.average(ratios))])[0]
        fleet = self.setups(policy, chosen)
        prices = {chosen.price, *self.prices(policy, chosen, around(float(np.average(ratios))))}
        lived = {price: rehearsal.run([replace(setup, price=price) for setup in fleet]) for price in prices}
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

    def envelope(self, policy: PolicyTable) -> list[Fusion | FusionByAge]:
        """The fusions of the policy's kind that serve best under never asking, random requests and always asking.

        Each once; where the configuration gives a constant fusion, that alone.
        """
        if policy.fusion == "constant" and self.prepared.config.device.fusion:
            return [self.start(policy)]
        middle = self.first_fusion(policy)
        start = self.setups(policy, Chosen(0.0, middle))
        ends = [[replace(setup, policy=one) for setup in start] for one in (Never(), Always())]
        return list(dict.fromkeys([middle, *(self.fitted(policy, fleet) for fleet in ends)]))

    def learn(self, policy: PolicyTable, fusion: Fusion | FusionByAge) -> Learned:
        """The parameters of a policy that learns: first from random requests, then from its own."""
        made = make_policy(policy)
        assert isinstance(made, LearnedPolicy)
        experience = self.first_experience(policy, fusion)
        learned = made.fit(experience, rng(self.prepared.config.seed, "policy", policy.class_))
        for _ in range(ROUNDS - 1):
            lived = [experience]
            rehearsal, fleet = self.rehearsal(policy), self.setups(policy, Chosen(policy.price, fusion, learned))
            for price in find_prices(rehearsal, fleet, LIVED_RATIOS, LIVED_TOLERANCE):
                lived.append(gather(rehearsal, [replace(setup, price=price) for setup in fleet], horizon(made)))
            learned = made.fit(together(lived), rng(self.prepared.config.seed, "policy", policy.class_))
        return learned

    def first_experience(self, policy: PolicyTable, fusion: Fusion | FusionByAge) -> Experience:
        """Under random requests; the same for all policies that treat pools and scores alike."""
        ahead = horizon(make_policy(policy))
        kind = f"{handling(policy)} {fusion} {ahead}"
        if kind not in self.first:
            fleet = [replace(s, policy=Random(BEHAVIOUR), price=0.0, fusion=fusion) for s in self.all_setups(policy)]
            self.first[kind] = gather(self.rehearsal(policy), fleet, ahead)
        return self.first[kind]

    def all_setups(self, policy: PolicyTable) -> list[Setup]:
        """Setups of the policy's fleet before anything is chosen."""
        return self.setups(policy, Chosen(policy.price, Fusion()))

    def setups(self, policy: PolicyTable, chosen: Chosen) -> list[Setup]:
        """What the devices of each tier run."""
        return self.staged().setups(policy, chosen)

    def rehearsal(self, policy: PolicyTable) -> Rehearsal:
        """The validation replay as this policy treats pools."""
        return self.staged().rehearsal(policy)

    def staged(self) -> Stage:
        """The validation steps, laid out when they are first needed."""
        if self.stage is None:
            self.stage = on_validation(self.prepared)
        return self.stage


def learns(policy: PolicyTable) -> bool:
    """Whether the policy's class learns on validation steps."""
    return isinstance(make_policy(policy), LearnedPolicy)


def horizon(policy: RequestPolicy) -> int:
    """Steps ahead that its experience has to look."""
    return max(HORIZON, policy.predicts_gain) if isinstance(policy, PredictsGain) else HORIZON


def handling(policy: PolicyTable) -> str:
    """What a policy does with lists and pools, in words that tell two ways apart."""
    return f"{policy.update} {policy.slots} {policy.delta} {policy.length} {policy.own} {policy.resident}"
