"""Views made of lists; a state is the row of a table that the newest history item names."""

from dataclasses import dataclass

import numpy as np

from device.policy import Experience, View
from device.seeds import draws


@dataclass(frozen=True)
class Fixed:
    """What the device would compute, given instead."""

    device_scores: np.ndarray
    best: np.ndarray
    table: np.ndarray

    def scores(self):
        return self.device_scores

    def own(self):
        return self.best

    def state(self, history, step):
        return self.table[history[:, -1]]


def view(candidates=((7, 8, 9),), *, cloud=None, scores=None, own=None, table=None, **columns):
    """One row per list of candidates; scores fall from left to right and columns are 0 where nothing is said."""
    items = np.array(candidates, np.int32)
    size, width = items.shape
    falling = np.tile(np.arange(width, 0, -1, dtype=np.float32), (size, 1))
    zeros = np.zeros(size, np.int64)
    given = {name: np.asarray(values) for name, values in columns.items()}
    parts = {name: zeros for name in ("pool_age", "since_request", "empty", "taken", "misses", "tier")}
    parts |= {name: np.zeros(size) for name in ("at", "hit_rate", "idle_s", "reply_age_s")}
    parts |= {"device": np.arange(size), "step": np.ones(size, np.int64), "age": np.zeros((size, width), np.int64)}
    parts |= {"history": np.ones((size, 1), np.int32), "asked_history": np.ones((size, 1), np.int32)}
    look = Fixed(
        falling if scores is None else np.array(scores, np.float32),
        np.zeros((size, 0), np.int32) if own is None else np.array(own, np.int32),
        np.zeros((2, 1), np.float32) if table is None else table,
    )
    clouds = falling if cloud is None else np.array(cloud, np.float32)
    return View(candidates=items, cloud_scores=clouds, look=look, **(parts | given))


def rows(seen, seed=3):
    """The draws that a fleet would hand over with this view."""
    return draws(seed, "policy", seen.device, seen.step)


def experience(states, steps, *, asked=None, kept=None, fresh=None, shown=None):
    """Wave t shows every device d in state states[t * D + d]; outcomes default to 0."""
    size = len(states) // steps
    both = np.concatenate([states, states if asked is None else asked]).astype(np.float32)
    number = np.arange(len(states)).reshape(steps, size, 1).astype(np.int32)
    views = [
        view(
            np.full((size, 2), 5),
            table=both,
            step=np.full(size, t + 1),
            history=number[t],
            asked_history=number[t] + len(states),
        )
        for t in range(steps)
    ]
    none = np.zeros((len(states), 1), np.float32)
    outcomes = [none if values is None else np.float32(values).reshape(-1, 1) for values in (kept, fresh, shown)]
    return Experience(views, *outcomes)


def cut(seen, part):
    """Some rows of a view of `experience`."""
    columns = ("device", "step", "history", "asked_history")
    return view(seen.candidates[part], table=seen.look.table, **{name: getattr(seen, name)[part] for name in columns})


def auc(values, positive):
    """Share of (positive, negative) pairs in the right order, ties half."""
    high, low = values[positive][:, None], values[~positive][None]
    return float((high > low).mean() + (high == low).mean() / 2)
