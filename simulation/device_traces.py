"""Tiers of devices from measured phones: a list of phones' speeds, and when phones were idle, charging and on Wi-Fi.

A list weighs every phone the same, however many people carry it: its quantiles are those of models, not of users.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from device.errors import ConfigError, DataError
from device.profile import REFERENCE, DeviceProfile
from device.seeds import draws
from simulation.traces import _number, _open, _rows

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LATENCY = "resnet_latency_ms"
"""Of compute/phone_latency_vit_resnet.csv.gz: FLHetBench's list, own measurements beside AI-Benchmark's ranking."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """N phones, fastest first."""

    phones: tuple[str, ...]  # [N]
    scale: Floats  # [N] times as long as the reference phone takes
    blank: int  # rows of the file that say nothing
    source: str

    def drawn(self, seed: int, devices: ArrayLike) -> Ints:
        """Index [D] of the phone that each of devices [D] is: uniform, from the seed and the device's number alone."""
        uniform = draws(seed, "profile", devices, 0).uniform()[:, 0]
        return np.asarray(uniform * len(self.phones), np.int64)


def read_speeds(path: str | Path, *, column: str = LATENCY, reference: str = REFERENCE) -> Speeds:
    """Phones of a CSV or CSV.GZ file with `phone_model` and a column of latencies (`..._ms`) or scores (`..._score`).

    A phone listed several times counts once, with its median; blank cells are left out. DataError, with file and line,
    for missing columns, numbers that are not finite and > 0, and a file without the reference phone, whose scale is 1.
    """
    if not column.endswith(("_ms", "_score")):
        raise ConfigError(
            f"column: expected a name that ends in _ms (a latency) or _score (higher is faster), found {column!r}; "
            f"give one, for example {LATENCY!r}"
        )
    found: dict[str, list[float]] = {}
    blank = 0
    with _open(Path(path)) as file:
        for line, row in _rows(file, path, {"phone_model", column}):
            if not row[column].strip():
                blank += 1
                continue
            found.setdefault(row["phone_model"], []).append(_positive(row[column], f"{path}, line {line}, {column}"))
    if reference not in found:
        raise DataError(
            f"{path}, phone_model: expected the reference phone {reference!r}, found {len(found)} others; "
            "add a row for it: all speeds are relative to its time"
        )
    value = {phone: float(np.median(several)) for phone, several in found.items()}
    unit = value[reference]
    scale = {phone: at / unit if column.endswith("_ms") else unit / at for phone, at in value.items()}
    phones = tuple(sorted(scale, key=lambda phone: (scale[phone], phone)))
    return Speeds(phones, np.array([scale[phone] for phone in phones]), blank, f"{Path(path).name}, {column}")


@dataclass(frozen=True, slots=True)
class TraceTier:
    """The phones from `first` up to `last` (exclusive) of a list, fastest first."""

    name: str
    share: float  # of all phones, what it became by rounding
    first: int
    last: int
    scale: float  # the median of its phones
    source: str

    def profile(self, base: DeviceProfile) -> DeviceProfile:
        """`base` with this tier's name and compute scale."""
        source = (
            f"Compute: median of {self.last - self.first} phones of {self.source}. Else {base.name!r}: {base.source}"
        )
        return replace(base, name=self.name, compute=self.scale, source=source)


def tiers_from_traces(path: str | Path | Speeds, shares: Mapping[str, float]) -> tuple[TraceTier, ...]:
    """A list's phones cut into tiers of these shares, the fastest phones into the first tier.

    Shares need not sum to 1. ConfigError for a share that is not > 0 or that is too small for one phone.
    """
    speeds = path if isinstance(path, Speeds) else read_speeds(path)
    for name, share in shares.items():
        if not 0 < share < np.inf:
            raise ConfigError(f"share of tier {name!r}: expected a finite number > 0, found {share!r}; correct it")
    if not shares:
        raise ConfigError("shares: expected at least one tier, found none; name one")
    total = len(speeds.phones)
    wanted = np.array(list(shares.values()))
    edges = [0, *np.rint(np.cumsum(wanted) / wanted.sum() * total).astype(int).tolist()]
    for name, first, last in zip(shares, edges[:-1], edges[1:], strict=True):
        if first == last:
            raise ConfigError(
                f"share of tier {name!r}: {shares[name]} is none of the {total} phones of {speeds.source}; raise it"
            )
    return tuple(
        TraceTier(name, (last - first) / total, first, last, float(np.median(speeds.scale[first:last])), speeds.source)
        for name, first, last in zip(shares, edges[:-1], edges[1:], strict=True)
    )


