"""A fleet on onnxruntime shows the slates of a fleet on torch; one on int8 files does not depend on how it is cut."""

import numpy as np
import pytest
from parity_parts import config, replayed, silent

from device.models.onnx_file import CONTENT, OnnxFile
from simulation.experiment import Job
from simulation.flower import client_app
from simulation.flower.in_process_grid import run_in_process
from simulation.flower.server_app import app_for
from simulation.prepare import prepare
from simulation.runs import Run


def running(runtime):
    """Two tiers, one with a subnet of the other's model, whose candidates of their own are scored too."""
    device = config().device.model_dump(by_alias=True, exclude={"policy", "energy", "cache_rows"}, exclude_none=True)
    device |= {"items": "resident", "runtime": runtime, "slate": 12}
    device["model"] = {"class": "device.models.elastic_gru:ElasticGRU4Rec", "width": 16, "blocks": 1, "items": 16}
    device["tiers"][1]["subnet"] = "w8-b1-e8"
    policies = [
        {"class": "device.policy:Consistency", "price": 0.5},
        {"class": "device.policy:Every", "steps": 2, "update": "merge", "own": 3},
    ]
    return config(device=device, policies=policies)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runtimes")


def slates(prepared):
    """The run's steps and what it showed."""
    run_in_process(
        app_for(Job(prepared.config, prepared.root, 2, prepared=prepared)), client_app.app, clients=2, run_config={}
    )
    (summary,) = prepared.root.glob("parity-*/summary.json")
    run = Run.open(summary.parent)
    found = run.steps.copy(), np.stack(run.recommendations["items"].to_list())
    for path in summary.parent.iterdir():
        path.unlink()
    summary.parent.rmdir()
    return found


def test_the_slates_are_those_of_torch(root):
    seen = {}
    for runtime in ("torch", "onnxruntime"):
        prepared = prepare(running(runtime), root, silent)
        assert all(isinstance(tier.model, OnnxFile) == (runtime != "torch") for tier in prepared.installed)
        seen[runtime] = slates(prepared)
    steps, shown = seen["torch"]
    assert 0.1 < steps["asked"].mean() < 0.9
    np.testing.assert_array_equal(seen["onnxruntime"][1], shown)
    for name in ("rank", "asked", "pool_age"):
        np.testing.assert_array_equal(seen["onnxruntime"][0][name], steps[name])
    new, old = prepared.installed  # each tier installs its own file
    assert old.params[CONTENT].nbytes < new.params[CONTENT].nbytes
    assert new.nbytes == new.params[CONTENT].nbytes + 2 + 1 + (1 + 4 + 1 + 1 + 3) + 4  # frame, count, head, checksum


def test_int8_files_in_any_number_of_clients(root):
    prepared = prepare(running("onnxruntime-int8"), root, silent)
    assert replayed(prepared, 1) == replayed(prepared, 7)
