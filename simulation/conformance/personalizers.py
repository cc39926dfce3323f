"""What the conformance kit asks of a personalised method: its cloud half, its device half, and what both agree on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from cloud.patching import check_personals
from cloud.personalizer import Personalizer, Personals
from cloud.personalizers.trained import as_personalizer
from device.check import Finding
from device.errors import TandemError
from device.model import Items, Parameters
from device.personal import Part, Patches, Personalized
from device.personal_codec import Personal, encode_personal, values_bytes
from device.seeds import draws, rng
from simulation.conformance.bodies import personal
from simulation.conformance.learning import learning
from simulation.conformance.made_up import LENGTH, ROWS, probes
from simulation.conformance.personal_scores import HALF, Half, close, guarded
from simulation.conformance.policies import altered, finding, unchanged
from simulation.conformance.traits import half_made
from simulation.personalizing import device_half

KINDS = ("bool", "float32", "float16", "int8")


@dataclass(frozen=True, slots=True)
class Method:
    """Both halves of a method."""

    cloud: Personalizer
    device: Half

    def ask(self, histories: Items) -> Personals:
        """Patches for histories [B, L] of devices 0..B-1 after 0 steps."""
        who = np.arange(len(histories))
        return self.cloud.personalize(histories, who % 2, rng=draws(0, "personalizer", who, who * 0))


def personalizer(made: Any) -> list[Finding]:
    """Both halves, then patches, then scores under patches; later ones are left out where they could not run."""
    try:
        cloud, device = as_personalizer(made), device_half(made)
        method = Method(cloud, Half(device, parameters(made, device), *probes()))
    except TandemError as error:
        return [Finding("halves", False, str(error))]
    if wrong := layout_mistake(cloud.layout, device.layout):
        return [Finding("layout", False, wrong)]
    nbytes = values_bytes(cloud.layout)
    findings = [Finding("layout", True, f"{len(cloud.layout)} parts, {nbytes:,} bytes and a header per patch")]
    findings += half_made(made.device)
    findings += learning(made, *probes()) if isinstance(made, nn.Module) else []
    return [*findings, *guarded("patches", lambda: patches(method)), *personal(method.device)]


def parameters(made: Any, device: Personalized) -> Parameters:
    """The weights that a torch method has; for another one those of `init`."""
    if isinstance(made, nn.Module):
        return {name: tensor.numpy() for name, tensor in made.device.state_dict().items()}  # type: ignore[union-attr,operator]
    return device.init(rng(0, "device model"))


def layout_mistake(cloud: Any, device: Any) -> str:
    """What is wrong with the two layouts; "" = nothing."""
    for half, layout in (("cloud half", cloud), ("device half", device)):
        if not isinstance(layout, Mapping) or not layout:
            return f"the layout of the {half} is {layout!r}; name at least one part: {{name: Part(shape, kind)}}"
        for name, part in layout.items():
            if not isinstance(part, Part) or part.kind not in KINDS or not str(name).isidentifier():
                return (
                    f"the layout of the {half} has {name!r}: {part!r}; use a Part(shape, kind) under a name that "
                    f"forward can take, kind one of {', '.join(KINDS)}"
                )
    same = list(cloud.items()) == list(device.items())
    return "" if same else f"the halves disagree: cloud {dict(cloud)}, device {dict(device)}; share one layout"


def patches(method: Method) -> list[Finding]:
    """Shapes, numbers, repeatability, independence of the other devices and of padding, costs."""
    known = method.device.histories
    before = known.copy()
    first, again = method.ask(known), method.ask(before.copy())
    spoilt = [] if np.array_equal(before, known) else ["histories"]
    check_personals(method.cloud, first, ROWS)
    check_personals(method.cloud, again, ROWS)
    who = np.arange(ROWS)
    nbytes = len(encode_personal(Personal(who, who, first.patches), method.cloud.layout)[0])
    return [
        Finding("patches", True, f"what the layout says, finite, also for an empty history; {nbytes} bytes each"),
        unchanged("histories", spoilt, "personalize"),
        finding(
            "repeatable",
            not altered(dict(first.patches), dict(again.patches)),
            "the same call gives the same patches",
            "two calls differ; take out dropout and unseeded randomness (use `rng`), keep no state",
        ),
        *independence(method, before, first.patches),
        finding(
            "cost",
            first.flops is not None or first.seconds is not None,
            "says what a patch costs",
            "neither flops nor seconds; say what a patch costs",
        ),
    ]


def independence(method: Method, known: Items, made: Patches) -> list[Finding]:
    """Whether the patches `made` of histories `known` depend on the other devices, or on padding."""
    alone = joined([method.ask(known[row : row + 1].copy()) for row in range(ROWS)])
    short = method.ask(known[1:2, LENGTH - HALF :].copy()).patches
    return [
        close(
            "batch",
            (made, alone),
            "a device's patch does not depend on who else gets one",
            "a device gets another patch alone than in a batch; use no statistics over the batch, and draw from the "
            "device's own row of `rng`",
        ),
        close(
            "padding",
            ({name: values[1:2] for name, values in made.items()}, short),
            "padding is not treated as an item",
            "a history gives another patch without its padding; mask id 0, count positions from the newest item, and "
            "divide by the number of items",
        ),
    ]


def joined(parts: list[Personals]) -> Patches:
    """Patches of several calls under each other."""
    return {name: np.concatenate([part.patches[name] for part in parts]) for name in parts[0].patches}
