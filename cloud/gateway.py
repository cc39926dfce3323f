"""The one door between devices and cloud: bytes in, bytes out; the only writer of the ledger."""

from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud.delivery import Delivery, merged, nothing
from cloud.desk import Desk
from cloud.generator import Generated
from cloud.ledger import Ledger
from cloud.memory import Memory
from cloud.patching import Patched, Patcher
from cloud.queueing import Waiting
from cloud.service import Carried, Carrier, Service, cloud_seconds
from device.errors import ContractError
from device.messages import Requests, decode_requests, repriced
from device.model import Items
from device.seeds import draws

__all__ = ["Carried", "Carrier", "Delivery", "Gateway", "Service", "merged", "nothing"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Load = tuple[str, Ints, Floats]  # kind, bytes [B], cloud seconds [B]


class Gateway:
    """Serves devices 0..D-1.

    Args:
        service: what is offered.
        histories: [D, L] items before the replay, of which the cloud keeps the newest.
        ledger: the book; nobody else writes it.
    """

    def __init__(self, service: Service, histories: Items, ledger: Ledger) -> None:
        self.service, self.ledger = service, ledger
        self.memory, self.desk, self.patcher = Memory(service, histories), Desk(service), Patcher(service)

    def install(self, model_bytes: Sequence[int], at: Floats) -> Delivery:
        """First installation at times [D], never lost: a tier's model (model_bytes [tiers]), a first list and patch."""
        device = np.arange(len(self.memory.told))
        nbytes = np.asarray(model_bytes, np.int64)[self.service.tier]
        self.ledger.write("down", "install", device=device, at=at, nbytes=nbytes)
        step = np.zeros(len(device), np.int64)
        self.memory.asked_at[:] = at
        made = self.memory.lists(device, step)
        cloud_seconds(self.service, made)  # refused here, and not after hours, where nobody says what a list costs
        bodies = self.memory.replies(device, step, made, self.desk.price(device))
        self.ledger.write("down", "first_list", device=device, at=at, nbytes=sizes(bodies))
        own = self.patcher.first(device, self.memory.told)
        rows = np.flatnonzero(sizes(own.bodies))
        self.ledger.write("down", "first_patch", device=rows, at=at[rows], nbytes=sizes(own.bodies)[rows])
        self.desk.now = float(at.min(initial=np.inf))
        return Delivery(device, own.before(bodies), at.copy(), np.full(len(device), -np.inf))

    def leaving(self, first: Delivery) -> Delivery:
        """First lists as they leave now: with the price of the moment, where there is one."""
        price = self.desk.price(first.device)
        if price is None:
            return first
        patches, replies = self.patcher.split(first.bodies)
        return replace(first, bodies=[a + b for a, b in zip(patches, repriced(replies, price), strict=True)])

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
        made, own = self._made(device[here], step[here])
        answers = self._answers(Waiting(arrived[here], device[here], step[here]), made, own, arrived[here])
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
            made, own = self._made(due.device[open_], due.step[open_])
            start, retry[open_] = self.desk.serve(due.rows(open_), cloud_seconds(self.service, made) + own.seconds)
            served = np.flatnonzero(retry[open_] == 0)
            if len(served):
                answers = self._answers(due.rows(open_[served]), some(made, served), own.rows(served), start[served])
        away = np.flatnonzero(retry > 0)
        return merged(answers, self._denials(due.rows(away), retry[away])) if len(away) else answers

    def _made(self, device: Ints, step: Ints) -> tuple[Generated, Patched]:
        """Lists, and patches where they are due."""
        return self.memory.lists(device, step), self.patcher.next(device, step, self.memory.told[device])

    def _answers(self, due: Waiting, made: Generated, own: Patched, start: Floats) -> Delivery:
        """Send lists, and patches with them, that are worked on from `start` [B]."""
        bodies = self.memory.replies(due.device, due.step, made, self.desk.price(due.device))
        self.patcher.sent(due.device)
        seconds = cloud_seconds(self.service, made)
        loads = [("candidates", sizes(bodies), seconds), ("patch", sizes(own.bodies), own.seconds)]
        return self._sent(due, own.before(bodies), start + seconds + own.seconds, loads, np.zeros(len(start)))

    def _denials(self, due: Waiting, retry: NDArray[np.float32]) -> Delivery:
        """Turn requests away on arrival."""
        bodies = self.memory.denials(due.device, due.step, retry, self.desk.price(due.device))
        return self._sent(due, bodies, due.arrive, [("denial", sizes(bodies), np.zeros(len(retry)))], retry)

    def _sent(
        self,
        due: Waiting,
        bodies: list[bytes],
        ready: Floats,
        loads: Sequence[Load],
        retry: NDArray[np.floating[Any]],
    ) -> Delivery:
        """Replies that leave at `ready` [B]; a lost one frees its device after the time to give up from then."""
        usable = self._carry(due.device, due.step, loads, ready, up=False)
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
        load = ("request", sizes(bodies)[order], np.zeros(len(device)))
        arrived = self._carry(device, step, [load], at, up=True)
        here = np.isfinite(arrived)
        if here.any():
            self.memory.learn(chosen(requests, order[here]), at[here])
        return device, step, at, arrived

    def _give_up(self, device: Ints) -> Floats:
        """[B] seconds after which the sender of a lost message may send another."""
        return np.array([c.give_up_s for c in self.service.carriers])[self.service.tier[device]]

    def _carry(self, device: Ints, step: Ints, loads: Sequence[Load], at: Floats, *, up: bool) -> Floats:
        """Send over each device's link, the loads of a device in one transfer; return the times of arrival.

        Every attempt is written down, load by load.
        """
        arrive = np.empty(len(device))
        tier, total = self.service.tier[device], sum((load[1] for load in loads), np.zeros(len(device), np.int64))
        for number, carrier in enumerate(self.service.carriers):
            rows = np.flatnonzero(tier == number)
            if not len(rows):
                continue
            who = device[rows]
            message = draws(self.service.seed, f"link {'up' if up else 'down'}", who, step[rows])
            own = draws(self.service.seed, "link", who)
            sent = carrier.send(total[rows], at[rows], up=up, draws=message, devices=own)
            arrive[rows] = sent.arrive_at
            self.desk.carried(who, total[rows] * sent.attempts)
            for attempt, (kind, nbytes, cloud_s) in product(range(int(sent.attempts.max())), loads):
                made = np.flatnonzero((sent.attempts > attempt) & (nbytes[rows] > 0))
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
