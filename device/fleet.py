"""Many devices held as arrays; a phone is a fleet of one. The only device runtime there is.

Per step the order is fixed: `rank` (put usable replies in place, score, fuse), then `observe` (the user took an item;
does the device ask?). What the user takes can therefore not leak into the list that was shown.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from device.errors import ContractError
from device.fusion import OWN, Fuses, normalised
from device.lease import Lease
from device.messages import Replies, Requests
from device.model import Items, Scores
from device.policy import RequestPolicy, View
from device.row_cache import RowCache, distinct, member
from device.scoring import ModelScorer, Scorer
from device.seeds import draws

Rows = NDArray[np.int64]
Update = Literal["replace", "merge"]
MEMORY = 0.8
"""Weight of the past in the running share of hits that a view shows."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What all devices of a fleet share.

    Args:
        scorer: the reranker.
        policy, price: a device asks where the policy's urgency exceeds the price.
        lease: how long a device keeps to the price that the cloud told it, which then counts instead of `price`; None =
            the cloud tells none.
        fusion: of the cloud's and the reranker's scores.
        seed: of the experiment.
        cache_rows: capacity of the row cache; 0 = the item table is resident.
        hide_seen: never show again what the user has taken.
        update: what becomes of the old list when a new one comes: "replace" drops it, "merge" keeps its candidates
            behind the new ones as long as there are slots.
        listed: candidates that a whole reply lists; places that the cloud left empty are told to policies.
        own: candidates of its own, best of the resident catalogue, that a device adds to its pool at every step.
        tier: number of the tier.
    """

    scorer: Scorer
    policy: RequestPolicy
    fusion: Fuses
    price: float
    seed: int
    cache_rows: int = 0
    hide_seen: bool = True
    update: Update = "replace"
    listed: int = 0
    own: int = 0
    tier: int = 0
    lease: Lease | None = None


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
        slots: candidates that a pool holds at most, the device's own apart.
    """

    def __init__(self, setup: Setup, devices: NDArray[np.int64], histories: Items, slots: int) -> None:
        size = len(devices)
        self.setup, self.devices = setup, devices
        self.history = histories.astype(np.int32)
        self.items = np.zeros((size, slots), np.int32)
        self.cloud = np.zeros((size, slots), np.float32)  # standardised over the list they came with
        self.made = np.zeros((size, slots), np.int64)  # step of the history that the candidate's list was made from
        self.device_scores = np.zeros((size, slots), np.float32)
        self.scored = np.zeros(size, np.bool_)  # device_scores belong to the present history and pool
        self.own_items = np.zeros((size, setup.own), np.int32)
        self.own_scores = np.zeros((size, setup.own), np.float32)
        self.own_step = np.full(size, -1, np.int64)  # own_items belong to the history of this step
        self.observed = np.zeros(size, np.int64)
        self.pool_step = np.zeros(size, np.int64)
        self.asked_step = np.zeros(size, np.int64)
        self.received = np.zeros(size, np.int64)
        self.empty = np.zeros(size, np.int64)
        self.misses = np.zeros(size, np.int64)
        self.hit_rate = np.zeros(size, np.float64)
        self.last_at = np.full(size, np.nan)
        self.installed_at = np.full(size, np.nan)
        self.inbox_items = np.zeros((size, slots), np.int32)
        self.inbox_cloud = np.zeros((size, slots), np.float32)
        self.inbox_step = np.zeros(size, np.int64)
        self.inbox_rows = np.zeros((size, slots + self.history.shape[1] if setup.cache_rows else 0), np.int32)
        self.usable_at = np.full(size, np.inf)
        self.free_at = np.full(size, -np.inf)  # may ask again from then on
        self.told = np.full(size, setup.price)  # the price of a request
        self.told_step = np.zeros(size, np.int64)  # it came when so many interactions were observed
        self.inbox_price = np.zeros(size, np.float32)
        self.heard_at = np.full(size, np.inf)  # inbox_price is there from then on
        self.asked_history = self.history.copy()  # as it was uploaded with the last request
        self.cache = RowCache(size, setup.cache_rows) if setup.cache_rows else None

    def __len__(self) -> int:
        return len(self.devices)

    def receive(self, who: Rows, replies: Replies, usable_at: NDArray[np.float64]) -> None:
        """Put replies [B] into the inboxes of devices `who`; they take effect at the first `rank` from usable_at on.

        A denial leaves the list as it is; the price that it carries counts.
        """
        self._note_price(who, replies, usable_at)
        got = ~replies.denied
        if not got.any():
            return
        who, width = who[got], self.items.shape[1]
        if replies.items.shape[1] > width:
            raise ContractError(f"a reply lists {replies.items.shape[1]} candidates, the pool has {width} slots")
        pad = ((0, 0), (0, width - replies.items.shape[1]))
        items = replies.items[got]
        self.inbox_items[who] = np.pad(items, pad)
        self.inbox_cloud[who] = np.pad(normalised(replies.scores[got], items != 0, "standardise"), pad)
        self.inbox_step[who] = replies.step[got]
        if self.cache:
            rows = check_rows(self.setup, replies)[got]
            self.inbox_rows[who] = np.pad(rows, ((0, 0), (0, self.inbox_rows.shape[1] - rows.shape[1])))
        self.usable_at[who] = usable_at[got]

    def _note_price(self, who: Rows, replies: Replies, usable_at: NDArray[np.float64]) -> None:
        if (self.setup.lease is None) != (replies.price is None):
            raise ContractError("either devices have a lease and every reply names a price, or neither")
        if replies.price is not None:
            self.inbox_price[who], self.heard_at[who] = replies.price, usable_at

    def _price(self, who: Rows) -> NDArray[np.float64] | float:
        """[B] what the urgency of devices `who` must exceed."""
        if self.setup.lease is None:
            return self.setup.price
        return self.setup.lease.price(self.told[who], self.observed[who] - self.told_step[who])

    def _hear(self, who: Rows, at: NDArray[np.float64]) -> None:
        """Take over prices that have come by `at` [B]."""
        heard = who[self.heard_at[who] <= at]
        self.told[heard], self.told_step[heard] = self.inbox_price[heard], self.observed[heard]
        self.heard_at[heard] = np.inf

    def wait(self, who: Rows, free_at: NDArray[np.float64]) -> None:
        """Devices `who` ask no more before free_at [B]: a reply is on its way, was lost or was denied."""
        self.free_at[who] = free_at

    def rank(self, who: Rows, at: NDArray[np.float64]) -> Ranking:
        """The lists that devices `who` show at times `at` [B]."""
        if self.setup.lease:
            self._hear(who, at)
        arrived = self.usable_at[who] <= at
        self._install(who[arrived], at[arrived])
        self.installed_at[who] = np.where(np.isnan(self.installed_at[who]), at, self.installed_at[who])
        items, cloud, device, age = self.candidates(who)
        fused = self.setup.fusion(cloud, device, items != 0, age)
        return Ranking(items, fused, self.observed[who] - self.pool_step[who])

    def candidates(self, who: Rows) -> tuple[Items, Scores, Scores, Rows]:
        """(items, cloud scores, device scores, age) [B, C]: the pool, then the device's own; what `rank` fuses.

        Where the fusion never looks at device scores they are not computed: the cloud's stand in.
        """
        items, cloud, age = self.items[who], self.cloud[who], self.observed[who][:, None] - self.made[who]
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
            items = self.items[who]
            self.items[who] = np.where(items == taken[:, None], 0, items)
        self.observed[who] += 1
        self.scored[who] = False
        hit = rank > 0
        self.misses[who] += ~hit
        self.hit_rate[who] = MEMORY * self.hit_rate[who] + (1 - MEMORY) * hit
        urgency = np.full(len(who), np.nan)
        ready = at >= self.free_at[who]
        if ready.any():
            urgency[ready] = self._urgency(who[ready], rank[ready], at[ready])
        asked = ready & (urgency > self._price(who))
        self.asked_step[who[asked]] = self.observed[who[asked]]
        self.asked_history[who[asked]] = self.history[who[asked]]
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
        state = {name: array for name, array in vars(self).items() if isinstance(array, np.ndarray)}
        return state | ({"cache": self.cache.held} if self.cache else {})

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Take over what `snapshot` returned; ContractError when it is another fleet's."""
        own = self.snapshot()
        if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
            raise ContractError("this snapshot belongs to a fleet of another size or setup; start the run anew")
        for name, array in state.items():
            own[name][...] = array

    def _install(self, who: Rows, at: NDArray[np.float64]) -> None:
        if not len(who):
            return
        offered, step = self.inbox_items[who], self.inbox_step[who]
        self.empty[who] = np.maximum(self.setup.listed - (offered != 0).sum(1), 0)
        fresh = np.where(self._taken_since(who, offered), 0, offered) if self.setup.hide_seen else offered
        made = np.broadcast_to(step[:, None], fresh.shape)
        if self.setup.update == "merge":
            fresh, cloud, made = self._merged(who, fresh, made)
        else:
            cloud = self.inbox_cloud[who]
        self.items[who], self.cloud[who], self.made[who] = fresh, cloud, made
        self.pool_step[who] = self.received[who] = step
        self.misses[who], self.installed_at[who] = 0, at
        self.usable_at[who] = np.inf
        self.scored[who] = False
        if self.cache:
            wanted = needed(offered, self.asked_history[who])
            if not (self.cache.knows(who, wanted) | member(wanted, self.inbox_rows[who])).all():
                raise ContractError("a reply lacks item rows that its device needs and does not hold; the books differ")
            self.cache.need(who, wanted)

    def _merged(self, who: Rows, fresh: Items, made: Rows) -> tuple[Items, Scores, Rows]:
        """(items, cloud scores, steps) [B, slots]: the new list, then what was held and is not in it, newest first."""
        held = self.items[who]
        held = np.where(member(held, fresh), 0, held)
        order = behind(fresh, held)

        def moved(new: NDArray[Any], old: NDArray[Any]) -> NDArray[Any]:
            return np.take_along_axis(np.concatenate([new, old], axis=1), order, axis=1)

        return moved(fresh, held), moved(self.inbox_cloud[who], self.cloud[who]), moved(made, self.made[who])

    def _taken_since(self, who: Rows, offered: Items) -> NDArray[np.bool_]:
        """[B, C] which candidates of a late reply the user took between request and arrival."""
        late = self.observed[who] - self.inbox_step[who]
        seen = np.where(np.arange(self.history.shape[1])[::-1] < late[:, None], self.history[who], 0)
        return member(offered, seen[:, -max(int(late.max()), 1) :])

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
            candidates=self.items[who],
            cloud_scores=self.cloud[who],
            age=step[:, None] - self.made[who],
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
            self.device_scores[todo] = self.setup.scorer.scores(
                self.devices[todo], self.observed[todo], self._known_history(todo), self.items[todo]
            )
            self.scored[todo] = True
        return self.device_scores[who]

    def _own(self, who: Rows) -> tuple[Items, Scores]:
        """(items, scores) [B, own] of the resident catalogue; computed once per change of the history."""
        todo = who[self.own_step[who] != self.observed[who]]
        if len(todo):
            self.own_items[todo], self.own_scores[todo] = self.setup.scorer.own(
                self.devices[todo], self.observed[todo], self.history[todo], self.setup.own
            )
            self.own_step[todo] = self.observed[todo]
        return self.own_items[who], self.own_scores[who]

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


def behind(first: Items, second: Items) -> NDArray[np.int64]:
    """[B, C] columns of `first` [B, C] and `second` [B, C] side by side: what is not 0 of both, in order, cut to C."""
    both = np.concatenate([first, second], axis=1)
    return np.argsort(both == 0, axis=1, kind="stable")[:, : first.shape[1]]


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
        return self.fleet.setup.scorer.state(self.fleet.devices[self.who], step, history)


def check_rows(setup: Setup, replies: Replies) -> Items:
    """The ids [B, R] of the streamed rows; ContractError unless their values are those that the model computes with.

    The simulator holds one table for all devices. Here it is shown that it may: what was received stands in it.
    """
    table = setup.scorer.item_table() if isinstance(setup.scorer, ModelScorer) else None
    ids = replies.row_ids
    if table is None or not ids.size:
        return ids
    received = replies.rows * replies.row_scale[:, :, None]
    if not np.array_equal(received[ids != 0], table[ids[ids != 0]]):
        raise ContractError("streamed item rows differ from the table that the device's model computes with")
    return ids
