"""What the conformance kit asks of a personalised device model of two halves: a body, and a head where patches work."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device.check_scores import TOLERANCE, Failed, Finding, attempt, check_scores, close
from device.model import Items, Scores
from device.personal import Patches
from simulation.conformance.made_up import N_ITEMS, ROWS, probes
from simulation.conformance.personal_scores import Half
from simulation.conformance.policies import altered

CONTRACT = "states [B, d] of histories of any length, also 0, and with them every patch of the layout"


@dataclass(frozen=True, slots=True)
class Halves:
    """A model of two halves, what it is tried on, and patches drawn for it."""

    model: Any  # Headed, perhaps Continued
    half: Half
    patches: Patches

    def before(self, history: Items) -> Scores:
        """States of the body, which gets a copy: whether it writes to it is asked once, by `unchanged`."""
        return self.model.before(self.half.params, history.copy())  # type: ignore[no-any-return]

    def behind(self, state: Scores, candidates: Items) -> Scores:
        """Scores of all rows under the drawn patches."""
        return self.model.behind(self.half.params, self.patches, state, candidates)  # type: ignore[no-any-return]

    def other(self) -> "Halves":
        """The same with other parameters, as a training makes them of those that a model begins with."""
        params: dict[str, Any] = dict(self.half.params)
        params |= {name: array / array.dtype.type(2) for name, array in params.items() if array.dtype.kind == "f"}
        return replace(self, half=replace(self.half, params=params))


def headed(halves: Halves) -> list[Finding]:
    """The states of the body first; what follows is left out where there are none."""
    found = [attempt("before", lambda: before(halves), CONTRACT)]
    if found[0].ok:
        asked = {
            "behind": behind,
            "behind rows": rows,
            "catalogue behind": catalogue,
            "halves unchanged": unchanged,
            "halves' parameters": parameters,
        }
        found += [attempt(name, lambda ask=ask: ask(halves), CONTRACT) for name, ask in asked.items()]  # type: ignore[misc]
    return found


def before(halves: Halves) -> str:
    """All that a module with a body needs, and states of each row alone."""
    module = getattr(halves.model, "module", halves.model)
    if lacking := [name for name in ("behind", "catalogue_behind") if not hasattr(module, name)]:
        raise Failed(
            f"{type(module).__name__} has before but no {', '.join(lacking)}, which devices would call; add "
            f"{', '.join(lacking)}, or take before out"
        )
    return vectors(halves.before, halves.half.histories)


def behind(halves: Halves) -> str:
    """The two halves make the whole, whatever the body was asked in between."""
    half, pool = halves.half, halves.half.candidates
    whole = half.score(halves.patches)
    at_once = halves.behind(halves.before(half.histories), pool)
    check_scores(at_once, pool)
    close(
        at_once,
        whole,
        "behind makes other scores of the state of before than score_personal; let every part of the patch work "
        "behind the body, none in it, and score_personal be behind(before(history))",
    )
    state = halves.before(half.histories)
    halves.before(half.histories[::-1])
    close(
        halves.behind(state, pool),
        whole,
        "once before was asked about other histories, behind scores differently; compute from the state that behind "
        "gets, the model keeps none",
    )
    return "behind the states of before, as score_personal says"


def rows(halves: Halves) -> str:
    """A device behind its own state as it would be alone."""
    half, state = halves.half, halves.before(halves.half.histories)
    parts = [slice(row, row + 1) for row in range(ROWS)]
    own = [{name: values[part] for name, values in halves.patches.items()} for part in parts]
    alone = [
        halves.model.behind(half.params, mine, state[part], half.candidates[part])
        for mine, part in zip(own, parts, strict=True)
    ]
    close(
        halves.behind(state, half.candidates),
        np.concatenate(alone),
        "behind scores a device differently alone than in a batch; row b of state and of every part is for row b only",
    )
    return "a batch of B equals B batches of one"


def catalogue(halves: Halves) -> str:
    """All items at once as one by one."""
    state = halves.before(halves.half.histories)
    at_once = halves.model.catalogue_behind(halves.half.params, halves.patches, state)
    return all_items(at_once, lambda every: halves.behind(state, every), ("catalogue_behind", "behind"))


def unchanged(halves: Halves) -> str:
    """What devices keep, and what they share, is left as it is."""
    params, patches, (history, pool) = halves.half.params, halves.half.drawn(), probes()
    state = halves.before(history)
    given: dict[str, NDArray[Any]] = {"state": state, "history": history, "candidates": pool}
    given |= {f"patch {name}": array for name, array in patches.items()}
    given |= {f"params {name}": array for name, array in params.items()}
    kept = {name: array.copy() for name, array in given.items()}
    asked: dict[str, Callable[[], object]] = {
        "before": lambda: halves.model.before(params, history),
        "behind": lambda: halves.model.behind(params, patches, state, pool),
        "catalogue_behind": lambda: halves.model.catalogue_behind(params, patches, state),
    }
    for name, call in asked.items():
        call()
        if wrong := altered(kept, given):
            raise Failed(f"{name} changed {', '.join(wrong)}, which a device keeps or shares; work on a copy")
    return "states, patches, params, histories and candidates are left as they are"


def parameters(halves: Halves) -> str:
    """Parameters that come later, as trained ones do, reach both halves."""
    other, half = halves.other(), halves.half
    halves.behind(halves.before(half.histories), half.candidates)
    close(
        other.behind(other.before(half.histories), half.candidates),
        other.half.score(other.patches),
        "with other params the two halves do not score as score_personal does; compute with the params that before "
        "and behind get, not with those of an earlier call",
    )
    return "both halves follow the params that they get"


def vectors(ask: Callable[[Items], Scores], history: Items) -> str:
    """[B, d] of each row alone, padding or not."""
    states = ask(history)
    if getattr(states, "ndim", 0) != 2 or len(states) != len(history) or states.dtype != np.float32:
        raise Failed(f"is {getattr(states, 'dtype', '')} {getattr(states, 'shape', '')}; return float32 [B, d]")
    if not np.isfinite(states).all():
        raise Failed("is NaN or infinite for a history (an empty one among them); keep it finite")
    alone = np.concatenate([ask(history[i : i + 1]) for i in range(len(states))])
    longer = ask(np.pad(history, ((0, 0), (5, 0))))
    for other, cure in ((alone, "use no statistics over the batch"), (longer, "mask id 0, count from the newest item")):
        if not np.allclose(states, other, rtol=TOLERANCE, atol=TOLERANCE):
            raise Failed(f"depends on the other rows or on padding; {cure}")
    return f"float32 {list(states.shape)}"


def all_items(at_once: Any, one_by_one: Callable[[Items], Scores], names: tuple[str, str]) -> str:
    """[B, n + 1] scores of all items `at_once` as of each; `names` are those of the two methods."""
    every = np.tile(np.arange(N_ITEMS + 1, dtype=np.int32), (len(at_once), 1))
    check_scores(np.asarray(at_once)[:, 1:], every[:, 1:])
    close(
        at_once[:, 1:],
        one_by_one(every)[:, 1:],
        f"{names[0]} and {names[1]} disagree; column i of {names[0]} is the score of item i, column 0 is ignored",
    )
    return f"[B, n + 1], as {names[1]} says"
