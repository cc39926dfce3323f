"""The conformance kit for authors of device models: runs a model and says what to mend."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from device.errors import ContractError
from device.model import DeviceModel, Items, Parameters, Scores
from device.seeds import rng

TOLERANCE = 1e-5  # absolute and relative; float32 sums taken in another order differ by less


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found and, where it failed, the cure."""

    name: str
    ok: bool
    message: str


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
    findings = [_try("init", lambda: _init(usable, seed))]
    if findings[0].ok:
        probe = _probe(usable, n_items, length, candidates, seed)
        for check, run in _CHECKS:
            findings.append(_try(check, lambda run=run: run(probe)))  # type: ignore[misc]
            if check == "score" and not findings[-1].ok:
                break
    return Report(name, tuple(findings))


@dataclass(frozen=True, slots=True)
class _Probe:
    """A model, its parameters and a batch of five: full, half, one item, none, full histories."""

    model: DeviceModel
    params: Parameters
    history: Items
    candidates: Items
    untouched: tuple[Parameters, Items, Items]  # copies of the three above from before the first call

    def score(self, history: Items | None = None, candidates: Items | None = None) -> Scores:
        """Scores of the batch, or of other arrays, as the contract delivers them: int32 and contiguous."""
        history = self.history if history is None else history
        candidates = self.candidates if candidates is None else candidates
        return self.model.score(self.params, np.ascontiguousarray(history), np.ascontiguousarray(candidates))


class _Failed(Exception):
    """What a check found and the cure."""


def _as_device_model(model: object) -> DeviceModel:
    if isinstance(model, DeviceModel):
        return model
    from device.models.torch_model import as_device_model  # only now, because it brings torch

    return as_device_model(model)


