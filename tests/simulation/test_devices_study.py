"""`tandemrec devices`: methods over the same lists, with numbers that can be checked by hand."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from loop_parts import Fixed
from personal_parts import PersonalDot, Shift
from scipy import stats

from cloud.matchnas import Limits, search
from device.errors import ConfigError, DataError
from device.model import Items, Parameters, Scores
from device.models.sasrec import SASRec
from device.models.torch_model import TorchModel
from device.personal_codec import Personal, encode_personal
from device.seeds import draws, rng
from simulation.config.parts import Plugin
from simulation.config.study import load_study, resolved
from simulation.config.toml import to_toml
from simulation.data.dataset import Dataset, Split
from simulation.devices.kept import kept
from simulation.devices.lists import Asked, asked, sampled_negatives
from simulation.devices.measure import AUC, MEASURES, Outcome, aucs, measured, overall_auc
from simulation.devices.methods import DISTILLED, LABELLED, MATCHNAS, Ready, experiment, search_of, source, try_methods
from simulation.devices.report import devices_report
from simulation.devices.speed import scaled, speed
from simulation.devices.table import MethodComparison, MethodCost, subnets
from simulation.installing import Installed
from simulation.searching import ValidationBench
from simulation.slimming import supernet, trained_specs
from simulation.tier_latency import Measured, Memory

CONFIGS = Path(__file__).parents[2] / "configs"
ITEMS, KNOWN = 10, 5


def world() -> Split:
    """Users a and b took items 1..4 and 5..8; the last two of each are tested. Nobody took 9 and 10."""
    data = Dataset(
        name="two users",
        users=np.array(["a", "b"], object),
        items=np.array([f"i{i}" for i in range(ITEMS)], object),
        offsets=np.array([0, 4, 8]),
        item=np.arange(1, 9, dtype=np.int32),
        at=np.arange(8, dtype=np.float64),
        titles=None,
        timed=True,
        tied=np.zeros(8, np.bool_),
        session=None,
    )
    return Split(data, np.array([1, 5]), np.array([2, 6]))


def lists(negatives: int = 6) -> Asked:
    """[7, 3, 9, 10] for who knows two items, [4, 9, 10, 1] for who knows three."""
    generator = Fixed([[1, 2, 3, 4], [1, 2, 3, 4], [7, 3, 9, 10], [4, 9, 10, 1]])
    return asked(generator, world(), pool=4, length=KNOWN, negatives=negatives, seed=1, say=lambda _: None)


class Larger:
    """The item with the larger number is the better one."""

    def init(self, rng: np.random.Generator) -> Parameters:
        return {}

    def score(self, params: Parameters, history: Items, candidates: Items) -> Scores:
        return candidates.astype(np.float32)


def by_number() -> Ready:
    return Ready("larger", "", Installed(Larger(), {}, 7, None), None)


def outcome() -> Outcome:
    return measured(by_number(), lists(), length=KNOWN, seed=1)


# Accuracy


def test_every_step_of_every_user_has_the_list_of_its_own_history() -> None:
    made = lists()
    assert made.targets.tolist() == [3, 4, 7, 8]
    assert made.pools.tolist() == [[7, 3, 9, 10], [4, 9, 10, 1]] * 2
    assert made.known.tolist() == [2, 3, 2, 3]
    assert made.histories(np.array([1, 2]), 4).tolist() == [[0, 1, 2, 3], [0, 0, 5, 6]]


def test_ranks_of_two_users() -> None:
    # By falling number 10, 9, 7, 3: a's 3 is fourth, b's 7 third. Then 10, 9, 4, 1: a's 4 is third, b's 8 is not there.
    values = outcome().values
    np.testing.assert_allclose(values["ndcg@10"], [(1 / math.log2(5) + 0.5) / 2, (0.5 + 0) / 2], rtol=1e-15)
    assert values["hr@10"].tolist() == [1.0, 0.5]


def test_auc_of_two_users() -> None:
    # a's targets 3 and 4 are smaller than all that a never took (5..10); b's 7 and 8 exceed 1..4, not 9 and 10.
    made, found = lists(), outcome()
    below = (made.negatives[2:] <= 4).mean(1)
    assert below.min() > 0
    assert below.max() < 1
    assert found.values[AUC].tolist() == [0.0, below.mean()]
    pairs = (made.targets[:, None, None] > made.negatives) + 0.5 * (made.targets[:, None, None] == made.negatives)
    assert found.auc == pytest.approx(pairs.mean(), rel=1e-12)


def test_equal_scores_count_half() -> None:
    assert aucs(np.float32([[2, 1, 2, 3, 0]])).tolist() == [2.5 / 4]
    # Against 1, 3, 1, 0: the target 2 is above three, the target 1 above one and equal to two.
    assert overall_auc(np.float32([[2, 1, 3], [1, 1, 0]])) == (3 + 2) / 8


def test_negatives_are_items_the_user_never_took() -> None:
    split = world()
    user, position = np.array([0, 0, 1]), np.array([2, 3, 6])
    found = sampled_negatives(split, user, position, 600, 1)
    assert [np.unique(row).tolist() for row in found] == [[5, 6, 7, 8, 9, 10]] * 2 + [[1, 2, 3, 4, 9, 10]]
    share = np.unique(found[0], return_counts=True)[1] / 600
    assert np.abs(share - 1 / 6).max() < 0.06  # four standard deviations
    assert (found[0] != found[1]).any()
    assert found[2:].tolist() == sampled_negatives(split, user[2:], position[2:], 600, 1).tolist()
    assert found.tolist() != sampled_negatives(split, user, position, 600, 2).tolist()


def test_who_took_everything_has_no_negative() -> None:
    split = world()
    alone = replace(split.data, items=split.data.items[:8], offsets=np.array([0, 8, 8]))
    with pytest.raises(DataError, match="user 'a' took all 8 items"):
        sampled_negatives(Split(alone, np.array([1, 8]), np.array([2, 8])), np.array([0]), np.array([2]), 5, 1)


# Patches


def personal() -> Ready:
    model = PersonalDot(ITEMS)
    return Ready("shift", "", Installed(model, model.init(rng(1, "weights")), 7, None), Shift(scale=3.0, flops=5.0))


def test_each_step_has_the_patch_of_its_own_history() -> None:
    made, ready = lists(), personal()
    found = measured(ready, made, length=KNOWN, seed=1)
    model, expected = ready.installed.model, []
    for row in range(4):
        history, pool = made.histories(np.array([row]), KNOWN), made.pools[row : row + 1]
        patch = ready.personalizer.personalize(history, np.zeros(1, np.int64), rng=draws(1, "any", [row])).patches
        scores = model.score_personal(ready.installed.params, patch, history, pool)[0]
        place = np.flatnonzero(pool[0] == made.targets[row])
        rank = 1 + (scores > scores[place[0]]).sum() if len(place) else 0
        expected.append(1 / math.log2(1 + rank) if rank else 0.0)
    np.testing.assert_allclose(found.values["ndcg@10"], [np.mean(expected[:2]), np.mean(expected[2:])], rtol=1e-12)
    shared = measured(Ready("", "", ready.installed, None), made, length=KNOWN, seed=1)
    assert shared.values["ndcg@10"].tolist() != found.values["ndcg@10"].tolist()


def test_bytes_are_those_of_the_encoded_messages() -> None:
    made, ready = lists(), personal()
    found = measured(ready, made, length=KNOWN, seed=1)
    for row in range(4):
        history = made.histories(np.array([row]), KNOWN)
        patch = ready.personalizer.personalize(history, np.zeros(1, np.int64), rng=draws(1, "any", [row])).patches
        (body,) = encode_personal(Personal(made.user[row : row + 1], made.known[row : row + 1], patch), Shift.layout)
        assert found.update_bytes[row] == len(body) == 8 + 4 * 4  # header, device and step in a byte each; four float32
    assert found.patch_flops == 5.0
    assert outcome().update_bytes.tolist() == []


# The table


def comparison(values: dict[str, Any]) -> MethodComparison:
    cost = MethodCost(12.0, (12.0, 12.0), 100.0, 25, math.nan, 5.0, 0.5, {"reason": "none"})
    return MethodComparison(
        methods=("base", "better", "worse"),
        sources=("", "paper", ""),
        baseline=0,
        seeds=(1, 2),
        users=np.array(["u", "v", "w", "x"], object),
        values=values,
        in_pool=np.ones((2, 4)),
        costs=(cost,) * 3,
        profiles=(),
    )


def test_gains_are_paired_over_users_after_the_mean_of_the_seeds() -> None:
    values = rng(0, "values").normal(size=(3, 2, 4)) + np.array([0, 2.0, -0.1])[:, None, None]
    found = comparison(dict.fromkeys(MEASURES, values))
    gains = found.gains("hr@10")
    tests = [stats.ttest_rel(values[m].mean(0), values[0].mean(0)) for m in (1, 2)]
    for (difference, _), test in zip(gains[1:], tests, strict=True):
        interval = test.confidence_interval(0.95)
        assert difference.mean == pytest.approx((interval.low + interval.high) / 2)
        assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high))
        assert difference.p == pytest.approx(test.pvalue)
    small, large = sorted(test.pvalue for test in tests)  # Holm: the smaller twice, the larger once but not below
    assert sorted(p for _, p in gains[1:]) == pytest.approx([2 * small, max(2 * small, large)])
    assert math.isnan(gains[0][1])


def test_tables_say_what_is_not_known() -> None:
    text = comparison(dict.fromkeys(MEASURES, np.ones((3, 2, 4)))).markdown()
    assert "| better | paper | 1.0000 [1.0000, 1.0000] | +0.0000 [+0.0000, +0.0000] | 1.000 |" in text
    assert "| base |  | 1.0000 [1.0000, 1.0000] | – | – |" in text
    assert "| worse | 12 | 100 | – | 5 | 25 | 0.5000 |" in text
    assert text.rstrip().endswith("Not measured: base (none); better (none); worse (none).")


def test_sources() -> None:
    def said(path: str) -> str:
        return source(Plugin.model_validate({"class": path}))

    assert said("device.models.sasrec:SASRec") == "Kang and McAuley, ICDM 2018"
    assert said("cloud.personalizers.diet:Diet") == "KDD 2024, arXiv 2406.08804, parts reconstructed"


def test_a_search_says_what_of_matchnas_is_left_out(tmp_path: Path) -> None:
    plain, own = "distilled = 0.0\n", "unlabelled = {}\n"
    words = {"": LABELLED + DISTILLED, plain: LABELLED, own: DISTILLED, plain + own: ""}
    for more, said in words.items():
        config = load_study(tiny.written(tmp_path, STUDY.replace("random = 0\n", f"random = 0\n{more}")))
        assert search_of(experiment(config, config.methods[2], 5)) == MATCHNAS + said


def test_a_method_changes_keys_of_the_supernet_for_itself_alone(tmp_path: Path) -> None:
    own = "supernet = { unlabelled = { threshold = 0.25 } }\n"
    config = load_study(tiny.written(tmp_path, STUDY.replace("limits =", f"{own}limits =")))
    before = load_study(tiny.written(tmp_path, STUDY))
    shared, changed = config.device.supernet, experiment(config, config.methods[2], 5).device.supernet
    assert shared is not None
    assert changed is not None
    assert changed.unlabelled is not None
    assert changed.unlabelled.threshold == 0.25
    assert changed.model_copy(update={"unlabelled": None}) == shared
    assert experiment(config, config.methods[1], 5) == experiment(before, before.methods[1], 5)
    again = tmp_path / "resolved.toml"
    again.write_text(to_toml(resolved(config)))
    assert resolved(load_study(again)) == resolved(config)
    assert experiment(load_study(again), config.methods[2], 5) == experiment(config, config.methods[2], 5)


def test_milliseconds_are_scaled_per_profile() -> None:
    here = Measured(0.5, 0.7, 1000, Memory(900, 100), "float32", {"machine": "this one"})
    found = scaled(here, ["entry", "high-end"], 2e9)
    assert (found["p50_ms"], found["step_memory_bytes"]) == (0.5, 1000)
    # The file that was timed is not what is installed, so nothing is said about its size.
    assert not {"file_bytes", "nbytes", "fits"} & {*found, *found["tiers"]["entry"]}
    assert found["tiers"]["entry"]["p50_ms"] == pytest.approx(0.5 * 3 * 537 / 159)  # declared, times the profile's
    assert found["tiers"]["high-end"]["p50_ms"] == pytest.approx(0.5 * 3 * 57 / 159)
    assert found["tiers"]["entry"]["joules"] == pytest.approx(2.0)  # 1 J per 10^9 operations
    assert "not measured on a phone" in found["tiers"]["entry"]["label"]


def test_what_is_not_measured_says_why() -> None:
    sizes = {"n_items": 30, "length": 6, "candidates": 5, "flops": 1.0}
    assert speed(by_number(), ["entry"], **sizes) == {"reason": "Larger is no torch module"}
    assert "profiles" in speed(by_number(), [], **sizes)["reason"]


@pytest.mark.slow
def test_milliseconds_are_measured_here() -> None:
    torch.manual_seed(0)
    module = SASRec(30, width=8, blocks=1, heads=1, length=6)
    params = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    ready = Ready("small", "", Installed(TorchModel(module), params, 7, None), None)
    sizes = {"n_items": 30, "length": 6, "candidates": 5}
    found = speed(ready, ["entry"], flops=2e9, **sizes)
    assert found["p50_ms"] > 0
    assert list(found["tiers"]) == ["entry"]


# The command

STUDY = """
name = "tiny"
seeds = [5, 6]
negatives = 20
profiles = []
threads = 1

