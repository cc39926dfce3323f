"""Tiers with profiles: links, energy, what fits, and what a step costs."""

import gzip

import pytest

from device.errors import ConfigError
from simulation.config.tables import ExperimentConfig
from simulation.energy import radios
from simulation.experiment import Job
from simulation.flower.client_app import app
from simulation.flower.in_process_grid import run_in_process
from simulation.flower.server_app import app_for
from simulation.objects import link_of, tiers
from simulation.prepare import prepare
from simulation.runs import Run
from simulation.tier_profiles import J_PER_GFLOP, joules_per_gflop, profiles

TIERS = (
    {"name": "fast", "share": 0.5, "profile": "high-end"},
    {"name": "slow", "share": 0.3, "profile": "entry", "link": "3g"},
    {"name": "rest", "share": 0.2},
)


def config(**device):
    tables = {
        "name": "profiles",
        "metrics": ["ndcg@10"],
        "data": {
            "synthetic": {"users": 20, "items": 60, "topics": 5, "length": 12},
            "split": {"leave_last": 3, "validation": 2},
        },
        "cloud": {"generator": {"class": "cloud.generators.floors:Popularity"}, "pool": 8, "history": 8},
        "device": {
            "model": {"class": "device.models.sasrec:SASRec", "width": 8, "blocks": 1},
            "training": {"epochs": 0, "patience": 0},
            "history": 8,
            "fusion": {"alpha": 0.5},
            "tiers": TIERS,
            "policy": {"class": "device.policy:Every", "steps": 2},
        }
        | device,
        "network": {"link": "wifi"},
    }
    return ExperimentConfig.model_validate(tables)


def test_a_link_is_the_tiers_then_the_profiles_then_the_networks():
    made = config()
    assert [link_of(made, tier) for tier in tiers(made)] == ["5g", "3g", "wifi"]
    assert len(radios(made)) == 3


def test_joules_are_the_tables_then_the_profiles():
    assert joules_per_gflop(config()) == [1.0, 1.0, J_PER_GFLOP]
    assert joules_per_gflop(config(energy={"j_per_gflop": 0.3})) == [0.3] * 3


def phones(tmp_path):
    """Ten phones of 20, 40, ... 200 ms; the reference takes 100."""
    rows = [f"phone {i},{20 * i}" for i in range(1, 11) if i != 5] + ["Google Pixel 3,100"]
    path = tmp_path / "phones.csv.gz"
    path.write_bytes(gzip.compress(("phone_model,resnet_latency_ms\n" + "\n".join(rows) + "\n").encode()))
    return str(path)


def test_measured_phones_give_the_compute_scales(tmp_path):
    fast, slow, rest = profiles(config(speeds=phones(tmp_path)))
    # fastest five: 20 ... 100 ms, median 60 of 100; the next three: 120, 140, 160
    assert (fast.compute, slow.compute, rest) == (0.6, 1.4, None)
    assert fast.link == "5g"
    assert fast.name == "high-end, fast"


def test_speeds_without_profiles_are_refused(tmp_path):
    from simulation.config.read import load_config

    path = tmp_path / "speeds.toml"
    path.write_text(
        'name = "x"\n[cloud.generator]\nclass = "cloud.generators.floors:Popularity"\n'
        '[device]\nspeeds = "phones.csv"\n[device.model]\nclass = "device.models.sasrec:SASRec"\n'
        '[device.policy]\nclass = "device.policy:Never"\n'
    )
    with pytest.raises(ConfigError, match="no tier names a profile"):
        load_config(path)


def test_unknown_profiles_name_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'entry'"):
        profiles(config(tiers=({"name": "a", "share": 1.0, "profile": "entri"},)))


def test_what_a_profile_cannot_install_is_refused(tmp_path):
    wide = {"class": "device.models.sasrec:SASRec", "width": 4096, "blocks": 1}
    with pytest.raises(ConfigError, match=r"tier 'slow': profile 'entry': an installation of \d+ bytes"):
        prepare(config(model=wide), tmp_path, lambda line: None)


def test_a_run_says_what_a_step_costs_each_tier(tmp_path):
    made = config()
    prepared = prepare(made, tmp_path, lambda line: None)
    run_in_process(app_for(Job(made, tmp_path, 1, prepared=prepared)), app, clients=1, run_config={})
    (summary,) = tmp_path.glob("profiles-*/summary.json")
    fast, slow, rest = Run.open(summary.parent).summary["tiers"]
    assert rest == {"tier": "rest", "installed_bytes": prepared.model_bytes[2]}
    assert slow["installed_bytes"] == prepared.model_bytes[1]
    flops = prepared.installed[0].model.module.flops(8, 8)
    assert fast["flops"] == slow["flops"] == flops
    assert fast["joules"] == pytest.approx(flops / 1e9)
    assert slow["scale"] / fast["scale"] == pytest.approx(537 / 57)
    assert fast["p50_ms"] > 0
    assert fast["fits"]
    assert slow["fits"]
    assert "not measured on a phone" in fast["label"]
