"""What the conformance kit asks of a device model that goes on from a state."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from device.check_scores import Failed, Finding, attempt, check_scores, close, different
from device.incremental import Incremental, OnDemand, State, state_bytes
from device.model import Items, Parameters, Scores
from device.seeds import rng

CONTRACT = "a history of any length, also 0, and a state given as a Mapping that is read name by name"


@dataclass(frozen=True, slots=True)
class Going:
    """An incremental model, its parameters, and devices whose histories [B, L] leave room for `items` [B, L / 2]."""

    model: Incremental
    params: Parameters
    known: Items
    items: Items
    candidates: Items

    @classmethod
    def of(cls, model: Any, sizes: tuple[int, int, int], params: Parameters | None = None) -> "Going":
        """Histories of half the length, of one item and of none; `params` None = those of `init`."""
        n_items, length, candidates = sizes
        draw, half = rng(0, "check", "steps"), length // 2
        known = draw.integers(1, n_items + 1, (5, length), dtype=np.int32)
        for row, count in enumerate((half, half, 1, 0, half)):
            known[row, : length - count] = 0
        items = draw.integers(1, n_items + 1, (5, half), dtype=np.int32)
        pool = np.stack([draw.permutation(n_items)[:candidates] + 1 for _ in known]).astype(np.int32)
        return cls(model, model.init(rng(0, "init")) if params is None else params, known, items, pool)

    def after(self, steps: int, rows: slice = slice(None), padding: int = 0) -> State:
        """States of some rows that went on for some steps; `padding` first columns of the histories are cut off."""
        state = self.model.start(self.params, np.ascontiguousarray(self.known[rows, padding:]))
        for step in range(steps):
            state = self.model.advance(self.params, lazily(state), np.ascontiguousarray(self.items[rows, step]))
        return state

    def whole(self, steps: int) -> Items:
        """Histories [B, L] of all rows after some steps."""
        return np.concatenate([self.known[:, steps:], self.items[:, :steps]], axis=1)

    def score(self, state: State, rows: slice = slice(None)) -> Scores:
        """Of the candidates."""
        return self.model.score_state(self.params, lazily(state), self.candidates[rows])


def findings(model: Any, sizes: tuple[int, int, int], params: Parameters | None = None) -> list[Finding]:
    """Its states first; what follows is left out where there are none."""
    going = Going.of(model, sizes, params)
    found = [attempt("states", lambda: states(going), CONTRACT)]
    if found[0].ok:
        asked = {"steps": steps, "state rows": rows, "state padding": padding, "state arguments": arguments}
        found += [attempt(name, lambda ask=ask: ask(going), CONTRACT) for name, ask in asked.items()]  # type: ignore[misc]
    return found


def lazily(state: State) -> State:
    """The same arrays as a fleet hands them over: made when they are asked for."""
    return OnDemand(state, lambda name: state[name])


def states(going: Going) -> str:
    """Arrays with the batch first, of one shape whatever the history, and the same again."""
    first = going.after(0)
    if not isinstance(first, Mapping) or not all(isinstance(array, np.ndarray) for array in first.values()):
        raise Failed(f"start returned {type(first).__name__}; return a mapping from names to numpy arrays [B, ...]")
    nothing = going.model.start(going.params, np.zeros((5, 0), np.int32))
    for when, state, size in (
        ("start", first, 5),
        ("start with L = 0", nothing, 5),
        ("start with B = 1", going.after(0, slice(0, 1)), 1),
        ("advance", going.after(1), 5),
    ):
        if state.keys() != first.keys():
            raise Failed(f"{when} gave {sorted(state)}, start {sorted(first)}; a state always has the same names")
        for name, array in state.items():
            if array.ndim < 1 or len(array) != size:
                raise Failed(f"{when}: {name} is {array.shape} for {size} devices; return [B, ...], one row per device")
            if array.shape[1:] != first[name].shape[1:] or array.dtype != first[name].dtype:
                raise Failed(
                    f"{when}: {name} is {array.dtype} {array.shape}, {first[name].dtype} {first[name].shape} before; "
                    "a fleet keeps states in arrays of one shape, whatever the history: make room for the longest"
                )
    if wrong := different(going.after(1), going.after(1)):
        raise Failed(f"the same history gave two different {wrong}; take out dropout and unseeded randomness")
    check_scores(going.score(first), going.candidates)
    return f"{len(first)} arrays, {state_bytes(first):,} bytes per device"


def steps(going: Going) -> str:
    """Going on gives the scores of the whole history, as long as nothing has left the window."""
    model: Any = going.model
    for step in range(going.items.shape[1] + 1):
        cure = "start must read histories as score does" if not step else "advance must do what one more item does"
        close(
            going.score(going.after(step)),
            model.score(going.params, going.whole(step), going.candidates),
            f"after start and {step} steps, though no item has left the window, score_state does not say what score "
            f"says of the whole history; {cure}, the newest item last",
        )
    return f"{going.items.shape[1]} steps give the scores of the whole history"


def rows(going: Going) -> str:
    """A device goes on as it would alone."""
    last = going.items.shape[1]
    parts = [going.score(going.after(last, slice(i, i + 1)), slice(i, i + 1)) for i in range(len(going.known))]
    close(
        going.score(going.after(last)),
        np.concatenate(parts),
        "a device goes on differently alone than in a batch; row b of a state belongs to row b only",
    )
    return "a batch of B equals B batches of one"


def padding(going: Going) -> str:
    """The state is that of the items."""
    half = going.known.shape[1] - going.items.shape[1]
    close(
        going.score(going.after(1, padding=half)),
        going.score(going.after(1)),
        "a history without its padding gives another state; mask id 0 in start",
    )
    return "padding is not treated as an item"


def arguments(going: Going) -> str:
    """Who is asked for scores changes nothing; `advance` may write to the state that it got."""
    state = {name: array.copy() for name, array in going.after(1).items()}
    before, params = ({n: a.copy() for n, a in kept.items()} for kept in (state, going.params))
    known, items = going.known.copy(), going.items.copy()
    going.score(state)
    if wrong := different(before, state):
        raise Failed(f"score_state changed {wrong}; it only reads a state, copy an array before writing to it")
    going.after(2)
    if wrong := different(params, going.params):
        raise Failed(f"start, advance or score_state changed params {wrong}; devices share them, so work on a copy")
    if not (np.array_equal(known, going.known) and np.array_equal(items, going.items)):
        raise Failed("start or advance changed the history or the item; work on a copy")
    return "params, histories and, by score_state, states are left as they are"
