"""What a request would have changed at validation steps: both branches are scored, for the log says what came next."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from cloud.gateway import Service
from cloud.generator import lists_at
from cloud.memory import wanting
from device.errors import ContractError
from device.fusion import OWN, Fuses, normalised
from device.messages import Codec, Replies, decode_replies, encode_replies
from device.model import Items, Scores
from device.personal import Patches
from device.policy import Experience, RequestPolicy, Urgency, View
from device.pool import joined
from device.ranking import Ranking
from device.row_cache import member
from device.seeds import Draws, draws
from device.setup import Setup
from simulation.choosing.patched import held, patched, renewed
from simulation.choosing.rehearsal import Rehearsal
from simulation.metrics import NDCG

Steps = NDArray[np.int64]
Rewards = NDArray[np.float32]


@dataclass(slots=True)
class Recorder:
    """A policy that lets another decide and keeps what it looked at."""

    policy: RequestPolicy
    views: list[View] = field(default_factory=list)
    patches: list[Patches] = field(default_factory=list)  # that the devices of each view held

    def urgency(self, view: View, draws: Draws) -> Urgency:
        """The other's; all that the view computes on demand is computed now, for the fleet will move on."""
        _ = view.device_scores, view.own
        with suppress(ContractError):  # a model without a state: policies that want one will say so
            _ = view.state, view.asked_state
        self.views.append(view)
        self.patches.append(held(view))
        return self.policy.urgency(view, draws)


@dataclass(frozen=True, slots=True)
class Pools:
    """B pools."""

    items: Items  # [B, C]
    cloud: Scores  # [B, C]
    made: Steps  # [B, C]


def gather(rehearsal: Rehearsal, setups: Sequence[Setup], horizon: int) -> Experience:
    """Experience under the policy and price of `setups`, `horizon` steps ahead; replies are taken to come at once.

    Devices score under the patch that they hold, after a request under the one that comes with it; where only some
    replies bring one, this is taken to bring none.
    """
    recorders = [Recorder(setup.policy) for setup in setups]
    rehearsal.run([replace(setup, policy=recorder) for setup, recorder in zip(setups, recorders, strict=True)])
    views, parts = [], []
    for setup, recorder in zip(setups, recorders, strict=True):
        for view, patches in zip(recorder.views, recorder.patches, strict=True):
            views.append(view)
            parts.append(branches(rehearsal, setup, view, patches, horizon))
    kept, fresh, shown = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return Experience(views, kept, fresh, shown)


def together(parts: Sequence[Experience]) -> Experience:
    """Several as one."""
    views = [view for part in parts for view in part.views]
    return Experience(views, *(np.concatenate([getattr(p, n) for p in parts]) for n in ("kept", "fresh", "shown")))


def branches(
    rehearsal: Rehearsal, setup: Setup, view: View, patches: Patches, horizon: int
) -> tuple[Rewards, Rewards, Rewards]:
    """(kept, fresh, shown) [B, horizon] of one wave's view, whose devices hold `patches` [B, *shape]."""
    made = view.step[:, None] - view.age
    kept = Pools(view.candidates.copy(), view.cloud_scores, made)
    told = taken_so_far(rehearsal, view.device, view.step, rehearsal.service.history)
    fresh = asked(rehearsal.service, setup, view, kept, told)
    own = renewed(rehearsal.service, view, told, patches)
    before, after = (replace(setup, scorer=patched(setup.scorer, view.device, one)) for one in (patches, own))
    out = np.full((3, len(view.device), horizon), np.nan, np.float32)
    steps = (rehearsal.timeline.items != 0).sum(1)[view.device]
    for ahead in range(1, horizon + 1):
        rows = np.flatnonzero(view.step + ahead <= steps)
        if not len(rows):
            break
        device, step = view.device[rows], view.step[rows] + ahead - 1  # observed before that step is ranked
        target = rehearsal.timeline.items[device, step]
        for numbers, one, pools, fusions in (
            ([0, 2], before, kept, (setup.fusion, CloudOrder())),
            ([1], after, fresh, (setup.fusion,)),
        ):
            part = Pools(pools.items[rows], pools.cloud[rows], pools.made[rows])
            found = rewards(rehearsal, one, part, (device, step, target), fusions)
            for branch, values in zip(numbers, found, strict=True):
                out[branch, rows, ahead - 1] = values
        if setup.hide_seen:
            for pools in (kept, fresh):
                pools.items[rows] = np.where(pools.items[rows] == target[:, None], 0, pools.items[rows])
    return out[0], out[1], out[2]


