"""Servers, denials and prices decide the same for any number of clients, order of arrival and place of the work."""

import numpy as np
import pytest
from forgetful import restored, serving
from parity_parts import config, silent

from simulation.experiment import Job
from simulation.flower import client_app
from simulation.flower.in_process_grid import run_in_process
from simulation.flower.server_app import app_for
from simulation.prepare import prepare
from simulation.runs import Run

# After the line that sets Flower's environment.

DEVICES, STEPS = 24, 5


def coordinated():
    """Two tiers with a budget each, a server that is overloaded, streamed rows, lost messages; exact order."""
    cloud = {
        "generator": {"class": "cloud.generators.floors:Markov"},
        "pool": 12,
        "history": 10,
        "seconds_per_request": 8.0,
        "servers": {"count": 1, "max_wait_s": 3.0},
        "budget": {"bytes_per_hour": {"new": 25_000.0, "old": 10_000.0}, "horizon": 0.05},
    }
    data = {
        "synthetic": {"users": DEVICES, "items": 80, "topics": 5, "length": 16},
        "split": {"leave_last": STEPS, "validation": 2},
        "clock": {"median_s": 20.0},
    }
    policies = [{"class": "device.policy:Consistency"}, {"class": "device.policy:Always"}]
    return config(cloud=cloud, data=data, policies=policies)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(coordinated(), tmp_path_factory.mktemp("coordinated"), silent)


def run_with(prepared, clients, *, shuffle=None, app=None):
    """The run through Flower's apps, taken away afterwards."""
    app = app or app_for(Job(prepared.config, prepared.root, clients, prepared=prepared))
    run_in_process(app, client_app.app, clients=clients, run_config={}, shuffle=shuffle)
    (summary,) = prepared.root.glob("parity-*/summary.json")
    run = Run.open(summary.parent)
    assert len(run.steps) == 2 * DEVICES * STEPS
    assert run.ledger is not None
    assert run.summary["decision_hash"]
    for path in summary.parent.iterdir():
        path.unlink()
    summary.parent.rmdir()
    return run


@pytest.fixture(scope="module")
def reference(prepared):
    return run_with(prepared, 1)


def test_the_experiment_has_something_to_disagree_about(reference):
    summary = reference.summary["policies"]
    for name in ("consistency", "always"):
        assert summary[name]["denied_requests"] > 5
        assert 0.05 < summary[name]["request_ratio"] < 0.95
        assert summary[name]["waiting_share"] > 0.05
        assert summary[name]["budget"].keys() == {"new", "old"}
        assert summary[name]["groups"]["tier"].keys() == {"new", "old"}
        assert summary[name]["groups"]["activity"].keys() <= {"low", "middle", "high"}
    for _, steps in reference.steps.groupby("policy", observed=True):
        assert steps["latency_s"].dropna().nunique() > 5
    assert not reference.ledger["delivered"].all()


@pytest.mark.parametrize(("clients", "shuffle"), [(3, None), (7, 2), (DEVICES, 1)])
def test_clients_and_the_order_of_their_answers(prepared, reference, clients, shuffle):
    run = run_with(prepared, clients, shuffle=shuffle)
    assert run.summary["decision_hash"] == reference.summary["decision_hash"]
    np.testing.assert_array_equal(run.ledger["cloud_s"], reference.ledger["cloud_s"])


def test_clients_that_remember_only_their_context(prepared, reference, monkeypatch):
    sizes = restored(monkeypatch)
    job = Job(prepared.config, prepared.root, 2, prepared=prepared)
    assert run_with(prepared, 2, app=serving(job)).summary["decision_hash"] == reference.summary["decision_hash"]
    assert len(sizes) > 2 * 2 * STEPS  # prices, inboxes and times to wait travel with the rest of the state
