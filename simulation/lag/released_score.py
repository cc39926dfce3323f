"""What LSC4Rec's released code measures (KDD 2025): its request score taken apart, and its fusion rules.

Lists are [B, N] item ids in the cloud's order, then 0 for each invalid generation; device scores are logits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device.errors import DataError
from device.model import Items, Scores
from device.policies.lsc4rec import moves, penalty

Values = NDArray[np.float64]
SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)


def random_displacement(n: int) -> float:
    """What a random order of n items gives: (n^2 - 1) / (3 n)."""
    return (n * n - 1) / (3 * n)


@dataclass(frozen=True, slots=True)
class Batches:
    """The released request score of n batches of consecutive users, and its two halves."""

    displacement: Values  # [n] mean over all items of the batch
    invalid: NDArray[np.int64]  # [n] empty places in its lists

    @property
    def score(self) -> Values:
        """[n] displacement plus penalty."""
        return self.displacement + penalty(self.invalid)


def released_score(device_scores: Scores, items: Items, *, batch: int = 16) -> Batches:
    """The score of users [B] in file order, in batches of 16 as released; the last batch may be smaller.

    Empty places, which end a list, take part in the reranker's order; they score 0, as padding's row of zeros does.
    """
    first, valid = np.arange(0, len(items), batch), items > 0
    by_cloud = np.broadcast_to(-np.arange(items.shape[1], dtype=np.float32), items.shape)
    moved = np.add.reduceat(moves(device_scores, by_cloud, valid, (~valid).sum(1)).sum(1), first)
    filled = np.add.reduceat(valid.sum(1), first)
    places = np.minimum(batch, len(items) - first) * items.shape[1]
    return Batches(np.asarray(moved / np.maximum(filled, 1), np.float64), places - filled)


@dataclass(frozen=True, slots=True)
class Threshold:
    """The score that a share of the batches reaches, and what that batch's score consists of."""

    share: float
    score: float
    invalid: int
    penalty: float
    displacement: float


@dataclass(frozen=True, slots=True)
class Decomposition:
    """The released score taken apart; correlations are Pearson's over batches, NaN where one side is constant."""

    thresholds: tuple[Threshold, ...]
    batches: int
    mean_displacement: float
    random: float  # displacement of random orders
    with_displacement: float
    with_invalid: float

    def markdown(self) -> str:
        """The table and a line about the correlations."""
        lines = ["| share above | score | invalid | penalty | displacement left |", "|---:" * 5 + "|"]
        for t in self.thresholds:
            lines.append(f"| {t.share:.0%} | {t.score:.3f} | {t.invalid} | {t.penalty:.2f} | {t.displacement:.2f} |")
        lines += [
            "",
            f"{self.batches} batches; mean displacement {self.mean_displacement:.2f}, {self.random:.2f} for random "
            f"orders; correlation of the score with displacement {self.with_displacement:.2f}, with the number of "
            f"invalid generations {self.with_invalid:.2f}.",
        ]
        return "\n".join(lines) + "\n"


def decompose(
    items: Items, device_scores: Scores, *, batch: int = 16, shares: Sequence[float] = SHARES
) -> Decomposition:
    """The released score of lists [B, N] at the thresholds that let `shares` of the batches ask."""
    if not len(items):
        raise DataError("decompose: no lists; give at least one")
    made = released_score(device_scores, items, batch=batch)
    order = np.argsort(-made.score, kind="stable")
    thresholds = []
    for share in shares:
        last = order[max(int(share * len(order) + 1e-9), 1) - 1]  # as many as the released budget lets ask
        inv, left = int(made.invalid[last]), float(made.displacement[last])
        thresholds.append(Threshold(share, float(made.score[last]), inv, float(penalty(made.invalid[last])), left))
    return Decomposition(
        tuple(thresholds),
        len(order),
        float(made.displacement.mean()),
        random_displacement(items.shape[1]),
        correlation(made.score, made.displacement),
        correlation(made.score, made.invalid.astype(np.float64)),
    )


def correlation(a: Values, b: Values) -> float:
    """Pearson's correlation of [n] and [n]; NaN where one of them is constant."""
    x, y = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else float("nan")


def m1(rank: NDArray[np.int64], p: Values) -> Values:
    """The cloud alone: -r, for 0-based cloud ranks r and reranker probabilities p [B, N]."""
    return -np.asarray(rank, np.float64)


def m2(rank: NDArray[np.int64], p: Values) -> Values:
    """0.5 - r / N, and p - 0.5 where the reranker is sure: |p - 0.5| > 0.4."""
    return np.asarray(0.5 - rank / rank.shape[1] + np.where(np.abs(p - 0.5) > 0.4, p - 0.5, 0.0), np.float64)


def m3(rank: NDArray[np.int64], p: Values) -> Values:
    """Equal weights: -r / N + (p - 0.5)."""
    return np.asarray(p - 0.5 - rank / rank.shape[1], np.float64)


def m4(rank: NDArray[np.int64], p: Values) -> Values:
    """Twice the weight for the reranker: -r / N + 2 (p - 0.5)."""
    return np.asarray(2 * (p - 0.5) - rank / rank.shape[1], np.float64)


def m5(rank: NDArray[np.int64], p: Values) -> Values:
    """The reranker alone: p."""
    return np.asarray(p, np.float64)


RULES: dict[str, Callable[[NDArray[np.int64], Values], Values]] = {"m1": m1, "m2": m2, "m3": m3, "m4": m4, "m5": m5}


def fused(device_scores: Scores, rule: str) -> Values:
    """[B, N] the released fusion of lists in the cloud's order with the reranker's logits [B, N]."""
    rank = np.broadcast_to(np.arange(device_scores.shape[1]), device_scores.shape)
    p = 0.5 * (1 + np.tanh(device_scores.astype(np.float64) / 2))  # the logistic function, without overflow
    return RULES[rule](rank, p)
