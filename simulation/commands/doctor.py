"""What `tandemrec doctor` looks at: versions, packages shadowed by others, threads, disk."""

import importlib
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PINNED = {"flwr": "1.41.0"}
NEEDED = ("torch", "flwr", "numpy", "pandas", "pyarrow", "onnx", "onnxscript", "onnxruntime", "matplotlib", "scipy")


def examine() -> list[dict[str, Any]]:
    """Findings: what, ok, detail."""
    found = [finding("Python", sys.version_info >= (3, 11), f"{sys.version.split()[0]}; needs 3.11 or newer")]
    found += [package(name) for name in NEEDED]
    found += [ours(name) for name in ("device", "cloud", "simulation", "reports")]
    found.append(
        finding("threads", True, f"{os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}")
    )
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    found.append(finding("disk", free > 1, f"{free:.1f} GiB free here; runs and models need about 1"))
    return found


def package(name: str) -> dict[str, Any]:
    """Is a dependency there, importable and of the right version?"""
    try:
        version = metadata.version(name)
        importlib.import_module(name)
    except Exception as error:
        return finding(name, False, f"{type(error).__name__}: {error}; install the project again")
    wanted = PINNED.get(name)
    return finding(
        name, wanted in (None, version), version if wanted in (None, version) else f"{version}; needs {wanted}"
    )


def ours(name: str) -> dict[str, Any]:
    """The folder names are common words: is it really our package that is imported?"""
    where = Path(importlib.import_module(name).__file__ or "").parent
    here = Path(__file__).parent.parent.parent
    return finding(
        f"package {name}", where.parent == here, f"{where}" + ("" if where.parent == here else " hides ours")
    )


def finding(what: str, ok: bool, detail: str) -> dict[str, Any]:
    """One line."""
    return {"what": what, "ok": ok, "detail": detail}
