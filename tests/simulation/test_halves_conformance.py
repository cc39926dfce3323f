"""`tandemrec check`: a model of a body and a personal head passes; planted mistakes are named with their cure."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from trait_parts import Decaying, failed, names

from device.errors import ContractError
from device.models.masked import MaskedHead
from device.models.personal_torch import PersonalTorch
from device.personal import Continued, Part
from simulation.conformance import check
from simulation.conformance.bodies import personal
from simulation.conformance.made_up import LENGTH, N_ITEMS, probes
from simulation.conformance.personal_scores import Half

HEADED = ["before", "behind", "behind rows", "catalogue behind", "halves unchanged", "halves' parameters"]
BODY = ["body", "shown behind", "body steps"]
GOING = [f"body alone, {name}" for name in ("states", "steps", "state rows", "state padding", "state arguments")]


class Body(Decaying):
    """Decaying, which shows what it keeps."""

    def shown(self, params, state):
        return state["user"].copy()


class Halved(Decaying):
    """A code is added to the state of a body that goes on."""

    layout = {"code": Part((16,), "float32")}  # noqa: RUF012

    def unpatched(self):
        return {"code": np.zeros(16, np.float32)}

    def score_personal(self, params, patches, history, candidates):
        return Halved.behind(self, params, patches, self.state(params, history), candidates)

    def before(self, params, history):
        return self.state(params, history)

    def behind(self, params, patches, state, candidates):
        return np.einsum("bd,bcd->bc", state + patches["code"], params["item"][candidates])

    def catalogue_behind(self, params, patches, state):
        return (state + patches["code"]) @ params["item"].T

    def body(self):
        return Body()

    def body_params(self, params):
        return params

    def shown_behind(self, params, state):
        return state.copy()


def planted(**members: Any) -> Any:
    return type("Planted", (Halved,), members)()


def without(name: str) -> Any:
    kept = {n: m for n, m in vars(Halved).items() if n not in (name, "__dict__", "__weakref__")}
    return type("Less", (Decaying,), kept)()


def masked(*, relative: bool) -> MaskedHead:
    torch.manual_seed(0)
    return MaskedHead(N_ITEMS, width=8, length=LENGTH, relative=relative)


def test_both_halves_pass() -> None:
    assert isinstance(Halved(), Continued)
    assert failed(Halved()) == {}
    assert names(Halved())[-14:] == [*HEADED, *BODY, *GOING]


def test_a_module_of_two_halves_passes() -> None:
    assert failed(masked(relative=True)) == {}
    assert names(masked(relative=True))[-14:] == [*HEADED, *BODY, *GOING]


def test_a_body_that_says_it_keeps_no_state_passes() -> None:
    assert failed(masked(relative=False)) == {}
    assert names(masked(relative=False))[-8:] == [*HEADED, *BODY[:2]]


def grown(self, params, patches, state, candidates):
    state += 1
    return Halved.behind(self, params, patches, state - 1, candidates)


def noted(self, params, history):
    self.known = self.state(params, history)
    return self.known.copy()


def noting(self, params, patches, state, candidates):
    return Halved.behind(self, params, patches, self.known, candidates)


def first_params(self, params, history):
    self.params = getattr(self, "params", params)
    return self.state(self.params, history)


def cleared(self, params, history):
    made = self.state(params, history)
    history[:, 0] = 0
    return made


@pytest.mark.parametrize(
    ("members", "name", "cure"),
    [
        ({"before": lambda self, p, h: self.state(p, h).astype("f8")}, "before", "return float32 [B, d]"),
        ({"before": lambda self, p, h: self.state(p, h) + np.float32(h.shape[1])}, "before", "mask id 0"),
        ({"before": lambda self, p, h: self.state(p, h) / (h > 0).any(1, keepdims=True)}, "before", "keep it finite"),
        (
            {"behind": lambda self, p, q, s, c: Halved.behind(self, p, {"code": 0 * q["code"]}, s, c)},
            "behind",
            "let every part of the patch work behind the body",
        ),
        ({"behind": lambda self, p, q, s, c: Halved.behind(self, p, q, s, c)[:, :1]}, "behind", "one score per candid"),
        ({"before": noted, "behind": noting}, "behind", "the model keeps none"),
        (
            {"behind": lambda self, p, q, s, c: Halved.behind(self, p, q, s, c) * np.float32(len(s) / 16)},
            "behind rows",
            "row b of state and of every part is for row b only",
        ),
        (
            {"catalogue_behind": lambda self, p, q, s: Halved.catalogue_behind(self, p, q, s)[:, 1:]},
            "catalogue behind",
            "one score per candidate",
        ),
        (
            {"catalogue_behind": lambda self, p, q, s: np.roll(Halved.catalogue_behind(self, p, q, s), 1, 1)},
            "catalogue behind",
            "column i of catalogue_behind is the score of item i",
        ),
        ({"behind": grown}, "halves unchanged", "behind changed state, which a device keeps or shares; work on a copy"),
        ({"before": cleared}, "halves unchanged", "before changed history"),
        ({"before": first_params}, "halves' parameters", "compute with the params that before and behind get"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_mistakes_of_the_halves(members: dict[str, Any], name: str, cure: str) -> None:
    assert cure in failed(planted(**members))[name]


class Slower(Body):
    def advance(self, params, state, item):
        return {"user": np.float32(0.9) * state["user"] + params["item"][item]}


class Mute(Decaying):
    """Goes on, but shows nothing."""


class Unshown(Body):
    """Its scores are not those of its history; nothing but `score_state` is wrong."""

    def score(self, params, history, candidates):
        return Decaying.score(self, params, history, candidates) + 1


def refused(self):
    raise ValueError("no body today")


@pytest.mark.parametrize(
    ("members", "name", "cure"),
    [
        ({"body": lambda self: Mute()}, "body", "body() gave Mute without shown; return what goes on from a state"),
        ({"body": refused}, "body", "raised ValueError: no body today"),
        ({"body_params": lambda self, p: dict(p)}, "body", "keep the last one and give it again"),
        ({"body": lambda self: Slower()}, "body steps", "after start and 1 steps the body does not show what before"),
        ({"shown_behind": lambda self, p, s: s.astype("f8")}, "shown behind", "return float32 [B, d]"),
        ({"shown_behind": lambda self, p, s: 2 * s}, "shown behind", "shown_behind and state disagree"),
        (
            {"shown_behind": lambda self, p, s: s[:, :3].copy()},
            "shown behind",
            "states are (16, 3) instead of (16, 16)",
        ),
        ({"body": lambda self: Unshown()}, "body alone, steps", "start must read histories as score does"),
    ],
)
def test_mistakes_of_a_body(members: dict[str, Any], name: str, cure: str) -> None:
    assert cure in failed(planted(**members))[name]


def kept_for_ever(self, params):
    self.mine = getattr(self, "mine", params)
    return self.mine


def test_parameters_of_the_body_follow_those_of_the_model() -> None:
    found = failed(planted(body_params=kept_for_ever))
    assert "body_params its part of params" in found["body steps"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("before", "has score_personal, behind, catalogue_behind but no before, so it is no Headed"),
        ("catalogue_behind", "has score_personal, before, behind but no catalogue_behind"),
        ("body", "has before, body_params, shown_behind but no body, so it is no Continued"),
    ],
)
def test_half_of_a_half_is_told_so(name: str, told: str) -> None:
    said = [finding.message for finding in check.device_model(without(name)) if finding.name == "traits"]
    assert told in "\n".join(said)


class Module(nn.Module):
    """Adds a code to the embedding of the newest item."""

    def __init__(self) -> None:
        super().__init__()
        self.n_items, self.item = N_ITEMS, nn.Embedding(N_ITEMS + 1, 4, padding_idx=0)
        self.layout = {"code": Part((4,), "float32")}

    def forward(self, history, candidates, code=None):
        state = self.before(history)
        return torch.einsum("bd,bcd->bc", state if code is None else state + code, self.item(candidates))

    def before(self, history):
        return self.item(history[:, -1])


class Showing(Module):
    def behind(self, state, candidates, code):
        return torch.einsum("bd,bcd->bc", state + code, self.item(candidates))

    def catalogue_behind(self, state, code):
        return (state + code) @ self.item.weight.T

    def shown(self, state):
        return state


def of_module(made: nn.Module) -> dict[str, str]:
    model = PersonalTorch(made)
    found = personal(Half(model, model.init(np.random.default_rng(0)), *probes()))
    return {finding.name: finding.message for finding in found if not finding.ok}


def test_a_module_that_lacks_a_half_or_a_body() -> None:
    assert of_module(Module()) == {
        "before": "Module has before but no behind, catalogue_behind, which devices would call; add behind, "
        "catalogue_behind, or take before out"
    }
    assert "call what reads the history body" in of_module(Showing())["body"]


def test_half_a_module_is_told_so() -> None:
    class Less(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.item = nn.Embedding(N_ITEMS + 1, 4, padding_idx=0)

        def forward(self, history, candidates):
            return torch.einsum("bd,bcd->bc", self.item(history[:, -1]), self.item(candidates))

        def behind(self, state, candidates, code):
            return torch.einsum("bd,bcd->bc", state + code, self.item(candidates))

    told = failed(Less())["traits"]
    assert "has behind but no layout, before, catalogue_behind, so it is no device.personal:Headed" in told


def test_a_body_that_refuses_says_why() -> None:
    def stateless(self):
        raise ContractError("positions count from the newest item")

    found = personal(Half(planted(body=stateless), Halved().init(np.random.default_rng(0)), *probes()))
    (said,) = [finding.message for finding in found if finding.name == "body"]
    assert said == "keeps no state, and says so: positions count from the newest item"
