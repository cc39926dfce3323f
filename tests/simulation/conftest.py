"""The tiny experiment, run once through the command line for all tests of this folder."""

from pathlib import Path

import pytest
from tiny import Said, tandemrec, written


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.toml; runs go to its folder `runs`."""
    folder = tmp_path_factory.mktemp("workshop")
    written(folder)
    return folder


@pytest.fixture(scope="session")
def first(workshop: Path) -> Said:
    """What `tandemrec run tiny.toml` said."""
    return tandemrec("run", workshop / "tiny.toml", "--runs", workshop / "runs")


@pytest.fixture(scope="session")
def tiny_run(workshop: Path, first: Said) -> Path:
    """Its run folder; tests may not change it."""
    assert first.code == 0, first.err
    (folder,) = (workshop / "runs").glob("tiny-*-5")
    return folder
