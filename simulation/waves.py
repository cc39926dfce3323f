"""The server's side of a replay: deliveries go out to all clients, their waves come back and are answered together."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from cloud.gateway import Delivery, Gateway, nothing
from simulation.replay import Columns, Wave, positions

Exchange = Callable[[int, Delivery], Iterator[Wave]]
"""Takes a delivery, the how-manieth, to every client and brings their waves back, in any order."""


def replay(exchange: Exchange, gateway: Gateway, first: Delivery, waves: int) -> Iterator[Columns]:
    """Run all waves.

    Yields the telemetry of each wave, sorted by device, with `latency_s` (request to usable reply) added.
    """
    delivery = first
    for number in range(1, waves + 1):
        wave = together(exchange(number, delivery))
        if not wave.telemetry:
            break
        columns, requests, asked_at = wave.telemetry, wave.requests, wave.asked_at
        delivery = gateway.answer(requests, asked_at) if requests else nothing()
        yield columns | {"latency_s": latency(columns, delivery)}


def together(waves: Iterable[Wave]) -> Wave:
    """The waves of all clients as one, telemetry sorted by device."""
    answers = [wave for wave in waves if wave.telemetry]
    if not answers:
        return Wave([], np.zeros(0), {})
    columns = {k: np.concatenate([w.telemetry[k] for w in answers]) for k in answers[0].telemetry}
    order = np.argsort(columns["device"], kind="stable")
    return Wave(
        [body for wave in answers for body in wave.requests],
        np.concatenate([wave.asked_at for wave in answers]),
        {k: v[order] for k, v in columns.items()},
    )


def latency(columns: Columns, delivery: Delivery) -> NDArray[np.float32]:
    """[B] seconds from request to usable reply; NaN where none was asked or none arrived."""
    out = np.full(len(columns["device"]), np.nan, np.float32)
    rows, where = positions(columns["device"], delivery.device)
    wait = delivery.usable_at[rows] - columns["at"][where]
    out[where] = np.where(np.isfinite(wait), wait, np.nan)
    return out
