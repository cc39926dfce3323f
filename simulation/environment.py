"""What a result was made on: versions, machine, source."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any


def environment(seconds: float) -> dict[str, Any]:
    """What the run ran on."""
    import torch

    packages = ("torch", "flwr", "numpy", "pandas", "pyarrow", "onnx", "onnxruntime", "scipy")
    return {
        "tandemrec": own_version(),
        "python": sys.version.split()[0],
        "packages": {name: metadata.version(name) for name in packages},
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "commit": commit(),
        "seconds": round(seconds, 1),
    }


def own_version() -> str | None:
    """The installed version; None where the source runs without being installed, as inside `flwr run`."""
    try:
        return metadata.version("tandemrec")
    except metadata.PackageNotFoundError:
        return None


@cache
def commit() -> str | None:
    """The git commit of the source, "-dirty" where it was changed; None outside a checkout."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
