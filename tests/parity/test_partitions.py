"""The same decisions for any number of clients, order of arrival, hash seed of Python, and process that does the work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cloud.gateway import Gateway
from cloud.ledger import Ledger
from simulation.config import ExperimentConfig
from simulation.experiment import Job, labelled, together
from simulation.flower import client_app
from simulation.flower.in_process_grid import run_in_process
from simulation.flower.server_app import app_for, serve
from simulation.handout import bounds, read_handout, write_handout
from simulation.prepare import choose, prepare
from simulation.replay import Shard, replay
from simulation.runs import Run, decision_hash
from simulation.wire import part_of

# After the line that sets Flower's environment.
from flwr.serverapp import ServerApp  # isort: skip

DEVICES = 70


def config(**changes):
    """Two tiers, two policies, late and lost replies; a small SASRec with one epoch of training on every device."""
    tables = {
        "name": "parity",
        "seed": 11,
        "metrics": ["ndcg@10"],
        "data": {
            "synthetic": {"users": DEVICES, "items": 80, "topics": 5, "length": 16},
            "split": {"leave_last": 5, "validation": 2},
            "clock": {"median_s": 20.0},
        },
        "cloud": {
            "generator": {"class": "cloud.generators.floors:Markov"},
            "pool": 12,
            "history": 10,
            "seconds_per_request": 10.0,
        },
        "device": {
            "model": {"class": "device.models.sasrec:SASRec", "width": 8, "blocks": 1},
            "training": {"epochs": 1, "patience": 0},
            "history": 10,
            "fusion": {"alpha": 0.4},
            "items": "streamed",
            "cache_rows": 26,
            "tiers": [
                {"name": "new", "share": 0.6},
                {"name": "old", "share": 0.4, "link": "3g"},
            ],
        },
        "policies": [
            {"class": "device.policy:Consistency", "price": 0.5},
            {"class": "device.policy:Random", "price": 0.4},
        ],
        "network": {"link": "4g", "loss": 0.4},
    }
    return ExperimentConfig.model_validate(tables | changes)


def silent(line):
    pass


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(config(), tmp_path_factory.mktemp("parity"), silent)


def finished(root):
    """The one run folder under `root`, taken away so that the next run is the only one again."""
    (summary,) = root.glob("parity-*/summary.json")
    run = Run.open(summary.parent)
    assert len(run.steps) == 2 * DEVICES * 5
    digest = str(run.summary["decision_hash"])
    assert digest == decision_hash(run.steps, run.ledger)
    for path in summary.parent.iterdir():
        path.unlink()
    summary.parent.rmdir()
    return digest


def run_with(prepared, clients, shuffle=None):
    job = Job(prepared.config, prepared.root, clients, prepared=prepared)
    run_in_process(app_for(job), client_app.app, clients=clients, run_config={}, shuffle=shuffle)
    return finished(prepared.root)


@pytest.fixture(scope="module")
def expected(prepared):
    """The decisions of one client that hosts all devices."""
    return run_with(prepared, 1)


def clients_for(devices_per_client):
    return -(-DEVICES // devices_per_client)


def test_the_experiment_has_something_to_disagree_about(prepared, expected):
    """Both tiers, lost and late replies, and policies that neither always nor never ask."""
    run_in_process(
        app_for(Job(prepared.config, prepared.root, 1, prepared=prepared)), client_app.app, clients=1, run_config={}
    )
    (folder,) = (path.parent for path in prepared.root.glob("parity-*/summary.json"))
    run = Run.open(folder)
    assert 20 < (prepared.timeline.tier == 1).sum() < 50
    for _, steps in run.steps.groupby("policy", observed=True):
        assert 0.1 < steps["asked"].mean() < 0.9
        assert steps["pool_age"].nunique() >= 4
        asked = steps[steps["asked"]]
        assert asked["latency_s"].isna().any()
        assert asked["latency_s"].max() > 10
    assert not run.ledger["delivered"].all()
    assert finished(prepared.root) == expected


@pytest.mark.parametrize("devices_per_client", [1, 64])
def test_devices_per_client(prepared, expected, devices_per_client):
    assert run_with(prepared, clients_for(devices_per_client)) == expected


def test_more_clients_than_devices(prepared, expected):
    assert run_with(prepared, DEVICES + 3) == expected


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_in_which_clients_work_and_answer(prepared, expected, seed):
    assert run_with(prepared, 7, shuffle=seed) == expected


class Forgetful:
    """A grid whose clients lose what they have at hand between messages, as when every message goes elsewhere."""

    def __init__(self, grid):
        self.grid = grid

    def get_node_ids(self):
        return self.grid.get_node_ids()

    def send_and_receive(self, messages, *, timeout=None):
        client_app._at_hand.clear()
        read_handout.cache_clear()
        return self.grid.send_and_receive(messages, timeout=timeout)


def test_clients_that_remember_only_their_context(prepared, expected, monkeypatch):
    restored, real = [], Shard.restore

    def spy(self, body):
        restored.append(len(body))
        real(self, body)

    monkeypatch.setattr(Shard, "restore", spy)
    app = ServerApp()
    job = Job(prepared.config, prepared.root, 3, prepared=prepared)
    app.main()(lambda grid, context: serve(Forgetful(grid), job))
    run_in_process(app, client_app.app, clients=3, run_config={}, shuffle=5)
    assert len(restored) == 2 * 4 * 3  # policies, waves after the first, clients
    assert finished(prepared.root) == expected


def test_clients_that_find_an_older_wave_at_hand(prepared, expected, monkeypatch):
    """A process that took part in wave 1 only must not go on from there when wave 3 comes to it."""
    kept, real = {}, client_app.keep

    def keep(shard, order, context):
        real(shard, order, context)
        who = client_app.client(context)
        if int(order["wave"]) == 1:
            kept[who] = client_app._at_hand[who]
        client_app._at_hand[who] = kept[who]

    monkeypatch.setattr(client_app, "keep", keep)

    class Remote(Forgetful):
        def send_and_receive(self, messages, *, timeout=None):
            return self.grid.send_and_receive(messages, timeout=timeout)

    app = ServerApp()
    job = Job(prepared.config, prepared.root, 2, prepared=prepared)
    app.main()(lambda grid, context: serve(Remote(grid), job))
    run_in_process(app, client_app.app, clients=2, run_config={})
    assert finished(prepared.root) == expected


def test_snapshot_and_restore_of_every_shard_between_waves(prepared, expected):
    chosen = choose(prepared, silent)
    handout = read_handout(str(write_handout(prepared, chosen)))
    steps, books, parts = [], [], 4
    for policy in prepared.config.all_policies:
        gateway = Gateway(prepared.service, prepared.timeline.histories, Ledger())
        states: dict[int, bytes] = {}

        def exchange(number, delivery, policy=policy, states=states):
            for part in range(parts):
                shard = handout.shard(policy.label, part, parts)
                if number > 1:
                    shard.restore(states[part])
                yield shard.wave(number, part_of(delivery, *bounds(DEVICES, part, parts)))
                states[part] = shard.snapshot()

        first = gateway.install(prepared.model_bytes, prepared.timeline.at[:, 0])
        waves = list(replay(exchange, gateway, first, prepared.timeline.steps))
        steps.append(labelled(policy, together(waves)))
        books.append(labelled(policy, gateway.ledger.columns()))
    steps = together(steps)
    del steps["shown"]
    assert decision_hash(steps, together(books)) == expected


PROGRAM = """
import json, sys
from pathlib import Path
import torch
sys.path[:0] = json.loads(sys.argv[2])
torch.set_num_threads(1)
from test_partitions import config, run_with, prepare, silent
root = Path(sys.argv[1])
print(run_with(prepare(config(), root, silent), 7))
"""


def test_hash_seeds_of_python(prepared, expected, tmp_path):
    """Whole runs, training included, in fresh processes whose sets and dictionaries of strings are ordered otherwise."""
    here = Path(__file__).parent
    folders = json.dumps([str(here), str(here.parent), str(here.parent.parent)])
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(tmp_path / seed), folders],
            env=os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    assert [run.communicate(timeout=120)[0].strip() for run in runs] == [expected, expected]


def test_another_seed_decides_otherwise(expected, tmp_path):
    assert run_with(prepare(config(seed=12), tmp_path, silent), 1) != expected


def test_blocks_of_devices_cover_the_fleet_once():
    for parts in (1, 2, 7, 70, 73):
        blocks = [bounds(DEVICES, part, parts) for part in range(parts)]
        assert np.concatenate([np.arange(*block) for block in blocks]).tolist() == list(range(DEVICES))