[data]
split = { leave_last = 3, validation = 2 }
synthetic = { users = 40, items = 80, topics = 5, length = 16 }

[cloud]
pool = 20
history = 10

[cloud.generator]
class = "cloud.generators.floors:Markov"

[device]
history = 10

[device.model]
class = "device.models.sasrec:SASRec"
width = 8
blocks = 1

[device.training]
epochs = 1
patience = 0

[device.supernet]
random = 0

[elastic]
model = { class = "device.models.elastic:ElasticSASRec", width = 16, items = 16, blocks = 1 }
training = { epochs = 1, patience = 0 }

[[methods]]
name = "shared"

[[methods]]
name = "slimmed"
subnet = "w8-b1-e8-int8"

[[methods]]
name = "found"
subnet = "search"
limits = { flops = 1e4, nbytes = 9e3 }
model = { class = "device.models.elastic:ElasticSASRec", width = 16, items = 16, blocks = 1 }  # as [elastic]

[[methods]]
name = "code"
[methods.personalizer]
class = "cloud.personalizers.duet:Duet"
send = "code"
kind = "int8"
loss = "positions"
training = { epochs = 1, patience = 0 }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("devices")
    said = tiny.tandemrec("devices", tiny.written(root, STUDY), "--runs", root / "runs", "--json")
    assert said.code == 0, said.err
    assert "seed 6, code: ndcg@10" in said.err
    assert said.err.count(" subnets\n") == 2  # a supernet is introduced once per seed, not once per method
    (made,) = (root / "runs").glob("tiny-*-devices")
    assert json.loads(said.out)["folder"] == str(made)
    return made


