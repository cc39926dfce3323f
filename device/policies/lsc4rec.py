"""LSC4Rec's request score (KDD 2025, arXiv 2501.05647): as released, and its two halves decided per user.

The paper asks when the cloud's and the reranker's order of the list disagree. The released code scores a batch of 16
users, d + (4 + 0.3 inv)^2, where inv counts the places that the cloud could not fill. One more empty place among the 16
lists weighs 2.5 to 2.9, while d hardly leaves the (N^2 - 1) / (3 N) of random orders: so `BatchScore` has a switch for
each half, and `Displacement` and `InvalidCount` are the halves per user. (`device.policy.Consistency` is the per-user
form with all measures; its "footrule" is `Displacement` divided by floor(N^2 / 2) / N.)
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from device.consistency import ranks
from device.errors import ConfigError
from device.model import Scores
from device.policy import Urgency, View
from device.seeds import Draws

_TIE = 1e-7  # weight of a draw below one: far below the 1 / 800 by which d of 16 lists of 50 can differ


@dataclass(frozen=True, slots=True)
class BatchScore:
    """The released score: d + (4 + 0.3 inv)^2 of a batch of devices; all of them ask, or none does.

    d is the mean of |reranker's position - cloud's position| over all candidates of the batch, inv its number of empty
    places. As released, the empty places take part in the reranker's order. What a model says of padding means nothing
    here, so they stand at 0, which a dot product gives for padding's zero row: a candidate with a negative score is
    `empty` positions further back. Positions count what is left of a list, without the items that the user took since.

    A batch is the devices with the same `device // batch` among those of the view. So the decision for a user depends
    on 15 strangers, on which of them wait for a reply or have left (a smaller batch has fewer empty places), and on how
    the fleet is cut. A view is of one client and, as each tier is a fleet of its own, of one tier: two tiers never
    share a batch, and a cut inside a batch makes two of it. Of D devices on P clients the cuts lie at p * D // P; two
    runs agree only if their cuts part every batch alike, for instance if all are multiples of `batch`. That
    devices_per_client is a multiple does not make them so (16 cuts 40 devices at 13 and 26): compare only runs on one
    client.
    The released quota, first come first served in file order, is replaced by the price.

    Args:
        batch: devices that are decided together.
        invalid, displacement: which halves count; at least one.
    """

    batch: int = 16
    invalid: bool = True
    displacement: bool = True
    counts_empty: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"BatchScore: batch = {self.batch}; expected 1 or more")
        if not (self.invalid or self.displacement):
            raise ConfigError("BatchScore: invalid and displacement are both false; switch one of them on")

    def urgency(self, view: View, draws: Draws) -> Urgency:
        """The batch's score for each of its members, plus 1e-7 of one draw per batch, which orders equal batches."""
        by_id = np.argsort(view.device, kind="stable")
        _, first = np.unique(view.device[by_id] // self.batch, return_index=True)
        _, group = np.unique(view.device // self.batch, return_inverse=True)
        score = _TIE * draws.uniform()[by_id[first], 0]
        if self.displacement:
            moved = np.bincount(group, moves(view.device_scores, view.cloud_scores, view.valid, view.empty).sum(axis=1))
            score += moved / np.maximum(np.bincount(group, view.valid.sum(axis=1)), 1)
        if self.invalid:
            score += penalty(np.bincount(group, view.empty))
        return np.asarray(score[group], np.float64)


@dataclass(frozen=True, slots=True)
class Displacement:
    """Mean |reranker's rank - cloud's rank| over a user's candidates: the first half of the score, for one user."""

    def urgency(self, view: View, draws: Draws) -> Urgency:
        """0 for the same order, about (N^2 - 1) / (3 N) for unrelated ones, at most N / 2."""
        moved = moves(view.device_scores, view.cloud_scores, view.valid).sum(axis=1)
        return np.asarray(moved / np.maximum(view.valid.sum(axis=1), 1), np.float64)


@dataclass(frozen=True, slots=True)
class InvalidCount:
    """How many places of the newest list the cloud left empty: the second half of the score, for one user."""

    counts_empty: ClassVar[bool] = True

    def urgency(self, view: View, draws: Draws) -> Urgency:
        """The number of empty places, plus a draw below one, or no price could give the wanted request ratio."""
        return np.asarray(view.empty + draws.uniform()[:, 0], np.float64)


def penalty(invalid: NDArray[np.number]) -> NDArray[np.float64]:
    """(4 + 0.3 invalid)^2, the released price of invalid generations."""
    return np.asarray((4 + 0.3 * invalid) ** 2, np.float64)


def moves(
    device_scores: Scores, cloud_scores: Scores, valid: NDArray[np.bool_], empty: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """[B, C] places by which the reranker moves each candidate, 0 for padding.

    `empty` [B]: as many empty places, with score 0, stand behind the candidates and take part in the reranker's order.
    """
    positions = ranks(device_scores, valid)
    if empty is not None:
        positions = positions + np.where(device_scores < 0, empty[:, None], 0)
    return np.where(valid, np.abs(positions - ranks(cloud_scores, valid)), 0)
