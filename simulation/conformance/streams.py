"""What the conformance kit asks of a generator that learns from what happens: that it does not hear the future."""

from collections.abc import Callable
from typing import Any

import numpy as np

from cloud.generator import Generated
from cloud.stream import Listens, Stream
from device.check import Finding
from device.seeds import rng
from simulation.conformance.made_up import N_ITEMS
from simulation.conformance.policies import finding

ASKED_AT = 3600.0


def clicks(until: float = 2 * ASKED_AT) -> Stream:
    """What twenty users of twelve clicks each did before `until`; the same at every call.

    Ten are of any time, two follow ASKED_AT within half a minute: who looks a little ahead hears them.
    """
    numbers = rng(0, "conformance", "stream")
    ahead = ASKED_AT + numbers.uniform(0, 30, (20, 2))
    at = np.sort(np.concatenate([numbers.uniform(0, 2 * ASKED_AT, (20, 10)), ahead], axis=1))
    item = numbers.integers(1, N_ITEMS + 1, at.size).astype(np.int32)
    whole = Stream.of(np.repeat(np.arange(len(at)), at.shape[1]), item, at.ravel())
    heard = whole.at < until
    return Stream(whole.at[heard], whole.item[heard], whole.before[heard])


def hearing(made: Any, first: Generated, ask: Callable[[], Generated]) -> list[Finding]:
    """Whether the lists `first`, asked for at ASKED_AT, are the same where the stream ends there; [] for the deaf."""
    if not isinstance(made, Listens):
        return []
    made.listen(clicks(until=ASKED_AT))
    again = ask()
    same = np.array_equal(first.items, again.items) and np.array_equal(first.scores, again.scores)
    wrong = "clicks at or after the time of a request change its list; use what was clicked before `at` only"
    return [finding("time", same, "no later click counts", wrong)]
