"""What the conformance kit asks of the optional traits of a device model, each where the model has it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import nn

from device.check_scores import Failed, Finding, Probe, attempt, close
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
from simulation.conformance import incremental, slimmable
from simulation.conformance.bodies import personal
from simulation.conformance.halves import all_items, vectors
from simulation.conformance.made_up import CANDIDATES, LENGTH, N_ITEMS, probes
from simulation.conformance.personal_scores import Half

SIZES = (N_ITEMS, LENGTH, CANDIDATES)
TRAITS = {
    "Slimmable": ("subnets", "+slice", "subnet"),
    "Incremental": ("+start", "advance", "score_state"),
    "Personalized": ("+layout", "unpatched", "score_personal"),
    "Headed": ("+score_personal", "+before", "behind", "catalogue_behind"),
    "Continued": ("+before", "+body", "body_params", "shown_behind"),
}
"""What a trait is made of; with a +, what occurs elsewhere too and does not say that this trait is meant."""
MODULE_TRAITS = {
    "device.models.slimming:Elastic": ("+spec", "+item_table", "subnets", "sized", "+flops"),
    "device.models.incremental_torch:Steps": ("+item_table", "begin", "+step", "+hidden"),
    "device.personal:Headed": ("+layout", "+before", "behind", "catalogue_behind"),
}


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
    if (own := as_personalized(made)) is not None:
        findings += personal(Half(own, own.init(rng(0, "init")), *probes()))
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
    for trait, members in (MODULE_TRAITS if isinstance(made, nn.Module) else TRAITS).items():
        names = [member.lstrip("+") for member in members]
        there = [name for name in names if hasattr(made, name)]
        lacking = [name for name in names if name not in there]
        if lacking and set(there) & set(members):
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
    at_once = model.catalogue(probe.params, probe.history)
    return all_items(at_once, lambda every: probe.score(candidates=every), ("catalogue", "score"))


def state(probe: Probe) -> str:
    """[B, d] of each row alone, padding or not."""
    model: Any = probe.model
    return vectors(lambda history: model.state(probe.params, history), probe.history)
