"""`subnet = "search"`: found within limits on validation only, kept on the shelf, and what then runs and is written."""

import json
import math
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from elastic_parts import elastic
from tiny import TOML

from cloud.matchnas import Cost, Found, Limits, Tried
from device.errors import ConfigError
from device.models.elastic import ElasticSASRec
from device.models.slimming import SlimmableTorch
from device.subnet import SubnetSpec, grid, smallest
from simulation.config.read import check
from simulation.config.tables import ExperimentConfig
from simulation.data.dataset import Split
from simulation.installing import course
from simulation.launch import launch
from simulation.objects import make_split, model_of, tiers
from simulation.runs import Run
from simulation.searching import (
    Benches,
    ValidationBench,
    find,
    labels,
    of_json,
    offered,
    refuse_impossible,
    scale_of,
    searched,
    to_json,
)
from simulation.shelf import Shelf
from simulation.slimming import dense, trained_elastic
from simulation.sweep.folder import Sweep as Folder
from simulation.sweep.sweep import Sweep

PLAIN = 'class = "device.models.sasrec:SASRec"\nwidth = 8\nblocks = 1\n'
ELASTIC = 'class = "device.models.elastic:ElasticSASRec"\nwidth = 16\nblocks = 2\nitems = 16\n'


def tier(name: str, limits: str, more: str = "") -> str:
    return f'[[device.tiers]]\nname = "{name}"\nshare = 1.0\nsubnet = "search"\nlimits = {{ {limits} }}\n{more}'


FLEET = tier("new", "flops = 1e6, nbytes = 9000") + tier("old", "nbytes = 5000.0")


def made(more: str = FLEET, **device: Any) -> ExperimentConfig:
    table = tomllib.loads(TOML.replace(PLAIN, ELASTIC) + more)
    table["device"] |= device
    return check(table, ExperimentConfig, "tiny.toml")


