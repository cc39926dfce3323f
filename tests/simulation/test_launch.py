"""Starting an experiment from the outside, and exporting what it trained."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import POLICIES, TOML, changed, written

from device.errors import ConfigError, RunError
from simulation.config.read import load_config
from simulation.config.tables import ExperimentConfig
from simulation.flower import client_app, server_app
from simulation.flower.in_process_grid import run_in_process
from simulation.launch import export_tier, launch
from simulation.runs import FILES, Run


def config(folder: Path, overrides: list[str] | None = None, text: str = TOML) -> ExperimentConfig:
    return load_config(written(folder, text), overrides or [])


def nothing(*_: Any) -> None:
    pass


def test_launch_returns_the_complete_folder(tmp_path: Path, tiny_run: Path) -> None:
    told: list[str] = []
    moved: list[tuple[str, int, int]] = []
    folder = launch(
        config(tmp_path),
        tmp_path / "runs",
        say=told.append,
        progress=lambda *at: moved.append(at),
        command="tandemrec run tiny.toml",
    )
    assert folder.parent == tmp_path / "runs"
    assert {path.name for path in folder.iterdir()} == set(FILES)
    run = Run.open(folder)
    assert run.summary["command"] == "tandemrec run tiny.toml"
    assert run.summary["decision_hash"] == Run.open(tiny_run).summary["decision_hash"]
    assert moved == [(policy, wave, 3) for policy in POLICIES for wave in (1, 2, 3)]
    assert "40 devices on 2 clients (in-process)" in told  # 25 devices per client


@pytest.mark.parametrize(("per_client", "clients"), [(1, "40 clients"), (39, "2 clients"), (40, "1 client")])
def test_the_fleet_is_cut_into_clients_and_decides_the_same(
    tmp_path: Path, tiny_run: Path, workshop: Path, per_client: int, clients: str
) -> None:
    told: list[str] = []
    made = config(tmp_path, [f"simulation.devices_per_client={per_client}", f'name="cut-{per_client}"'])
    folder = launch(made, workshop / "runs", say=told.append, progress=nothing)
    assert f"40 devices on {clients} (in-process)" in told
    assert not any("epoch" in line for line in told)  # the models are those of the first run
    assert Run.open(folder).summary["decision_hash"] == Run.open(tiny_run).summary["decision_hash"]


def test_a_relative_folder_is_that_of_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = launch(config(tmp_path), Path("mine"), say=nothing, progress=nothing)
    assert folder.is_absolute()
    assert folder.parent == tmp_path / "mine"


def test_a_server_that_writes_nothing_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulation.flower.in_process_grid.run_in_process", lambda *_, **__: None)
    with pytest.raises(RunError, match="ended without writing a run"):
        launch(config(tmp_path), tmp_path / "runs", say=nothing, progress=nothing)


# What `flwr run .` starts


def flwr_run(root: Path, experiment: str, overrides: str = "") -> None:
    """The app of pyproject.toml with its run configuration, over a grid in this process."""
    given: dict[str, str | int] = {"experiment": experiment, "overrides": overrides, "runs": str(root), "clients": 2}
    run_in_process(server_app.app, client_app.app, clients=2, run_config={**given})


def test_the_app_takes_its_run_configuration(workshop: Path, tiny_run: Path, tmp_path: Path) -> None:
    flwr_run(tmp_path / "runs", str(workshop / "tiny.toml"), 'metrics=["mrr"]; network.link=wifi')
    (folder,) = (tmp_path / "runs").glob("tiny-*")
    run = Run.open(folder)
    assert run.config["metrics"] == ["mrr"]
    assert run.config["network"]["link"] == "wifi"
    flwr_run(tmp_path / "plain", str(workshop / "tiny.toml"))
    (plain,) = (tmp_path / "plain").glob("tiny-*")
    assert Run.open(plain).summary["decision_hash"] == Run.open(tiny_run).summary["decision_hash"]


def test_the_configuration_of_the_app_names_what_is_there() -> None:
    root = Path(__file__).parents[2]
    given = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    assert given.keys() == {"experiment", "overrides", "runs", "clients"}
    assert load_config(root / given["experiment"]).name == "quickstart"


def test_the_experiment_is_found_beside_the_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower unpacks the app, configurations included, and runs it in another folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        flwr_run(tmp_path, "configs/quickstart.toml", "sede=1")
    assert "unknown key 'sede'" in str(caught.value)


def test_an_override_without_a_value_is_told(workshop: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="write key=value"):
        flwr_run(tmp_path, str(workshop / "tiny.toml"), "seed=1; metrics")


# Export

TIERS = """
[[device.tiers]]
name = "watch"
share = 0.5
model = { class = "device.models.gru4rec:GRU4Rec", width = 4 }
[[device.tiers]]
name = "phone"
share = 0.5
"""


@pytest.fixture(scope="module")
def two_tiers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with two rerankers."""
    root = tmp_path_factory.mktemp("tiers")
    return launch(config(root, text=TOML + TIERS), root / "runs", say=nothing, progress=nothing)


