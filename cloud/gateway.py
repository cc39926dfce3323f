"""The one door between devices and cloud: bytes in, bytes out; the only writer of the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cloud.generator import CandidateGenerator, Generated, check_lists, plugin_name
from cloud.item_rows import Rows
from cloud.ledger import Ledger
from device.errors import ConfigError, WireError
from device.fleet import needed
from device.messages import Codec, Replies, Requests, decode_requests, encode_replies
from device.model import Items
from device.row_cache import RowCache
from device.seeds import Draws, draws

Floats = NDArray[np.float64]


class Carried(Protocol):
    """What became of B messages."""

    @property
    def arrive_at(self) -> Floats:
        """[B] virtual seconds; inf = lost."""
        ...

    @property
    def attempts(self) -> NDArray[np.int64]:
        """[B] attempts made."""
        ...

    @property
    def attempt_lost(self) -> NDArray[np.bool_]:
        """[B, A] which of them were lost."""
        ...


class Carrier(Protocol):
    """The link of one tier in virtual time; see `simulation.network`."""

    def send(self, nbytes: NDArray[np.int64], at: Floats, *, up: bool, draws: Draws, devices: Draws) -> Carried:
        """Carry B messages of nbytes [B], sent at `at` [B]."""
        ...

    @property
    def give_up_s(self) -> float:
        """Seconds after which a sender of a lost message is free to send another."""
        ...


@dataclass(frozen=True, slots=True)
class Service:
    """What the cloud offers to one fleet under one policy.

    Args:
        generator: makes the lists.
        n_items: size of the catalogue.
        pool: candidates per list.
        history: items of a device that the cloud keeps.
        upload: items that a request may carry: the devices' history length.
        codec: of ids and scores.
        gflops: declared speed of the cloud in 10^9 floating-point operations per second and request.
        seconds: declared seconds per request instead of the generator's own cost (e.g. a published latency).
        carriers: one link per tier.
        tier: [D] tier of each device.
        rows: per tier, streamed item embeddings; None = the item table is resident.
        cache_rows: capacity of the devices' row caches.
        seed: of the experiment.
    """

    generator: CandidateGenerator
    n_items: int
    pool: int
    history: int
    upload: int
    codec: Codec
    gflops: float
    seconds: float | None
    carriers: Sequence[Carrier]
    tier: NDArray[np.int64]
    rows: Sequence[Rows | None]
    cache_rows: int
    seed: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """What reaches B devices after one exchange, with the times the simulator keeps for them."""

    device: NDArray[np.int64]  # [B]
    bodies: list[bytes]  # encoded replies; b"" where none arrives
    usable_at: Floats  # [B]; inf where none arrives
    free_at: Floats  # [B] the device may ask again


class Gateway:
    """Serves devices 0..D-1; remembers for each what it was last told.

    Args:
        service: what is offered.
        histories: [D, L] items before the replay, of which the cloud keeps the newest.
        ledger: the book; nobody else writes it.
    """

    def __init__(self, service: Service, histories: Items, ledger: Ledger) -> None:
        self.service, self.ledger = service, ledger
        self.told = histories[:, -service.history :].copy()
        self.told_step = np.zeros(len(histories), np.int64)
        streamed = any(rows is not None for rows in service.rows)
        self.cache = RowCache(len(histories), service.cache_rows) if streamed else None
        self.sent_rows: Items | None = None
        self.sent_step = np.full(len(histories), -1, np.int64)

    def install(self, model_bytes: Sequence[int], at: Floats) -> Delivery:
        """First installation: each tier's model (model_bytes [tiers]) and a first list, at times [D], never lost."""
        device = np.arange(len(self.told))
        nbytes = np.asarray(model_bytes, np.int64)[self.service.tier]
        self.ledger.write("down", "install", device=device, at=at, nbytes=nbytes)
        bodies, _ = self._replies(device, np.zeros(len(device), np.int64))
        self.ledger.write("down", "first_list", device=device, at=at, nbytes=sizes(bodies))
        return Delivery(device, bodies, at.copy(), np.full(len(device), -np.inf))

    def answer(self, bodies: Sequence[bytes], at: Floats) -> Delivery:
        """Answer encoded requests sent at `at` [B]; the order of arrival does not matter.

        Raises WireError, before anything is changed or written, for requests that no device of ours can have sent.
        """
        requests = decode_requests(bodies, width=self.service.upload)
        self._check(requests)
        order = np.argsort(requests.device, kind="stable")
        device, step, at = requests.device[order], requests.step[order], at[order]
        nbytes = sizes(bodies)[order]
        arrived = self._carry(device, step, nbytes, at, up=True, kind="request")
        usable, out = np.full(len(device), np.inf), [b""] * len(device)
        here = np.flatnonzero(np.isfinite(arrived))
        if len(here):
            self._learn(chosen(requests, order[here]))
            replies, seconds = self._replies(device[here], step[here])
            ready = arrived[here] + seconds
            usable[here] = self._carry(device[here], step[here], sizes(replies), ready, up=False, kind="candidates")
            for row, body in zip(here, replies, strict=True):
                out[row] = body if np.isfinite(usable[row]) else b""
        give_up = np.array([c.give_up_s for c in self.service.carriers])[self.service.tier[device]]
        return Delivery(device, out, usable, np.where(np.isfinite(usable), usable, at + give_up))

    def _carry(
        self,
        device: NDArray[np.int64],
        step: NDArray[np.int64],
        nbytes: NDArray[np.int64],
        at: Floats,
        *,
        up: bool,
        kind: str,
    ) -> Floats:
        """Send over each device's link, write every attempt down, return the times of arrival."""
        arrive = np.empty(len(device))
        tier = self.service.tier[device]
        for number, carrier in enumerate(self.service.carriers):
            rows = np.flatnonzero(tier == number)
            if not len(rows):
                continue
            who = device[rows]
            message = draws(self.service.seed, f"link {'up' if up else 'down'}", who, step[rows])
            own = draws(self.service.seed, "link", who)
            sent = carrier.send(nbytes[rows], at[rows], up=up, draws=message, devices=own)
            arrive[rows] = sent.arrive_at
            for attempt in range(int(sent.attempts.max())):
                made = np.flatnonzero(sent.attempts > attempt)
                self.ledger.write(
                    "up" if up else "down",
                    kind,
                    device=who[made],
                    at=at[rows][made] + attempt * carrier.give_up_s / sent.attempt_lost.shape[1],
                    nbytes=nbytes[rows][made],
                    delivered=~sent.attempt_lost[made, attempt],
                    attempt=attempt + 1,
                )
        return arrive

    def _check(self, requests: Requests) -> None:
        """What a checksum cannot tell: whether the sender and its history can be right."""
        device, step, first = requests.device, requests.step, requests.first
        known = (device >= 0) & (device < len(self.told))
        if not known.all():
            raise WireError(
                f"request of device {device[~known][0]}: expected 0..{len(self.told) - 1}; is it another fleet's?"
            )
        if len(np.unique(device)) < len(device):
            raise WireError("two requests of one device at once; a device waits for its reply before it asks again")
        late = step <= self.told_step[device]
        if late.any():
            raise WireError(f"request {step[late][0]} of device {device[late][0]} is older than what the cloud knows")
        gap = (first > self.told_step[device]) & (step - first < self.service.upload)
        if gap.any():
            raise WireError(
                f"request of device {device[gap][0]} starts at item {first[gap][0]}, the cloud knows "
                f"{self.told_step[device][gap][0]}; upload all that is not confirmed"
            )

    def _learn(self, requests: Requests) -> None:
        """Append what is new in the requests, and take the acknowledged rows into the book."""
        device, step = requests.device, requests.step
        width, upload = self.told.shape[1], requests.items.shape[1]
        column = np.arange(width)
        shifted = column + (step - np.maximum(requests.first, self.told_step[device]))[:, None]
        kept = np.take_along_axis(self.told[device], np.minimum(shifted, width - 1), axis=1)
        fresh = requests.items[:, np.maximum(upload - width + column, 0)]
        self.told[device] = np.where(shifted < width, kept, fresh)
        self.told_step[device] = step
        if self.cache is not None and self.sent_rows is not None:
            got = requests.received == self.sent_step[device]
            self.cache.need(device[got], self.sent_rows[device[got]])

    def _replies(self, device: NDArray[np.int64], step: NDArray[np.int64]) -> tuple[list[bytes], Floats]:
        """Encoded lists for what the cloud knows of `device` [B], and the cloud seconds [B] each took."""
        service, histories = self.service, self.told[device]
        made = service.generator.generate(histories, service.pool, rng=draws(service.seed, "generator", device, step))
        check_lists(service.generator, made, rows=len(device), pool=service.pool, n_items=service.n_items)
        bodies = [b""] * len(device)
        for number, rows in enumerate(service.rows):
            here = np.flatnonzero(service.tier[device] == number)
            ids = self._missing(device[here], step[here], made.items[here], histories[here], streamed=rows is not None)
            replies = Replies(
                device=device[here],
                step=step[here],
                items=made.items[here],
                scores=made.scores[here],
                row_ids=ids,
                rows=rows.codes[ids] if rows else np.zeros((len(here), 0, 1), np.int8),
                row_scale=np.where(ids != 0, rows.scale[ids], np.float32(0))
                if rows
                else np.zeros((len(here), 0), "f4"),
                denied=np.zeros(len(here), np.bool_),
                retry_after=np.zeros(len(here), np.float32),
            )
            for row, body in zip(here, encode_replies(replies, service.codec), strict=True):
                bodies[row] = body
        return bodies, cloud_seconds(service, made)

    def _missing(
        self, device: NDArray[np.int64], step: NDArray[np.int64], items: Items, histories: Items, *, streamed: bool
    ) -> Items:
        """[B, R] ids of the embeddings that these devices need and lack, 0-padded on the right."""
        if self.cache is None or not streamed:
            return np.zeros((len(device), 0), np.int32)
        wanted = needed(items, histories[:, -self.service.upload :])
        if self.sent_rows is None:
            self.sent_rows = np.zeros((len(self.told), wanted.shape[1]), np.int32)
        self.sent_rows[device], self.sent_step[device] = wanted, step
        missing = np.where(self.cache.knows(device, wanted), 0, wanted)
        return np.take_along_axis(missing, np.argsort(missing == 0, axis=1, kind="stable"), axis=1)


def sizes(bodies: Sequence[bytes]) -> NDArray[np.int64]:
    """[B] lengths of encoded messages: what the ledger counts."""
    return np.fromiter(map(len, bodies), np.int64, len(bodies))


def chosen(requests: Requests, rows: NDArray[np.int64]) -> Requests:
    """Some rows of a batch of requests."""
    return Requests(**{f.name: getattr(requests, f.name)[rows] for f in fields(requests)})


def cloud_seconds(service: Service, made: Generated) -> Floats:
    """[B] seconds the cloud works on each list; ConfigError when nobody says what a list costs."""
    if service.seconds is not None:
        return np.full(len(made.items), service.seconds)
    if made.seconds is not None:
        return made.seconds
    if made.flops is None:
        raise ConfigError(
            f"[cloud] {plugin_name(service.generator)} does not say what a list costs (flops or seconds); "
            "set seconds_per_request in [cloud], for it is not free"
        )
    return made.flops / (service.gflops * 1e9)
