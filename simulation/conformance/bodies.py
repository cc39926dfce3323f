"""What the conformance kit asks of a personalised device model whose body goes on from a state."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from device.check_scores import Failed, Finding, attempt, close
from device.errors import ContractError
from device.incremental import Incremental, ShowsState
from device.model import HasState, Items
from device.models.personal_torch import BODY, PersonalTorch
from device.personal import Continued, Headed
from simulation.conformance import incremental
from simulation.conformance.halves import CONTRACT, Halves, headed, vectors
from simulation.conformance.made_up import CANDIDATES, LENGTH, N_ITEMS
from simulation.conformance.personal_scores import Half, scored

SIZES = (N_ITEMS, LENGTH, CANDIDATES)


def personal(half: Half) -> list[Finding]:
    """Scores under patches and, where these are free of mistakes, the halves that make them, the body last."""
    found = scored(half)
    if not isinstance(half.model, Headed) or not all(one.ok for one in found):
        return found
    halves = Halves(half.model, half, half.drawn())
    found += headed(halves)
    going = isinstance(half.model, Continued) and all(one.ok for one in found)
    return found + (continued(halves) if going else [])


def continued(halves: Halves) -> list[Finding]:
    """Whether the body goes on from a state and shows what `before` gives; a body that says it cannot is right."""
    found = [attempt("body", lambda: body(halves), CONTRACT)]
    if not found[0].ok:
        return found
    found.append(attempt("shown behind", lambda: shown_behind(halves), CONTRACT))
    try:
        going = halves.model.body()
    except ContractError:
        return found
    found.append(attempt("body steps", lambda: steps(halves), CONTRACT))
    alone = incremental.findings(going, SIZES, halves.model.body_params(halves.half.params))
    return found + [replace(one, name=f"body alone, {one.name}") for one in alone]


def body(halves: Halves) -> str:
    """A model that goes on from a state and shows it, with parameters that are found again."""
    if isinstance(halves.model, PersonalTorch) and not hasattr(halves.model.module, BODY):
        name = type(halves.model.module).__name__
        raise Failed(f"{name} has shown but no part {BODY}; call what reads the history {BODY}, or take shown out")
    try:
        found = halves.model.body()
    except ContractError as error:
        return f"keeps no state, and says so: {error}"
    if not isinstance(found, Incremental) or not isinstance(found, ShowsState):
        lacking = [name for name in ("start", "advance", "score_state", "shown") if not hasattr(found, name)]
        raise Failed(
            f"body() gave {type(found).__name__} without {', '.join(lacking)}; return what goes on from a state and "
            "shows it, or raise device.errors.ContractError that says why it cannot"
        )
    first, again = (halves.model.body_params(halves.half.params) for _ in range(2))
    if not isinstance(first, Mapping) or first is not again:
        raise Failed(
            "body_params made another mapping of the same params; keep the last one and give it again, for what is "
            "made of parameters is found by the mapping's identity"
        )
    return f"{type(found).__name__} with {len(first)} arrays"


def steps(halves: Halves) -> str:
    """The body alone shows the states of `before`, step by step, under the params it has now and under others."""
    for asked in (halves, halves.other()):
        mine = asked.model.body_params(asked.half.params)
        going = incremental.Going.of(asked.model.body(), SIZES, mine)
        for step, (state, whole) in enumerate(both(going)):
            close(
                asked.model.body().shown(mine, state),
                asked.before(whole),
                f"after start and {step} steps the body does not show what before gives for the whole history; let "
                "body() be what before reads histories with, body_params its part of params, and shown a state as "
                "behind takes it",
                what="states",
            )
    return "what it shows is what before gives, step by step"


def both(going: incremental.Going) -> Iterator[tuple[Mapping[str, Any], Items]]:
    """(state that went on, the whole history) after every step before an item leaves the window."""
    for step in range(going.items.shape[1] + 1):
        yield incremental.lazily(going.after(step)), going.whole(step)


def shown_behind(halves: Halves) -> str:
    """What policies see of a continued state is what they see of the history."""
    params, model = halves.half.params, halves.model
    said = vectors(lambda history: model.shown_behind(params, halves.before(history)), halves.half.histories)
    if not shows(model):
        return said
    close(
        model.shown_behind(params, halves.before(halves.half.histories)),
        model.state(params, halves.half.histories),
        "shown_behind and state disagree; show of a state of the body what state(params, history) shows, without patch",
        what="states",
    )
    return f"{said}, as state says"


def shows(model: Any) -> bool:
    """Whether the model shows a state after a history; the wrapper of a module has it where the module has states."""
    return hasattr(model.module, "states") if isinstance(model, PersonalTorch) else isinstance(model, HasState)