def shelf_of(config: ExperimentConfig, root: Path, said: list[str], split: Split | None = None) -> Shelf:
    split = split or make_split(config.data, config.seed)
    return Shelf(root / "models", split, config.seed, config.device.history, said.append)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shelf with the trained supernet."""
    root: Path = tmp_path_factory.mktemp("searching")
    return root


def test_each_tier_gets_a_subnet_within_its_limits_worth_what_is_measured_again(root: Path) -> None:
    config, said = made(), list[str]()
    shelf = shelf_of(config, root, said)
    labels = {one.name: one.subnet for one in searched(config, shelf).device.tiers}
    net = trained_elastic(config, shelf, model_of(config, tiers(config)[0]))
    value, benches = course(config, shelf).value(), Benches()
    for one in tiers(config):
        found = find(config, shelf, one, course(config, shelf), benches)
        assert one.limits is not None
        assert labels[one.name] == str(found.spec)
        size = SlimmableTorch(net).size(found.spec, length=10, candidates=20)
        assert not Limits(**one.limits.model_dump()).exceeded(Cost(size.flops, size.nbytes))
        assert found.measured == value(dense(net, found.spec)) > 0
        assert all(math.isnan(tried.cost.latency_s) for tried in found.tried)
        assert any(f"tier {one.name!r}: subnet {found.spec} found, validation NDCG@10" in line for line in said)
    assert not benches  # what is on the shelf is not measured again
    assert searched(config, shelf).device.tiers[0].limits is None


def test_nothing_of_the_test_part_is_looked_at(root: Path, tmp_path: Path) -> None:
    config = made()
    split = make_split(config.data, config.seed)
    item = split.data.item.copy()
    test = split.part() == 2
    item[test] = item[test] % split.data.n_items + 1
    other = Split(replace(split.data, item=item), split.train_end, split.valid_end)
    found = [
        find(config, shelf, tiers(config)[0], course(config, shelf), Benches())
        for shelf in (shelf_of(config, root, []), shelf_of(config, tmp_path, [], other))
    ]
    assert to_json(found[0]) == to_json(found[1])


def test_a_run_installs_what_was_found_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    config = made()
    folder = launch(config, tmp_path, say=said.append, progress=lambda *_: None)
    summary, resolved = Run.open(folder).summary, Run.open(folder).config
    labels = [one["subnet"] for one in summary["tiers"]]
    assert labels == [one["subnet"] for one in resolved["device"]["tiers"]]
    assert "search" not in labels
    assert [one["installed_bytes"] <= most for one, most in zip(summary["tiers"], (9000, 5000), strict=True)] == [
        True
    ] * 2
    kept = [json.loads(path.read_text()) for path in (tmp_path / "models").glob("search-*.json")]
    assert sorted(one["spec"] for one in kept) == sorted(labels)


def test_a_sweep_says_which_subnets_it_ran_with_each_seed(tmp_path: Path) -> None:
    config = made(tier("only", "nbytes = 9000"), supernet={"subnets": ["w8-b1-e8", "w16-b1-e8", "w16-b2-e16"]})
    sweep = config.sweep.model_copy(update={"seeds": (5, 6), "request_ratios": (0.5,), "processes": 1})
    folder = Sweep(config.model_copy(update={"sweep": sweep, "policies": config.policies[:1]}), tmp_path).run()
    ran = Folder.open(folder).summary["subnets"]
    kept = [json.loads(path.read_text())["spec"] for path in (tmp_path / "models").glob("search-*.json")]
    assert list(ran) == ["5", "6"]
    assert sorted(one["only"] for one in ran.values()) == sorted(kept)
    assert len(kept) == 2
    assert Folder.open(folder).config["device"]["tiers"][0]["subnet"] == "search"  # the file makes the same sweep again


def test_limits_that_nothing_fits_name_the_smallest(root: Path) -> None:
    config = made(tier("old", "nbytes = 1000"))
    with pytest.raises(
        ConfigError, match=r"none of 16 subnets fits; the smallest, w8-b1-e8-int8, costs flops .* > 1000"
    ):
        searched(config, shelf_of(config, root, []))


def test_limits_that_nothing_fits_are_found_before_any_training(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(ConfigError) as caught:
        launch(made(tier("old", "nbytes = 1000")), tmp_path, say=said.append, progress=lambda *_: None)
    size = SlimmableTorch(trained_like()).size(SubnetSpec(8, 1, 8, "int8"), length=10, candidates=20)
    assert str(caught.value).startswith(
        f"limits of 'old': none of 16 subnets fits; the closest, w8-b1-e8-int8, has nbytes {size.nbytes} > 1000; raise"
    )
    assert not (tmp_path / "models").exists()


def test_the_closest_is_the_least_above_its_limits() -> None:
    # Width 8 has the fewer operations, width 16 the more; both limits are beyond all, the bytes by far.
    config = made(tier("old", "flops = 1.0, nbytes = 9e9"), supernet={"subnets": ["w16-b2-e16", "w8-b1-e16"]})
    flops = SlimmableTorch(trained_like()).size(SubnetSpec(8, 1, 16), length=10, candidates=20).flops
    with pytest.raises(ConfigError, match=rf"none of 2 .* closest, w8-b1-e16, has flops {flops:.6g} > 1; raise"):
        refuse_impossible(config, 80)
    refuse_impossible(made(tier("old", "latency_s = 1e-9", 'profile = "old"\n')), 80)  # known once it is measured
    refuse_impossible(made('[[device.tiers]]\nname = "a"\nshare = 1.0\nsubnet = "w8-b1-e8"\n'), 80)
    with pytest.raises(ConfigError, match="1 subnets; name two at least"):
        refuse_impossible(made(tier("old", "flops = 1e9"), supernet={"subnets": ["w8-b1-e8"]}), 80)


def trained_like() -> ElasticSASRec:
    """Of the size of the tiny experiment's."""
    return ElasticSASRec(80, width=16, blocks=2, items=16, length=10)


def test_a_latency_is_that_of_the_float32_subnet_scaled(root: Path) -> None:
    spec = SubnetSpec(8, 1, 8)
    net = elastic(ElasticSASRec)
    bench = ValidationBench(net, lambda module: 0.0, "resident", 10, 20, 30, scale=4.0, seconds={spec: 0.25})
    assert bench.latency_s(spec) == bench.latency_s(replace(spec, table="int8")) == 1.0
    config = made(tier("old", "latency_s = 1.0", 'profile = "old"\n'))
    assert scale_of(config, tiers(config)[0]) == pytest.approx(3.0 * 2324 / 347)  # to the reference phone, to this one


