"""One row per transfer: who paid how many bytes, when, in which direction, for what, and whether they arrived."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Ledger:
    """Append-only columns; only the gateway writes it."""

    def __init__(self) -> None:
        self._parts: list[dict[str, NDArray[Any]]] = []

    def write(
        self,
        direction: str,
        kind: str,
        *,
        device: NDArray[np.int64],
        at: NDArray[np.float64],
        nbytes: NDArray[np.int64],
        delivered: ArrayLike = True,
        attempt: ArrayLike = 1,
        cloud_s: ArrayLike = 0.0,
    ) -> None:
        """B rows; device, at and nbytes are [B], the others broadcast; `cloud_s` is how long the cloud worked on it."""
        size = len(device)
        self._parts.append(
            {
                "at": at.astype(np.float64),
                "device": device.astype(np.int64),
                "direction": np.full(size, direction, object),
                "kind": np.full(size, kind, object),
                "nbytes": nbytes.astype(np.int64),
                "delivered": np.broadcast_to(np.asarray(delivered, np.bool_), size).copy(),
                "attempt": np.broadcast_to(np.asarray(attempt, np.int8), size).copy(),
                "cloud_s": np.broadcast_to(np.asarray(cloud_s, np.float64), size).copy(),
            }
        )

    def columns(self) -> dict[str, NDArray[Any]]:
        """All rows written so far, as columns."""
        names = ("at", "device", "direction", "kind", "nbytes", "delivered", "attempt", "cloud_s")
        return {n: np.concatenate([p[n] for p in self._parts] or [np.zeros(0)]) for n in names}
