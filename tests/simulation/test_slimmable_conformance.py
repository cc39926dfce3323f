"""`tandemrec check device-model`: planted mistakes in what is cut out of a model are named with their cure."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from trait_parts import SLIM, Decaying, failed, names, with_

from device.subnet import Size, SubnetSpec, grid, leading
from simulation.conformance.made_up import N_ITEMS


class Cutting(Decaying):
    """Cuts a slice, and something goes wrong with it."""

    def __init__(self, change: Callable[..., Any], width: int = 16) -> None:
        super().__init__(width)
        self.change = change

    def slice(self, params, spec):
        return self.change(self, params, super().slice(params, spec), spec)


drawn = np.random.default_rng(0)


def spoilt(self, params, cut, spec):
    params["item"][0] += 1
    return cut


def unrounded(self, params, cut, spec):
    return {"item": leading(params["item"], (N_ITEMS + 1, spec.items))}


@pytest.mark.parametrize(
    ("change", "name", "cure"),
    [
        (
            lambda s, p, cut, spec: {"item": p["item"][:, : spec.items]},
            "slices",
            "is a view of params: item; return copies",
        ),
        (
            lambda s, p, cut, spec: {"item": cut["item"] + np.float32(drawn.random())},
            "slices",
            "two different item; draw nothing",
        ),
        (spoilt, "slices", "changed params item; work on a copy"),
        (lambda s, p, cut, spec: {"item": cut["item"].tolist()}, "slices", "return names to numpy arrays"),
        (lambda s, p, cut, spec: {"item": cut["other"]}, "slices", "each parameter of a subnet has a namesake"),
        (
            lambda s, p, cut, spec: {"item": cut["item"] * np.float32(2)},
            "whole",
            "must give it all parameters as they are",
        ),
        (lambda s, p, cut, spec: {"item": cut["item"][:40]}, "subnet scores", "n_items + 1 rows"),
        (lambda s, p, cut, spec: {"item": cut["item"] * np.float32(np.nan)}, "subnet scores", "keep all scores finite"),
        (unrounded, "int8 table", 'return device.subnet.as_read(table, "int8")'),
        (lambda s, p, cut, spec: {"item": p["item"].copy()}, "costs", "make slice follow width, blocks and items"),
    ],
)
def test_mistakes_about_slices(change: Callable[..., Any], name: str, cure: str) -> None:
    assert cure in failed(Cutting(change))[name]


@pytest.mark.parametrize(
    ("specs", "cure"),
    [
        ([], "return device.subnet.SubnetSpec"),
        (["w8-b1-e8"], "return device.subnet.SubnetSpec"),
        ([SubnetSpec(8, 1, 8)] * 2, "names one twice"),
        ([SubnetSpec(8, 2, 8), SubnetSpec(8, 1, 16)], "list the model's own size too"),
        ([SubnetSpec(8, 1, 8), SubnetSpec(8, 1, 16, "int8")], "none with a float32 table holds all others"),
    ],
)
def test_mistakes_about_what_is_offered(specs: list[Any], cure: str) -> None:
    assert cure in failed(with_(subnets=lambda self: specs))["subnets"]


def test_a_label_that_is_not_read_back() -> None:
    class Odd(SubnetSpec):
        def __str__(self) -> str:
            return "w8-b1-e8"

    assert "leave the class SubnetSpec" in failed(with_(subnets=lambda self: [Odd(8, 1, 16)]))["subnets"]


def test_specs_that_differ_in_nothing_the_model_has() -> None:
    wrong = failed(with_(subnets=lambda self: grid(SubnetSpec(16, 1, 16)), refuse=lambda self, spec: None))
    assert "offer no specs that differ in what the model does not have" in wrong["costs"]
    assert "raised ValueError, though w16-b1-e16 is all there is; raise device.errors.ConfigError" in wrong["too large"]
    wrong = failed(with_(subnet=lambda self, spec: Decaying(spec.items)))
    assert "subnet(w16-b2-e17) passed, though w8-b1-e16 is all there is" in wrong["too large"]


def test_a_subnet_that_computes_with_something_else() -> None:
    class Own(Decaying):
        def __init__(self, width: int, own: Any) -> None:
            super().__init__(width)
            self.own = own

        def score(self, params, history, candidates):
            return super().score(self.own, history, candidates)

    params = Decaying().init(np.random.default_rng(0))
    made = with_(subnet=lambda self, spec: Own(spec.items, self.slice(params, spec)))
    assert "compute with the params that score gets" in failed(made)["subnet scores"]


@pytest.mark.parametrize(
    ("change", "cure"),
    [
        (
            lambda size, spec: replace(size, flops=100.0),
            "and flops(length, candidates) count it",
        ),
        (lambda size, spec: replace(size, flops=0.0), "count them, above 0"),
        (lambda size, spec: replace(size, nbytes=size.nbytes + 1), "count what slice gives"),
    ],
)
def test_mistakes_about_costs(change: Callable[..., Any], cure: str) -> None:
    def size(self, spec, *, length, candidates):
        shapes = {"item": (N_ITEMS + 1, spec.items)}
        return change(Size.of(shapes, spec, item_table="item", flops=2.0 * spec.items * (length + candidates)), spec)

    assert cure in failed(with_(size=size))["costs"]


class Recent(nn.Module):
    """An elastic module."""

    item_table = "item.weight"

    def __init__(self, width: int = 16, items: int = 16) -> None:
        super().__init__()
        self.n_items, self.length, self.spec = N_ITEMS, 10, SubnetSpec(width, 1, items)
        self.item = nn.Embedding(N_ITEMS + 1, items, padding_idx=0)
        self.up, self.down = nn.Linear(items, width), nn.Linear(width, items)

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        user = self.item(history[:, -1])
        user = user + self.down(torch.relu(self.up(user)))
        return (user[:, None] @ self.item(candidates).mT)[:, 0]

    def subnets(self) -> Any:
        return grid(self.spec)

    def sized(self, spec: SubnetSpec) -> "Recent":
        return type(self)(spec.width, spec.items)

    def flops(self, length: int, candidates: int) -> float:
        return 2.0 * self.spec.items * (2 * self.spec.width + candidates)


class Buffered(Recent):
    def __init__(self, width: int = 16, items: int = 16) -> None:
        super().__init__(width, items)
        self.register_buffer("scale", torch.full((items,), 2.0))

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        return super().forward(history, candidates) * self.scale[0]


class Scaled(Recent):
    def __init__(self, width: int = 16, items: int = 16) -> None:
        super().__init__(width, items)
        self.scale = torch.tensor(2.0)

    def forward(self, history: Tensor, candidates: Tensor) -> Tensor:
        return super().forward(history, candidates) * self.scale


class Renamed(Recent):
    def __init__(self, width: int = 16, items: int = 16) -> None:
        super().__init__(width, items)
        setattr(self, f"extra{width}", nn.Linear(width, 1))


class OneSize(Recent):
    def sized(self, spec: SubnetSpec) -> "Recent":
        return OneSize()


def test_an_elastic_module_passes() -> None:
    assert failed(Recent()) == {}
    assert names(Recent()) == ["item table", *SLIM, "training"]


@pytest.mark.parametrize(
    ("made", "name", "cure"),
    [
        (Buffered(), "training", "keep no tensors but parameters (no buffers)"),
        (Scaled(), "whole", "its tensors are its parameters; others are made in the call that needs them"),
        (Renamed(), "slices", "each parameter of a subnet has a namesake in the large model"),
        (OneSize(), "costs", "let sized(spec) make that size"),
    ],
)
def test_mistakes_of_an_elastic_module(made: nn.Module, name: str, cure: str) -> None:
    assert cure in failed(made)[name]


def test_half_an_elastic_module_is_told_so() -> None:
    made = Recent()
    del made.spec
    assert "but no spec, so it is no device.models.slimming:Elastic" in failed(made)["traits"]
