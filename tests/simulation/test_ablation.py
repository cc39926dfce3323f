"""The ablation of our policy changes one thing at a time and leaves no feature out."""

import tomllib
from pathlib import Path

from device.policies.gain_features import FEATURES, STATE
from simulation.config.read import load_config
from simulation.objects import make_policy

CONFIGS = Path(__file__).parents[2] / "configs"
PLAIN = ("name", "family")


def tables(name):
    """(policies by name, everything else) of a configuration."""
    read = tomllib.loads((CONFIGS / f"{name}.toml").read_text(encoding="utf-8"))
    return {table["name"]: table for table in read.pop("policies") if "name" in table}, read


def changed(table, other):
    """The keys in which two policies differ."""
    return {key for key in table.keys() | other.keys() if key not in PLAIN and table.get(key) != other.get(key)}


def test_every_feature_is_left_out_once():
    """That of own candidates, of which the plain policy has none, is the row that shows the noise of a fit."""
    policies, _ = tables("ablation-gain")
    assert policies["noise of the fit"]["without"] == ["out of pool"]
    assert not policies["gain"].get("own")
    alone = [table["without"] for table in policies.values() if "without" in table and "own" not in table]
    assert alone == [[name] for name in (*FEATURES, STATE)]


def test_every_variant_changes_one_thing():
    policies, _ = tables("ablation-gain")
    whole = policies["gain"]
    changes = {name: changed(table, whole) for name, table in policies.items() if table["class"] == whole["class"]}
    assert changes.pop("gain") == set()
    assert changes.pop("replaced pools") == {"update", "length", "slots"}  # such a pool holds one list of 50
    assert changes.pop("gain, resident table") == {"own"}
    assert changes.pop("without out of pool, resident table") == {"own", "without"}
    assert changes.pop("lists of 50, 100 slots") == {"length", "slots"}  # half of both
    assert all(len(keys) == 1 for keys in changes.values())
    assert {table["horizon"] for table in policies.values() if "horizon" in table} == {1, 2, 8}
    merged = [table for table in policies.values() if table.get("update") == "merge"]
    assert {(table["length"], table["slots"]) for table in merged} == {
        (100, 200), (25, 200), (50, 100), (50, 200), (100, 100)
    }  # fmt: skip
    plain = policies["metacontroller, budget 0.2"]
    others = [table for table in policies.values() if table["class"] == plain["class"] and table is not plain]
    assert sorted(key for table in others for key in changed(table, plain)) == ["budget", "budget", "learner"]


def test_it_is_the_trade_off_of_the_same_protocol():
    ours, rest = tables("ablation-gain")
    theirs, other = tables("tradeoff-ml-1m")
    assert ours["gain"] == theirs["gain"]
    assert ours["gain, resident table"] == theirs["gain, resident table"]
    for both in (rest, other):
        both.pop("name")
        both["sweep"].pop("request_ratios")
    assert rest == other


def test_every_variant_is_a_policy_that_is_swept():
    config = load_config(CONFIGS / "ablation-gain.toml")
    assert config.sweep.request_ratios == (0.06, 0.12, 0.22)
    for policy in config.all_policies:
        make_policy(policy)
        assert policy.swept
        assert (policy.family == "ablation") == (not policy.label.startswith(("gain", "metacontroller")))
