"""Runs whose devices keep states do not depend on how the fleet is cut, nor on what a client remembers of itself."""

from dataclasses import replace

import numpy as np
import pytest
from forgetful import restored, serving
from parity_parts import config, replayed, silent

from device.fleet import Fleet
from device.models.incremental_torch import IncrementalTorch
from device.models.personal_torch import PersonalTorch
from simulation.choosing.chooser import choose
from simulation.choosing.stage import on_test
from simulation.experiment import Job
from simulation.flower import client_app
from simulation.flower.in_process_grid import run_in_process
from simulation.flower.server_app import app_for
from simulation.prepare import prepare
from simulation.runs import Run
from simulation.sweep.sharing import SharedScores


def going_on(**changes):
    """Two tiers with different models, merged pools, candidates of their own, lost and late replies; a window of 10
    items, of which up to 16 are lived."""
    device = config().device.model_dump(by_alias=True, exclude={"policy", "energy", "cache_rows"}, exclude_none=True)
    device |= {"items": "resident", "states": "incremental"} | changes
    device["model"] = {"class": "device.models.elastic:ElasticSASRec", "width": 16, "blocks": 1, "items": 8}
    device["tiers"][1]["model"] = {"class": "device.models.ttt:TTT4Rec", "width": 8, "heads": 2}
    policies = [
        {"class": "device.policy:Random", "price": 0.4, "update": "merge", "own": 2},
        {"class": "device.policy:Consistency", "price": 0.5},
    ]
    return config(device=device, policies=policies)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    made = prepare(going_on(), tmp_path_factory.mktemp("states"), silent)
    assert {type(tier.model) for tier in made.installed} == {IncrementalTorch}
    return made


def run_with(prepared, clients, app=None):
    """The run through Flower's apps."""
    app = app or app_for(Job(prepared.config, prepared.root, clients, prepared=prepared))
    run_in_process(app, client_app.app, clients=clients, run_config={})
    (summary,) = prepared.root.glob("parity-*/summary.json")
    run = Run.open(summary.parent)
    lived, decided = run.steps.copy(), run.summary["decision_hash"]
    for path in summary.parent.iterdir():
        path.unlink()
    summary.parent.rmdir()
    return lived, decided


def test_one_client_three_and_clients_that_forget(prepared, monkeypatch):
    steps, expected = run_with(prepared, 1)
    assert 0.1 < steps["asked"].mean() < 0.9
    sizes = restored(monkeypatch)
    job = Job(prepared.config, prepared.root, 3, prepared=prepared)
    assert run_with(prepared, 3, serving(job))[1] == expected
    assert len(sizes) == 2 * 4 * 3  # policies, waves after the first, clients
    assert replayed(prepared, 7) == expected


def test_what_has_left_the_window_is_remembered(prepared, tmp_path):
    """The same fleet without states decides otherwise: the window is shorter than what some devices lived."""
    assert replayed(prepare(going_on(states="recomputed"), tmp_path, silent), 1) != replayed(prepared, 1)


def test_a_sweep_sees_what_the_run_sees(prepared):
    """There the states of all steps are computed once and a score is their product with a row."""
    steps, _ = run_with(prepared, 1)
    stage, chosen = on_test(prepared), choose(prepared, silent)
    for policy in prepared.config.all_policies:
        setups = stage.setups(policy, chosen[policy.label])
        assert all(isinstance(setup.scorer, SharedScores) and setup.scorer.goes_on for setup in setups)
        lived = stage.rehearsal(policy).run(setups)
        mine = steps[steps["policy"] == policy.label].sort_values(["device", "step"])
        order = np.lexsort([lived["step"], lived["device"]])
        for name in ("rank", "asked", "pool_age"):
            np.testing.assert_array_equal(lived[name][order], mine[name].to_numpy(), err_msg=f"{policy.label} {name}")


def masked(**changes):
    """The same fleet with a DIET mask in every reply for the tier that names no model of its own."""
    tables = going_on(**changes).model_dump(by_alias=True, exclude_none=True)
    head = {"class": "device.models.masked:MaskedHead", "width": 16, "blocks": 1, "relative": True}
    diet = {"class": "cloud.personalizers.diet:Diet", "training": {"epochs": 1, "patience": 0}}
    tables["device"]["model"], tables["cloud"]["personalizer"] = head, diet
    return config(**{name: tables[name] for name in ("device", "cloud", "policies")})


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    return prepare(masked(), tmp_path_factory.mktemp("patched"), silent)


def test_masks_over_bodies_that_go_on(patched, monkeypatch):
    """One client, three that forget all but their snapshots, seven that are restored: the states of the body are in
    the snapshots, and a mask that comes ends none of them."""
    assert [type(tier.model) for tier in patched.installed] == [PersonalTorch, IncrementalTorch]
    steps, expected = run_with(patched, 1)
    assert 0.1 < steps["asked"].mean() < 0.9
    sizes = restored(monkeypatch)
    assert run_with(patched, 3, serving(Job(patched.config, patched.root, 3, prepared=patched)))[1] == expected
    assert len(sizes) == 2 * 4 * 3
    assert replayed(patched, 7) == expected
    assert replayed(prepare(masked(states="recomputed"), patched.root, silent), 1) != expected


@pytest.mark.parametrize("states", ["incremental", "recomputed"])
def test_masked_scores_are_those_of_the_whole_history(patched, states):
    """Where nothing has left the window, each device's own mask in place."""
    history, device = 6, np.arange(70)
    tier = patched.installed[0]
    setup = on_test(patched).setups(patched.config.all_policies[0], choose_plain(patched))[0]
    fleet = Fleet(replace(setup, incremental=states == "incremental"), device, np.zeros((70, 10), np.int32), 12)
    draw = np.random.default_rng(0)
    masks = fleet.personal.held["mask"]
    masks[:] = draw.random(masks.shape) < 0.5
    fleet.pool.items[:] = draw.permuted(np.tile(np.arange(1, 81, dtype=np.int32), (70, 1)), axis=1)[:, :12]
    for step in range(history):
        fleet.rank(device, np.full(70, float(step)))
        fleet.observe(device, draw.integers(1, 81, 70, dtype=np.int32), np.zeros(70, np.int32), np.full(70, step + 0.5))
    fleet.rank(device, np.full(70, 9.0))
    got = fleet.scores(device)
    pools = np.where(fleet.pool.items == 0, 1, fleet.pool.items)
    alone = tier.model.score_personal(tier.params, {"mask": masks}, fleet.history, pools)
    here = fleet.pool.items != 0
    assert here.mean() > 0.8
    np.testing.assert_allclose(got[here], alone[here], atol=1e-5)
    shown = fleet.scorer.state(device, fleet.observed, fleet.history)
    np.testing.assert_allclose(shown, tier.model.state(tier.params, fleet.history), atol=1e-5)
    asked = fleet.scorer.state(device, fleet.asked_step, fleet.asked_history)
    np.testing.assert_allclose(asked, tier.model.state(tier.params, fleet.asked_history), atol=1e-5)


def choose_plain(prepared):
    """What the first policy's price and fusion are."""
    return choose(prepared, silent)[prepared.config.all_policies[0].label]