def _probe(model: DeviceModel, n_items: int, length: int, candidates: int, seed: int) -> _Probe:
    draw = rng(seed, "check")
    history = draw.integers(1, n_items + 1, (5, length), dtype=np.int32)
    for row, items in ((1, length // 2), (2, 1), (3, 0)):
        history[row, : length - items] = 0
    pool = np.stack([draw.permutation(n_items)[:candidates] + 1 for _ in history]).astype(np.int32)
    params = model.init(rng(seed, "init"))
    copies = ({name: array.copy() for name, array in params.items()}, history.copy(), pool.copy())
    return _Probe(model, params, history, pool, copies)


def _try(name: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, check())
    except _Failed as failed:
        return Finding(name, False, str(failed))
    except Exception as error:  # whatever the model raises is a finding
        text = f"raised {type(error).__name__}: {error}; the contract's arrays must pass without an exception"
        return Finding(name, False, text)


def _init(model: DeviceModel, seed: int) -> str:
    first, second = model.init(rng(seed, "init")), model.init(rng(seed, "init"))
    if not isinstance(first, Mapping):
        raise _Failed(f"returned {type(first).__name__}; return a mapping from names to numpy arrays")
    for key, array in first.items():
        if not isinstance(key, str) or not isinstance(array, np.ndarray) or array.dtype.hasobject:
            raise _Failed(f"{key!r} is {type(array).__name__}; return a mapping from names to numpy arrays of numbers")
    if not _same(first, second):
        raise _Failed("two generators in the same state gave different parameters; draw everything from `rng`")
    return f"{len(first)} arrays, {sum(array.nbytes for array in first.values())} bytes"


def _score(probe: _Probe) -> str:
    scores = probe.score()
    _check_scores(scores, probe.candidates)
    _check_scores(probe.score(probe.history[:1], probe.candidates[:1, :1]), probe.candidates[:1, :1])
    return "float32 [B, C], finite, also for an empty history and for B = C = 1"


def _check_scores(scores: object, candidates: Items) -> None:
    if not isinstance(scores, np.ndarray):
        raise _Failed(f"returned {type(scores).__name__}; return a numpy array, float32 [B, C]")
    if scores.shape != candidates.shape:
        raise _Failed(
            f"shape {scores.shape} for candidates {candidates.shape}; return one score per candidate, [B, C], and do "
            "not squeeze sizes of 1"
        )
    if scores.dtype != np.float32:
        raise _Failed(f"dtype {scores.dtype}; return float32, with scores.astype(np.float32)")
    if not np.isfinite(scores).all():
        rows = np.flatnonzero(~np.isfinite(scores).all(1)).tolist()
        hint = " (row 3 has an empty history: do not divide by its length)" if 3 in rows else ""
        raise _Failed(f"NaN or infinity in rows {rows}{hint}; keep all scores finite")


def _arguments(probe: _Probe) -> str:
    params, history, candidates = probe.untouched
    if not _same(params, probe.params):
        raise _Failed("score changed params; devices share them, so copy an array before writing to it")
    if not (np.array_equal(history, probe.history) and np.array_equal(candidates, probe.candidates)):
        raise _Failed("score changed history or candidates; copy an array before writing to it")
    return "params, history and candidates are left as they are"


def _repeated(probe: _Probe) -> str:
    if not np.array_equal(probe.score(), probe.score()):
        raise _Failed("the same call gave other scores; take out dropout and unseeded randomness, keep no state")
    return "the same call gives the same scores"


def _batch(probe: _Probe) -> str:
    rows = [probe.score(probe.history[i : i + 1], probe.candidates[i : i + 1]) for i in range(len(probe.history))]
    _close(
        probe.score(),
        np.concatenate(rows),
        "a row scores differently alone than in a batch; use no statistics over the batch (batch norm in eval mode)",
    )
    return "a batch of B equals B batches of one"


def _longer_padding(probe: _Probe) -> str:
    longer = np.pad(probe.history, ((0, 0), (5, 0)))
    _close(
        probe.score(longer),
        probe.score(),
        "five more zeros on the left changed scores; mask id 0 and count positions from the newest item",
    )
    return "more padding changes nothing"


def _no_padding(probe: _Probe) -> str:
    half = probe.history[1:2]
    _close(
        probe.score(half[half != 0][None], probe.candidates[1:2]),
        probe.score(half, probe.candidates[1:2]),
        "a history scores differently without its padding; do not treat id 0 as an item, and divide by the number of "
        "items instead of L",
    )
    return "padding is not treated as an item"


def _candidate_order(probe: _Probe) -> str:
    back = np.arange(probe.candidates.shape[1])[::-1]
    _close(
        probe.score(candidates=probe.candidates[:, back]),
        probe.score()[:, back],
        "a candidate's score depends on its place in the list; score each candidate by its id and the history only",
    )
    return "permuted candidates give permuted scores"


def _history_order(probe: _Probe) -> str:
    """Only says what kind of model this is; either answer is right."""
    full = probe.history[:1]
    same = np.allclose(
        probe.score(full[:, ::-1], probe.candidates[:1]),
        probe.score(full, probe.candidates[:1]),
        rtol=TOLERANCE,
        atol=TOLERANCE,
    )
    return "the order of the history does not matter" if same else "the order of the history matters"


_CHECKS: tuple[tuple[str, Callable[[_Probe], str]], ...] = (
    ("score", _score),
    ("arguments", _arguments),
    ("repeated calls", _repeated),
    ("batch", _batch),
    ("longer padding", _longer_padding),
    ("no padding", _no_padding),
    ("candidate order", _candidate_order),
    ("history order", _history_order),
)


def _close(got: Scores, expected: Scores, cure: str) -> None:
    rows = np.flatnonzero(~np.isclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE).all(axis=1)).tolist()
    if rows:
        empty = " (row 3 has an empty history)" if 3 in rows else ""
        raise _Failed(f"scores of rows {rows}{empty} differ by up to {np.abs(got - expected).max():.2g}: {cure}")


def _same(a: Parameters, b: Parameters) -> bool:
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and a[k].tobytes() == b[k].tobytes() for k in a
    )