def test_the_table_follows_from_the_values_per_user(folder: Path) -> None:
    names = ["config.resolved.toml", "env.json", "per_user.parquet", "summary.json", "table.md"]
    assert sorted(path.name for path in folder.iterdir()) == names
    content = json.loads((folder / "summary.json").read_text())
    frame = pd.read_parquet(folder / "per_user.parquet")
    assert len(frame) == 4 * 2 * 40
    assert not frame.duplicated(["method", "seed", "user"]).any()
    means = frame.groupby(["method", "user"], observed=True, sort=False)[list(MEASURES)].mean()
    for entry in content["methods"]:
        for measure in MEASURES:
            mine, base = means.loc[entry["name"], measure], means.loc["shared", measure]
            assert entry[measure]["mean"] == pytest.approx(mine.mean())
            if entry["name"] != "shared":
                assert entry[measure]["gain"]["mean"] == pytest.approx((mine - base).mean(), abs=1e-12)
    same = frame.groupby(["seed", "user"], observed=True)["in_pool"].nunique()
    assert (same == 1).all()
    assert content["lists with target"] == pytest.approx(frame["in_pool"].mean())


def test_costs_of_the_tiny_methods(folder: Path) -> None:
    shared, slimmed, _, code = json.loads((folder / "summary.json").read_text())["methods"]
    assert shared["update_bytes"] == slimmed["update_bytes"] == 0
    assert code["update_bytes"] == 8 + 32  # header, device and step in a byte each; 32 int8 numbers
    assert slimmed["installed_bytes"] < shared["installed_bytes"] < code["installed_bytes"]
    # Keys and values of 10 positions, one query, 20 candidates, 2 per multiply-add, width 8.
    assert shared["flops"] == 2 * (10 * 2 * 64 + 4 * 64 + 2 * 10 * 8 + 20 * 8)
    assert "parts reconstructed" in code["source"]


