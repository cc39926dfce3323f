"""What doctor says of this installation and of broken ones."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from simulation.commands import doctor
from simulation.commands.doctor import NEEDED, examine, ours, package

OWN = ("device", "cloud", "simulation", "reports")


def test_everything_is_looked_at_once() -> None:
    whats = [finding["what"] for finding in examine()]
    assert len(set(whats)) == len(whats)
    assert {"Python", *NEEDED, *(f"package {name}" for name in OWN), "threads", "disk"} == set(whats)
    assert all(finding.keys() == {"what", "ok", "detail"} and finding["detail"] for finding in examine())


def test_a_sound_installation_has_no_findings() -> None:
    assert [finding for finding in examine() if not finding["ok"]] == []


def test_what_is_pinned_is_pinned_alike_in_the_project() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert doctor.PINNED
    for name, version in doctor.PINNED.items():
        assert f"=={version}" in next(line for line in project.splitlines() if line.strip().startswith(f'"{name}'))


def test_a_package_that_is_not_there() -> None:
    found = package("no-such-package-here")
    assert not found["ok"]
    assert "no-such-package-here" in found["detail"]
    assert "install the project again" in found["detail"]


def test_a_package_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.PINNED, "scipy", "0.1.0")
    found = package("scipy")
    assert not found["ok"]
    assert found["detail"].endswith("; needs 0.1.0")


def test_a_package_that_breaks_when_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cracked.py").write_text("raise OSError('libcracked.so: cannot open')\n", encoding="utf-8")
    about = tmp_path / "cracked-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: cracked\nVersion: 1.0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    found = package("cracked")
    assert not found["ok"]
    assert "OSError: libcracked.so: cannot open; install" in found["detail"]


def test_a_folder_that_hides_one_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's `reports` before ours on the path, as happens in a folder that has one."""
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "__init__.py").write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "reports"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    found = ours("reports")
    sys.modules.pop("reports")
    assert not found["ok"]
    assert found["detail"] == f"{tmp_path / 'reports'} hides ours"


def test_a_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**28))
    (found,) = [finding for finding in examine() if not finding["ok"]]
    assert found["what"] == "disk"
    assert found["detail"].startswith("0.2 GiB free")
