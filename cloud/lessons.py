"""What a reranker learns from beside `cloud.losses`: LSC4Rec's pairs of items, and the lists that it will rank.

Both are binary cross-entropies of single entries (Lv et al., KDD 2025, as released). One prefix per user and epoch is
learned from. Everything drawn derives from (seed, purpose, user, epoch), whatever the batches.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from cloud.generator import CandidateGenerator
from cloud.generators.digits import compact, recombined, repeats
from cloud.options import Training
from cloud.sequences import Sequences, bucketed
from device.errors import ConfigError, DataError
from device.model import Items
from device.seeds import draws, rng

Step = Callable[[], Tensor]


class Lessons(Protocol):
    """What a reranker learns from."""

    @property
    def about(self) -> dict[str, object]:
        """What distinguishes these lessons from others, as JSON."""
        ...

    def losses(self, model: nn.Module, options: Training, *, seed: int, epoch: int) -> Iterator[Step]:
        """The losses of one epoch, one callable per batch."""
        ...


@dataclass(frozen=True, slots=True)
class Recent:
    """One prefix per user and epoch, its target drawn from the user's newest items, as released.

    Args:
        data: the items to learn from; a user with one item only teaches nothing.
        newest: how many of a user's last items may be targets.
    """

    data: Sequences
    newest: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.newest <= 100:
            raise ConfigError(f"lessons: newest = {self.newest}; expected 1 to 100")

    def drawn(self, *, seed: int, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(users, absolute positions of their targets), both [B]."""
        users = np.flatnonzero(self.data.lengths >= 2)
        choices = np.minimum(self.data.lengths[users] - 1, self.newest)
        back = draws(seed, "prefix", users, np.full(len(users), epoch)).uniform()[:, 0]
        return users, self.data.ends[users] - 1 - np.floor(back * choices).astype(np.int64)

    def batches(self, options: Training, length: int, *, seed: int, epoch: int) -> Iterator[NDArray[np.int64]]:
        """Rows of `drawn`, in batches of prefixes of similar length."""
        users, targets = self.drawn(seed=seed, epoch=epoch)
        sizes = np.minimum(targets - self.data.starts[users], length)
        yield from bucketed(sizes, options.batch, rng(seed, "batches", epoch))

    def histories(self, users: NDArray[np.int64], targets: NDArray[np.int64], length: int) -> Items:
        """[B, l] what came before the targets, l <= length."""
        longest = int(np.minimum(targets - self.data.starts[users], length).max(initial=1))
        return self.data.windows(users, targets, longest)


@dataclass(frozen=True, slots=True)
class FromItems:
    """The released loss of independent (and global adaptive) training: binary cross-entropy of the target and of
    `Training.negatives` items drawn uniformly, with replacement, from those the user has never taken in `recent.data`.
    """

    recent: Recent
    n_items: int

    @property
    def about(self) -> dict[str, object]:
        """Kind and options."""
        return {"lessons": "items", "newest": self.recent.newest}

    def losses(self, model: nn.Module, options: Training, *, seed: int, epoch: int) -> Iterator[Step]:
        """One callable per batch of users."""
        length = cast(int, model.length)
        users, targets = self.recent.drawn(seed=seed, epoch=epoch)
        others = Unseen.of(self.recent.data, self.n_items)
        for rows in self.recent.batches(options, length, seed=seed, epoch=epoch):
            who, at = users[rows], targets[rows]
            lottery = draws(seed, "negatives", who, np.full(len(who), epoch)).uniform(options.negatives)
            items = np.concatenate([self.recent.data.items[at][:, None], others.pick(who, lottery)], axis=1)
            labels = np.zeros(items.shape, np.float32)
            labels[:, 0] = 1
            history = self.recent.histories(who, at, length)
            yield partial(entry_loss, model, history, items, labels=labels)


@dataclass(frozen=True, slots=True)
class Unseen:
    """The items that each user has not taken, without a list of them: user u has free[u] of them."""

    n_items: int
    gaps: NDArray[np.int64]  # per taken item, user by user: (untaken items below it) + u * (n_items + 1)
    first: NDArray[np.int64]  # [U] where a user's gaps begin
    free: NDArray[np.int64]  # [U]

    @classmethod
    def of(cls, data: Sequences, n_items: int) -> "Unseen":
        """Of all items in `data`; DataError where a user has taken every item."""
        users = np.repeat(np.arange(len(data)), data.lengths)
        taken = np.unique(users * (n_items + 1) + data.flat())
        owner = taken // (n_items + 1)
        first = np.searchsorted(owner, np.arange(len(data)))
        free = n_items - np.bincount(owner, minlength=len(data))
        if (free < 1).any():
            raise DataError(f"user {int(np.argmin(free))} has taken all {n_items} items: there are no negatives")
        return cls(n_items, taken - 1 - (np.arange(len(taken)) - first[owner]), first, free)

    def pick(self, users: NDArray[np.int64], lottery: NDArray[np.float64]) -> Items:
        """[B, m] the untaken items of `users` [B] that numbers in [0, 1) [B, m] point at."""
        nth = np.floor(lottery * self.free[users][:, None]).astype(np.int64)
        below = np.searchsorted(self.gaps, nth + users[:, None] * (self.n_items + 1), side="right")
        return (nth + 1 + below - self.first[users][:, None]).astype(np.int32)


