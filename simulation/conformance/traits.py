"""What the conformance kit asks of the optional traits of a device model, each where the model has it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

from device.check_scores import TOLERANCE, Failed, Finding, Probe, attempt, check_scores, close
from device.errors import ContractError
from device.incremental import Incremental
from device.model import DeviceModel, HasItemTable, HasState, RanksCatalogue
from device.models.incremental_torch import IncrementalTorch
from device.models.personal_torch import PersonalTorch
from device.models.slimming import Elastic, SlimmableTorch
from device.models.torch_model import as_device_model
from device.personal import Personalized
from device.seeds import rng
from device.subnet import Slimmable
from simulation.conformance import incremental, personal_scores, slimmable
from simulation.conformance.made_up import CANDIDATES, LENGTH, N_ITEMS, probes

SIZES = (N_ITEMS, LENGTH, CANDIDATES)
TRAITS = {
    "Slimmable": ("subnets", "slice", "subnet"),
    "Incremental": ("start", "advance", "score_state"),
    "Personalized": ("layout", "unpatched", "score_personal"),
}
TELLING = {"subnets", "subnet", "advance", "score_state", "unpatched", "score_personal"}
"""Names that say which trait is meant; the others occur elsewhere too."""
MODULE_TRAITS = {
    "device.models.slimming:Elastic": ("spec", "item_table", "subnets", "sized", "flops"),
    "device.models.incremental_torch:Steps": ("item_table", "begin", "step", "hidden"),
}
MODULE_TELLING = {"subnets", "sized", "begin"}


def traits(made: Any) -> list[Finding]:
    """All findings about the traits of a model that passed `check_device_model`."""
    findings = list(half_made(made))
    usable = as_device_model(made)
    probe = Probe.of(usable, usable.init(rng(0, "init")), SIZES)
    if isinstance(usable, HasItemTable):
        findings.append(attempt("item table", lambda: item_table(probe)))
    if shows(made, usable, RanksCatalogue, "catalogue"):
        findings.append(attempt("catalogue", lambda: catalogue(probe)))
    if shows(made, usable, HasState, "states"):
        findings.append(attempt("state", lambda: state(probe)))
    if (slim := as_slimmable(made)) is not None:
        findings += slimmable.findings(slim, SIZES)
    if (going := as_incremental(made)) is not None:
        findings += incremental.findings(going, SIZES)
    if (personal := as_personalized(made)) is not None:
        half = personal_scores.Half(personal, personal.init(rng(0, "init")), *probes())
        findings += personal_scores.scored(half)
    return findings


def shows(made: Any, usable: DeviceModel, trait: Any, name: str) -> bool:
    """Whether a model has a trait; a wrapper of torch modules has it where its module has what it is made of."""
    return hasattr(made, name) if isinstance(made, nn.Module) else isinstance(usable, trait)


def as_slimmable(made: Any) -> Slimmable | None:
    """The model, or an elastic module wrapped; None where it cannot be slimmed."""
    if isinstance(made, nn.Module):
        return SlimmableTorch(made) if isinstance(made, Elastic) else None
    return made if isinstance(made, Slimmable) else None


def as_incremental(made: Any) -> Incremental | None:
    """The model, or a module wrapped whose states can be continued; None where they cannot."""
    if isinstance(made, nn.Module):
        try:
            return IncrementalTorch(made)
        except (ContractError, AttributeError):
            return None
    return made if isinstance(made, Incremental) else None


def as_personalized(made: Any) -> Personalized | None:
    """The model, or a module with a layout wrapped; None where it takes no patches."""
    if isinstance(made, nn.Module):
        return PersonalTorch(made) if getattr(made, "layout", None) else None
    return made if isinstance(made, Personalized) else None


def half_made(made: Any) -> Iterator[Finding]:
    """Traits of which a model has a part only: nobody would ever call that part."""
    torch = isinstance(made, nn.Module)
    known, telling = (MODULE_TRAITS, MODULE_TELLING) if torch else (TRAITS, TELLING)
    for trait, names in known.items():
        there = [name for name in names if hasattr(made, name)]
        lacking = [name for name in names if name not in there]
        if lacking and telling & set(there):
            text = f"has {', '.join(there)} but no {', '.join(lacking)}, so it is no {trait} and they are never called"
            yield Finding("traits", False, f"{text}; add {', '.join(lacking)}, or take them out")


def item_table(probe: Probe) -> str:
    """One row per id, read by id: what rows of other items hold changes nothing, what a candidate's row holds does."""
    model: Any = probe.model
    name, before = model.item_table, probe.score()
    if not isinstance(name, str) or name not in probe.params:
        known = ", ".join(list(probe.params)[:6])
        raise Failed(f"item_table = {name!r} is no parameter; name the one with a row per item, of {known}")
    table = probe.params[name]
    if table.ndim != 2 or len(table) != N_ITEMS + 1 or table.dtype.kind != "f":
        raise Failed(
            f"{name} is {table.dtype} {table.shape} for {N_ITEMS} items; expected floats [n_items + 1, d], row i for "
            "id i and row 0 for padding"
        )
    used = np.unique(np.concatenate([probe.history.ravel(), probe.candidates.ravel()]))
    unused = np.setdiff1d(np.arange(1, N_ITEMS + 1), used)
    changed = table.copy()
    changed[unused] += rng(0, "other rows").normal(0, 3, (len(unused), table.shape[1])).astype(table.dtype)
    close(
        scored(probe, {**probe.params, name: changed}),
        before,
        f"rows of {name} whose items are in neither history nor candidates changed scores; row i belongs to item i, "
        "and of a streamed table a device holds no other rows",
    )
    changed = table.copy()
    changed[probe.candidates[0, 0]] += 1.0
    if not np.any(np.abs(scored(probe, {**probe.params, name: changed})[0, 0] - before[0, 0]) > 0):
        raise Failed(f"row i of {name} does not change the score of candidate i; name the table that is read, by id")
    return f"{name} has a row per item, and no other row is read"


