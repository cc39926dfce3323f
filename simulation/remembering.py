"""Lists that several policies ask for are made once: the same device at the same step knows the same history."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud.generator import CandidateGenerator, Generated, Timed, lists_at
from device.model import Items
from device.seeds import Draws


class Remembering:
    """Wraps a generator and keeps every list by its length, its history and its random key: (seed, device, step).

    The history belongs to it: after lost requests or a long silence the cloud may know another one at the same step.
    So does the time, where the generator looks at it.

    What a request costs does not change: costs are kept with the list and charged every time.

    Args:
        inner: makes the lists.
        longest: the longest list that anybody is going to ask for. Where a shorter list of `inner` is the beginning of
            a longer one (`inner.nested`), lists of all lengths are made once, at this length.
    """

    def __init__(self, inner: CandidateGenerator, longest: int = 0) -> None:
        self.inner = inner
        self.longest = longest if getattr(inner, "nested", False) else 0
        self._place: dict[tuple[int, int, float | None, bytes], int] = {}
        self._made: list[Generated] = []
        self._all: Generated | None = None

    def generate(self, histories: Items, k: int, *, rng: Draws) -> Generated:
        """The lists of the wrapped generator."""
        return self._lists(histories, k, None, rng)

    def generate_at(self, histories: Items, k: int, *, at: NDArray[np.float64], rng: Draws) -> Generated:
        """The lists of the wrapped generator for requests that leave at `at` [B]."""
        return self._lists(histories, k, at if isinstance(self.inner, Timed) else None, rng)

    def _lists(self, histories: Items, k: int, at: NDArray[np.float64] | None, rng: Draws) -> Generated:
        asked, k = k, max(k, self.longest)
        rows = map(bytes, np.ascontiguousarray(histories))
        times = [None] * len(histories) if at is None else at.tolist()
        keys = [(k, key, when, row) for key, when, row in zip(rng.keys.tolist(), times, rows, strict=True)]
        fresh = {one: i for i, one in reversed(list(enumerate(keys))) if one not in self._place}
        new = np.array(sorted(fresh.values()), np.int64)
        width = asked
        if len(new):
            made = self._made_now(histories[new], k, None if at is None else at[new], rng[new])
            width = max(
                asked, made.items.shape[1] - (k - asked)
            )  # a list that is too long is not hidden from who checks it
            start = len(self._place)
            self._place |= {keys[i]: start + j for j, i in enumerate(new)}
            self._made.append(made)
            self._all = None
        picked = pick(self._together(), np.array([self._place[one] for one in keys], np.int64))
        return Generated(picked.items[:, :width], picked.scores[:, :width], picked.flops, picked.seconds)

    def _made_now(self, histories: Items, k: int, at: NDArray[np.float64] | None, rng: Draws) -> Generated:
        if at is None:
            return self.inner.generate(histories, k, rng=rng)
        return lists_at(self.inner, histories, k, at=at, rng=rng)

    def _together(self) -> Generated:
        if self._all is None:
            self._all = join(self._made)
            self._made = [self._all]
        return self._all


def pick(made: Generated, rows: NDArray[np.int64]) -> Generated:
    """Some rows of what was made."""
    flops = None if made.flops is None else made.flops[rows]
    seconds = None if made.seconds is None else made.seconds[rows]
    return Generated(made.items[rows], made.scores[rows], flops, seconds)


def join(parts: list[Generated]) -> Generated:
    """Several batches as one."""
    flops = None if parts[0].flops is None else np.concatenate([p.flops for p in parts if p.flops is not None])
    seconds = None if parts[0].seconds is None else np.concatenate([p.seconds for p in parts if p.seconds is not None])
    width = max(part.items.shape[1] for part in parts)
    lists = [[padded(values, width) for values in (part.items, part.scores)] for part in parts]
    items, scores = (np.concatenate(values) for values in zip(*lists, strict=True))
    return Generated(items, scores, flops, seconds)


def padded(values: NDArray[Any], width: int) -> NDArray[Any]:
    """[B, width] with zeros on the right."""
    return np.pad(values, ((0, 0), (0, width - values.shape[1])))
