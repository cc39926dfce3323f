"""The one door between devices and cloud: bytes in, bytes out; the only writer of the ledger."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud.desk import Desk
from cloud.generator import Generated
from cloud.ledger import Ledger
from cloud.memory import Memory
from cloud.queueing import Span, Waiting
from cloud.service import Carried, Carrier, Service, cloud_seconds
from device.errors import ContractError
from device.messages import Requests, decode_requests, repriced
from device.model import Items
from device.seeds import draws

__all__ = ["Carried", "Carrier", "Delivery", "Gateway", "Service", "merged", "nothing"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Delivery:
    """What reaches B devices after one exchange, with the times the simulator keeps for them."""

    device: NDArray[np.int64]  # [B]
    bodies: list[bytes]  # encoded replies; b"" where none arrives
    usable_at: Floats  # [B]; inf where none arrives
    free_at: Floats  # [B] the device may ask again; inf = it will be told; later than usable_at after a denial
    due: Span | None = None  # steps to be lived next are those in this span of time; None = one of every device

    def rows(self, rows: Ints) -> "Delivery":
        """Some of them."""
        return Delivery(
            self.device[rows], [self.bodies[row] for row in rows], self.usable_at[rows], self.free_at[rows], self.due
        )


def nothing() -> Delivery:
    """A delivery to nobody."""
    return Delivery(np.zeros(0, np.int64), [], np.zeros(0), np.zeros(0))


def merged(older: Delivery, newer: Delivery) -> Delivery:
    """Both, sorted by device; the newer counts for a device of both."""
    older = older.rows(np.flatnonzero(~np.isin(older.device, newer.device)))
    columns = [np.concatenate([getattr(d, n) for d in (older, newer)]) for n in ("device", "usable_at", "free_at")]
    both = Delivery(columns[0], older.bodies + newer.bodies, columns[1], columns[2])
    return both.rows(np.argsort(both.device, kind="stable"))


class Gateway:
    """Serves devices 0..D-1.

    Args:
        service: what is offered.
        histories: [D, L] items before the replay, of which the cloud keeps the newest.
        ledger: the book; nobody else writes it.
    """

    def __init__(self, service: Service, histories: Items, ledger: Ledger) -> None:
        self.service, self.ledger = service, ledger
        self.memory, self.desk = Memory(service, histories), Desk(service)

    def install(self, model_bytes: Sequence[int], at: Floats) -> Delivery:
        """First installation: each tier's model (model_bytes [tiers]) and a first list, at times [D], never lost."""
        device = np.arange(len(self.memory.told))
        nbytes = np.asarray(model_bytes, np.int64)[self.service.tier]
        self.ledger.write("down", "install", device=device, at=at, nbytes=nbytes)
        step = np.zeros(len(device), np.int64)
        made = self.memory.lists(device, step)
        cloud_seconds(self.service, made)  # refused here, and not after hours, where nobody says what a list costs
        bodies = self.memory.replies(device, step, made, self.desk.price(device))
        self.ledger.write("down", "first_list", device=device, at=at, nbytes=sizes(bodies))
        self.desk.now = float(at.min(initial=np.inf))
        return Delivery(device, bodies, at.copy(), np.full(len(device), -np.inf))

    def leaving(self, first: Delivery) -> Delivery:
        """First lists as they leave now: with the price of the moment, where there is one."""
        price = self.desk.price(first.device)
        return first if price is None else replace(first, bodies=repriced(first.bodies, price))

    def answer(self, bodies: Sequence[bytes], at: Floats) -> Delivery:
        """Answer encoded requests sent at `at` [B]; the order of arrival does not matter.

        Raises WireError, before anything is changed or written, for requests that no device of ours can have sent, and
        ContractError where the order does matter.
        """
        if self.service.in_time:
            raise ContractError("servers and budgets need requests in order of time; use answer_in_time")
        device, step, at, arrived = self._received(bodies, at)
        here = np.flatnonzero(np.isfinite(arrived))
        lost = Delivery(device, [b""] * len(device), np.full(len(device), np.inf), at + self._give_up(device))
        if not len(here):
            return lost
        made = self.memory.lists(device[here], step[here])
        answers = self._answers(Waiting(arrived[here], device[here], step[here]), made, arrived[here])
        gone = ~np.isfinite(answers.usable_at)
        return merged(lost, replace(answers, free_at=np.where(gone, lost.free_at[here], answers.free_at)))

    def answer_in_time(self, bodies: Sequence[bytes], at: Floats, *, lived: Ints, until: float) -> Delivery:
        """Take in requests sent at `at` [B] and settle all whose turn is certain.

        Args:
            bodies, at: requests of steps before `until`; WireError as in `answer`.
            lived: devices that have lived a step since the last call.
            until: time of the earliest step still to be lived; inf = none.

        The delivery says of those that still wait that they may not ask (`free_at` inf).
        """
        waiting = self._waiting(bodies, at) if bodies else nothing()
        delivery = merged(waiting, self._settled(self.desk.room.due(until)))
        self.desk.report(lived, until)
        return delivery

    def _waiting(self, bodies: Sequence[bytes], at: Floats) -> Delivery:
        """New requests go into the waiting room; whose was lost on the way may ask again after the time to give up."""
        device, step, at, arrived = self._received(bodies, at)
        here = np.flatnonzero(np.isfinite(arrived))
        self.desk.room.add(arrived[here], device[here], step[here])
        free = np.where(np.isfinite(arrived), np.inf, at + self._give_up(device))
        return Delivery(device, [b""] * len(device), np.full(len(device), np.inf), free)

    def _settled(self, due: Waiting) -> Delivery:
        """Serve or turn away; rows in any order."""
        if not len(due.device):
            return nothing()
        retry, answers = self.desk.shut_out(due), nothing()
        open_ = np.flatnonzero(retry == 0)
        if len(open_):
            made = self.memory.lists(due.device[open_], due.step[open_])
            start, retry[open_] = self.desk.serve(due.rows(open_), cloud_seconds(self.service, made))
            served = np.flatnonzero(retry[open_] == 0)
            if len(served):
                answers = self._answers(due.rows(open_[served]), some(made, served), start[served])
        away = np.flatnonzero(retry > 0)
        return merged(answers, self._denials(due.rows(away), retry[away])) if len(away) else answers

    def _answers(self, due: Waiting, made: Generated, start: Floats) -> Delivery:
        """Send lists that are worked on from `start` [B]."""
        bodies = self.memory.replies(due.device, due.step, made, self.desk.price(due.device))
        seconds = cloud_seconds(self.service, made)
        return self._sent(due, bodies, start + seconds, kind="candidates", cloud_s=seconds, retry=np.zeros(len(start)))

    def _denials(self, due: Waiting, retry: NDArray[np.float32]) -> Delivery:
        """Turn requests away on arrival."""
        bodies = self.memory.denials(due.device, due.step, retry, self.desk.price(due.device))
        return self._sent(due, bodies, due.arrive, kind="denial", cloud_s=np.zeros(len(retry)), retry=retry)

    def _sent(
        self,
        due: Waiting,
        bodies: list[bytes],
        ready: Floats,
        *,
        kind: str,
        cloud_s: Floats,
        retry: NDArray[np.floating[Any]],
    ) -> Delivery:
        """Replies that leave at `ready` [B]; a lost one frees its device after the time to give up from then."""
        usable = self._carry(due.device, due.step, sizes(bodies), ready, up=False, kind=kind, cloud_s=cloud_s)
        arrived = np.isfinite(usable)
        free = np.where(arrived, usable + retry, ready + self._give_up(due.device))
        there = [body if came else b"" for body, came in zip(bodies, arrived.tolist(), strict=True)]
        return Delivery(due.device, there, usable, free)

    def _received(self, bodies: Sequence[bytes], at: Floats) -> tuple[Ints, Ints, Floats, Floats]:
        """(device, step, sent at, arrived at) [B] by device; what arrives is learned."""
        requests = decode_requests(bodies, width=self.service.upload)
        self.memory.check(requests)
        order = np.argsort(requests.device, kind="stable")
        device, step, at = requests.device[order], requests.step[order], at[order]
        none = np.zeros(len(device))
        arrived = self._carry(device, step, sizes(bodies)[order], at, up=True, kind="request", cloud_s=none)
        here = np.isfinite(arrived)
        if here.any():
            self.memory.learn(chosen(requests, order[here]))
        return device, step, at, arrived

    def _give_up(self, device: Ints) -> Floats:
        """[B] seconds after which the sender of a lost message may send another."""
        return np.array([c.give_up_s for c in self.service.carriers])[self.service.tier[device]]

    def _carry(
        self,
        device: NDArray[np.int64],
        step: NDArray[np.int64],
        nbytes: NDArray[np.int64],
        at: Floats,
        *,
        up: bool,
        kind: str,
        cloud_s: Floats,
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
            self.desk.carried(who, nbytes[rows] * sent.attempts)
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
                    cloud_s=cloud_s[rows][made] if attempt == 0 else 0.0,
                )
        return arrive


def sizes(bodies: Sequence[bytes]) -> NDArray[np.int64]:
    """[B] lengths of encoded messages: what the ledger counts."""
    return np.fromiter(map(len, bodies), np.int64, len(bodies))


def some(made: Generated, rows: Ints) -> Generated:
    """Some rows of a batch of lists."""
    flops, seconds = (None if cost is None else cost[rows] for cost in (made.flops, made.seconds))
    return Generated(made.items[rows], made.scores[rows], flops, seconds)


def chosen(requests: Requests, rows: NDArray[np.int64]) -> Requests:
    """Some rows of a batch of requests."""
    return Requests(**{f.name: getattr(requests, f.name)[rows] for f in fields(requests)})