def scored(probe: Probe, params: Any) -> Any:
    """Scores of the batch under other parameters."""
    return probe.model.score(params, probe.history, probe.candidates)


def catalogue(probe: Probe) -> str:
    """All items at once as one by one."""
    model: Any = probe.model
    every = np.tile(np.arange(N_ITEMS + 1, dtype=np.int32), (len(probe.history), 1))
    at_once = model.catalogue(probe.params, probe.history)
    check_scores(np.asarray(at_once)[:, 1:], every[:, 1:])
    close(
        at_once[:, 1:],
        probe.score(candidates=every)[:, 1:],
        "catalogue and score disagree; column i of catalogue is the score of item i, column 0 is ignored",
    )
    return "[B, n + 1], as score says"


def state(probe: Probe) -> str:
    """[B, d] of each row alone, padding or not."""
    model: Any = probe.model
    states = model.state(probe.params, probe.history)
    if getattr(states, "ndim", 0) != 2 or len(states) != len(probe.history) or states.dtype != np.float32:
        raise Failed(f"is {getattr(states, 'dtype', '')} {getattr(states, 'shape', '')}; return float32 [B, d]")
    if not np.isfinite(states).all():
        raise Failed("is NaN or infinite for a history (an empty one among them); keep it finite")
    alone = np.concatenate([model.state(probe.params, probe.history[i : i + 1]) for i in range(len(states))])
    longer = model.state(probe.params, np.pad(probe.history, ((0, 0), (5, 0))))
    for other, cure in ((alone, "use no statistics over the batch"), (longer, "mask id 0, count from the newest item")):
        if not np.allclose(states, other, rtol=TOLERANCE, atol=TOLERANCE):
            raise Failed(f"depends on the other rows or on padding; {cure}")
    return f"float32 {list(states.shape)}"