def test_every_tier_exports_its_own_reranker(two_tiers: Path, tmp_path: Path) -> None:
    sizes = {}
    for tier in ("watch", "phone"):
        exported = export_tier(two_tiers, tier, tmp_path / tier, two_tiers.parent)
        assert (exported.length, exported.candidates) == (10, 20)  # the run's history and pool
        assert [file.precision for file in exported.files] == ["fp32", "int8"]
        assert exported.files[0].max_difference < 1e-5
        sizes[tier] = (tmp_path / tier / "fp32.onnx").stat().st_size
    # 81 rows of 4 and of 8 float32 are the larger part of the weights
    assert sizes["watch"] < sizes["phone"]


def test_what_is_exported_is_what_was_trained(two_tiers: Path, tmp_path: Path) -> None:
    import numpy as np
    import onnx
    from onnx import numpy_helper
    from safetensors.numpy import load_file

    export_tier(two_tiers, "watch", tmp_path, two_tiers.parent)
    (trained,) = two_tiers.parent.glob("models/gru4rec-*/best.safetensors")
    graph = onnx.load(tmp_path / "fp32.onnx").graph
    inside = [numpy_helper.to_array(tensor) for tensor in graph.initializer]
    table = load_file(trained)["item.weight"]
    assert any(array.shape == table.shape and np.array_equal(array, table) for array in inside)


@pytest.mark.parametrize(
    ("case", "error", "words"),
    [
        ("tier", ConfigError, "--tier laptop: this run has the tiers watch, phone"),
        ("run", RunError, "no such run folder"),
    ],
)
def test_what_cannot_be_exported(
    two_tiers: Path, tmp_path: Path, case: str, error: type[Exception], words: str
) -> None:
    start: dict[str, Callable[[], object]] = {
        "tier": lambda: export_tier(two_tiers, "laptop", tmp_path / "out", two_tiers.parent),
        "run": lambda: export_tier(tmp_path / "absent", "phone", tmp_path / "out", two_tiers.parent),
    }
    with pytest.raises(error, match=words):
        start[case]()
    assert not (tmp_path / "out").exists()


def test_a_reranker_in_numpy_has_nothing_to_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(
        tmp_path,
        "import numpy as np\n"
        "class Newest:\n"
        "    def init(self, rng):\n"
        "        return {'w': np.ones(1, np.float32)}\n"
        "    def score(self, params, history, candidates):\n"
        "        return -np.abs(candidates - history[:, -1:]).astype(np.float32)\n",
        "newest_model.py",
    )
    monkeypatch.syspath_prepend(tmp_path)
    text = changed('class = "device.models.sasrec:SASRec"\nwidth = 8\nblocks = 1', 'class = "newest_model:Newest"')
    folder = launch(config(tmp_path, text=text), tmp_path / "runs", say=nothing, progress=nothing)
    with pytest.raises(ConfigError, match="newest_model:Newest is no torch module, so there is nothing to export"):
        export_tier(folder, "phone", tmp_path / "out", tmp_path / "runs")


def test_a_training_that_is_gone_is_said(two_tiers: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="models"):
        export_tier(two_tiers, "watch", tmp_path / "out", tmp_path / "another folder of runs")
