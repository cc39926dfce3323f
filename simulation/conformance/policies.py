"""What the conformance kit asks of a request policy, also of one that learns."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device.check import Finding
from device.errors import TandemError
from device.patch import decode_patch, encode_patch
from device.policy import Experience, Learned, LearnedPolicy, RequestPolicy, Urgency, View
from device.seeds import draws, rng
from simulation.conformance.made_up import ROWS, experience, rows_of, view

MOST_BYTES, GOOD_BYTES = 65_536, 2_000
BLOCK_ROWS, MOST_BLOCK = 128, 64
ON_DEMAND = ("device_scores", "own", "state", "asked_state")


def policy(made: Any) -> list[Finding]:
    """What it learns, where it learns, and then what it answers."""
    if not isinstance(made, RequestPolicy):
        return [Finding("method", False, "has no urgency(view, draws); add it, returning one number per device")]
    lacking = [name for name in ("fit", "taught") if not callable(getattr(made, name, None))]
    if len(lacking) == 1:
        cure = "a policy that learns has fit(experience, rng) and taught(learned), another has neither"
        return [Finding("method", False, f"has no {lacking[0]}; {cure}")]
    return lessons(made) if isinstance(made, LearnedPolicy) else decisions(made)


def lessons(made: LearnedPolicy) -> list[Finding]:
    """What it says before it is taught, what it learns, and its answers once a copy that did not fit is taught."""
    device = copy.deepcopy(made)
    findings = [untaught(copy.deepcopy(made))]
    given = experience()
    before = [numbers_of(seen) for seen in given.views], outcomes(given)
    try:
        learned, again = (made.fit(seen, fresh_rng()) for seen in (given, experience()))
    except Exception as error:
        return [*findings, Finding("fits", False, f"fit raised {named(error)}")]
    if wrong := parameter_mistake(learned):
        return [*findings, Finding("parameters", False, wrong)]
    after = [numbers_of(seen) for seen in given.views], outcomes(given)
    spoilt = [name for old, new in zip(before[0], after[0], strict=True) for name in altered(old, new)]
    findings += [
        Finding("parameters", True, f"{len(learned)} float32 arrays"),
        size(learned),
        finding(
            "deterministic",
            not altered(dict(learned), dict(again)),
            "the same experience and rng give the same parameters",
            "fitted twice with one rng it learned two things; take random numbers from `rng`, also torch's seed",
        ),
        unchanged("experience", [*spoilt, *altered(before[1], after[1])], "fit"),
    ]
    try:
        taught: Any = device.taught(as_received(learned))
    except Exception as error:
        return [*findings, Finding("taught", False, f"taught raised {named(error)}; devices never call fit before it")]
    if not isinstance(taught, RequestPolicy):
        return [*findings, Finding("taught", False, f"taught returned a {type(taught).__name__} without urgency")]

    def alone() -> RequestPolicy:
        return made.taught(as_received(made.fit(experience(own=0), fresh_rng())))

    return [*findings, *decisions(taught, alone, learned=True)]


def untaught(made: Any) -> Finding:
    """An untaught policy works, or says what to do."""
    try:
        found = asked(made, view())
    except TandemError as error:
        return Finding("untaught", True, f"says so: {error}")
    except Exception as error:
        cure = "raise device.errors.ContractError that says so while nothing is learned, or answer without"
        return Finding("untaught", False, f"before it is taught, urgency raised {named(error)}; {cure}")
    usable = found.shape == (ROWS,) and not np.isnan(found).any()
    return finding("untaught", usable, "decides", f"before it is taught, urgency is {found.shape} or NaN")


def parameter_mistake(learned: Any) -> str:
    """What is wrong with what `fit` returned; "" = nothing."""
    if not isinstance(learned, Mapping):
        return f"fit returned a {type(learned).__name__}; return a mapping from names to float32 arrays"
    for name, array in learned.items():
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        if not isinstance(name, str) or kind != np.float32:
            return f"fit returned {name!r} as {kind}; return numpy float32 arrays under names"
        if not np.isfinite(array).all():
            return f"fit returned {name!r} with NaN or infinity; leave out NaN outcomes, guard divisions"
    try:
        encode_patch(learned)
    except TandemError as error:
        return str(error)
    return ""


def size(learned: Learned) -> Finding:
    """Bytes of the message that installs the parameters."""
    nbytes = len(encode_patch(learned))
    if nbytes > MOST_BYTES:
        return Finding("size", False, f"{nbytes:,} bytes of parameters; a policy may install {MOST_BYTES:,} at most")
    warning = f"warning: more than {GOOD_BYTES:,}, " if nbytes > GOOD_BYTES else ""
    return Finding("size", True, f"{warning}{nbytes:,} bytes installed per device")


def decisions(
    made: RequestPolicy, alone: Callable[[], RequestPolicy] | None = None, *, learned: bool = False
) -> list[Finding]:
    """Shape, numbers, repeatability, independence of the other devices; `alone` makes it for devices without own."""
    seen = view()
    before = numbers_of(seen)
    try:
        first, again = asked(made, seen), asked(made, view())
        halves = [asked(made, rows_of(view(), part)) for part in (slice(0, 5), slice(5, ROWS))]
        if first.shape != (ROWS,):
            wrong = f"urgency returned {first.shape} for {ROWS} devices; return one number each"
            return [Finding("shape", False, wrong)]
        apart = independent(made, first, np.concatenate(halves))
    except Exception as error:
        cure = "; what it knows must come from taught(learned), devices never call fit" if learned else ""
        return [Finding("runs", False, f"urgency raised {named(error)}{cure}")]
    good = np.isfinite(first) if learned else ~np.isnan(first)
    wrong = "NaN or infinite" if learned else "NaN"
    return [
        Finding("shape", True, "one number per device"),
        finding("numbers", good.all(), f"not {wrong}", f"urgency is {wrong}; guard divisions and logarithms"),
        finding(
            "repeatable",
            np.array_equal(first, again, equal_nan=True),
            "the same view gives the same urgency",
            "two calls differ; take random numbers from `draws`, keep no state in the policy",
        ),
        apart,
        unchanged("view", altered(before, numbers_of(seen)), "urgency"),
        without_own(alone or (lambda: made)),
    ]


def independent(made: RequestPolicy, whole: Urgency, parts: Urgency) -> Finding:
    """Whether urgency is the same, to the last bit, whoever shares the call."""
    if np.array_equal(whole, parts, equal_nan=True):
        return Finding("independent", True, "a device's urgency does not depend on the other devices")
    if np.allclose(whole, parts, rtol=1e-5, atol=1e-7, equal_nan=True):
        cure = "sum with .sum(axis=1) instead of @, or see device.policies.fitting.answered"
        return Finding("independent", False, f"urgency's last bits depend on how many devices share a call; {cure}")
    if block := block_of(made):
        return Finding(
            "independent",
            False,
            f"{block} devices with successive numbers are decided together: urgency depends on the {block - 1} others. "
            f"If the method is meant so, compare runs on one client only",
        )
    wrong = "urgency depends on which devices share a call; use no statistic over the rows of a view"
    return Finding("independent", False, wrong)


def block_of(made: RequestPolicy) -> int | None:
    """The smallest number of successive devices that can be asked apart from all others; None = there is none."""
    whole = asked(made, view(BLOCK_ROWS))
    for block in range(2, MOST_BLOCK + 1):
        starts = range(0, BLOCK_ROWS, block)
        parts = [asked(made, rows_of(view(BLOCK_ROWS), slice(at, at + block))) for at in starts]
        if np.array_equal(whole, np.concatenate(parts)):
            return block
    return None


def without_own(alone: Callable[[], RequestPolicy]) -> Finding:
    """A device that looks for no items of its own shows view.own [B, 0]."""
    try:
        found = asked(alone(), view(own=0))
    except TandemError as error:
        return Finding("own", True, f"needs items of the device's own, and says so: {error}")
    except Exception as error:
        return Finding("own", False, f"where view.own is [B, 0], it raised {named(error)}; guard for width 0")
    usable = found.shape == (ROWS,) and not np.isnan(found).any()
    wrong = f"where view.own is [B, 0], urgency is {found.shape} or NaN; guard for width 0"
    return finding("own", usable, "works where the device ranks no items of its own", wrong)


def asked(made: RequestPolicy, seen: View) -> Urgency:
    """Its answer, with the draws of each device and step."""
    return np.asarray(made.urgency(seen, draws(0, "policy", seen.device, seen.step)), np.float64)


def fresh_rng() -> np.random.Generator:
    """The generator of every fit."""
    return rng(0, "policy")


def as_received(learned: Learned) -> Learned:
    """The parameters as a device gets them."""
    return {name: array.astype(np.float32) for name, array in decode_patch(encode_patch(learned)).items()}


def numbers_of(seen: View) -> dict[str, NDArray[Any]]:
    """Copies of all that a view shows."""
    names = [name for name in View.__dataclass_fields__ if name != "look"]
    return {name: np.array(getattr(seen, name)) for name in (*names, *ON_DEMAND)}


def outcomes(given: Experience) -> dict[str, NDArray[Any]]:
    """Copies of the outcomes."""
    return {name: np.array(getattr(given, name)) for name in ("kept", "fresh", "shown")}


def altered(old: Mapping[str, NDArray[Any]], new: Mapping[str, NDArray[Any]]) -> list[str]:
    """Names under which two mappings do not hold the same."""
    same = [name for name in old.keys() & new.keys() if np.array_equal(old[name], new[name], equal_nan=True)]
    return sorted((old.keys() | new.keys()) - set(same))


def unchanged(what: str, names: list[str], method: str) -> Finding:
    """That a method left what it was given as it was."""
    wrong = f"{method} changes {', '.join(sorted(set(names)))} of the {what}, which others look at too; work on a copy"
    return finding(f"{what} unchanged", not names, f"{method} leaves the {what} as it is", wrong)


def named(error: Exception) -> str:
    """`KeyError: 'cloud'`."""
    return f"{type(error).__name__}: {error}"


def finding(name: str, ok: bool | np.bool_, good: str, bad: str) -> Finding:
    """One finding with the message that fits."""
    return Finding(name, bool(ok), good if ok else bad)
