"""Many devices held as arrays; a phone is a fleet of one. The only device runtime there is.

Per step the order is fixed: `rank` (put usable replies in place, score, fuse), then `observe` (the user took an item;
does the device ask?). What the user takes can therefore not leak into the list that was shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device.errors import ContractError
from device.fusion import Fusion
from device.messages import Replies, Requests
from device.model import DeviceModel, HasItemTable, Items, Parameters, Scores
from device.policy import RequestPolicy, View
from device.row_cache import RowCache, distinct, member
from device.seeds import draws

Rows = NDArray[np.int64]
SCORING_BATCH = 64
"""Rows of every call of a model. Always the same number, the last call padded, because the last bits of a matrix
product depend on its shape: so a device's scores do not depend on how many devices share its client."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What all devices of a fleet share."""

    model: DeviceModel
    params: Parameters
    policy: RequestPolicy
    fusion: Fusion
    price: float
    seed: int
    cache_rows: int = 0  # capacity of the row cache; 0 = the item table is resident
    hide_seen: bool = True  # never show again what the user has taken


@dataclass(frozen=True, slots=True)
class Ranking:
    """What B devices show: their pools with fused scores, ties broken by pool position."""

    items: Items  # [B, C] the pool; 0 = empty slot
    fused: Scores  # [B, C]; -inf in empty slots
    pool_age: NDArray[np.int64]  # [B]

    def place(self, item: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(rank, ties) of item [B]: best position of its group of equal scores (0 = not in the pool), group size."""
        here = self.items == item[:, None]
        present = here.any(1)
        own = np.where(here, self.fused, -np.inf).max(1)[:, None]
        rank = (self.fused > own).sum(1) + 1
        ties = (self.fused == own).sum(1)
        return np.where(present, rank, 0).astype(np.int32), np.where(present, ties, 1).astype(np.int32)

    def top(self, k: int) -> Items:
        """[B, k] the k best items, best first; 0 where the pool is shorter."""
        order = np.argsort(-self.fused, axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(self.items, order, axis=1)
        return np.pad(best, ((0, 0), (0, k - best.shape[1])))


class Fleet:
    """State of D devices.

    Args:
        setup: what they share.
        devices: [D] device numbers; they name the random streams.
        histories: [D, L] items each device knows before the replay, left-padded.
        pool: number of slots C.
    """

    def __init__(self, setup: Setup, devices: NDArray[np.int64], histories: Items, pool: int) -> None:
        size = len(devices)
        self.setup, self.devices = setup, devices
        self.history = histories.astype(np.int32)
        self.items = np.zeros((size, pool), np.int32)
        self.cloud = np.zeros((size, pool), np.float32)
        self.device_scores = np.zeros((size, pool), np.float32)
        self.scored = np.zeros(size, np.bool_)  # device_scores belong to the present history and pool
        self.observed = np.zeros(size, np.int64)
        self.pool_step = np.zeros(size, np.int64)
        self.asked_step = np.zeros(size, np.int64)
        self.received = np.zeros(size, np.int64)
        self.inbox_items = np.zeros((size, pool), np.int32)
        self.inbox_cloud = np.zeros((size, pool), np.float32)
        self.inbox_step = np.zeros(size, np.int64)
        self.inbox_rows = np.zeros((size, pool + self.history.shape[1] if setup.cache_rows else 0), np.int32)
        self.usable_at = np.full(size, np.inf)
        self.free_at = np.full(size, -np.inf)  # may ask again from then on
        self.asked_history = self.history.copy()  # as it was uploaded with the last request
        self.cache = RowCache(size, setup.cache_rows) if setup.cache_rows else None

    def __len__(self) -> int:
        return len(self.devices)

    def receive(self, who: Rows, replies: Replies, usable_at: NDArray[np.float64]) -> None:
        """Put replies [B] into the inboxes of devices `who`; they take effect at the first `rank` from usable_at on."""
        got = ~replies.denied
        who, width = who[got], self.items.shape[1]
        if replies.items.shape[1] > width:
            raise ContractError(f"a reply lists {replies.items.shape[1]} candidates, the pool has {width} slots")
        pad = ((0, 0), (0, width - replies.items.shape[1]))
        self.inbox_items[who] = np.pad(replies.items[got], pad)
        self.inbox_cloud[who] = np.pad(replies.scores[got], pad)
        self.inbox_step[who] = replies.step[got]
        if self.cache:
            rows = check_rows(self.setup, replies)[got]
            self.inbox_rows[who] = np.pad(rows, ((0, 0), (0, self.inbox_rows.shape[1] - rows.shape[1])))
        self.usable_at[who] = usable_at[got]

    def wait(self, who: Rows, free_at: NDArray[np.float64]) -> None:
        """Devices `who` ask no more before free_at [B]: a reply is on its way, was lost or was denied."""
        self.free_at[who] = free_at

    def rank(self, who: Rows, at: NDArray[np.float64]) -> Ranking:
        """The lists that devices `who` show at times `at` [B]."""
        self._install(who[self.usable_at[who] <= at])
        items, cloud = self.items[who], self.cloud[who]
        fusion = self.setup.fusion
        device = cloud if fusion.alpha == 1 else self.scores(who)
        return Ranking(items, fusion(cloud, device, items != 0), self.observed[who] - self.pool_step[who])

    def observe(
        self, who: Rows, taken: NDArray[np.int32], rank: NDArray[np.int32], at: NDArray[np.float64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """The users of `who` took items [B], shown at `rank` [B]; returns (asked, urgency) [B], NaN while waiting."""
        self.history[who] = np.concatenate([self.history[who, 1:], taken[:, None]], axis=1)
        if self.setup.hide_seen:
            items = self.items[who]
            self.items[who] = np.where(items == taken[:, None], 0, items)
        self.observed[who] += 1
        self.scored[who] = False
        urgency = np.full(len(who), np.nan)
        ready = at >= self.free_at[who]
        if ready.any():
            urgency[ready] = self._urgency(who[ready], rank[ready], at[ready])
        asked = ready & (urgency > self.setup.price)
        self.asked_step[who[asked]] = self.observed[who[asked]]
        self.asked_history[who[asked]] = self.history[who[asked]]
        return asked, urgency

    def requests(self, who: Rows) -> Requests:
        """What devices `who` upload: the items that the cloud has not confirmed to know, the newest L at most."""
        width = self.history.shape[1]
        step = self.observed[who]
        first = np.maximum(self.received[who], step - width)
        fresh = np.arange(width) >= width - (step - first)[:, None]
        return Requests(self.devices[who], step, first, np.where(fresh, self.history[who], 0), self.received[who])

    def snapshot(self) -> dict[str, NDArray[np.generic]]:
        """All state as named arrays."""
        state = {name: array for name, array in vars(self).items() if isinstance(array, np.ndarray)}
        return state | ({"cache": self.cache.held} if self.cache else {})

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Take over what `snapshot` returned; ContractError when it is another fleet's."""
        own = self.snapshot()
        if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
            raise ContractError("this snapshot belongs to a fleet of another size or setup; start the run anew")
        for name, array in state.items():
            own[name][...] = array

    def _install(self, who: Rows) -> None:
        if not len(who):
            return
        offered = self.inbox_items[who]
        self.items[who] = np.where(self._taken_since(who, offered), 0, offered) if self.setup.hide_seen else offered
        self.cloud[who] = self.inbox_cloud[who]
        self.pool_step[who] = self.received[who] = self.inbox_step[who]
        self.usable_at[who] = np.inf
        self.scored[who] = False
        if self.cache:
            wanted = needed(offered, self.asked_history[who])
            if not (self.cache.knows(who, wanted) | member(wanted, self.inbox_rows[who])).all():
                raise ContractError("a reply lacks item rows that its device needs and does not hold; the books differ")
            self.cache.need(who, wanted)

    def _taken_since(self, who: Rows, offered: Items) -> NDArray[np.bool_]:
        """[B, C] which candidates of a late reply the user took between request and arrival."""
        late = self.observed[who] - self.inbox_step[who]
        seen = np.where(np.arange(self.history.shape[1])[::-1] < late[:, None], self.history[who], 0)
        return member(offered, seen[:, -max(int(late.max()), 1) :])

    def _urgency(self, who: Rows, rank: NDArray[np.int32], at: NDArray[np.float64]) -> NDArray[np.float64]:
        view = View(
            device=self.devices[who],
            step=self.observed[who],
            at=at,
            pool_age=self.observed[who] - self.pool_step[who],
            since_request=self.observed[who] - self.asked_step[who],
            history=self.history[who],
            candidates=self.items[who],
            cloud_scores=self.cloud[who],
            taken=rank.astype(np.int64),
            score=lambda: self.scores(who),
        )
        urgency = self.setup.policy.urgency(view, draws(self.setup.seed, "policy", view.device, view.step))
        if np.shape(urgency) != who.shape or np.isnan(urgency).any():
            raise ContractError(
                f"{type(self.setup.policy).__name__}.urgency returned shape {np.shape(urgency)} "
                f"{'with NaN ' if np.shape(urgency) == who.shape else ''}for {len(who)} devices; return one number each"
            )
        return np.asarray(urgency, np.float64)

    def scores(self, who: Rows) -> Scores:
        """[B, C] reranker scores of the present pools and histories; computed once per change of either."""
        todo = who[~self.scored[who]]
        if len(todo):
            self.device_scores[todo] = score_in_batches(self.setup, self._known_history(todo), self.items[todo])
            self.scored[todo] = True
        return self.device_scores[who]

    def _known_history(self, who: Rows) -> Items:
        """The history without items whose embedding the device does not hold, moved together to the right."""
        history = self.history[who]
        if self.cache is None:
            return history
        known = np.where(self.cache.knows(who, history), history, 0)
        return np.take_along_axis(known, np.argsort(known != 0, axis=1, kind="stable"), axis=1)


def needed(candidates: Items, history: Items) -> Items:
    """The rows a streamed list needs: its candidates, then the uploaded history, each id once; int32 [B, C + L]."""
    return distinct(np.concatenate([candidates, history[:, ::-1]], axis=1))


def score_in_batches(setup: Setup, histories: Items, candidates: Items) -> Scores:
    """Device scores [B, C], always SCORING_BATCH rows at a time; ContractError for a wrong shape or numbers."""
    out = np.empty(candidates.shape, np.float32)
    for start in range(0, len(candidates), SCORING_BATCH):
        rows = np.arange(start, start + SCORING_BATCH)
        rows[rows >= len(candidates)] = start
        pool = candidates[rows]
        scores = checked_score(setup, histories[rows], pool)
        if not isinstance(scores, np.ndarray) or scores.shape != pool.shape:
            raise ContractError(
                f"device model {type(setup.model).__name__}.score returned {getattr(scores, 'shape', type(scores))} "
                f"for candidates {pool.shape}; return a numpy array of that shape"
            )
        out[start : start + SCORING_BATCH] = scores[: len(candidates) - start]
    if not (np.isfinite(out) | (candidates == 0)).all():
        raise ContractError(
            f"device model {type(setup.model).__name__}.score returned NaN or infinity; "
            "run `tandemrec check device-model` on it"
        )
    return out


def checked_score(setup: Setup, histories: Items, pool: Items) -> Scores:
    """The model's answer; an id beyond its item table becomes a ContractError that says so."""
    try:
        return setup.model.score(setup.params, histories, pool)
    except IndexError as error:
        raise ContractError(
            f"device model {type(setup.model).__name__} does not know all items: histories go up to id "
            f"{histories.max()}, candidates up to {pool.max()} ({error}); build or train it for this data set"
        ) from error


def check_rows(setup: Setup, replies: Replies) -> Items:
    """The ids [B, R] of the streamed rows; ContractError unless their values are those that the model computes with.

    The simulator holds one table for all devices. Here it is shown that it may: what was received stands in it.
    """
    table = setup.params[setup.model.item_table] if isinstance(setup.model, HasItemTable) else None
    ids = replies.row_ids
    if table is None or not ids.size:
        return ids
    received = replies.rows * replies.row_scale[:, :, None]
    if not np.array_equal(received[ids != 0], table[ids[ids != 0]]):
        raise ContractError("streamed item rows differ from the table that the device's model computes with")
    return ids
