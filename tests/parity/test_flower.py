"""The same decisions under Flower's own simulation engine, on Ray, without a word to the network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TOML, changed, tandemrec, written

from simulation.flower.environment import stay_local

pytestmark = pytest.mark.flower
ROOT = Path(__file__).parents[2]
SWITCHES = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
SCRIPT = """
import atexit, json, os, sys
atexit.register(lambda: open("environment.json", "w").write(json.dumps(dict(os.environ))))
from simulation.commands.cli import main
sys.argv[0] = "tandemrec"
main()
"""
NAN = """
import numpy as np

class Poisoned:
    def init(self, rng):
        return {"w": np.ones(1, np.float32)}

    def score(self, params, history, candidates):
        return np.full(candidates.shape, np.nan, np.float32)
"""


def on_ray(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`tandemrec run tiny.toml --runner flower` in a process of its own, whose environment says nothing of Flower."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FLWR_", "RAY_", "XDG_"))}
    home = folder / "home"
    home.mkdir()
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, "run", "tiny.toml", "--runner", "flower", "--runs", "runs", *words],
        cwd=folder,
        env=clean | {"PYTHONPATH": str(ROOT), "HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_two_clients_on_ray_decide_as_one_in_this_process(tmp_path: Path) -> None:
    text = TOML + '[network]\nlink = "3g"\nloss = 0.2\n'  # late and lost replies
    here = tandemrec("run", written(tmp_path, text), "--set", "simulation.devices_per_client=40", "--json")
    assert "40 devices on 1 client (in-process)" in here.err
    done = on_ray(tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    assert "40 devices on 2 clients (flower)" in done.stderr
    told = json.loads(done.stdout)  # nothing else is on stdout, whatever Flower and Ray have to say
    assert told["decision_hash"] == json.loads(here.out)["decision_hash"]
    assert sum(told["policies"]["every steps=2"]["lost_messages"].values()) > 0
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert {name: environment.get(name) for name in SWITCHES} == SWITCHES
    assert environment["FLWR_HOME"] == str(tmp_path / "home" / ".cache" / "tandemrec" / "flwr")
    assert not (tmp_path / "home" / ".flwr").exists()


def test_what_fails_on_a_worker_is_told(tmp_path: Path) -> None:
    """The plug-in lies in the current folder, which Ray's workers must find too."""
    written(tmp_path, NAN, "poisoned_model.py")
    written(tmp_path, changed('"device.models.sasrec:SASRec"\nwidth = 8\nblocks = 1', '"poisoned_model:Poisoned"'))
    done = on_ray(tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Poisoned.score returned NaN or infinity; run `tandemrec check device-model` on it" in done.stderr
    assert not list((tmp_path / "runs").glob("tiny-*"))


def test_what_the_caller_says_of_flower_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SWITCHES, "FLWR_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", "1")
    stay_local(tmp_path)
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "1"
    assert os.environ["FLWR_HOME"] == str(tmp_path)
    assert {name: os.environ[name] for name in SWITCHES} == SWITCHES | {"FLWR_TELEMETRY_ENABLED": "1"}