@pytest.mark.slow
def test_a_latency_is_this_hosts_scaled_to_the_profile(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = made(tier("old", "latency_s = 1.0", 'profile = "old"\n'), supernet={"subnets": ["w8-b1-e8", "w16-b2-e16"]})
    one = tiers(config)[0]
    scale = scale_of(config, one)
    shelf = shelf_of(config, root, [])
    benches = Benches()
    found = find(config, shelf, one, course(config, shelf), benches)
    (bench,) = benches.values()
    for tried in found.tried:
        assert tried.cost.latency_s == bench.seconds[tried.spec] * scale > 0
    assert len(found.tried) == 2


def test_a_generator_of_the_moment_is_refused_before_any_training(tmp_path: Path) -> None:
    config = made()
    generator = config.cloud.generator.model_copy(update={"class_": "cloud.generators.recent:Recent"})
    timed = config.model_copy(update={"cloud": config.cloud.model_copy(update={"generator": generator})})
    said: list[str] = []
    with pytest.raises(ConfigError, match=r"recent:Recent makes its lists by the time of a request, which a search"):
        searched(timed, shelf_of(timed, tmp_path, said))
    assert not said
    assert not (tmp_path / "models").exists()
    named = made('[[device.tiers]]\nname = "a"\nshare = 1.0\nsubnet = "w8-b1-e8"\n')
    timed = named.model_copy(update={"cloud": timed.cloud})
    assert searched(timed, shelf_of(timed, tmp_path, said)) is timed  # nothing is searched
    assert labels(timed) == {"a": "w8-b1-e8"}


def test_costs_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = ValidationBench(elastic(ElasticSASRec), lambda module: 0.0, "resident", 10, 20, 30)
    before = bench.cost(SubnetSpec(8, 1, 8))
    monkeypatch.setattr(SlimmableTorch, "size", lambda *_, **__: pytest.fail("counted again"))
    assert replace(bench, scale=2.0).cost(SubnetSpec(8, 1, 8)) is before


def test_tables_that_are_all_int8_are_searched_as_such(root: Path) -> None:
    config = made(items="streamed")
    shelf = shelf_of(config, root, [])
    net = trained_elastic(config, shelf, model_of(config, tiers(config)[0]))
    specs = offered(config, net)
    assert {spec.table for spec in specs} == {"int8"}
    assert len(specs) == len(grid(SubnetSpec(16, 2, 16))) / 2
    benches = Benches()
    find(config, shelf, tiers(config)[0], course(config, shelf), benches)
    (bench,) = benches.values()
    size = SlimmableTorch(net).size(smallest(specs), length=10, candidates=20)
    assert bench.cost(smallest(specs)).nbytes == size.body_nbytes < size.nbytes


def test_what_was_found_survives_the_shelf() -> None:
    slow = Tried(SubnetSpec(8, 1, 8), math.nan, 0.25, Cost(10.0, 20, 0.5), ("latency_s 0.5 > 0.1",), "finalist")
    good = Tried(SubnetSpec(8, 1, 8, "int8"), 0.5, 0.25, Cost(10.0, 20), (), "probe")
    found = Found(good.spec, 0.5, 0.25, (good, slow), math.nan)
    text = json.dumps(to_json(found), allow_nan=False)
    back = of_json(json.loads(text))
    assert json.dumps(to_json(back)) == text
    assert back.tried[0].spec == good.spec
    assert back.tried[1].exceeded == slow.exceeded
    assert np.isnan([back.rank_correlation, back.tried[1].measured, back.tried[0].cost.latency_s]).all()


@pytest.mark.parametrize(
    ("more", "device", "message"),
    [
        (tier("old", ""), {}, "give flops, nbytes or latency_s"),
        (tier("old", "latency_s = 0.1"), {}, "name the tier's profile"),
        (tier("old", "nbytes = 1").replace('"search"', '"w8-b1-e8"'), {}, "limits of tier 'old' have no effect"),
        (FLEET, {"runtime": "onnxruntime"}, 'search with .device. runtime = "torch"'),
        (tier("old", "nbytes = -1"), {}, "nbytes"),
    ],
)
def test_what_cannot_be(more: str, device: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(more, **device)


def test_the_supernet_learns_from_unlabelled_items_where_it_is_told_to(tmp_path: Path) -> None:
    weights = []
    for supernet in ({"distilled": 0.0}, {"distilled": 0.0, "unlabelled": {"threshold": 0.02, "candidates": 60}}):
        config = made(supernet=supernet)
        net = trained_elastic(config, shelf_of(config, tmp_path, []), model_of(config, tiers(config)[0]))
        weights.append(net.state_dict()["enter.weight"].numpy())
    assert np.isfinite(weights).all()
    assert not np.array_equal(*weights)
