"""What the cloud remembers of each device, and the replies that follow from it."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cloud.generator import Generated, check_lists, lists_at
from cloud.service import Service
from device.errors import WireError
from device.messages import Replies, Requests, encode_replies
from device.model import Items, Scores
from device.pool import joined
from device.row_cache import RowCache, member, needed
from device.seeds import draws

Ints = NDArray[np.int64]
Prices = NDArray[np.float32] | None


class Memory:
    """Of devices 0..D-1: what each was last told, and what it holds.

    Args:
        service: what is offered.
        histories: [D, L] items before the replay, of which the cloud keeps the newest.
    """

    def __init__(self, service: Service, histories: Items) -> None:
        self.service = service
        self.told = histories[:, -service.history :].copy()
        self.told_step = np.zeros(len(histories), np.int64)
        self.asked_at = np.zeros(len(histories))  # when the request that is being answered left its device
        streamed = any(rows is not None for rows in service.rows)
        self.cache = RowCache(len(histories), service.cache_rows, service.installed) if streamed else None
        self.sent_rows: Items | None = None
        self.sent_step = np.full(len(histories), -1, np.int64)
        self.held = np.zeros((len(histories), service.delta_slots), np.int32)  # as the device confirmed it
        self.sent_held = self.held.copy()  # as it will be once the last reply has arrived

    def check(self, requests: Requests) -> None:
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

    def learn(self, requests: Requests, at: NDArray[np.float64]) -> None:
        """Append what is new in requests that left at `at` [B], and take the acknowledged rows into the book."""
        device, step = requests.device, requests.step
        width, upload = self.told.shape[1], requests.items.shape[1]
        column = np.arange(width)
        shifted = column + (step - np.maximum(requests.first, self.told_step[device]))[:, None]
        kept = np.take_along_axis(self.told[device], np.minimum(shifted, width - 1), axis=1)
        fresh = requests.items[:, np.maximum(upload - width + column, 0)]
        self.told[device] = np.where(shifted < width, kept, fresh)
        self.told_step[device], self.asked_at[device] = step, at
        got = device[requests.received == self.sent_step[device]]
        self.held[got] = self.sent_held[got]
        if self.cache is not None and self.sent_rows is not None:
            self.cache.need(got, self.sent_rows[got])

    def lists(self, device: Ints, step: Ints) -> Generated:
        """Lists for what the cloud knows of `device` [B]."""
        service = self.service
        rng = draws(service.seed, "generator", device, step)
        made = lists_at(service.generator, self.told[device], service.pool, at=self.asked_at[device], rng=rng)
        check_lists(service.generator, made, rows=len(device), pool=service.pool, n_items=service.n_items)
        return made

    def replies(self, device: Ints, step: Ints, made: Generated, price: Prices) -> list[bytes]:
        """Replies [B] with the lists `made`, less what the devices hold already; what was sent is noted."""
        items, scores = self._missing_items(device, made) if self.service.delta_slots else (made.items, made.scores)
        self.sent_step[device] = step
        bodies = [b""] * len(device)
        for number, rows in enumerate(self.service.rows):
            here = np.flatnonzero(self.service.tier[device] == number)
            ids = self._missing_rows(device[here], items[here], streamed=rows is not None)
            batch = Replies(
                device=device[here],
                step=step[here],
                items=items[here],
                scores=scores[here],
                row_ids=ids,
                rows=rows.codes[ids] if rows else np.zeros((len(here), 0, 1), np.int8),
                row_scale=np.where(ids != 0, rows.scale[ids], np.float32(0))
                if rows
                else np.zeros((len(here), 0), "f4"),
                denied=np.zeros(len(here), np.bool_),
                retry_after=np.zeros(len(here), np.float32),
                price=None if price is None else price[here],
            )
            for row, body in zip(here, encode_replies(batch, self.service.codec), strict=True):
                bodies[row] = body
        return bodies

    def denials(self, device: Ints, step: Ints, retry: NDArray[np.float32], price: Prices) -> list[bytes]:
        """Replies [B] without a list that ask the devices back after `retry` seconds; nothing is noted."""
        size = len(device)
        empty, none = np.zeros((size, 0), np.int32), np.zeros((size, 0), np.float32)
        rows = np.zeros((size, 0, 1), np.int8)
        batch = Replies(device, step, empty, none, empty, rows, none, np.ones(size, np.bool_), retry, price)
        return encode_replies(batch, self.service.codec)

    def _missing_items(self, device: NDArray[np.int64], made: Generated) -> tuple[Items, Scores]:
        """(items, scores) [B, k] of what the devices' pools lack or would lose, moved to the left.

        What they will hold is noted.
        """
        held, width = self.held[device], self.held.shape[1]
        lacking = wanting(made.items, held, lambda sent, of: self._stays(device, sent, of))
        order = np.argsort(~lacking, axis=1, kind="stable")
        items, scores = (
            np.take_along_axis(np.where(lacking, of, 0), order, axis=1) for of in (made.items, made.scores)
        )
        offered = np.pad(items, ((0, 0), (0, width - items.shape[1])))
        (both,) = joined([offered], [held])
        self.sent_held[device] = np.where(self._stays(device, offered, both), both, 0)
        return items, scores

    def _stays(self, device: Ints, sent: Items, held: Items) -> NDArray[np.bool_]:
        """[B, W] which of `held` have rows on the devices once lists `sent` [B, k] have come."""
        if self.cache is None:
            return np.ones(held.shape, np.bool_)
        streamed = np.array([rows is not None for rows in self.service.rows])[self.service.tier[device]]
        known = self.cache.among(held, self.cache.after(device, self._wanted(device, sent)))
        stays: NDArray[np.bool_] = known | ~streamed[:, None]
        return stays

    def _wanted(self, device: Ints, items: Items) -> Items:
        """[B, R] ids of the embeddings that devices need with lists `items` [B, k]."""
        return needed(items, self.told[device][:, -self.service.upload :])

    def _missing_rows(self, device: Ints, items: Items, *, streamed: bool) -> Items:
        """[B, R] ids of the embeddings that these devices need and lack, 0-padded on the right."""
        if self.cache is None or not streamed:
            return np.zeros((len(device), 0), np.int32)
        wanted = self._wanted(device, items)
        if self.sent_rows is None:
            self.sent_rows = np.zeros((len(self.told), wanted.shape[1]), np.int32)
        self.sent_rows[device] = wanted
        missing = np.where(self.cache.knows(device, wanted), 0, wanted)
        return np.take_along_axis(missing, np.argsort(missing == 0, axis=1, kind="stable"), axis=1)


def wanting(
    items: Items, held: Items, stays: Callable[[Items, Items], NDArray[np.bool_]] | None = None
) -> NDArray[np.bool_]:
    """[B, k] what of lists `items` [B, k] must be sent so that merged pools, now `held` [B, W], hold the whole lists.

    What is sent stands in front and pushes the rest back: an item that falls out for that is sent too, and so is one
    whose row falls out. `stays` (what is sent [B, k], held) says whose row stays; None = all rows do.
    """
    sending: NDArray[np.bool_] = (items != 0) & ~member(items, held)
    while True:
        sent = np.where(sending, items, 0)
        kept = (held != 0) & ~member(held, sent)
        out = np.cumsum(kept, axis=1) - 1 + sending.sum(axis=1)[:, None] >= held.shape[1]
        if stays is not None:
            out |= ~stays(sent, held)
        lost = np.where(kept & out, held, 0)
        more = (items != 0) & ~sending & member(items, lost)
        if not more.any():
            return sending
        sending |= more