def tier_of(tiers: tuple[TraceTier, ...], phones: Ints) -> Ints:
    """Number [D] of the tier that holds each of phones [D], as `Speeds.drawn` gives them."""
    return np.searchsorted([tier.last for tier in tiers], phones, side="right")


@dataclass(frozen=True, slots=True)
class Availability:
    """T phones' times of being idle, charging and on Wi-Fi, each from 0 to its own length, then again and again."""

    phones: tuple[str, ...]  # [T]
    length: Floats  # [T] seconds
    first: Ints  # [T + 1] index of each phone's first interval
    start: Floats  # [I] seconds
    end: Floats  # [I] seconds, exclusive

    @property
    def share(self) -> Floats:
        """[T] part of its time that a phone is available."""
        phone = np.repeat(np.arange(len(self.length)), np.diff(self.first))
        return np.bincount(phone, self.end - self.start, len(self.length)) / self.length

    def drawn(self, seed: int, devices: ArrayLike) -> Ints:
        """Index [D] of the phone whose times each of devices [D] has."""
        uniform = draws(seed, "availability", devices, 0).uniform()[:, 0]
        return np.asarray(uniform * len(self.phones), np.int64)

    def available(self, phones: Ints, at: Floats) -> NDArray[np.bool_]:
        """Whether phones [B] are available at [B] virtual seconds."""
        offset = np.concatenate([[0.0], np.cumsum(self.length)])  # phones one after the other on one axis
        owner = np.repeat(np.arange(len(self.length)), np.diff(self.first))
        start, end = self.start + offset[owner], self.end + offset[owner]
        moment = offset[phones] + at % self.length[phones]
        before = np.searchsorted(start, moment, side="right") - 1
        return np.asarray((before >= self.first[phones]) & (moment < np.append(end, -np.inf)[before]))


def read_availability(folder: str | Path) -> Availability:
    """Phones of flash_devices.csv.gz and flash_eligible_intervals.csv.gz (Yang et al., WWW 2021) in a folder.

    DataError, with file and line, for missing columns, unknown phones, and intervals that are not in order and within
    their phone's time.
    """
    place, intervals = Path(folder) / "flash_devices.csv.gz", Path(folder) / "flash_eligible_intervals.csv.gz"
    bounds: dict[str, tuple[float, float]] = {}
    with _open(place) as file:
        for line, row in _rows(file, place, {"device_id", "trace_start_s", "trace_end_s"}):
            start, end = (_number(row[key], f"{place}, line {line}, {key}") for key in ("trace_start_s", "trace_end_s"))
            if not start < end:
                raise DataError(
                    f"{place}, line {line}: expected a start before the end, found {start} to {end}; mend it"
                )
            bounds[row["device_id"]] = start, end
    if not bounds:
        raise DataError(f"{place}: expected at least one phone, found none; take the published file")
    times = _intervals(intervals, bounds)
    order = [span for phone in bounds for span in times[phone]]
    spans = np.array(order, np.float64).reshape(-1, 2)
    first = np.cumsum([0, *(len(times[phone]) for phone in bounds)])
    return Availability(tuple(bounds), np.array([b - a for a, b in bounds.values()]), first, spans[:, 0], spans[:, 1])


def _intervals(place: Path, bounds: Mapping[str, tuple[float, float]]) -> dict[str, list[tuple[float, float]]]:
    """Seconds (start, end) since its phone's own start, per phone."""
    times: dict[str, list[tuple[float, float]]] = {phone: [] for phone in bounds}
    with _open(place) as file:
        for line, row in _rows(file, place, {"device_id", "eligible_start_s", "eligible_end_s"}):
            phone, where = row["device_id"], f"{place}, line {line}"
            if phone not in bounds:
                raise DataError(
                    f"{where}, device_id: expected a phone of flash_devices, found {phone!r}; remove the row"
                )
            start, end = (_number(row[key], f"{where}, {key}") for key in ("eligible_start_s", "eligible_end_s"))
            from_s, to_s = bounds[phone]
            earliest = times[phone][-1][1] + from_s if times[phone] else from_s
            if not earliest <= start <= end <= to_s:
                raise DataError(
                    f"{where}: expected an interval within {earliest} to {to_s}, found {start} to {end}; sort them"
                )
            times[phone].append((start - from_s, end - from_s))
    return times


def _positive(text: str, place: str) -> float:
    value = _number(text, place)
    if not value > 0:
        raise DataError(f"{place}: expected a number > 0, found {text!r}; correct it or leave it blank")
    return value
