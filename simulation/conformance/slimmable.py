"""What the conformance kit asks of a device model that can be cut down to smaller ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import nn

from device.check_scores import CHECKS, Failed, Finding, Probe, attempt, different, same
from device.errors import TandemError
from device.model import HasItemTable, Parameters
from device.models.slimming import SlimmableTorch, narrowed
from device.patch import encode_patch
from device.seeds import rng
from device.subnet import HEAD, Slimmable, SubnetSpec, as_read, installed, smallest

CONTRACT = "every subnet (its tensors are its parameters; others are made in the call that needs them)"


@dataclass(frozen=True, slots=True)
class Trial:
    """A slimmable model, its parameters, and (items, length, candidates) of what it is tried on."""

    model: Slimmable
    params: Parameters
    sizes: tuple[int, int, int]
    some: tuple[SubnetSpec, ...]  # see `some`

    @property
    def large(self) -> SubnetSpec:
        """The one that holds all others."""
        return self.some[-1]

    def cut(self, spec: SubnetSpec) -> Parameters:
        """The slice; Failed where it cannot be made."""
        try:
            made = self.model.slice(self.params, spec)
        except Exception as error:
            raise Failed(
                f"slice(params, {spec}) raised {type(error).__name__}: {error}; cut every array of params to its "
                "leading entries: each parameter of a subnet has a namesake in the large model that is no smaller"
            ) from error
        arrays = isinstance(made, Mapping) and all(isinstance(array, np.ndarray) for array in made.values())
        if not arrays or not made:
            raise Failed(f"slice(params, {spec}) is a {type(made).__name__}; return names to numpy arrays")
        return made

    def probe(self, spec: SubnetSpec) -> Probe:
        """A subnet with its slice."""
        return Probe.of(self.model.subnet(spec), self.cut(spec), self.sizes)

    def nbytes(self, spec: SubnetSpec) -> int:
        """Of the installation."""
        cut = self.cut(spec)
        if spec.table != "float32" and not isinstance(self.model, HasItemTable):
            raise Failed(f"{spec} says how its table is held, but the model names none; add item_table, or offer none")
        name = self.model.item_table if isinstance(self.model, HasItemTable) else ""
        return len(encode_patch(installed(cut, spec, item_table=name)))


def findings(model: Slimmable, sizes: tuple[int, int, int]) -> list[Finding]:
    """Its sizes, and then its slices; the latter are left out where there are no sizes to cut."""
    found = [attempt("subnets", lambda: offered(list(model.subnets())))]
    if found[0].ok:
        trial = Trial(model, model.init(rng(0, "init")), sizes, some(list(model.subnets())))
        found.append(attempt("slices", lambda: slices(trial)))
    if found[-1].ok:
        asked = {"whole": whole, "subnet scores": small, "costs": costs, "too large": beyond, "int8 table": table}
        found += [attempt(name, lambda ask=ask: ask(trial), CONTRACT) for name, ask in asked.items()]  # type: ignore[misc]
        if isinstance(model, SlimmableTorch):
            found.append(attempt("training", lambda: masked(trial)))
    return found


def offered(specs: list[SubnetSpec]) -> str:
    """Specs that differ, can be written in a configuration, and lie within the largest."""
    if not specs or not all(isinstance(spec, SubnetSpec) for spec in specs):
        raise Failed(f"subnets() gave {specs[:3]}; return device.subnet.SubnetSpec, for instance grid(spec)")
    if len(set(specs)) < len(specs):
        raise Failed("subnets() names one twice; give every spec once")
    if wrong := [spec for spec in specs if SubnetSpec.parse(str(spec)) != spec]:
        raise Failed(f"the label {wrong[0]} is read back as another spec; leave the class SubnetSpec as it is")
    return f"{len(specs)}, {smallest(specs)} to {some(specs)[-1]}"


def some(specs: list[SubnetSpec]) -> tuple[SubnetSpec, ...]:
    """The smallest, the largest with one thing less each, and the largest at the end, each once."""
    whole = [spec for spec in specs if spec.table == "float32" and all(other.within(spec) for other in specs)]
    if not whole:
        raise Failed(
            f"subnets() gave {', '.join(map(str, specs[:6]))}: none with a float32 table holds all others; list the "
            "model's own size too, as grid(spec) of device.subnet does"
        )
    large, found = whole[0], [smallest(specs)]
    for name in ("width", "blocks", "items", "table"):
        less = [s for s in specs if s != large and replace(s, **{name: getattr(large, name)}) == large]  # type: ignore[arg-type]
        found += less[-1:]
    return tuple(dict.fromkeys([*(spec for spec in found if spec != large), large]))


def slices(trial: Trial) -> str:
    """Copies, the same at every call, of parameters that stay as they are."""
    before = {name: array.copy() for name, array in trial.params.items()}
    for spec in trial.some:
        cut = trial.cut(spec)
        if wrong := different(before, trial.params):
            raise Failed(f"slice(params, {spec}) changed params {wrong}; work on a copy")
        if wrong := different(cut, trial.cut(spec)):
            raise Failed(f"slice(params, {spec}) gave two different {wrong}; draw nothing, cut what is there")
        near = {n for n, part in cut.items() for whole in trial.params.values() if np.may_share_memory(part, whole)}
        if near:
            raise Failed(
                f"slice(params, {spec}) is a view of params: {', '.join(sorted(near))}; return copies (.copy(), "
                "device.subnet.leading), for who trains a subnet would change all"
            )
    return "copies, the same at every call"


def whole(trial: Trial) -> str:
    """The largest subnet is the model, to the last bit."""
    one = Probe.of(trial.model, trial.params, trial.sizes)
    large = trial.probe(trial.large)
    if not same(one.score(), large.score()):
        difference = np.abs(one.score() - large.score()).max()
        raise Failed(
            f"the largest subnet {trial.large} scores up to {difference:.2g} off the whole model; slice must give it "
            "all parameters as they are, and subnet the same computation"
        )
    return f"{trial.large} scores as the whole model, bit for bit"


def small(trial: Trial) -> str:
    """Every subnet is a device model in itself, and is run by its slice only."""
    for spec in trial.some:
        probe = trial.probe(spec)
        for name, check in CHECKS:
            found = attempt(name, lambda check=check, probe=probe: check(probe), CONTRACT)  # type: ignore[misc]
            if not found.ok:
                raise Failed(f"subnet {spec}, {name}: {found.message}")
        if not same(probe.score(), trial.probe(spec).score()):
            raise Failed(f"subnet({spec}) made twice gave two scores; what it computes with comes from its slice only")
        floats: dict[str, Any] = {name: array for name, array in probe.params.items() if array.dtype.kind == "f"}
        other = {**probe.params, **{name: array + array.dtype.type(1) for name, array in floats.items()}}
        if same(replace(probe, params=other).score(), probe.score()):
            raise Failed(f"subnet({spec}) scores the same with other params; compute with the params that score gets")
    return f"{len(trial.some)} of them pass what the whole model passed"


def costs(trial: Trial) -> str:
    """Less of anything is fewer bytes and, where the model says them, operations."""
    specs = trial.some
    nbytes = {spec: trial.nbytes(spec) for spec in specs}
    flops = {spec: said(trial, spec, nbytes[spec]) for spec in specs}
    for one, other in permutations(specs, 2):
        if not one.within(other) or other.table not in (one.table, "float32"):
            continue  # which of two compact tables is smaller depends on the catalogue
        if nbytes[one] >= nbytes[other]:
            raise Failed(
                f"{one} installs {nbytes[one]:,} bytes, {other} {nbytes[other]:,}; make slice follow width, blocks and "
                "items, or offer no specs that differ in what the model does not have"
            )
        if other.within(one):  # they differ in how the table is installed
            continue
        if flops[one] >= flops[other] > 0:
            raise Failed(
                f"{one} says it costs {flops[one]:,.0f} operations, {other} {flops[other]:,.0f}; let sized(spec) make "
                "that size, and flops(length, candidates) count it"
            )
    few, large = specs[0], trial.large
    share = f", {flops[few] / flops[large]:.0%} of the operations" if flops[large] else ""
    return f"{few} takes {nbytes[few] / nbytes[large]:.0%} of the bytes{share} of {large}"


def said(trial: Trial, spec: SubnetSpec, nbytes: int) -> float:
    """Operations that the model says a subnet costs; 0 where it says nothing. Failed where its bytes are wrong."""
    size: Any = getattr(trial.model, "size", None)
    if size is None:
        return 0.0
    _, length, candidates = trial.sizes
    found = size(spec, length=length, candidates=candidates)
    if found.nbytes != nbytes:
        raise Failed(f"size({spec}) says {found.nbytes:,} bytes, installed are {nbytes:,}; count what slice gives")
    if not 0 < found.flops < np.inf:
        raise Failed(f"size({spec}) says {found.flops} operations; let flops(length, candidates) count them, above 0")
    return float(found.flops)


def beyond(trial: Trial) -> str:
    """What the model does not have cannot be cut out of it."""
    large = trial.large
    more = SubnetSpec(large.width + HEAD, large.blocks + 1, large.items + 1)
    asked: dict[str, Callable[[], object]] = {
        "slice(params, ": lambda: trial.model.slice(trial.params, more),
        "subnet(": lambda: trial.model.subnet(more),
    }
    for name, call in asked.items():
        try:
            call()
        except TandemError:
            continue
        except Exception as error:
            wrong = f"raised {type(error).__name__}"
        else:
            wrong = "passed"
        raise Failed(f"{name}{more}) {wrong}, though {large} is all there is; raise device.errors.ConfigError")
    return f"what is beyond {large} is refused"


def table(trial: Trial) -> str:
    """A device reads from a table that is not float32 what the slice says."""
    compact = [spec for spec in trial.some if spec.table != "float32"]
    for spec in compact:
        assert isinstance(trial.model, HasItemTable)  # `costs` has seen to it
        read = trial.cut(spec)[trial.model.item_table]
        # fitting codes once more to what was fitted gives something else
        plain = read if spec.table == "int8" else trial.cut(replace(spec, table="float32"))[trial.model.item_table]
        held = as_read(plain, spec.table)
        if not np.allclose(read, held, rtol=0, atol=1e-6 * max(1e-6, float(np.abs(read).max()))):
            cure = f'return device.subnet.as_read(table, "{spec.table}")'
            raise Failed(f"the table of {spec} is not what its {spec.table} form holds; {cure}")
    return f"{len(compact)} subnets with tables that are not float32 hold what is installed"


def masked(trial: Trial) -> str:
    """What training sees as a subnet of a torch module, its leading channels, is what is installed."""
    assert isinstance(trial.model, SlimmableTorch)
    large: nn.Module = trial.model.whole.loaded(trial.params).eval()
    for spec in trial.some:
        probe = trial.probe(spec)
        with torch.no_grad():
            try:
                ids = [torch.from_numpy(array.astype(np.int64)) for array in (probe.history, probe.candidates)]
                scores = narrowed(large, spec)(*ids).numpy()
            except Exception as error:
                raise Failed(
                    f"as {spec} it cannot be trained: {type(error).__name__}: {error}; keep no tensors but parameters "
                    "(no buffers), compute what else is needed in forward"
                ) from error
        if not same(np.ascontiguousarray(scores, np.float32), probe.score()):
            raise Failed(f"as {spec} it is trained to other scores than it is installed with; see to sized(spec)")
    return "slicing equals masking, bit for bit"
