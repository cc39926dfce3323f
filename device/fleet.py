"""Many devices held as arrays; a phone is a fleet of one. The only device runtime there is.

Per step the order is fixed: `rank` (put usable replies in place, score, fuse), then `observe` (the user took an item;
does the device ask?). What the user takes can therefore not leak into the list that was shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device.errors import ContractError
from device.fusion import OWN
from device.inbox import Inbox, check_rows
from device.incremental_scorer import incremental
from device.messages import Replies, Requests
from device.model import Items, Scores
from device.personal_scoring import personal
from device.policy import View
from device.pool import Pool, untaken
from device.prices import Prices
from device.ranking import Ranking
from device.row_cache import RowCache, member, needed
from device.seeds import draws
from device.setup import Setup
from device.snapshot import arrays_of, put_back

Rows = NDArray[np.int64]
MEMORY = 0.8
"""Weight of the past in the running share of hits that a view shows."""


class Fleet:
    """State of D devices.

    Args:
        setup: what they share.
        devices: [D] device numbers; they name the random streams.
        histories: [D, L] items each device knows before the replay, left-padded.
        slots: candidates that a pool holds at most, the device's own apart.
    """

    def __init__(self, setup: Setup, devices: NDArray[np.int64], histories: Items, slots: int) -> None:
        size = len(devices)
        self.setup, self.devices = setup, devices
        self.states = incremental(setup.scorer, devices, histories.shape[1]) if setup.incremental else None
        self.personal = personal(setup.scorer, devices, self.states)
        self.scorer = self.personal or self.states or setup.scorer
        self.history = histories.astype(np.int32)
        self.asked_history = self.history.copy()  # as it was uploaded with the last request
        self.pool = Pool(size, slots)
        self.cache = RowCache(size, setup.cache_rows, setup.installed) if setup.cache_rows else None
        self.inbox = Inbox(size, slots, slots + histories.shape[1] if self.cache else 0)
        self.prices = Prices(size, setup.price, setup.lease)
        self.device_scores = np.zeros((size, slots), np.float32)
        self.scored = np.zeros(size, np.bool_)  # device_scores belong to the present history and pool
        self.own_items = np.zeros((size, setup.own), np.int32)
        self.own_scores = np.zeros((size, setup.own), np.float32)
        self.own_step = np.full(size, -1, np.int64)  # own_items belong to the history of this step
        self.observed, self.pool_step, self.asked_step = np.zeros((3, size), np.int64)
        self.received, self.empty, self.misses = np.zeros((3, size), np.int64)
        self.hit_rate = np.zeros(size, np.float64)
        self.last_at, self.installed_at = np.full((2, size), np.nan)
        self.free_at = np.full(size, -np.inf)  # may ask again from then on

    def __len__(self) -> int:
        return len(self.devices)

    def receive(self, who: Rows, replies: Replies, usable_at: NDArray[np.float64]) -> None:
        """Put replies [B] into the inboxes of devices `who`; they take effect at the first `rank` from usable_at on.

        A denial leaves the list as it is; the price that it carries counts.
        """
        self.prices.note(who, replies, usable_at)
        rows = check_rows(self.setup.scorer, replies) if self.cache else replies.row_ids[:, :0]
        self.inbox.put(who, replies, rows, usable_at)

    def wait(self, who: Rows, free_at: NDArray[np.float64]) -> None:
        """Devices `who` ask no more before free_at [B]: a reply is on its way, was lost or was denied."""
        self.free_at[who] = free_at

    def rank(self, who: Rows, at: NDArray[np.float64]) -> Ranking:
        """The lists that devices `who` show at times `at` [B]."""
        self.prices.hear(who, self.observed[who], at)
        if self.personal:
            new = self.personal.install(who, at)
            self.scored[new], self.own_step[new] = False, -1
        if self.states:  # at every step, so that no state depends on who looked at it
            self.states.bring(self.devices[who], self.observed[who], self.history[who])
        arrived = self.inbox.usable_at[who] <= at
        if arrived.any():
            self._install(who[arrived], at[arrived])
        self.installed_at[who] = np.where(np.isnan(self.installed_at[who]), at, self.installed_at[who])
        items, cloud, device, age = self.candidates(who)
        fused = self.setup.fusion(cloud, device, items != 0, age)
        return Ranking(items, fused, self.observed[who] - self.pool_step[who])

    def candidates(self, who: Rows) -> tuple[Items, Scores, Scores, Rows]:
        """(items, cloud scores, device scores, age) [B, C]: the pool, then the device's own; what `rank` fuses.

        Where the fusion never looks at device scores they are not computed: the cloud's stand in.
        """
        items, cloud = self.pool.items[who], self.pool.cloud[who]
        age = self.observed[who][:, None] - self.pool.made[who]
        device = self.scores(who) if self.setup.fusion.looks_at_device else cloud
        if not self.setup.own:
            return items, cloud, device, age
        own, scores = self._own(who)
        own = np.where(member(own, items), 0, own)
        empty = ((0, 0), (0, self.setup.own))
        return (
            np.concatenate([items, own], axis=1),
            np.pad(cloud, empty),
            np.concatenate([device, scores], axis=1),
            np.pad(age, empty, constant_values=OWN),
        )

    def observe(
        self, who: Rows, taken: NDArray[np.int32], rank: NDArray[np.int32], at: NDArray[np.float64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """The users of `who` took items [B], shown at `rank` [B]; returns (asked, urgency) [B], NaN while waiting."""
        self.history[who] = np.concatenate([self.history[who, 1:], taken[:, None]], axis=1)
        if self.setup.hide_seen:
            self.pool.drop(who, taken)
        self.observed[who] += 1
        self.scored[who] = False
        hit = rank > 0
        self.misses[who] += ~hit
        self.hit_rate[who] = MEMORY * self.hit_rate[who] + (1 - MEMORY) * hit
        urgency = np.full(len(who), np.nan)
        ready = at >= self.free_at[who]
        if ready.any():
            urgency[ready] = self._urgency(who[ready], rank[ready], at[ready])
        asked = ready & (urgency > self.prices.of(who, self.observed[who]))
        self.asked_step[who[asked]] = self.observed[who[asked]]
        self.asked_history[who[asked]] = self.history[who[asked]]
        if self.states:
            self.states.mark(self.devices[who[asked]], self.observed[who[asked]], self.history[who[asked]])
        self.last_at[who] = at
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
        parts = {"": self, "pool.": self.pool, "inbox.": self.inbox, "prices.": self.prices, "cache.": self.cache}
        return arrays_of({**parts, "personal.": self.personal, "states.": self.states})

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Take over what `snapshot` returned; ContractError when it is another fleet's."""
        put_back(self.snapshot(), state)

    def _install(self, who: Rows, at: NDArray[np.float64]) -> None:
        offered, step = self.inbox.items[who], self.inbox.step[who]
        self.empty[who] = np.maximum(self.setup.listed - (offered != 0).sum(1), 0)
        fresh = untaken(offered, self.history[who], self.observed[who] - step) if self.setup.hide_seen else offered
        self.pool.put(who, fresh, self.inbox.cloud[who], step, update=self.setup.update)
        self.pool_step[who] = self.received[who] = step
        self.misses[who], self.installed_at[who] = 0, at
        self.inbox.usable_at[who] = np.inf
        self.scored[who] = False
        if self.cache:
            self.cache.take(who, needed(offered, self.asked_history[who]), self.inbox.rows[who])
            self.own_step[who] = -1  # more of the history may be known
            self.pool.keep(who, self.cache.knows(who, self.pool.items[who]))

    def _urgency(self, who: Rows, rank: NDArray[np.int32], at: NDArray[np.float64]) -> NDArray[np.float64]:
        view = self.view(who, rank, at)
        urgency = self.setup.policy.urgency(view, draws(self.setup.seed, "policy", view.device, view.step))
        if np.shape(urgency) != who.shape or np.isnan(urgency).any():
            raise ContractError(
                f"{type(self.setup.policy).__name__}.urgency returned shape {np.shape(urgency)} "
                f"{'with NaN ' if np.shape(urgency) == who.shape else ''}for {len(who)} devices; return one number each"
            )
        return np.asarray(urgency, np.float64)

    def view(self, who: Rows, rank: NDArray[np.int32], at: NDArray[np.float64]) -> View:
        """What a policy may look at after devices `who` observed items shown at `rank` [B], at times `at` [B]."""
        step = self.observed[who]
        return View(
            device=self.devices[who],
            step=step,
            at=at,
            pool_age=step - self.pool_step[who],
            since_request=step - self.asked_step[who],
            history=self.history[who],
            asked_history=self.asked_history[who],
            candidates=self.pool.items[who],
            cloud_scores=self.pool.cloud[who],
            age=step[:, None] - self.pool.made[who],
            empty=self.empty[who],
            taken=rank.astype(np.int64),
            misses=self.misses[who],
            hit_rate=self.hit_rate[who],
            idle_s=np.where(np.isnan(self.last_at[who]), 0.0, at - self.last_at[who]),
            reply_age_s=at - self.installed_at[who],
            tier=np.full(len(who), self.setup.tier),
            look=FleetLook(self, who),
        )

    def scores(self, who: Rows) -> Scores:
        """[B, C] reranker scores of the present pools and histories; computed once per change of either."""
        todo = who[~self.scored[who]]
        if len(todo):
            self.device_scores[todo] = self.scorer.scores(
                self.devices[todo], self.observed[todo], self._known_history(todo), self.pool.items[todo]
            )
            self.scored[todo] = True
        return self.device_scores[who]

    def _known_history(self, who: Rows) -> Items:
        return self.cache.known(who, self.history[who]) if self.cache else self.history[who]

    def _own(self, who: Rows) -> tuple[Items, Scores]:
        """(items, scores) [B, own] of the resident catalogue; computed once per change of the history."""
        todo = who[self.own_step[who] != self.observed[who]]
        if len(todo):
            self.own_items[todo], self.own_scores[todo] = self.scorer.own(
                self.devices[todo], self.observed[todo], self._known_history(todo), self.setup.own
            )
            self.own_step[todo] = self.observed[todo]
        return self.own_items[who], self.own_scores[who]


@dataclass(frozen=True, slots=True)
class FleetLook:
    """What a view of a fleet computes when a policy asks for it."""

    fleet: Fleet
    who: Rows

    def scores(self) -> Scores:
        """See policy.Look."""
        return self.fleet.scores(self.who)

    def own(self) -> Items:
        """See policy.Look."""
        return self.fleet._own(self.who)[0] if self.fleet.setup.own else np.zeros((len(self.who), 0), np.int32)

    def state(self, history: Items, step: NDArray[np.int64]) -> Scores:
        """See policy.Look."""
        return self.fleet.scorer.state(self.fleet.devices[self.who], step, history)
