"""Filters on a table of interactions, and the data set it becomes."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError, DataError
from device.seeds import rng
from simulation.data.clock import Clock, drawn, spread
from simulation.data.dataset import Dataset
from simulation.data.kcore import k_core
from simulation.data.table import Table

SAMPLE = 1
"""Seed with which users are drawn. Not the experiment's: all its seeds replay the same users, so they can be paired."""


def select(table: Table, *, min_rating: float | None, core: int, limit_users: int | None) -> Table:
    """Keeps ratings of at least `min_rating`, then the `core`-core, then `limit_users` users, always the same ones.

    Raises ConfigError for negative bounds or a rating filter on data without ratings, DataError where nothing is left.
    """
    if core < 0 or (limit_users is not None and limit_users < 1):
        raise ConfigError(f"k_core = {core}, limit_users = {limit_users}; expected at least 0 and at least 1")
    if min_rating is not None:
        if table.rating is None:
            raise ConfigError(f"min_rating = {min_rating}: {table.name} has no ratings; leave the filter out")
        table = _keep(table, table.rating >= min_rating, f"min_rating = {min_rating}")
    if core > 1:
        found = k_core(table.user, table.item, user_k=core, item_k=core)
        table = _keep(table, found.keep, f"k_core = {core}")
    if limit_users is not None and limit_users < len(table.users):
        table = _keep(table, sampled(len(table.users), limit_users)[table.user], f"limit_users = {limit_users}")
    return table


def sampled(users: int, limit: int) -> NDArray[np.bool_]:
    """[users] bool: the `limit` users that are drawn, always the same ones."""
    chosen = np.zeros(users, np.bool_)
    chosen[rng(SAMPLE, "limit users").permutation(users)[:limit]] = True
    return chosen


def build(table: Table, *, seed: int, permute_ids: bool, clock: Clock, part: NDArray[np.int8] | None = None) -> Dataset:
    """The data set: events by user, then `part` [N] where given, then time, stable; item ids drawn with the seed.

    Raises DataError where two events of a user share a position in data with only an order.
    """
    keys = [key for key in (table.order, table.time, part, table.user) if key is not None]
    rows = np.lexsort(keys)
    offsets = np.searchsorted(table.user[rows], np.arange(len(table.users) + 1)).astype(np.int64)
    items = _numbering(table, seed, permute_ids)
    number = np.empty(len(items), np.int32)
    number[items] = np.arange(1, len(items) + 1)
    if table.time is not None:
        at, tied = spread(clock, seed, offsets, table.time[rows])
    else:
        _check_order(table, rows, part)
        at, tied = drawn(clock, seed, offsets), np.zeros(len(rows), np.bool_)
    return Dataset(
        name=table.name,
        users=table.users,
        items=table.items[items],
        offsets=offsets,
        item=number[table.item[rows]],
        at=at,
        titles=None if table.titles is None else table.titles[items],
        timed=table.time is not None,
        tied=tied,
        session=None if table.session is None else table.session[rows],
    )


def _numbering(table: Table, seed: int, permute_ids: bool) -> NDArray[np.int64]:
    """[n] index into the sorted external ids of item ids 1..n."""
    if permute_ids:
        return rng(seed, "item ids").permutation(len(table.items))
    _, first = np.unique(table.item, return_index=True)
    return np.argsort(first)


def _keep(table: Table, keep: NDArray[np.bool_], why: str) -> Table:
    if not keep.any():
        raise DataError(f"{table.name}: {why} leaves nothing of {len(keep)} interactions; weaken the filter")
    users, user = np.unique(table.user[keep], return_inverse=True)
    items, item = np.unique(table.item[keep], return_inverse=True)
    return replace(
        table,
        users=table.users[users],
        items=table.items[items],
        user=user.astype(np.int64),
        item=item.astype(np.int64),
        time=None if table.time is None else table.time[keep],
        order=None if table.order is None else table.order[keep],
        rating=None if table.rating is None else table.rating[keep],
        session=None if table.session is None else table.session[keep],
        titles=None if table.titles is None else table.titles[items],
        categories=None if table.categories is None else table.categories[items],
    )


def _check_order(table: Table, rows: NDArray[np.int64], part: NDArray[np.int8] | None) -> None:
    if table.order is None:
        raise DataError(f"{table.name}: neither timestamp nor order; one of the two columns is needed")
    same = (np.diff(table.user[rows]) == 0) & (np.diff(table.order[rows]) == 0)
    if part is not None:
        same &= np.diff(part[rows]) == 0
    if same.any():
        row = rows[int(np.argmax(same)) + 1]
        user, order = table.users[table.user[row]], table.order[row]
        raise DataError(f"{table.name}: user {user!r} has two events with order {order:g}; every order must be its own")
