"""News: what everybody reads just now, and what readers of an article read next, from the clicks as they happen."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud.generator import Generated
from cloud.stream import Stream
from device.errors import ConfigError, ContractError
from device.model import Items, Scores
from device.scoring import top_k
from device.seeds import Draws

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
ROWS = 256
"""Requests scored at once: bounds the memory, does not change any list."""


@dataclass(frozen=True, slots=True)
class Now:
    """The stream's state at one moment: A articles with their expected clicks."""

    articles: NDArray[np.int32]  # [A] all that were clicked in the longer window, ascending
    expected: Floats  # [A] pseudo-clicks by popularity; they sum to `prior`
    first: int  # clicks first..end - 1 of the stream are the longer window
    end: int


class Recent:
    """Ranks by the probability that an article comes next: the share of those who read the history's newest article
    and went on to it, smoothed by what is most clicked (a Dirichlet prior, MacKay and Peto 1995):

        P(a | l) = (n(l, a) + prior * p(a)) / (n(l) + prior),   p = (1 - tail) * p(window_s) + tail * p(follow_s)

    n(l, a): clicks on a within `follow_s` before the request whose users clicked l just before; p(w): share of the
    clicks of the last w seconds. Only the stream counts, that is users who are no devices (`[data] stream`), and only
    up to the last full `refresh_s` before the request, so nothing at or after it. Scores are log P.

    What a list costs is its own work alone: one operation per article of the longer window and per successor counted.
    The refreshes (the clicks of both windows and the catalogue, once in `refresh_s`) go on whether anybody asks or not;
    they are a standing cost of the cloud and no request is charged for them.

    Args:
        n_items: catalogue size.
        window_s: seconds in which popularity is counted.
        follow_s: seconds, at least window_s, in which successors are counted; an article without a click in it is not
            listed.
        prior: weight of popularity against successors, in clicks.
        tail: weight of popularity in the longer time, which fills long lists in quiet hours.
        newest: so many successors of an article count at most, the newest.
        refresh_s: the counts are brought up to date so often.
        hide_seen: articles of the uploaded history are left out.
    """

    nested = True
    """A list of k is the first k of a longer one, and costs the same."""

    def __init__(
        self,
        n_items: int,
        *,
        window_s: float = 600.0,
        follow_s: float = 10_800.0,
        prior: float = 100.0,
        tail: float = 0.1,
        newest: int = 300,
        refresh_s: float = 60.0,
        hide_seen: bool = True,
    ) -> None:
        if not (0 < window_s <= follow_s and prior > 0 and 0 <= tail <= 1 and newest >= 0 and refresh_s > 0):
            raise ConfigError(
                f"Recent: window_s = {window_s}, follow_s = {follow_s}, prior = {prior}, tail = {tail}, "
                f"newest = {newest}, refresh_s = {refresh_s}; expected 0 < window_s <= follow_s, prior > 0, tail in "
                "0..1, newest of at least 0, refresh_s > 0"
            )
        self.n_items, self.window_s, self.follow_s = n_items, window_s, follow_s
        self.prior, self.tail, self.newest, self.refresh_s = prior, tail, newest, refresh_s
        self.hide_seen = hide_seen
        self.stream: Stream | None = None
        self.pair, self.follower = np.zeros(0, np.int64), np.zeros(0, np.int32)

    def listen(self, stream: Stream) -> None:
        """Take the stream, and sort its pairs by (article, place in the stream)."""
        place = np.flatnonzero(stream.before)
        pair = stream.before[place].astype(np.int64) * (len(stream) + 1) + place
        order = np.argsort(pair)
        self.stream, self.pair, self.follower = stream, pair[order], stream.item[place[order]]

    def generate(self, histories: Items, k: int, *, rng: Draws) -> Generated:
        """ConfigError: a list without a time would have to know the future, or nothing."""
        raise ConfigError(
            "[cloud.generator] Recent lists what is read at the time of a request, and none is known here; "
            "take another generator for lag tables and for collaborative training"
        )

    def generate_at(self, histories: Items, k: int, *, at: Floats, rng: Draws) -> Generated:
        """Lists for `histories` [B, L] of requests that leave at `at` [B]; equals come in the order of their ids."""
        items, scores = np.zeros((len(at), k), np.int32), np.zeros((len(at), k), np.float32)
        flops = np.zeros(len(at))
        for now, rows in self._moments(at):
            values, flops[rows] = self._expected(now, histories[rows])
            best, column = top_k(values, k)
            filled, width = np.isfinite(best), best.shape[1]
            if width:
                items[rows, :width] = np.where(filled, now.articles[column], 0)
                scores[rows, :width] = np.where(filled, best, 0)
        return Generated(items, scores, flops, None)

    def _moments(self, at: Floats) -> Iterator[tuple[Now, Ints]]:
        """The stream's state at each refresh that is needed, with some of the requests that see it."""
        refreshed, which = np.unique(np.floor(at / self.refresh_s), return_inverse=True)
        order = np.argsort(which, kind="stable")
        ends = np.searchsorted(which[order], np.arange(len(refreshed) + 1))
        for moment, first, end in zip(refreshed * self.refresh_s, ends[:-1], ends[1:], strict=True):
            now = self._at(float(moment))
            for start in range(first, end, ROWS):
                yield now, order[start : min(start + ROWS, end)]

    def _at(self, moment: float) -> Now:
        """All that was clicked before `moment`."""
        if self.stream is None:
            raise ContractError("Recent is asked before it listens to a stream; call listen(stream) first")
        at, item = self.stream.at, self.stream.item
        long, short, end = np.searchsorted(at, [moment - self.follow_s, moment - self.window_s, moment])
        counts = [np.bincount(item[first:end], minlength=self.n_items + 1) for first in (short, long)]
        articles = np.flatnonzero(counts[1])
        weights = (1 - self.tail, self.tail) if end > short else (0.0, 1.0)
        shares = [w * n[articles] / max(n.sum(), 1) for w, n in zip(weights, counts, strict=True)]
        return Now(articles.astype(np.int32), self.prior * (shares[0] + shares[1]), int(long), int(end))

    def _expected(self, now: Now, histories: Items) -> tuple[Scores, Floats]:
        """(log P of the articles [B, A], -inf for those that are not listed; floating-point operations [B])."""
        assert self.stream is not None
        size, width = len(histories), len(now.articles)
        last = histories[:, -1].astype(np.int64) * (len(self.stream) + 1)
        end = np.searchsorted(self.pair, last + now.end)
        first = np.maximum(np.searchsorted(self.pair, last + now.first), end - self.newest)
        found = end - first
        row = np.repeat(np.arange(size), found)
        place = np.arange(len(row)) - np.repeat(np.cumsum(found) - found - first, found)
        column = np.searchsorted(now.articles, self.follower[place])
        followed = np.bincount(row * width + column, minlength=size * width).reshape(size, width)
        with np.errstate(divide="ignore"):
            values = np.log((followed + now.expected) / (found + self.prior)[:, None])
        if self.hide_seen and width:
            seen = np.minimum(np.searchsorted(now.articles, histories), width - 1)
            here = now.articles[seen] == histories
            values[np.nonzero(here)[0], seen[here]] = -np.inf
        return values.astype(np.float32), (width + found).astype(np.float64)