def asked(service: Service, setup: Setup, view: View, kept: Pools, histories: Items) -> Pools:
    """The pools after a request whose reply comes at once, with scores as they survive the way."""
    rng = draws(service.seed, "generator", view.device, view.step)
    made = lists_at(service.generator, histories, service.pool, at=view.at, rng=rng)
    known = ~wanting(made.items, kept.items) if service.delta_slots else made.items == 0
    order = np.argsort(known, axis=1, kind="stable")
    listed, said = (np.take_along_axis(np.where(known, 0, part), order, axis=1) for part in (made.items, made.scores))
    listed, said = carried(service.codec, listed, said)
    space = ((0, 0), (0, kept.items.shape[1] - listed.shape[1]))
    items = np.pad(listed, space)
    cloud = np.pad(normalised(said, listed != 0, "standardise"), space)
    steps = np.broadcast_to(view.step[:, None], items.shape)
    if setup.update == "replace":
        return Pools(items, cloud, steps)
    return Pools(*joined((items, cloud, steps), (kept.items, kept.cloud, kept.made)))


def carried(codec: Codec, items: Items, scores: Scores) -> tuple[Items, Scores]:
    """Lists [B, k] as devices read them: the codec rounds scores or leaves them out."""
    size = len(items)
    none, zeros = np.zeros((size, 0), np.int32), np.zeros(size, np.int64)
    flat = none.astype(np.float32)
    rows = none[..., None].astype(np.int8)
    denied = np.zeros(size, np.bool_)
    sent = Replies(zeros, zeros, items, scores, none, rows, flat, denied, zeros.astype(np.float32))
    read = decode_replies(encode_replies(sent, codec))
    return read.items, read.scores


def rewards(
    rehearsal: Rehearsal,
    setup: Setup,
    pools: Pools,
    where: tuple[Steps, Steps, NDArray[np.int32]],
    fusions: Sequence[Fuses],
) -> list[Rewards]:
    """[B] per fusion: NDCG@10 of the items that devices [B] take after `step` [B] ones, shown from `pools`."""
    device, step, target = where
    history = taken_so_far(rehearsal, device, step, rehearsal.service.upload)
    items = pools.items
    scores = setup.scorer.scores(device, step, history, items)
    cloud, age = pools.cloud, step[:, None] - pools.made
    if setup.own:
        own, own_scores = setup.scorer.own(device, step, history, setup.own)
        own = np.where(member(own, items), 0, own)
        items, scores = np.concatenate([items, own], axis=1), np.concatenate([scores, own_scores], axis=1)
        cloud = np.pad(cloud, ((0, 0), (0, setup.own)))
        age = np.pad(age, ((0, 0), (0, setup.own)), constant_values=OWN)
    rankings = [Ranking(items, fusion(cloud, scores, items != 0, age), step) for fusion in fusions]
    return [NDCG(10).of(*ranking.place(target)).astype(np.float32) for ranking in rankings]


def taken_so_far(rehearsal: Rehearsal, device: Steps, step: Steps, length: int) -> Items:
    """[B, length] the newest items that devices [B] have taken after `step` [B] replayed ones."""
    timeline = rehearsal.timeline
    column = timeline.histories.shape[1] - length + step[:, None] + np.arange(length)
    before = column < timeline.histories.shape[1]
    old = timeline.histories[device[:, None], np.where(before, column, 0)]
    new = timeline.items[device[:, None], np.where(before, 0, column - timeline.histories.shape[1])]
    return np.where(before, old, new)


@dataclass(frozen=True, slots=True)
class CloudOrder:
    """The pool as the cloud ordered it, newest list first, the device's own last: what is shown without reranking."""

    looks_at_device: bool = False

    def __call__(self, cloud: Scores, device: Scores, valid: NDArray[np.bool_], age: Steps) -> Scores:
        """See device.fusion.Fuses."""
        oldest = int(age.max(initial=0)) + 1
        order = np.lexsort((-cloud, np.where(age == OWN, oldest, age)), axis=1)
        place = np.empty(cloud.shape, np.float32)
        np.put_along_axis(place, order, -np.arange(cloud.shape[1], dtype=np.float32)[None], axis=1)
        return np.where(valid, place, np.float32(-np.inf))
