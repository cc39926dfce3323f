"""The lag protocol of LSC4Rec: the cloud knows all but a user's newest k items, the device knows all.

Leave-one-out: the target is a user's last item. Weights stay as they are, only the cloud's input is old.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud.generator import CandidateGenerator
from device.errors import ConfigError
from device.model import Items, Scores
from device.ranking import Ranking
from device.scoring import batches
from device.seeds import draws
from simulation.data.dataset import Split, windows
from simulation.lag.released_score import RULES, Values, fused
from simulation.metrics import parse
from simulation.statistics import Difference, Interval, mean_interval, paired_difference

Score = Callable[[Items, Items], Scores]  # (histories [B, L], candidates [B, C]) -> [B, C]: a reranker and its weights
LAGS = (0, 1, 2, 4, 8)
MEASURES = ("hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20")


def lagged(histories: Items, k: int) -> Items:
    """[B, L] left-padded histories without their newest k items; nothing but padding where there are no more."""
    if k < 0:
        raise ConfigError(f"lag = {k}; expected 0 or more items")
    return np.pad(histories, ((0, 0), (k, 0)))[:, : histories.shape[1]]


@dataclass(frozen=True, slots=True)
class Lagged:
    """The lists of all test users at one lag, what the reranker says of them, and the items really taken."""

    lag: int
    users: NDArray[np.int64]  # [U] user index in the data
    items: Items  # [U, N] in the cloud's order
    device_scores: Scores  # [U, N]
    targets: NDArray[np.int32]  # [U]


def lagged_lists(
    generator: CandidateGenerator,
    score: Score,
    split: Split,
    *,
    k: int,
    length: int,
    pool: int,
    seed: int,
) -> Lagged:
    """Lists of `pool` candidates from the `length` items before the newest k, scored with the newest `length`.

    Users without test items are left out. A user of k items or fewer before the target asks with an empty history.
    `score` is called with as many rows as on devices (see `device.scoring`).
    """
    data = split.data
    last = data.offsets[1:] - 1
    users = np.flatnonzero((split.valid_end < data.offsets[1:]) & (last > data.offsets[:-1]))
    histories = windows(data, users, last[users], length + k)
    fresh, old = histories[:, k:], lagged(histories, k)[:, k:]
    made = generator.generate(np.ascontiguousarray(old), pool, rng=draws(seed, "lag", users, np.full(len(users), k)))
    return Lagged(k, users, made.items, scored(score, fresh, made.items), data.item[last[users]])


def scored(score: Score, histories: Items, candidates: Items) -> Scores:
    """[B, N] scores, in calls of one number of rows, so that none depends on the number of users."""
    out = np.zeros(candidates.shape, np.float32)
    for rows, filled in batches(len(candidates)):
        out[rows] = score(histories[filled], candidates[filled])[: len(rows)]
    return out


@dataclass(frozen=True, slots=True)
class LagTable:
    """Values per user of every lag, fusion rule and measure, and how often the list held the target."""

    lags: tuple[int, ...]
    rules: tuple[str, ...]
    measures: tuple[str, ...]
    users: NDArray[np.int64]  # [U]
    values: Values  # [lags, rules, measures, U]
    recall: Values  # [lags, U] 1 where the list holds the target: no fusion can do better

    def of(self, lag: int, rule: str, measure: str) -> Values:
        """[U] values of one cell."""
        cell: Values = self.values[self.lags.index(lag), self.rules.index(rule), self.measures.index(measure)]
        return cell

    def mean(self, lag: int, rule: str, measure: str) -> Interval:
        """Mean over users with its interval."""
        return mean_interval(self.of(lag, rule, measure))

    def gain(self, lag: int, rule: str, measure: str, *, over: str = "m1") -> Difference:
        """Paired difference of two rules for the same users and lists."""
        return paired_difference(self.of(lag, rule, measure), self.of(lag, over, measure))

    def markdown(self) -> str:
        """One line per lag and rule: means with 95 % intervals over users."""
        lines = ["| lag | rule | list recall | " + " | ".join(self.measures) + " |"]
        lines.append("|---:|---" + "|---:" * (1 + len(self.measures)) + "|")
        for number, lag in enumerate(self.lags):
            recall = f"{self.recall[number].mean():.4f}"
            for rule in self.rules:
                cells = [self.mean(lag, rule, measure) for measure in self.measures]
                texts = [f"{cell.mean:.4f} [{cell.low:.4f}, {cell.high:.4f}]" for cell in cells]
                lines.append("| " + " | ".join([str(lag), rule, recall, *texts]) + " |")
        return "\n".join(lines) + "\n"


def lag_table(by_lag: Sequence[Lagged]) -> LagTable:
    """HR and NDCG at 5, 10 and 20 of the five released fusion rules at each lag, full catalogue, for all test users."""
    values = [[by_rule(one, rule) for rule in RULES] for one in by_lag]
    recall = [(one.items == one.targets[:, None]).any(1) for one in by_lag]
    return LagTable(
        tuple(one.lag for one in by_lag),
        tuple(RULES),
        MEASURES,
        by_lag[0].users,
        np.asarray(values, np.float64),
        np.asarray(recall, np.float64),
    )


def by_rule(made: Lagged, rule: str) -> list[Values]:
    """Per measure the values [U]; equal scores count by their expectation."""
    rank, ties = ranked(fused(made.device_scores, rule), made.items).place(made.targets)
    return [parse(measure).of(rank, ties) for measure in MEASURES]


def ranked(scores: NDArray[np.floating[Any]], items: Items) -> Ranking:
    """Lists [B, N] by falling score; empty places come last."""
    return Ranking(items, np.where(items > 0, scores, -np.inf), np.zeros(len(items), np.int64))
