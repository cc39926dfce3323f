"""Environment variables that keep Flower and Ray from calling out; they count only before flwr is imported."""

import os
from pathlib import Path


def stay_local(home: Path | None = None) -> None:
    """Set the five variables where the caller's environment does not already say otherwise.

    `home` is where Flower keeps its configuration and its local SuperLink's files; without it a folder of ours under
    the user's cache folder, so that the user's own Flower configuration is neither read nor changed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("FLWR_HOME", str(home or cache / "tandemrec" / "flwr"))
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    # Otherwise every local `flwr run` installs the app's dependencies again from the network (exit code 608 offline).
    os.environ.setdefault("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
