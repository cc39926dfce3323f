"""`tandemrec check device-model`: planted mistakes in item tables, states and patches are named with their cure."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from trait_parts import DECAY, SLIM, STATE, Decaying, failed, names, with_

from device.models.sasrec import SASRec
from device.personal import Part
from simulation.conformance.made_up import N_ITEMS


def test_a_model_with_every_trait_passes() -> None:
    assert failed(Decaying()) == {}
    assert names(Decaying()) == ["item table", "catalogue", "state", *SLIM, *STATE]


def test_a_module_has_the_traits_that_it_has() -> None:
    assert names(SASRec(N_ITEMS, width=8, length=10)) == ["item table", "catalogue", "state"]


def test_a_model_is_fitted_first() -> None:
    seen = []
    assert failed(with_(fit=lambda self, data: seen.append(len(data.flat())))) == {}
    assert seen == [200]
    assert "fit(sequences) gets" in failed(with_(fit=lambda self: None))["fit"]


@pytest.mark.parametrize(
    ("lacking", "cure"),
    [
        ("subnet", "has subnets, slice but no subnet, so it is no Slimmable"),
        ("advance", "has start, score_state but no advance, so it is no Incremental"),
    ],
)
def test_half_a_trait_is_told_so(lacking: str, cure: str) -> None:
    kept = {name: member for name, member in vars(Decaying).items() if name != lacking}
    half = type("Half", (), {name: member for name, member in kept.items() if name not in ("__dict__", "__weakref__")})
    assert cure in failed(half())["traits"]


# Item table, catalogue, state


def shifted(self, params, history):
    table = np.roll(params["item"], 1, axis=0)
    weight = np.where(history > 0, DECAY ** np.arange(history.shape[1])[::-1], 0).astype(np.float32)
    return np.einsum("bl,bld->bd", weight, table[history])


def table_by_other_ids(self, params, state, candidates):
    return np.einsum("bd,bcd->bc", state["user"], params["item"][(candidates + 1) % (N_ITEMS + 1)])


@pytest.mark.parametrize(
    ("methods", "name", "cure"),
    [
        (
            {"item_table": "items"},
            "item table",
            "item_table = 'items' is no parameter; name the one with a row per item, of item",
        ),
        (
            {"init": lambda self, rng: {"item": rng.normal(size=(60, 16)).astype("f4")}},
            "item table",
            "[n_items + 1, d]",
        ),
        ({"state": shifted}, "item table", "row i belongs to item i"),
        ({"score_state": table_by_other_ids}, "item table", "row i belongs to item i"),
        (
            {"catalogue": lambda self, p, h: (self.state(p, h) @ p["item"].T)[:, 1:]},
            "catalogue",
            "one score per candidate",
        ),
        (
            {"catalogue": lambda self, p, h: np.roll(self.state(p, h) @ p["item"].T, 1, 1)},
            "catalogue",
            "column i of catalogue is the score of item i",
        ),
        ({"catalogue": lambda self, p, h: self.state(p, h).astype("f8") @ p["item"].T}, "catalogue", "return float32"),
    ],
)
def test_mistakes_about_items(methods: dict[str, Any], name: str, cure: str) -> None:
    assert cure in failed(with_(**methods))[name]


@pytest.mark.parametrize(
    ("change", "cure"),
    [
        (lambda states, history: states.astype("f8"), "return float32 [B, d]"),
        (lambda states, history: states[:, 0], "return float32 [B, d]"),
        (lambda states, history: states - states.mean(0), "use no statistics over the batch"),
        (lambda states, history: states + np.float32(history.shape[1]), "mask id 0"),
        (lambda states, history: np.where((history > 0).any(1, keepdims=True), states, np.nan), "keep it finite"),
    ],
)
def test_mistakes_about_states(change: Callable[..., Any], cure: str) -> None:
    class Showing(Decaying):
        def score(self, params, history, candidates):
            return self.score_state(params, {"user": super().state(params, history)}, candidates)

        start = None  # not Incremental
        advance = None

        def state(self, params, history):
            return change(super().state(params, history), history).astype(
                change(np.ones((1, 1), "f4"), history[:1]).dtype
            )

    assert cure in failed(Showing())["state"]


# Incremental


drifting = np.random.default_rng(1)


def overwriting(self, params, state, candidates):
    scores = Decaying.score_state(self, params, state, candidates)
    state["user"][:] = 0
    return scores


def teaching(self, params, state, item):
    made = Decaying.advance(self, params, state, item)
    params["item"][item] += np.float32(0.1)
    return made


@pytest.mark.parametrize(
    ("methods", "name", "cure"),
    [
        (
            {"advance": lambda self, p, s, i: {"user": s["user"] + p["item"][i]}},
            "steps",
            "advance must do what one more item does",
        ),
        (
            {"start": lambda self, p, h: {"user": self.state(p, h[:, ::-1])}},
            "steps",
            "start must read histories as score does",
        ),
        ({"start": lambda self, p, h: {"user": self.state(p, h)[0]}}, "states", "return [B, ...], one row per device"),
        ({"start": lambda self, p, h: [self.state(p, h)]}, "states", "return a mapping from names to numpy arrays"),
        ({"start": lambda self, p, h: {"user": self.state(p, h), "seen": h}}, "states", "make room for the longest"),
        (
            {"start": lambda self, p, h: {"user": self.state(p, h) + np.float32(drifting.random())}},
            "states",
            "unseeded randomness",
        ),
        ({"advance": lambda self, p, s, i: {"taste": s["user"]}}, "states", "a state always has the same names"),
        ({"advance": lambda self, p, s, i: {**s.copy(), "user": s["user"]}}, "states", "a state given as a Mapping"),
        (
            {"advance": lambda self, p, s, i: {"user": DECAY * s["user"] + p["item"][i].mean(0)}},
            "state rows",
            "row b of a state belongs to row b only",
        ),
        ({"score_state": overwriting}, "state arguments", "it only reads a state"),
        ({"advance": teaching}, "states", "two different user"),
    ],
)
def test_mistakes_of_an_incremental_model(methods: dict[str, Any], name: str, cure: str) -> None:
    if "score_state" in methods:
        methods = {
            **methods,
            "score": lambda self, p, h, c: Decaying.score_state(self, p, {"user": self.state(p, h)}, c),
        }
    assert cure in failed(with_(**methods))[name]


# Personalized


class Own(Decaying):
    """Decaying, with a code that is added."""

    layout = {"code": Part((16,), "float32")}  # noqa: RUF012

    def unpatched(self):
        return {"code": np.zeros(16, np.float32)}

    def score_personal(self, params, patches, history, candidates):
        return self.score_state(params, {"user": self.state(params, history) + patches["code"]}, candidates)


def test_a_personalised_model_passes() -> None:
    assert failed(Own()) == {}
    assert names(Own())[-7:] == [
        "scores",
        "arguments unchanged",
        "repeated scores",
        "unpatched",
        "effect",
        "single devices",
        "padded scores",
    ]


@pytest.mark.parametrize(
    ("methods", "name", "cure"),
    [
        (
            {"unpatched": lambda self: {"code": np.ones(16, np.float32)}},
            "unpatched",
            "ones for a factor, zeros for a term",
        ),
        ({"score_personal": lambda self, p, q, h, c: self.score(p, h, c)}, "effect", "code changes no score"),
        (
            {"score_personal": lambda self, p, q, h, c: Own.score_personal(self, p, {"code": q["code"][:1]}, h, c)},
            "single devices",
            "row b of every part to row b only",
        ),
    ],
)
def test_mistakes_of_a_personalised_model(methods: dict[str, Any], name: str, cure: str) -> None:
    assert cure in failed(type("Planted", (Own,), methods)())[name]
