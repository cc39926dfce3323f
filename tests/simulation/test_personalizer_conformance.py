"""`tandemrec check personalizer`: what is right passes, and every planted mistake is named with its cure."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from personal_parts import Coded, Half, PersonalDot, Shift
from tiny import tandemrec
from torch import nn

from cloud.personalizer import Personals
from device.errors import ConfigError
from device.personal import Part
from simulation.conformance.check import conformance
from simulation.conformance.made_up import LENGTH, N_ITEMS
from simulation.conformance.personalizers import personalizer

TORCH = ["modules", "gradients"]
CLOUD = ["patches", "histories unchanged", "repeatable", "batch", "padding", "cost"]
DEVICE = ["scores", "arguments unchanged", "repeated scores", "unpatched", "effect", "single devices", "padded scores"]


def failed(made):
    return {finding.name: finding.message for finding in personalizer(made) if not finding.ok}


def coded():
    torch.manual_seed(0)
    return Coded(N_ITEMS, LENGTH)


class NumpyMethod(Shift):
    """A method without torch."""

    def __init__(self, **more):
        super().__init__(**more)
        self.device = PersonalDot(N_ITEMS)


def test_a_torch_method_passes():
    findings = personalizer(coded())
    assert [finding.name for finding in findings] == ["layout", *TORCH, *CLOUD, *DEVICE]
    assert failed(coded()) == {}


def test_a_method_without_torch_passes():
    findings = personalizer(NumpyMethod())
    assert [finding.name for finding in findings] == ["layout", *CLOUD, *DEVICE]
    assert [finding.message for finding in findings if not finding.ok] == []


def test_what_is_no_method_is_told_what_one_is():
    assert "personalize(" in failed(object())["halves"]
    assert "device half" in failed(Shift())["halves"]
    assert "patches" in failed(nn.Linear(2, 2))["halves"]


@pytest.mark.parametrize(
    ("layout", "about"),
    [
        ({"code": Part((8,), "float64"), "mask": Part((8,), "bool")}, "one of bool"),
        ({"code": (8,), "mask": Part((8,), "bool")}, "Part"),
        ({"not a name": Part((8,), "float32")}, "name"),
    ],
)
def test_layouts(layout, about):
    made = coded()
    made.device.layout = layout
    assert about in failed(made)["layout"]


def test_halves_that_disagree():
    made = NumpyMethod()
    made.layout = {"code": Part((5,), "float32")}
    assert "disagree" in failed(made)["layout"]


class Answering(Coded):
    """A method that does something else to its patches."""

    def __init__(self, change):
        super().__init__(N_ITEMS, LENGTH)
        self.change = change

    def patches(self, history):
        return self.change(self, history, super().patches(history))


def more(name, value):
    return lambda made, history, patches: {**patches, name: value(made, history, patches[name])}


def mutated(made, history, patches):
    history[:, -1] = 1
    return patches


@pytest.mark.parametrize(
    ("change", "name", "about"),
    [
        (more("code", lambda m, h, c: c[:, :-1]), "patches", "return"),
        (more("code", lambda m, h, c: c.sum(1)), "patches", "return"),
        (more("code", lambda m, h, c: c * torch.nan), "patches", "finite"),
        (more("mask", lambda m, h, c: c * 0.5), "patches", "0 and 1"),
        (lambda m, h, p: {"code": p["code"]}, "patches", "layout"),
        (lambda m, h, p: p["code"].nothing, "patches", "without an exception"),
        (more("code", lambda m, h, c: c + torch.rand(1)), "repeatable", "unseeded"),
        (more("code", lambda m, h, c: c - c.mean(0)), "batch", "statistics over the batch"),
        (more("code", lambda m, h, c: c + h.shape[1]), "padding", "mask id 0"),
        (more("code", lambda m, h, c: c + m.device.item(h).mean(1)), "padding", "divide by the number"),
    ],
)
def test_mistakes_of_the_cloud_half(change, name, about):
    torch.manual_seed(0)
    made = Answering(change)
    with torch.no_grad():
        made.device.item.weight[0] = 0.1  # padding is seen by who looks at it
    assert about in failed(made)[name]


class Mutating(NumpyMethod):
    def personalize(self, histories, tiers, *, rng):
        made = super().personalize(histories, tiers, rng=rng)
        histories[:, 0] = 7
        return made


class Drawing(NumpyMethod):
    def personalize(self, histories, tiers, *, rng):
        made = super().personalize(histories, tiers, rng=rng)
        return replace(made, patches={"code": np.random.default_rng().normal(size=(len(histories), 4)).astype("f4")})


class Doubles(NumpyMethod):
    def personalize(self, histories, tiers, *, rng):
        made = super().personalize(histories, tiers, rng=rng)
        return Personals({"code": made.patches["code"].astype(np.float64)}, None, None)


@pytest.mark.parametrize(
    ("made", "name", "about"),
    [
        (Mutating(), "histories unchanged", "work on a copy"),
        (Drawing(), "repeatable", "use `rng`"),
        (Doubles(), "patches", "float32"),
        (NumpyMethod(flops=None), "cost", "say what a patch costs"),
    ],
)
def test_mistakes_of_a_method_without_torch(made, name, about):
    assert about in failed(made)[name]


class Scoring(Half):
    """A device half that does something else with its patches."""

    def __init__(self, change):
        super().__init__(N_ITEMS, 8)
        self.change = change

    def forward(self, history, candidates, code=None, mask=None):
        scores = super().forward(history, candidates, code, mask)
        return scores if code is None else self.change(scores, history, code, mask)


@pytest.mark.parametrize(
    ("change", "name", "about"),
    [
        (lambda s, h, c, m: s[:, :1], "scores", "one score per candidate"),
        (lambda s, h, c, m: s * torch.nan, "scores", "finite"),
        (lambda s, h, c, m: s + torch.rand(1), "repeated scores", "dropout"),
        (lambda s, h, c, m: s + 1, "unpatched", "unpatched()"),
        (lambda s, h, c, m: s + c.mean(), "single devices", "row b"),
        (lambda s, h, c, m: s + c[:, :1] * h.shape[1], "padded scores", "mask id 0"),
        (lambda s, h, c, m: s.index_fill(0, torch.arange(len(s)), 1) + m.sum(1, keepdim=True), "effect", "code"),
    ],
)
def test_mistakes_of_the_device_half(change, name, about):
    made = coded()
    made.device = Scoring(change)
    assert about in failed(made)[name]


class Spoiling(PersonalDot):
    def score_personal(self, params, patches, history, candidates):
        patches["code"][:] *= 2
        return super().score_personal(params, patches, history, candidates)


def test_a_device_half_that_writes_to_its_arguments():
    made = NumpyMethod()
    made.device = Spoiling(N_ITEMS)
    assert "copy" in failed(made)["arguments unchanged"]


def test_a_device_half_that_lacks_a_body():
    made = coded()
    made.device.behind = made.device.forward
    assert "has layout, behind but no before, catalogue_behind" in failed(made)["traits"]


class Listed(Coded):
    """The mistake of the field's released code: the output layer is in a plain list."""

    def __init__(self):
        super().__init__(N_ITEMS, LENGTH)
        self.outputs = [nn.Linear(8, 8)]

    def patches(self, history):
        made = super().patches(history)
        return {**made, "code": self.outputs[0](made["code"])}


