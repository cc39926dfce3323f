"""What tests of trainings share: a small catalogue with its generator, lists to learn from, an interruption."""

from collections.abc import Callable
from typing import Any

import numpy as np

from cloud.generator import TopK
from cloud.generators.floors import Markov
from cloud.lessons import FromLists, Lists, Made, Recent
from cloud.options import Training
from cloud.sequences import Sequences
from device.seeds import rng

N_ITEMS, LENGTH, USERS, EACH = 2_000, 6, 25, 9
ITEMS = rng(0, "cooperative test").integers(1, N_ITEMS + 1, USERS * EACH).astype(np.int32)
STARTS = np.arange(USERS) * EACH
DATA = Sequences(ITEMS, STARTS, STARTS + EACH)
OPTIONS = Training(epochs=4, patience=0, batch=7, negatives=4, learning_rate=0.01)


class Stopped(Exception):
    """What interrupts a training here."""


def stop_after(epoch: int) -> Callable[[str], None]:
    """A progress that interrupts once this epoch is told."""

    def progress(line: str) -> None:
        if line.startswith(f"epoch {epoch}/"):
            raise Stopped

    return progress


def markov() -> TopK:
    """A generator fitted on DATA."""
    made = Markov(N_ITEMS)
    made.fit(DATA)
    return TopK(made)


def lists(**options: Any) -> FromLists:
    """Lessons from its lists."""
    told = Lists(**options)
    return FromLists(Made(Recent(DATA), markov(), LENGTH, told.asked), N_ITEMS, told)
