"""The same decisions for any number of clients, order of arrival, hash seed of Python, and place of the work."""

import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from forgetful import Forgetful, restored, serving
from parity_parts import DEVICES, config, replayed, silent

from simulation.experiment import Job
from simulation.flower import client_app
from simulation.flower.in_process_grid import run_in_process
from simulation.flower.server_app import app_for
from simulation.handout import bounds
from simulation.prepare import prepare
from simulation.runs import Run, decision_hash

# After the line that sets Flower's environment.


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(config(), tmp_path_factory.mktemp("parity"), silent)


def finished(root):
    """The one run under `root`, read and taken away so that the next one is alone again."""
    (summary,) = root.glob("parity-*/summary.json")
    run = Run.open(summary.parent)
    assert len(run.steps) == 2 * DEVICES * 5
    assert run.summary["decision_hash"] == decision_hash(run.steps, run.ledger)
    for path in summary.parent.iterdir():
        path.unlink()
    summary.parent.rmdir()
    return run


def run_with(prepared, clients, shuffle=None, app=None):
    """decision_hash of a run through Flower's apps."""
    app = app or app_for(Job(prepared.config, prepared.root, clients, prepared=prepared))
    run_in_process(app, client_app.app, clients=clients, run_config={}, shuffle=shuffle)
    return finished(prepared.root).summary["decision_hash"]


@pytest.fixture(scope="module")
def reference(prepared):
    """The run of one client that hosts all devices."""
    job = Job(prepared.config, prepared.root, 1, prepared=prepared)
    run_in_process(app_for(job), client_app.app, clients=1, run_config={})
    return finished(prepared.root)


@pytest.fixture(scope="module")
def expected(reference):
    """Its decisions."""
    return reference.summary["decision_hash"]


def clients_for(devices_per_client):
    return -(-DEVICES // devices_per_client)


def test_the_experiment_has_something_to_disagree_about(prepared, reference):
    """Both tiers, lost and late replies, and policies that neither always nor never ask."""
    assert 20 < (prepared.timeline.tier == 1).sum() < 50
    for _, steps in reference.steps.groupby("policy", observed=True):
        assert 0.1 < steps["asked"].mean() < 0.9
        assert steps["pool_age"].nunique() >= 4
        asked = steps[steps["asked"]]
        assert asked["latency_s"].isna().any()
        assert asked["latency_s"].max() > 10
    assert not reference.ledger["delivered"].all()


@pytest.mark.parametrize("devices_per_client", [1, 64])
def test_devices_per_client(prepared, expected, devices_per_client):
    assert run_with(prepared, clients_for(devices_per_client)) == expected


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_in_which_clients_work_and_answer(prepared, expected, seed):
    assert run_with(prepared, 7, shuffle=seed) == expected


def test_clients_that_remember_only_their_context(prepared, expected, monkeypatch):
    sizes = restored(monkeypatch)
    job = Job(prepared.config, prepared.root, 3, prepared=prepared)
    assert run_with(prepared, 3, shuffle=5, app=serving(job)) == expected
    assert len(sizes) == 2 * 4 * 3  # policies, waves after the first, clients


def test_clients_that_find_an_older_wave_at_hand(prepared, expected, monkeypatch):
    """A process that took part in wave 1 only must not go on from there when wave 3 comes to it."""
    kept, real = {}, client_app.keep

    def keep(shard, order, context):
        real(shard, order, context)
        who = client_app.client(context)
        name, wave, made = client_app._at_hand[who]
        if wave == 1:
            kept[who] = deepcopy(made)
        client_app._at_hand[who] = (name, 1, deepcopy(kept[who]))

    monkeypatch.setattr(client_app, "keep", keep)

    class Remote(Forgetful):
        def send_and_receive(self, messages, *, timeout=None):
            return self.grid.send_and_receive(messages, timeout=timeout)

    job = Job(prepared.config, prepared.root, 2, prepared=prepared)
    assert run_with(prepared, 2, app=serving(job, Remote)) == expected


@pytest.mark.parametrize("parts", [4, DEVICES + 3])
def test_snapshot_and_restore_of_every_shard_between_waves(prepared, expected, parts):
    assert replayed(prepared, parts) == expected  # with DEVICES + 3 parts, three of them are empty


def test_hash_seeds_of_python(expected, tmp_path):
    """A whole run, training included, in a process whose sets of strings are ordered otherwise than here."""
    here = Path(__file__).parent
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    folders = os.pathsep.join(map(str, (here.parent.parent, here.parent, here)))
    done = subprocess.run(
        [sys.executable, here / "parity_parts.py", tmp_path],
        env=os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1", "PYTHONPATH": folders},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == expected


def test_another_seed_decides_otherwise(expected, tmp_path):
    assert run_with(prepare(config(seed=12), tmp_path, silent), 1) != expected


def test_blocks_of_devices_cover_the_fleet_once():
    for parts in (1, 2, 7, 70, 73):
        blocks = [bounds(DEVICES, part, parts) for part in range(parts)]
        assert np.concatenate([np.arange(*block) for block in blocks]).tolist() == list(range(DEVICES))
