"""What tests of several folders share: the data folder, one whole experiment in this process, the golden option."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported anywhere: models of a few hundred weights run many times slower on several threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/*.json anew instead of comparing")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real interactions, for tests marked `data`."""
    given = os.environ.get("TANDEMREC_DATA")
    if not given:
        pytest.skip("TANDEMREC_DATA is not set: it names the folder of real interactions")
    folder = Path(given)
    if not folder.is_dir():
        pytest.skip(f"TANDEMREC_DATA = {given}: no such folder")
    return folder


@pytest.fixture(scope="session")
def run_experiment() -> Callable[..., Path]:
    """Runs a TOML file through the real ServerApp and ClientApp and returns the run folder; `job` goes to Job."""
    from simulation.config.read import load_config
    from simulation.experiment import Job
    from simulation.flower.client_app import app
    from simulation.flower.in_process_grid import run_in_process
    from simulation.flower.server_app import app_for

    def run(path: Path, root: Path, overrides: Sequence[str] = (), *, clients: int = 2, **job: Any) -> Path:
        config = load_config(path, overrides)
        written: list[Path] = []
        made = Job(config, root, clients, written=written.append, **job)
        run_in_process(app_for(made), app, clients=clients, run_config={})
        (folder,) = written
        return folder

    return run