@dataclass(frozen=True, slots=True)
class Lists:
    """How cooperative training makes its lists; `Lists(faithful=True)` is the released code.

    Args:
        beams: how many candidates the generator gives.
        width: entries of a list; at most width - 1 of them are no target.
        augment: "digits" (ids recombined from the list's), "next-best" (the generator fills the list itself) or "none".
        faithful: padding is trained as an item that is not taken, recombined ids that do not exist become padding (they
            had rows of an oversized table) and items may repeat; otherwise only distinct valid items are trained.
    """

    beams: int = 20
    width: int = 100
    augment: Literal["digits", "next-best", "none"] = "digits"
    faithful: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.beams < self.width:
            raise ConfigError(f"lists: beams = {self.beams}, width = {self.width}; expected 1 <= beams < width")

    @property
    def asked(self) -> int:
        """Candidates asked of the generator."""
        return self.width - 1 if self.augment == "next-best" else self.beams

    def assemble(self, target: NDArray[np.int32], made: Items, more: NDArray[np.int64]) -> Items:
        """[B, width] the target [B], the generator's list [B, k], then augmented items [B, m]; 0 = padding."""
        items = np.concatenate([target[:, None], compact(made > 0, made), more], axis=1).astype(np.int32)
        if not self.faithful:
            items = compact((items > 0) & ~repeats(items), items)
        items = items[:, : self.width]
        return np.pad(items, ((0, 0), (0, self.width - items.shape[1])))


@dataclass(frozen=True, slots=True)
class Made:
    """A frozen generator's lists of prefixes: the same in all epochs (a request is drawn by user and position)."""

    recent: Recent
    generator: CandidateGenerator
    history: int  # newest items that the generator is given
    beams: int  # candidates of a list
    _made: dict[tuple[int, int], Items] = field(default_factory=dict, init=False, repr=False)  # by seed and target

    def lists(self, users: NDArray[np.int64], targets: NDArray[np.int64], *, seed: int) -> Items:
        """[B, beams] the lists of prefixes, each made once; 0 = an empty place."""
        new = np.array([i for i, at in enumerate(targets.tolist()) if (seed, at) not in self._made], np.int64)
        if len(new):
            histories = self.recent.data.windows(users[new], targets[new], self.history)
            requests = draws(seed, "cooperative", users[new], targets[new])
            made = self.generator.generate(histories, self.beams, rng=requests)
            self._made.update({(seed, at): row for at, row in zip(targets[new].tolist(), made.items, strict=True)})
        return np.stack([self._made[seed, at] for at in targets.tolist()])


@dataclass(frozen=True, slots=True)
class FromLists:
    """The cooperative loss: binary cross-entropy of every entry of a list that a frozen generator made for the prefix.

    Args:
        made: the generator's lists, of `lists.asked` candidates each.
    """

    made: Made
    n_items: int
    lists: Lists = Lists()

    @property
    def about(self) -> dict[str, object]:
        """Kind and options."""
        newest, history = self.made.recent.newest, self.made.history
        return {"lessons": "lists", "newest": newest, "history": history} | asdict(self.lists)

    def losses(self, model: nn.Module, options: Training, *, seed: int, epoch: int) -> Iterator[Step]:
        """One callable per batch of users."""
        length, recent = cast(int, model.length), self.made.recent
        users, targets = recent.drawn(seed=seed, epoch=epoch)
        self.made.lists(users, targets, seed=seed)  # of all users at once
        for rows in recent.batches(options, length, seed=seed, epoch=epoch):
            who, at = users[rows], targets[rows]
            items = self.training_lists(who, at, seed=seed, epoch=epoch)
            labels = (items == items[:, :1]).astype(np.float32)
            counted = np.ones(items.shape, np.bool_) if self.lists.faithful else items > 0
            history = recent.histories(who, at, length)
            yield partial(entry_loss, model, history, items, labels=labels, counted=counted)

    def training_lists(self, users: NDArray[np.int64], targets: NDArray[np.int64], *, seed: int, epoch: int) -> Items:
        """[B, width] the lists of prefixes."""
        made = self.made.lists(users, targets, seed=seed)
        more = np.zeros((len(made), 0), np.int64)
        if self.lists.augment == "digits":
            lottery = draws(seed, "augment", users, np.full(len(users), epoch))
            valid_only = None if self.lists.faithful else self.n_items
            more = recombined(made, self.lists.width - 1 - self.lists.beams, lottery, n_items=valid_only)
            more[more > self.n_items] = 0
        return self.lists.assemble(self.made.recent.data.items[targets], made, more)


def entry_loss(
    model: nn.Module,
    history: Items,
    candidates: Items,
    *,
    labels: NDArray[np.float32],
    counted: NDArray[np.bool_] | None = None,
) -> Tensor:
    """Mean binary cross-entropy of sigmoid(score) against `labels` [B, C] over the entries that are `counted`."""
    logits = model(torch.from_numpy(history).long(), torch.from_numpy(candidates).long()).float()
    losses = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels), reduction="none")
    return losses.mean() if counted is None else losses[torch.from_numpy(counted)].mean()