def test_a_searched_subnet_is_within_its_limits_and_named(folder: Path) -> None:
    _, slimmed, found, code = json.loads((folder / "summary.json").read_text())["methods"]
    assert slimmed["subnets"] == ["w8-b1-e8-int8"] * 2
    assert (found["source"], len(found["subnets"]), code["subnets"]) == (MATCHNAS + LABELLED + DISTILLED, 2, [])
    assert 0 < found["flops"] <= 1e4
    assert slimmed["installed_bytes"] <= found["installed_bytes"] <= 9e3
    models = folder.parent / "models"
    kept = {json.loads(path.read_text())["spec"] for path in models.glob("search-*.json")}
    assert kept == set(found["subnets"])
    assert len(list(models.glob("supernet-*"))) == 2  # one per seed, for both methods
    text = (folder / "table.md").read_text()
    assert "| method | subnet | B / update |" in text
    assert f"| found | {subnets(found['subnets'])} | 0 |" in text


def test_subnets_of_seeds() -> None:
    assert subnets(["w8-b1-e8"] * 3) == "w8-b1-e8"
    assert subnets(["w8-b1-e8", "w16-b1-e8", "w8-b1-e8"]) == "w8-b1-e8 (2×), w16-b1-e8 (1×)"
    assert subnets([]) == "–"