class Cut(Coded):
    def patches(self, history):
        made = super().patches(history)
        return {**made, "code": made["code"].detach()}


def test_what_training_does_not_reach():
    assert "Listed.outputs" in failed(Listed())["modules"]
    assert "ModuleList" in failed(Listed())["modules"]
    assert "project.weight" in failed(Cut(N_ITEMS, LENGTH))["gradients"]


def test_a_loss_that_cannot_be_computed():
    made = coded()
    made.training_loss = lambda history, target: 0
    assert "training_loss(history, target, *, epoch, generator)" in failed(made)["gradients"]


def test_the_command_hands_over_a_model_to_go_on_from():
    on = ["model.class=personal_parts:Half", "model.width=8"]
    findings = conformance("personalizer", "personal_parts:Going", on)
    assert [finding.message for finding in findings if not finding.ok] == []
    assert "beginning" in [finding.name for finding in findings]
    (lost,) = [f for f in conformance("personalizer", "personal_parts:Forgetting", on) if not f.ok]
    assert "changes item.weight of the trained model; give the method a reset()" in lost.message
    with pytest.raises(ConfigError, match=r"goes on from a trained model; add --set model\.class="):
        conformance("personalizer", "personal_parts:Going", [])
    said = tandemrec("check", "personalizer", "personal_parts:Coded")
    assert said.code == 0
    assert "33 bytes and a header per patch" in said.out
