"""What validation chooses for policies that merge pools, learn, or look for candidates of their own."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from device.fusion import Fusion, FusionByAge
from device.messages import encode_patch
from device.policies.gain import Gain
from device.policy import Random
from device.scoring import ModelScorer
from simulation.choosing import chooser as chooser_module
from simulation.choosing.chooser import Chooser, choose, handling
from simulation.choosing.rehearsal import Rehearsal
from simulation.config.tables import ExperimentConfig, FusionTable
from simulation.objects import make_policy
from simulation.prepare import prepare
from simulation.sweep.sharing import SharedScores

MERGED = {"update": "merge", "delta": True, "fusion": "by-age"}
POLICIES = [
    {"class": "device.policies.gain:Gain", "name": "gain", "request_ratio": 0.3, **MERGED},
    {"class": "device.policy:Random", "name": "random", "request_ratio": 0.3, **MERGED},
    {"class": "device.policy:Consistency", "name": "plain", "request_ratio": 0.2},
    {"class": "device.policy:Random", "name": "own", "price": 0.6, "own": 5, "resident": 0.5, **MERGED},
    {"class": "device.policy:Random", "name": "short", "price": 0.6, "length": 6},
]


def config(**changes):
    tables = {
        "name": "choosing",
        "seed": 4,
        "data": {
            "synthetic": {"users": 60, "items": 60, "topics": 5, "length": 20},
            "split": {"leave_last": 4, "validation": 6},
        },
        "cloud": {"generator": {"class": "cloud.generators.floors:Markov"}, "pool": 12, "history": 8},
        "device": {
            "model": {"class": "device.models.sasrec:SASRec", "width": 8, "blocks": 1},
            "training": {"epochs": 1, "patience": 0},
            "history": 8,
        },
        "policies": POLICIES,
    }
    return ExperimentConfig.model_validate(tables | changes)


def silent(line):
    pass


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(config(), tmp_path_factory.mktemp("choosing"), silent)


@pytest.fixture(scope="module")
def chosen(prepared):
    return choose(prepared, silent)


def table(prepared, label):
    return next(policy for policy in prepared.config.all_policies if policy.label == label)


def test_every_policy_gets_what_it_asks_for(chosen):
    assert set(chosen) == {"gain", "random", "plain", "own", "short"}
    kinds = {label: type(one.fusion) for label, one in chosen.items()}
    assert kinds == {label: FusionByAge for label in ("gain", "random", "own")} | {"plain": Fusion, "short": Fusion}
    assert [label for label, one in chosen.items() if one.learned is not None] == ["gain"]
    weights = len(encode_patch({f"fusion.{n}": np.asarray(v, "f4") for n, v in asdict(chosen["own"].fusion).items()}))
    assert chosen["own"].learned_bytes == chosen["random"].learned_bytes == weights
    assert weights < chosen["gain"].learned_bytes <= 2048 + weights
    assert chosen["plain"].learned_bytes == chosen["short"].learned_bytes == 0
    assert chosen["own"].price == chosen["short"].price == 0.6
    # Each has the fusion for the pools that it leads to itself.
    assert len({json.dumps(chosen[label].to_json()["fusion"]) for label in ("gain", "random", "own")}) == 3


@pytest.mark.parametrize("label", ["gain", "random", "plain"])
def test_prices_give_the_wanted_ratios(prepared, chosen, label):
    chooser, policy = Chooser(prepared), table(prepared, label)
    columns = chooser.rehearsal(policy).run(chooser.setups(policy, chosen[label]))
    assert columns["asked"].mean() == pytest.approx(policy.request_ratio, abs=0.03)


def test_what_is_kept_in_a_file_is_what_was_chosen(prepared, chosen, monkeypatch):
    monkeypatch.setattr(Rehearsal, "run", lambda *_: pytest.fail("looked for again"))
    again = choose(prepared, silent)
    assert again.keys() == chosen.keys()
    for label, one in again.items():
        assert json.dumps(one.to_json()) == json.dumps(chosen[label].to_json())
        assert type(one.fusion) is type(chosen[label].fusion)
    for name, values in chosen["gain"].learned.items():
        np.testing.assert_array_equal(again["gain"].learned[name], values)


def test_several_ratios_of_a_policy_share_what_it_learned(prepared):
    chooser, policy = Chooser(prepared), table(prepared, "gain")
    few, many, own = chooser.choose(policy, [0.1, 0.5, None])
    assert few.price > many.price
    assert own.price == policy.price
    assert few.learned is many.learned is own.learned
    for one, ratio in ((few, 0.1), (many, 0.5)):
        columns = chooser.rehearsal(policy).run(chooser.setups(policy, one))
        assert columns["asked"].mean() == pytest.approx(ratio, abs=0.02)


def test_a_policy_learns_from_random_requests_and_then_from_its_own(prepared, monkeypatch):
    lived, real = [], chooser_module.gather

    def spy(rehearsal, setups, horizon):
        lived.append([type(setup.policy) for setup in setups])
        return real(rehearsal, setups, horizon)

    monkeypatch.setattr(chooser_module, "gather", spy)
    chooser = Chooser(prepared)
    chooser.choose(table(prepared, "gain"), [0.3])
    assert lived == [[Random], [Gain], [Gain]]


def test_the_rehearsal_is_as_the_policy_treats_pools(prepared):
    chooser = Chooser(prepared)
    merged, plain, short = (chooser.rehearsal(table(prepared, label)) for label in ("gain", "plain", "short"))
    assert (merged.slots, merged.service.pool, merged.service.delta_slots) == (48, 12, 48)  # four lists
    assert (plain.slots, plain.service.pool, plain.service.delta_slots) == (12, 12, 0)
    assert (short.slots, short.service.pool, short.service.delta_slots) == (6, 6, 0)
    assert merged.timeline is plain.timeline is short.timeline
    assert merged.service.generator is plain.service.generator  # lists are made once for all


def test_scorers_are_shared_where_they_answer_alike(prepared):
    chooser = Chooser(prepared)
    scorers = {label: chooser.all_setups(table(prepared, label))[0].scorer for label in ("gain", "random", "own")}
    assert scorers["gain"] is scorers["random"]
    assert scorers["own"] is not scorers["gain"]
    assert all(isinstance(scorer, SharedScores) for scorer in scorers.values())
    # Half of the catalogue is resident: the most popular.
    assert scorers["own"].inner.resident.tolist() == sorted(prepared.popular[:30].tolist())


def test_streamed_models_are_asked_themselves(tmp_path):
    device = config().device.model_dump(by_alias=True) | {"items": "streamed", "cache_rows": 40}
    streamed = prepare(config(device=device, policies=[POLICIES[2]]), tmp_path, silent)
    (setup,) = Chooser(streamed).all_setups(streamed.config.all_policies[0])
    assert isinstance(setup.scorer, ModelScorer)


def test_ways_to_handle_pools_differ_in_their_names(prepared):
    policy = table(prepared, "own")
    others = {"update": "replace", "slots": 20, "delta": False, "length": 5, "own": 4, "resident": 0.4}
    for name, value in others.items():
        assert handling(policy.model_copy(update={name: value})) != handling(policy)
    assert handling(policy.model_copy(update={"price": 9.0, "name": "else"})) == handling(policy)


def test_a_fixed_fusion_and_price_need_no_replay(prepared, monkeypatch):
    device = prepared.config.device.model_copy(update={"fusion": FusionTable(alpha=0.3, normalise="rank")})
    fixed = replace(prepared, config=prepared.config.model_copy(update={"device": device}))
    monkeypatch.setattr(Rehearsal, "run", lambda *_: pytest.fail("nothing is to be found"))
    (one,) = Chooser(fixed).choose(table(prepared, "short"), [None])
    assert (one.price, one.fusion, one.learned) == (0.6, Fusion(0.3, "rank"), None)


def test_what_was_learned_decides(prepared, chosen):
    policy = table(prepared, "gain")
    made = make_policy(policy, chosen["gain"].learned)
    assert isinstance(made, Gain)
    assert made.learned is chosen["gain"].learned
