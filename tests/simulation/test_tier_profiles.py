"""Tiers with profiles: links, energy, what fits, and what a step costs."""

import gzip
from dataclasses import replace

import pytest

from device.errors import ConfigError
from device.export import export_onnx
from device.messages import encode_patch
from device.models.elastic import ElasticSASRec
from device.models.incremental_torch import IncrementalTorch
from device.profile import BUILT_IN, profile_of
from device.subnet import SubnetSpec
from simulation.config.tables import ExperimentConfig
from simulation.energy import radios, reranking_energy
from simulation.experiment import Job
from simulation.flower.client_app import app
from simulation.flower.in_process_grid import run_in_process
from simulation.flower.server_app import app_for
from simulation.installing import Installed, exported
from simulation.objects import link_of, tiers
from simulation.prepare import prepare
from simulation.protocol import protocol
from simulation.runs import Run
from simulation.slimming import cut, weights
from simulation.tier_latency import measure
from simulation.tier_profiles import J_PER_GFLOP, joules_per_gflop, profiles, refuse_misfits, tier_costs

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


ONE = ({"name": "one", "share": 1.0, "profile": "entry"},)


def limited(monkeypatch, **values):
    """`entry` with other limits."""
    monkeypatch.setitem(BUILT_IN, "entry", replace(profile_of("entry"), **values))


def costs(config, made, nbytes):
    (found,) = tier_costs(config, [made], 80, nbytes=[nbytes])
    return found


def small():
    return ElasticSASRec(80, length=8, width=8, blocks=1, items=8)


def activations(module, folder):
    """Of the float32 file: 8 items of history, 8 candidates."""
    file = export_onnx(module, folder, length=8, candidates=8, int8=False, n_items=80).files[0]
    return measure(file.path, n_items=80, length=8, candidates=8).memory.activations


def test_a_compact_table_fits_where_its_float32_file_would_not(tmp_path, monkeypatch):
    """4006 bytes, as counted in test_slimming; the float32 file has 81 * 8 * 3 - 81 * 4 = 1620 more of its table."""
    made = Installed(*cut(small(), SubnetSpec(8, 1, 8, "int8")), None)
    step = activations(made.model.module, tmp_path)
    limited(monkeypatch, model_bytes=4006, ram_bytes=20 * (4006 + step))  # 5% of the RAM
    found = costs(config(tiers=ONE), made, made.nbytes)
    assert found["installed_bytes"] == 4006
    assert found["memory_bytes"] == 4006 + step
    assert found["fits"]
    refuse_misfits(config(tiers=ONE), [made], [4006])
    limited(monkeypatch, model_bytes=4005)
    with pytest.raises(ConfigError, match="an installation of 4006 bytes"):
        refuse_misfits(config(tiers=ONE), [made], [4006])


def test_a_step_from_a_state_costs_one_item(tmp_path, monkeypatch):
    """Multiply-adds of w = e = 8, one block, 8 positions and a pool of 8: enter and leave 2 * 8 * 8 = 128, the block's
    maps 6 * 8 * 8 = 384, attention 2 * 8 * 8 = 128, the pool 8 * 8 = 64: 704, two operations each.
    """
    module = small()
    params = weights(module)
    made = Installed(IncrementalTorch(module), params, len(encode_patch(params)), None)
    there = config(tiers=ONE, states="incremental", energy={"j_per_gflop": 0.5})
    found = costs(there, made, made.nbytes)
    assert found["flops"] == 2 * 704
    assert found["joules"] == pytest.approx(1408 / 1e9 * 0.5)
    (policy,) = there.all_policies
    assert found["joules"] == reranking_energy(there, policy, made, 80, j_per_gflop=0.5)
    assert found["battery_share"] == pytest.approx(found["joules"] / profile_of("entry").battery_j)
    assert found["state_bytes"] >= 2 * 8 * 8 * 4  # keys and values of 8 positions
    assert found["memory_bytes"] == made.nbytes + found["state_bytes"] + activations(module, tmp_path)
    assert found["p50_ms"] is None
    # a state that leaves no room is refused before anything runs
    held = made.nbytes + found["state_bytes"]
    limited(monkeypatch, model_bytes=made.nbytes, ram_bytes=20 * held)
    refuse_misfits(there, [made], [made.nbytes])
    limited(monkeypatch, ram_bytes=20 * held - 20)
    with pytest.raises(ConfigError, match=rf"tier 'one': .* a step of {held} bytes"):
        refuse_misfits(there, [made], [made.nbytes])


def test_an_int8_file_is_int8(tmp_path, monkeypatch):
    there = config(tiers=ONE, runtime="onnxruntime-int8")
    made = exported(there, small(), tmp_path)
    refuse_misfits(there, [made], [made.nbytes])
    limited(monkeypatch, precisions=("float32",))
    assert not costs(there, made, made.nbytes)["fits"]
    with pytest.raises(ConfigError, match="precision int8, found only float32"):
        refuse_misfits(there, [made], [made.nbytes])


def test_streamed_rows_that_a_device_looks_through_are_installed(tmp_path, monkeypatch):
    """Without rows 7 bytes. All 60: 7 of the frame, names and sizes 10 + 9, and 60 * (6 + 4): 626 more."""
    dot = {"class": "loop_parts:Dot", "width": 6}
    looking = {"class": "device.policy:Every", "steps": 2, "own": 5}
    there = config(tiers=ONE, items="streamed", cache_rows=40, model=dot, policy=looking)
    limited(monkeypatch, model_bytes=633)
    prepared = prepare(there, tmp_path, lambda line: None)
    assert prepared.model_bytes == [7]
    assert prepared.largest == [633]
    assert costs(there, prepared.installed[0], prepared.largest[0])["installed_bytes"] == 633
    limited(monkeypatch, model_bytes=632)
    with pytest.raises(ConfigError, match=r"tier 'one': .* an installation of 633 bytes"):
        prepare(there, tmp_path, lambda line: None)
    # 40 cached rows of 6 codes, a scale and an id: 40 * 14 = 560 beside the 633
    limited(monkeypatch, model_bytes=633, ram_bytes=20 * (633 + 560) - 20)
    with pytest.raises(ConfigError, match="a step of 1193 bytes"):
        prepare(there, tmp_path, lambda line: None)


def test_the_protocol_says_that_patches_save_no_energy():
    made = config()
    assert "patch" not in protocol(made)["costs"]
    cloud = made.cloud.model_dump(by_alias=True, exclude_none=True)
    cloud["personalizer"] = {"class": "personal_parts:Coded"}
    personal = made.model_copy(update={"cloud": type(made.cloud).model_validate(cloud)})
    assert "saves no energy" in protocol(personal)["costs"]
