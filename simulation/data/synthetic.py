"""A source with drifting interests, so that nothing need be downloaded and fresh history is worth a request."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError
from device.seeds import Draws, draws, rng
from simulation.data.clock import DEFAULT, Clock, drawn
from simulation.data.dataset import Dataset

_REDRAWS = 8  # of an item the user has had; afterwards the repetition stays


def synthetic(
    *,
    seed: int,
    users: int = 600,
    items: int = 1000,
    topics: int = 20,
    length: int = 60,
    drift: float = 0.1,
    favourites: int = 3,
    follow: float = 0.6,
    clock: Clock = DEFAULT,
) -> Dataset:
    """Users that each look at `length` items of one topic at a time; raises ConfigError for sizes that cannot be.

    Before every event but the first the topic jumps with probability `drift`: nine times in ten to one of the user's
    `favourites` other favourite topics, else to any topic. Within a topic the next item is, with probability
    `follow`, one of four fixed successors of the previous item (probabilities 8:4:2:1), else drawn by the topic's
    popularity (Zipf, exponent 1). Items a user has had are drawn again up to 8 times. A user's events are the same
    for any number of users, and item ids say nothing about topic or popularity.
    """
    _check_sizes(users=users, items=items, topics=topics, length=length, favourites=favourites)
    if not (0 <= drift <= 1 and 0 <= follow <= 1):
        raise ConfigError(f"synthetic: drift = {drift} and follow = {follow} must be probabilities, 0 to 1")
    catalogue = _Catalogue.make(seed, items, topics)
    device = np.arange(users)
    likes = _favourite_topics(draws(seed, "synthetic favourites", device), topics, favourites)
    item = np.zeros((users, length), np.int32)
    topic = likes[:, 0]
    for step in range(length):
        noise = draws(seed, "synthetic", device, np.full(users, step))
        jump, which, explore, anywhere = noise.uniform(4).T
        if step:
            other = _other_favourite(likes, topic, which)
            target = np.where(explore < 0.9, other, (anywhere * topics).astype(np.int64))
            topic = np.where(jump < drift, target, topic)
        item[:, step] = _next_items(catalogue, topic, item[:, :step], noise, follow)
    return _as_dataset(catalogue, item, drawn(clock, seed, np.arange(users + 1) * length))


@dataclass(frozen=True, slots=True, eq=False)
class _Catalogue:
    """Items sorted by topic and, within it, by popularity; row r of `by_rank` is an item id."""

    topic: NDArray[np.int64]  # [n + 1] topic of an item id
    by_rank: NDArray[np.int32]  # [n]
    upto: NDArray[np.float64]  # [n] topic + cumulative popularity within the topic
    last: NDArray[np.int64]  # [topics] last row of a topic
    successor: NDArray[np.int32]  # [n + 1, 4]

    @staticmethod
    def make(seed: int, items: int, topics: int) -> "_Catalogue":
        random = rng(seed, "synthetic items")
        group = np.sort(np.arange(items) % topics)
        start = np.searchsorted(group, np.arange(topics))
        by_rank = (random.permutation(items) + 1).astype(np.int32)
        topic = np.full(items + 1, -1)
        topic[by_rank] = group
        weight = 1.0 / (np.arange(items) - start[group] + 1.0)
        total = np.cumsum(weight)
        share = total - (total[start] - weight[start])[group]
        last = np.searchsorted(group, np.arange(topics), side="right") - 1
        upto = group + share / share[last][group]
        catalogue = _Catalogue(topic, by_rank, upto, last, np.zeros((items + 1, 4), np.int32))
        catalogue.successor[1:] = catalogue.popular(np.repeat(topic[1:], 4), random.random(4 * items)).reshape(-1, 4)
        return catalogue

    def popular(self, topic: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int32]:
        """[B] items of the topics [B] by popularity, from uniform numbers [B]."""
        row = np.searchsorted(self.upto, topic + uniform, side="right")
        return self.by_rank[np.minimum(row, self.last[topic])]


def _next_items(
    catalogue: _Catalogue, topic: NDArray[np.int64], past: NDArray[np.int32], noise: Draws, follow: float
) -> NDArray[np.int32]:
    users, step = past.shape
    before = past[:, -1] if step else np.zeros(users, np.int32)
    chosen = np.zeros(users, np.int32)
    pending = np.arange(users)
    for attempt in range(_REDRAWS + 1):
        follows, which, uniform = noise[pending].uniform(3, stream=attempt + 1).T
        link = np.searchsorted(np.array([8, 12, 14]) / 15, which, side="right")
        previous, current = before[pending], topic[pending]
        linked = (follows < follow) & (catalogue.topic[previous] == current)
        chosen[pending] = np.where(linked, catalogue.successor[previous, link], catalogue.popular(current, uniform))
        pending = pending[(past[pending] == chosen[pending, None]).any(axis=1)]
        if not len(pending):
            break
    return chosen


def _favourite_topics(random: Draws, topics: int, favourites: int) -> NDArray[np.int64]:
    """[U, favourites + 1] distinct topics per user."""
    order: NDArray[np.int64] = np.argsort(random.uniform(topics), axis=1)[:, : favourites + 1].astype(np.int64)
    return order


def _other_favourite(
    likes: NDArray[np.int64], topic: NDArray[np.int64], uniform: NDArray[np.float64]
) -> NDArray[np.int64]:
    """[U] a favourite topic that is not the current one, each equally likely."""
    width = likes.shape[1]
    here = likes == topic[:, None]
    known = here.any(axis=1)
    step = np.where(known, 1 + (uniform * (width - 1)).astype(np.int64), (uniform * width).astype(np.int64))
    place = (np.where(known, here.argmax(axis=1), 0) + step) % width
    other: NDArray[np.int64] = likes[np.arange(len(likes)), place]
    return other


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise ConfigError(f"synthetic: {name} = {value}, expected at least 1")
    if sizes["items"] < 2 * sizes["topics"]:
        raise ConfigError(f"synthetic: {sizes['items']} items are too few for {sizes['topics']} topics (2 each)")
    if sizes["favourites"] >= sizes["topics"]:
        raise ConfigError(f"synthetic: favourites = {sizes['favourites']} must be below topics = {sizes['topics']}")


def _as_dataset(catalogue: _Catalogue, item: NDArray[np.int32], at: NDArray[np.float64]) -> Dataset:
    users, length = item.shape
    n = len(catalogue.by_rank)
    titles = [f"Topic {t + 1:02d} / item {i:04d}" for i, t in enumerate(catalogue.topic[1:].tolist(), start=1)]
    return Dataset(
        name="synthetic",
        users=np.array([f"user-{u:06d}" for u in range(users)], dtype=object),
        items=np.array([f"item-{i:04d}" for i in range(1, n + 1)], dtype=object),
        offsets=np.arange(users + 1, dtype=np.int64) * length,
        item=item.reshape(-1),
        at=at,
        titles=np.array(titles, dtype=object),
        timed=False,
        tied=np.zeros(users * length, np.bool_),
        session=None,
    )
