"""A whole experiment of a second or two, and the command line called in this process."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulation.commands.cli import main

TOML = """
name = "tiny"
seed = 5
metrics = ["hr@10", "ndcg@10"]

[data]
split = { leave_last = 3, validation = 2 }
synthetic = { users = 40, items = 80, topics = 5, length = 16 }

[cloud]
pool = 20
history = 10

[cloud.generator]
class = "cloud.generators.floors:Markov"

[device]
history = 10
fusion = { alpha = 0.5 }

[device.model]
class = "device.models.sasrec:SASRec"
width = 8
blocks = 1

[device.training]
epochs = 1
patience = 0

[[policies]]
class = "device.policy:Never"
[[policies]]
class = "device.policy:Every"
steps = 2

[simulation]
threads = 1
devices_per_client = 25
"""
POLICIES = ["never", "every steps=2"]


@dataclass(frozen=True)
class Said:
    """What a command left behind."""

    code: int
    out: str
    err: str


def tandemrec(*words: object) -> Said:
    """`tandemrec WORDS` through the entry point that the installed script calls."""
    out, err = io.StringIO(), io.StringIO()
    argv, path = sys.argv, list(sys.path)
    sys.argv = ["tandemrec", *map(str, words)]
    code: object = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.argv, sys.path[:] = argv, path
    assert isinstance(code, int)
    return Said(code, out.getvalue(), err.getvalue())


def written(folder: Path, text: str = TOML, name: str = "tiny.toml") -> Path:
    """A configuration file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def changed(old: str, new: str) -> str:
    """The tiny experiment with one piece replaced."""
    assert TOML.count(old) == 1, f"{old!r} is not in the tiny experiment once"
    return TOML.replace(old, new)


def only_object(text: str) -> dict[str, Any]:
    """The one JSON object that a text is, and nothing else."""
    content = json.loads(text)
    assert isinstance(content, dict)
    return content


def refused(said: Said) -> str:
    """The one message of a wrong configuration."""
    assert said.code == 2, said.err
    assert said.out == ""
    assert said.err.count("error:") == 1
    assert "Traceback" not in said.err
    return said.err
