"""The conformance kit for authors of device models: runs a model and says what to mend."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from device.check_scores import CHECKS, TOLERANCE, Failed, Finding, Probe, attempt, different
from device.errors import ContractError
from device.model import DeviceModel
from device.seeds import rng

__all__ = ["TOLERANCE", "Finding", "Report", "check_device_model"]

FIRST = ("score", "arguments", "repeated calls")
"""What other checks stand on: they compare calls, and would blame the batch or the padding for what differs anyway."""


@dataclass(frozen=True, slots=True)
class Report:
    """All findings on one model, in the order of the checks; later ones are left out where they could not run."""

    model: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(finding.ok for finding in self.findings)

    def raise_on_failure(self) -> None:
        """Raise ContractError with every failed check."""
        failed = [f"{self.model}, {f.name}: {f.message}" for f in self.findings if not f.ok]
        if failed:
            raise ContractError("\n".join(failed))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"model": self.model, "ok": self.ok, "findings": [asdict(finding) for finding in self.findings]}


def check_device_model(
    model: object, *, n_items: int = 50, length: int = 10, candidates: int = 8, seed: int = 0
) -> Report:
    """Try a device model, or a torch.nn.Module, on random histories of ids 1..`n_items`.

    Nothing is raised for what the model does wrong, its exceptions included: that is in the report.
    """
    name = type(model).__name__
    try:
        usable = _as_device_model(model)
    except ContractError as error:
        return Report(name, (Finding("contract", False, str(error)),))
    findings = [attempt("init", lambda: _init(usable, seed))]
    if findings[0].ok:
        probe = Probe.of(usable, usable.init(rng(seed, "init")), (n_items, length, candidates), seed)
        for check, run in _checks(model, usable):
            findings.append(attempt(check, lambda run=run: run(probe)))  # type: ignore[misc]
            if check in FIRST and not findings[-1].ok:
                break
    return Report(name, tuple(findings))


def _as_device_model(model: object) -> DeviceModel:
    if isinstance(model, DeviceModel):
        return model
    from device.models.torch_model import as_device_model  # only now, because it brings torch

    return as_device_model(model)


def _checks(model: object, usable: DeviceModel) -> Sequence[tuple[str, Callable[[Probe], str]]]:
    """All checks; of a torch module also whether it answers with float32 itself, because its wrapper always does."""
    if usable is model:
        return CHECKS
    (name, score), *others = CHECKS
    return ((name, lambda probe: _module_score(usable, probe, score)), *others)


def _module_score(usable: Any, probe: Probe, score: Callable[[Probe], str]) -> str:
    import torch

    said = score(probe)
    ids = [torch.from_numpy(array.astype(np.int64)) for array in (probe.history, probe.candidates)]
    with torch.no_grad():
        dtype = usable.loaded(probe.params).eval()(*ids).dtype
    if dtype != torch.float32:
        raise Failed(
            f"forward returned {dtype}; return torch.float32, with scores.float() at the latest: devices and ONNX "
            "files compute in it, and whole numbers cannot be trained"
        )
    return said


def _init(model: DeviceModel, seed: int) -> str:
    first, second = model.init(rng(seed, "init")), model.init(rng(seed, "init"))
    if not isinstance(first, Mapping):
        raise Failed(f"returned {type(first).__name__}; return a mapping from names to numpy arrays")
    for key, array in first.items():
        if not isinstance(key, str) or not isinstance(array, np.ndarray) or array.dtype.hasobject:
            raise Failed(f"{key!r} is {type(array).__name__}; return a mapping from names to numpy arrays of numbers")
    if wrong := different(first, second):
        raise Failed(
            f"two generators in the same state gave different parameters ({wrong}); draw everything from `rng`, "
            "nothing from np.random or a generator of the model's own"
        )
    return f"{len(first)} arrays, {sum(array.nbytes for array in first.values())} bytes"