def test_the_resolved_file_makes_the_same_folder(folder: Path) -> None:
    said = tiny.tandemrec("devices", folder / "config.resolved.toml", "--runs", folder.parent, "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["folder"] == str(folder)
    shown = tiny.tandemrec("devices", folder / "config.resolved.toml", "--runs", folder.parent).out
    assert "|---|" not in shown  # that is in table.md
    assert "− baseline" in shown
    assert "w8-b1-e8-int8" in shown
    assert shown.endswith(f"\nfiles   {folder}\n")


def test_what_is_measured_is_not_measured_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for: list[str] = []

    def counted(ready: Ready, *_: Any, **__: Any) -> Outcome:
        asked_for.append(ready.name)
        values = dict.fromkeys(MEASURES, np.zeros(40))
        return Outcome(values, 0.5, np.zeros(0), math.nan, math.nan)

    monkeypatch.setattr("simulation.devices.report.measured", counted)
    config, before = load_study(folder / "config.resolved.toml"), (folder / "table.md").read_text()
    again = devices_report(config, folder.parent, lambda _: None)
    assert not asked_for
    assert again == folder
    assert (again / "table.md").read_text() == before
    duet = config.methods[3]
    assert duet.personalizer is not None
    other = duet.personalizer.model_copy(update={"kind": "float32"})
    more = (duet.model_copy(update={"name": "float32 code", "personalizer": other}),)
    devices_report(config.model_copy(update={"methods": (*config.methods, *more)}), folder.parent, lambda _: None)
    assert asked_for == ["float32 code"] * 2  # seeds 5 and 6
    asked_for.clear()
    devices_report(config.model_copy(update={"negatives": 21}), folder.parent, lambda _: None)
    assert len(asked_for) == 8


def test_a_kept_outcome_is_the_measured_one(tmp_path: Path) -> None:
    first = kept(tmp_path / "cells" / "one.safetensors", outcome)
    second = kept(tmp_path / "cells" / "one.safetensors", lambda: pytest.fail("measured again"))
    for found in (first, second):
        assert found.values.keys() == outcome().values.keys()
        assert all(np.array_equal(found.values[name], outcome().values[name]) for name in MEASURES)
        assert (found.auc, found.update_bytes.tolist()) == (outcome().auc, [])
        assert math.isnan(found.flops)
        assert math.isnan(found.patch_flops)


def test_seeds_from_the_command_line(folder: Path, tmp_path: Path) -> None:
    said = tiny.tandemrec(
        "devices", tiny.written(tmp_path, STUDY), "--seeds", "6", "--runs", folder.parent, "--set", 'baseline="code"'
    )
    assert said.code == 0, said.err
    assert "40 users, seeds 6; " in said.out
    assert "minus code, paired by user" in said.out


@pytest.mark.parametrize(
    ("change", "about"),
    [
        (lambda t: t.replace('subnet = "w8', 'subnte = "w8'), "unknown key 'subnte'; did you mean 'subnet'?"),
        (lambda t: t.replace("w8-b1-e8-int8", "w8"), "method 'slimmed': subnet: 'w8' is no subnet"),
        (
            lambda t: t.replace("limits = { flops = 1e4, nbytes = 9e3 }", ""),
            "method 'found': subnet = \"search\" looks",
        ),
        (lambda t: t.replace("flops = 1e4, nbytes", "latency_s"), "name their profile"),
        (
            lambda t: t.replace("limits", 'profile = "entry"\nlimits'),
            "profile has no effect without limits on latency_s",
        ),
        (lambda t: t.replace('"search"', '"w8-b1-e8"'), "method 'found': limits have no effect"),
        (lambda t: t.replace('name = "code"', 'name = "shared"'), "two methods are called 'shared'"),
        (lambda t: 'baseline = "cod"\n' + t, "baseline = 'cod' is none of the methods"),
        (lambda t: t.replace("profiles = []", 'profiles = ["entri"]'), "did you mean 'entry'?"),
        (lambda t: t.replace("[device]\n", "[device]\nslate = 5\n"), "[device] slate has no effect"),
        (lambda t: t.replace('send = "code"', 'when = "request"'), "when has no effect"),
        (lambda t: t.replace('name = "shared"', 'name = "shared"\ntraining = {}'), "training belongs to a model"),
        (lambda t: t.replace("seeds = [5, 6]", "seeds = [5, 5]"), "a value occurs twice"),
        (lambda t: t.replace("[methods", "[models"), "devices wants"),
        (
            lambda t: t.replace('subnet = "w8-b1-e8-int8"\n', ""),
            "[elastic] has no effect: no method has a subnet and no model",
        ),
        (
            lambda t: re.sub("(?m)^(subnet|limits) .*", "", t),
            "[device.supernet] has no effect: no method has a subnet; add a subnet, or take it out",
        ),
        (lambda t: t.replace("[elastic]", "[elastic]\nwidth = 3"), "unknown key 'width'"),
        (
            lambda t: t.replace('name = "shared"', 'name = "shared"\nsupernet = { random = 1 }'),
            "method 'shared': supernet has no effect without a subnet",
        ),
    ],
)
def test_refusals(change: Callable[[str], str], about: str, tmp_path: Path) -> None:
    path = tiny.written(tmp_path, change(STUDY))
    with pytest.raises(ConfigError) as caught:
        load_study(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert about in str(caught.value)


def test_a_wrong_option_is_found_before_training(tmp_path: Path) -> None:
    config = load_study(tiny.written(tmp_path, STUDY.replace('kind = "int8"', "knid = 1")))
    with pytest.raises(ConfigError, match=r"method 'code'.*'knid'.*'kind'"):
        try_methods(config)


def test_a_search_over_lists_of_the_moment_is_refused_before_training(tmp_path: Path) -> None:
    text = STUDY.replace("floors:Markov", "recent:Recent").replace("[data]", "[data]\nstream = true")
    config = load_study(tiny.written(tmp_path, text))
    with pytest.raises(ConfigError, match=r"method 'found': .*cloud.generators.recent:Recent .* time of a request"):
        try_methods(config)


def test_limits_that_nothing_fits_are_refused_before_training(tmp_path: Path) -> None:
    config = load_study(tiny.written(tmp_path, STUDY.replace("nbytes = 9e3", "nbytes = 900")))
    with pytest.raises(ConfigError, match=r"limits of 'found': none .* the closest, w8-b1-e8-int8, has nbytes"):
        devices_report(config, tmp_path / "runs", lambda _: None)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["devices-beauty", "devices-ml-1m"])
def test_the_files_of_the_repository_load_and_build(name: str) -> None:
    config = load_study(CONFIGS / f"{name}.toml")
    assert config.name == name
    assert config.methods[config.reference].name == "SASRec, shared"
    try_methods(config)


@pytest.mark.parametrize(("name", "n_items"), [("devices-beauty", 12_101), ("devices-ml-1m", 3_706)])
def test_each_search_of_the_repository_has_a_choice_and_shares_the_slimmed_models(name: str, n_items: int) -> None:
    config = load_study(CONFIGS / f"{name}.toml")
    named = [(method, experiment(config, method, 1)) for method in config.methods if method.subnet is not None]
    models = [(one.device.model, one.device.training, one.device.supernet) for _, one in named]
    assert all(model[:2] == models[0][:2] for model in models)
    assert models[0][0] != config.device.model
    supernets = list(dict.fromkeys(table for *_, table in models if table is not None))
    assert supernets[0] == config.device.supernet
    assert [table.unlabelled is None for table in supernets] == [True, False]
    assert supernets[1].distilled == 0  # the loss of MatchNAS has no such part
    plain = {"unlabelled": None, "distilled": supernets[0].distilled}
    assert supernets[1].model_copy(update=plain) == supernets[0]
    fitting, finalists = [], []
    for method, one in named:
        if method.limits is None:
            continue
        assert one.device.model is not None
        net = supernet(one, one.device.model, {"n_items": n_items, "length": 50}).model
        bench = ValidationBench(net, lambda _: 0.0, "resident", 50, 50, n_items)
        limits, specs = Limits(**method.limits.model_dump()), trained_specs(one, net)
        fitting.append(sum(not limits.exceeded(bench.cost(spec)) for spec in specs))
        bench.values.update(zip(specs, range(len(specs)), strict=True))
        tried = [search(specs, bench, limits, seed=seed).tried for seed in config.seeds]
        finalists += [sum(one.why == "finalist" for one in of) for of in tried]
    assert fitting == [10, 6, 2] * 2  # of 12: large, medium, small; in either supernet
    assert min(finalists) >= 1  # the predictor has a say in every row
