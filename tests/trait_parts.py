"""A device model without torch that has every trait but personal ones, for mistakes to be planted in."""

from collections.abc import Callable
from typing import Any

import numpy as np

from device.errors import ConfigError
from device.subnet import SubnetSpec, as_read, grid, leading
from simulation.conformance import check
from simulation.conformance.made_up import N_ITEMS

DECAY = np.float32(0.5)
SLIM = ["subnets", "slices", "whole", "subnet scores", "costs", "too large", "int8 table"]
STATE = ["states", "steps", "state rows", "state padding", "state arguments"]


def failed(made: Any) -> dict[str, str]:
    return {finding.name: finding.message for finding in check.device_model(made) if not finding.ok}


def names(made: Any) -> list[str]:
    return [finding.name for finding in check.device_model(made)][10:]


class Decaying:
    """The newest items weigh most; without torch, with every trait but personal ones."""

    item_table = "item"

    def __init__(self, width: int = 16) -> None:
        self.width = width

    def init(self, rng):
        return {"item": rng.normal(size=(N_ITEMS + 1, self.width)).astype(np.float32)}

    def score(self, params, history, candidates):
        return self.score_state(params, {"user": self.state(params, history)}, candidates)

    def catalogue(self, params, history):
        return self.state(params, history) @ params["item"].T

    def state(self, params, history):
        weight = np.where(history > 0, DECAY ** np.arange(history.shape[1])[::-1], 0).astype(np.float32)
        return np.einsum("bl,bld->bd", weight, params["item"][history])

    def start(self, params, history):
        return {"user": self.state(params, history)}

    def advance(self, params, state, item):
        return {"user": DECAY * state["user"] + params["item"][item]}

    def score_state(self, params, state, candidates):
        return np.einsum("bd,bcd->bc", state["user"], params["item"][candidates])

    def subnets(self):
        return grid(SubnetSpec(8, 1, self.width))

    def slice(self, params, spec):
        self.refuse(spec)
        cut = leading(params["item"], (N_ITEMS + 1, spec.items))
        return {"item": as_read(cut, spec.table)}

    def subnet(self, spec):
        self.refuse(spec)
        return Decaying(spec.items)

    def refuse(self, spec):
        if not spec.within(SubnetSpec(8, 1, self.width)):
            raise ConfigError(f"{spec} is beyond this model")


def with_(**methods: Callable[..., Any]) -> Decaying:
    """A Decaying with methods of its own, which get it first."""
    return type("Planted", (Decaying,), methods)()
