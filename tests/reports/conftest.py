import pytest
from fake_run import write_fake

from simulation.runs import Run


@pytest.fixture(scope="session")
def fake_run(tmp_path_factory) -> Run:
    return write_fake(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def make_run():
    return write_fake
