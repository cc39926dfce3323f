"""The replay where the order of time matters: finite servers, or a budget that is held by a price.

A wave then holds the next steps of all devices in a span of time (see `cloud.queueing`): one moment where
`[simulation] window_s` is 0, which is exact, and as much as the window where it is not.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cloud.gateway import Delivery, Gateway, merged, nothing
from cloud.queueing import Span
from device.errors import ContractError
from simulation.replay import Columns, Timeline, Wave, next_at
from simulation.waves import Exchange, replay, together

Floats = NDArray[np.float64]


def nobody(done: int, whole: int) -> None:
    """Tell nobody."""


def live(
    exchange: Exchange,
    gateway: Gateway,
    first: Delivery,
    timeline: Timeline,
    tell: Callable[[int, int], None] = nobody,
) -> Columns:
    """Telemetry of a whole replay, with `latency_s`: steps in order, devices in order within a step.

    Args:
        exchange: see `simulation.waves.Exchange`.
        gateway: whose service says whether the order of time matters, and how wide a wave is then.
        first: what `gateway.install` returned.
        timeline: of all devices.
        tell: is told (waves done, waves in all), where order matters in steps of the longest replay.
    """
    if gateway.service.in_time:
        return in_time(exchange, gateway, first, timeline.at, tell)
    waves = []
    for wave in replay(exchange, gateway, first, timeline.steps):
        waves.append(wave)
        tell(len(waves), timeline.steps)
    return {name: np.concatenate([wave[name] for wave in waves]) for name in waves[0]}


def in_time(
    exchange: Exchange, gateway: Gateway, first: Delivery, at: Floats, tell: Callable[[int, int], None]
) -> Columns:
    """See `live`; at [D, S] virtual seconds of all steps, inf = no such step."""
    lived, asked = np.zeros(len(at), np.int64), np.zeros(len(at), np.int64)  # asked: column of the newest request
    latency = np.full(at.shape, np.nan, np.float32)
    parts, delivery, number, coming = [], nothing(), 0, next_at(at, lived)
    steps, total = at.shape[1], int(np.isfinite(at).sum())
    while (due := Span.next(coming, gateway.service.window_s)) is not None:
        rows = due.rows(coming)
        new = gateway.leaving(first.rows(rows[lived[rows] == 0]))
        number += 1
        wave = together(exchange(number, replace(merged(delivery, new), due=due)))
        check(wave, rows)
        parts.append(wave.telemetry)
        asking = rows[wave.telemetry["asked"]]
        asked[asking] = lived[asking]
        lived[rows] += 1
        coming[rows] = next_at(at[rows], lived[rows])
        delivery = gateway.answer_in_time(wave.requests, wave.asked_at, lived=rows, until=float(coming.min()))
        answered = np.isfinite(delivery.usable_at) & (delivery.free_at <= delivery.usable_at)
        who = delivery.device[answered]
        latency[who, asked[who]] = delivery.usable_at[answered] - at[who, asked[who]]
        tell(steps * int(lived.sum()) // total, steps)
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((columns["device"], columns["step"]))
    columns = {name: values[order] for name, values in columns.items()}
    return columns | {"latency_s": latency[columns["device"], columns["step"] - 1]}


def check(wave: Wave, rows: NDArray[np.int64]) -> None:
    """ContractError unless exactly the devices `rows` have lived a step: clients and server read the same clock."""
    if not wave.telemetry or not np.array_equal(wave.telemetry["device"], rows):
        raise ContractError(f"clients did not live the {len(rows)} steps that were due; do they read another timeline?")
