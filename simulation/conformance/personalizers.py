"""What the conformance kit asks of a personalised method: its cloud half, its device half, and what both agree on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cloud.patching import check_personals
from cloud.personalizer import Personalizer, Personals
from cloud.personalizers.trained import as_personalizer
from device.check import TOLERANCE, Finding
from device.errors import TandemError
from device.model import Items, Parameters, Scores
from device.personal import Part, Patches, Personalized
from device.personal_codec import Personal, encode_personal, values_bytes
from device.seeds import draws, rng
from simulation.conformance.learning import learning
from simulation.conformance.made_up import CANDIDATES, LENGTH, N_ITEMS, ROWS
from simulation.conformance.policies import altered, finding, named, unchanged
from simulation.personalizing import device_half

KINDS = ("bool", "float32", "float16", "int8")
HALF = LENGTH // 2


@dataclass(frozen=True, slots=True)
class Method:
    """A method, and what it is tried on: histories that are full, half, one item and empty."""

    cloud: Personalizer
    device: Personalized
    params: Parameters
    histories: Items
    candidates: Items

    def ask(self, histories: Items) -> Personals:
        """Patches for histories [B, L] of devices 0..B-1 after 0 steps."""
        who = np.arange(len(histories))
        return self.cloud.personalize(histories, who % 2, rng=draws(0, "personalizer", who, who * 0))

    def score(self, patches: Patches, rows: slice = slice(None), first: int = 0) -> Scores:
        """Scores of some rows, of their histories from column `first` on."""
        own = {name: values[rows] for name, values in patches.items()}
        known, pool = self.histories[rows, first:], self.candidates[rows]
        return self.device.score_personal(self.params, own, np.ascontiguousarray(known), np.ascontiguousarray(pool))


def personalizer(made: Any) -> list[Finding]:
    """Both halves, then patches, then scores under patches; later ones are left out where they could not run."""
    try:
        cloud, device = as_personalizer(made), device_half(made)
        method = Method(cloud, device, parameters(made, device), *probes())
    except TandemError as error:
        return [Finding("halves", False, str(error))]
    if wrong := layout_mistake(cloud.layout, device.layout):
        return [Finding("layout", False, wrong)]
    nbytes = values_bytes(cloud.layout)
    findings = [Finding("layout", True, f"{len(cloud.layout)} parts, {nbytes:,} bytes and a header per patch")]
    findings += learning(made, *probes()) if isinstance(made, nn.Module) else []
    for check in (patches, scores):
        try:
            findings += check(method)
        except TandemError as error:
            findings.append(Finding(check.__name__, False, str(error)))
        except Exception as error:
            cure = "the contract's arrays, empty histories among them, must pass without an exception"
            findings.append(Finding(check.__name__, False, f"raised {named(error)}; {cure}"))
    return findings


def probes() -> tuple[Items, Items]:
    """(histories [B, L], candidates [B, C])."""
    numbers = rng(0, "conformance")
    histories = numbers.integers(1, N_ITEMS + 1, (ROWS, LENGTH)).astype(np.int32)
    for row, items in ((1, HALF), (2, 1), (3, 0)):
        histories[row, : LENGTH - items] = 0
    return histories, np.stack([numbers.permutation(N_ITEMS)[:CANDIDATES] + 1 for _ in histories]).astype(np.int32)


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
    known = method.histories
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


def scores(method: Method) -> list[Finding]:
    """What the device half makes of patches, those of the method and random ones."""
    none = {name: np.repeat(value[None], ROWS, axis=0) for name, value in method.device.unpatched().items()}
    drawn = {name: random_part(name, part) for name, part in method.cloud.layout.items()}
    given = {**method.params, **drawn, "history": method.histories, "candidates": method.candidates}
    before = {name: array.copy() for name, array in given.items()}
    got, again = method.score(drawn), method.score(drawn)
    spoilt = altered(before, given)
    if got.shape != method.candidates.shape or got.dtype != np.float32 or not np.isfinite(got).all():
        wrong = f"score_personal returned {got.dtype} {got.shape}, or NaN; return finite float32 [B, C]"
        return [Finding("scores", False, wrong)]
    plain = method.device.score(method.params, method.histories, method.candidates)
    idle = [name for name in drawn if not np.any(np.abs(method.score({**drawn, name: none[name]}) - got) > 0)]
    return [
        Finding("scores", True, "float32 [B, C], finite"),
        unchanged("arguments", spoilt, "score_personal"),
        finding(
            "repeated scores", np.array_equal(got, again), "same", "two calls differ; take dropout out of eval mode"
        ),
        compared(
            "unpatched",
            (method.score(none), plain),
            "the patch that stands for none scores as the shared model",
            "the patch that stands for none does not score as the shared model; give the device half unpatched() -> "
            "{name: tensor} with what does (ones for a factor, zeros for a term)",
        ),
        finding(
            "effect", not idle, "every part changes scores", f"{', '.join(idle)} changes no score; use it, or drop it"
        ),
        *separate(method, drawn, got),
    ]


def separate(method: Method, drawn: Patches, got: Scores) -> list[Finding]:
    """Whether the scores `got` of a batch under patches `drawn` depend on the other devices, or on padding."""
    single = np.concatenate([method.score(drawn, slice(row, row + 1)) for row in range(ROWS)])
    short = method.score(drawn, slice(1, 2), LENGTH - HALF)
    return [
        compared(
            "single devices",
            (single, got),
            "a batch of devices equals single devices",
            "a device scores differently alone than in a batch; apply row b of every part to row b only (bmm, einsum)",
        ),
        compared(
            "padded scores",
            (short, got[1:2]),
            "padding is not treated as an item",
            "a history scores differently without its padding; mask id 0, count positions from the newest item",
        ),
    ]


def random_part(name: str, part: Part) -> NDArray[np.generic]:
    """[B, *shape] of small numbers, or coins."""
    values = rng(0, "conformance", name).normal(0, 0.5, (ROWS, *part.shape))
    made: NDArray[np.generic] = values > 0 if part.kind == "bool" else (values * (8 if part.kind == "int8" else 1))
    return made.astype(part.kind)


def joined(parts: list[Personals]) -> Patches:
    """Patches of several calls under each other."""
    return {name: np.concatenate([part.patches[name] for part in parts]) for name in parts[0].patches}


def close(name: str, pair: tuple[Patches, Patches], good: str, bad: str) -> Finding:
    """Whether two batches of patches are the same up to rounding."""
    one, two = pair
    off = [n for n in one if not np.allclose(one[n].astype("f8"), two[n].astype("f8"), rtol=TOLERANCE, atol=TOLERANCE)]
    return finding(name, not off, good, f"{', '.join(off)}: {bad}")


def compared(name: str, pair: tuple[Scores, Scores], good: str, bad: str) -> Finding:
    """Whether two batches of scores are the same up to rounding."""
    return close(name, ({"scores": pair[0]}, {"scores": pair[1]}), good, bad)
