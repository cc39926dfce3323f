"""Links that replay measured bandwidth traces, the bandwidth being integrated over the time a message takes."""

import csv
import gzip
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError, DataError
from device.seeds import Draws
from simulation.network import Losses, Transfer, check_sending, exponential

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_CHOICE = 7  # stream of the device's draws that picks its trace


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """T traces end to end; a trace of n samples has n + 1 edges, sample i holding from edge i to edge i + 1.

    Each trace starts at 0 and repeats for ever.
    """

    start: Ints  # [T + 1] index of each trace's first edge
    edges: Floats  # [E] seconds since the start of the trace
    done: Floats  # [E] Mbit carried up to the edge
    mbps: Floats  # [E] bandwidth from this edge on; 0 at the last edge of a trace

    def finish(self, trace: Ints, at: Floats, mbit: Floats) -> Floats:
        """Times [B] at which mbit [B], started at [B] on trace [B], are through."""
        first, last = self.start[trace], self.start[trace + 1] - 1
        length, total = self.edges[last], self.done[last]
        turn = np.floor(at / length)
        phase = np.clip(at - turn * length, 0, length)
        here = self._search(self.edges, trace, phase, side="right") - 1
        here = np.clip(here, first, last - 1)
        goal = self.done[here] + (phase - self.edges[here]) * self.mbps[here] + mbit
        turns = np.maximum(np.ceil(goal / total) - 1, 0)
        rest = goal - turns * total
        there = np.clip(self._search(self.done, trace, rest, side="left"), first + 1, last) - 1
        # A sample of no bandwidth is reached by rounding only; its end is then the answer.
        rate = np.where(self.mbps[there] > 0, self.mbps[there], np.inf)
        into = np.clip((rest - self.done[there]) / rate, 0, self.edges[there + 1] - self.edges[there])
        return np.where(mbit > 0, np.maximum(at, (turn + turns) * length + self.edges[there] + into), at)

    def _search(self, column: Floats, trace: Ints, value: Floats, *, side: str) -> Ints:
        """searchsorted of value [B] among the edges of its own trace: binary search, all rows at once."""
        low, high = self.start[trace], self.start[trace + 1]
        while (low < high).any():
            middle = np.minimum((low + high) // 2, column.size - 1)
            passed = column[middle] <= value if side == "right" else column[middle] < value
            low, high = np.where(passed & (low < high), middle + 1, low), np.where(passed | (low >= high), high, middle)
        return low


def bandwidth(traces: Mapping[str, tuple[Floats, Floats]]) -> Bandwidth:
    """Bandwidth of traces name -> (seconds [n], Mbit/s [n]), times rising; the last sample holds the median gap."""
    edges, done, mbps, sizes = [], [], [], [0]
    for seconds, speed in traces.values():
        gaps = np.diff(seconds)
        gaps = np.append(gaps, np.median(gaps) if gaps.size else 1.0)
        edges.append(np.concatenate([[0.0], np.cumsum(gaps)]))
        done.append(np.concatenate([[0.0], np.cumsum(gaps * speed)]))
        mbps.append(np.append(speed, 0.0))
        sizes.append(speed.size + 1)
    return Bandwidth(np.cumsum(sizes), *(np.concatenate(parts) for parts in (edges, done, mbps)))


def read_traces(
    path: str | Path, column: str, *, only: Mapping[str, str] | None = None
) -> dict[str, tuple[Floats, Floats]]:
    """Traces trace_id -> (t_s [n], Mbit/s [n]) of a CSV or CSV.GZ file; samples of one time are averaged.

    `only` keeps the rows with these texts. A file without a trace_id column is one trace named "". DataError, with file
    and line, for missing columns, numbers that are not finite and >= 0, times that go back, or a trace of no bandwidth.
    """
    rows: dict[str, list[tuple[float, float]]] = {}
    with _open(Path(path)) as file:
        for line, row in _rows(file, path, {"t_s", column, *(only or {})}):
            if any(row[key] != text for key, text in (only or {}).items()):
                continue
            trace = rows.setdefault(row.get("trace_id", ""), [])
            at, speed = (_number(row[key], f"{path}, line {line}, {key}") for key in ("t_s", column))
            if trace and at < trace[-1][0]:
                raise DataError(
                    f"{path}, line {line}, t_s: expected at least {trace[-1][0]}, found {at}; sort the trace"
                )
            trace.append((at, speed))
    if not rows:
        raise DataError(f"{path}: expected at least one row{f' with {dict(only)}' if only else ''}, found none")
    return {name: _merge(np.array(trace), f"{path}, trace {name!r}") for name, trace in rows.items()}


def _open(path: Path) -> TextIO:
    try:
        return cast(TextIO, gzip.open(path, "rt", newline="")) if path.suffix == ".gz" else path.open(newline="")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give the path of a CSV or CSV.GZ file") from error


def _rows(file: TextIO, path: str | Path, needed: set[str]) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(file, restval="")
    try:
        found = list(reader.fieldnames or [])
        if missing := sorted(needed - set(found)):
            raise DataError(
                f"{path}, line 1: expected the columns {', '.join(missing)}, found {', '.join(found)}; rename"
            )
        for row in reader:
            yield reader.line_num, row
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise DataError(
            f"{path}, line {reader.line_num}: not a readable CSV file ({error}); export it again"
        ) from error


def _number(text: str, place: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise DataError(f"{place}: expected a finite number >= 0, found {text!r}; correct or remove the row")
    return value


def _merge(samples: Floats, place: str) -> tuple[Floats, Floats]:
    times, index, counts = np.unique(samples[:, 0], return_inverse=True, return_counts=True)
    speed = np.bincount(index, samples[:, 1]) / counts
    if not speed.any():
        raise DataError(f"{place}: expected some bandwidth, found only 0 Mbit/s; nothing would ever arrive; remove it")
    return times, speed


class TraceLink:
    """Replays the traces of one file; every device has one trace, drawn once, or all have the trace named.

    The uplink comes from `up_column` or is the constant `up_mbps`: exactly one is given, since an acknowledgement
    column is no capacity. RTT, jitter (mean of an exponential) and loss have no default: nothing is free by omission.
    ConfigError for options that do not fit, DataError for the file.
    """

    def __init__(
        self,
        path: str,
        *,
        rtt_ms: float,
        jitter_ms: float,
        loss: float,
        up_mbps: float | None = None,
        up_column: str | None = None,
        down_column: str = "downlink_mbps",
        only: Mapping[str, str] | None = None,
        trace: str | None = None,
        retries: int = 3,
        timeout_s: float = 2.0,
    ) -> None:
        for name, value, good in (
            ("rtt_ms", rtt_ms, 0 < rtt_ms < math.inf),
            ("jitter_ms", jitter_ms, 0 <= jitter_ms < math.inf),
            ("up_mbps", up_mbps, up_mbps is None or 0 < up_mbps < math.inf),
            ("up_mbps, up_column", (up_mbps, up_column), (up_mbps is None) != (up_column is None)),
        ):
            if not good:
                raise ConfigError(
                    f"TraceLink.{name}: found {value!r}; give finite positive costs and one kind of uplink"
                )
        self.losses = Losses(loss, retries, timeout_s)
        self.rtt_s, self.jitter_s, self.up_mbps = rtt_ms / 1e3, jitter_ms / 1e3, up_mbps
        down = self._choose(read_traces(path, down_column, only=only), trace, path)
        self.names = tuple(down)
        self.down = bandwidth(down)
        self.up = bandwidth(self._choose(read_traces(path, up_column, only=only), trace, path)) if up_column else None

    @staticmethod
    def _choose(
        traces: dict[str, tuple[Floats, Floats]], trace: str | None, path: str
    ) -> dict[str, tuple[Floats, Floats]]:
        if trace is None:
            return traces
        if trace not in traces:
            raise ConfigError(f"TraceLink.trace: {path} has no trace {trace!r}; it has {', '.join(list(traces)[:20])}")
        return {trace: traces[trace]}

    def trace_of(self, devices: Draws) -> Ints:
        """Index into `names` [B] of each device's trace."""
        return np.asarray(devices.uniform(1, stream=_CHOICE)[:, 0] * len(self.names), np.int64)

    def send(self, nbytes: Ints, at: Floats, *, up: bool, draws: Draws, devices: Draws) -> Transfer:
        """See Link; time on a trace is virtual time modulo the trace's length."""
        check_sending(nbytes, at)
        delay, sent = self.losses.attempt(draws, up=up)
        mbit = nbytes * 8 / 1e6
        if up and self.up_mbps is not None:
            through = at + delay + mbit / self.up_mbps
        else:
            lanes = self.up if up and self.up is not None else self.down
            through = lanes.finish(self.trace_of(devices), at + delay, mbit)
        latency = self.rtt_s / 2 + self.jitter_s * exponential(draws, up=up)
        return Transfer(sent.arrive_at + through + latency, sent.attempts, sent.attempt_lost)

    @property
    def give_up_s(self) -> float:
        """See Link."""
        return self.losses.give_up_s
