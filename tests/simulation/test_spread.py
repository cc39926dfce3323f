import os
import signal
from functools import partial
from pathlib import Path

import pytest

from device.errors import ConfigError, RunError
from simulation.sweep.spread import spread


def note(path: Path) -> None:
    path.write_text(str(os.getpid()))


def refuse() -> None:
    raise ConfigError("place: value; remedy")


@pytest.mark.parametrize("processes", [1, 3])
def test_work_is_done_once_each(tmp_path: Path, processes: int) -> None:
    done: list[int] = []
    spread([partial(note, tmp_path / str(i)) for i in range(7)], processes, lambda: done.append(1))
    assert len(done) == 7
    workers = {int((tmp_path / str(i)).read_text()) for i in range(7)}
    assert (os.getpid() in workers) == (processes == 1)
    assert len(workers) <= processes


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_comes_out_as_it_was(tmp_path: Path, processes: int) -> None:
    with pytest.raises(ConfigError, match="place: value; remedy"):
        spread([refuse, partial(note, tmp_path / "a")], processes, lambda: None)


def test_other_errors_and_killed_processes_are_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="ZeroDivisionError"):
        spread([lambda: print(1 // 0), partial(note, tmp_path / "a")], 2, lambda: None)
    with pytest.raises(RunError, match="was killed"):
        spread([lambda: os.kill(os.getpid(), signal.SIGKILL)] * 2, 2, lambda: None)
