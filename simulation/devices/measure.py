"""One method over all the lists: accuracy per user, bytes of its patches, operations of a step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from device.model import Items, Scores
from device.personal import Patches, Personalized
from device.personal_codec import Personal, encode_personal
from device.scoring import ModelScorer
from device.seeds import draws
from simulation.devices.lists import Asked, Ints, parts
from simulation.devices.methods import Ready
from simulation.lag.protocol import ranked
from simulation.metrics import parse

Values = NDArray[np.float64]
RANKING = ("ndcg@10", "hr@10")
AUC = "user-auc"
MEASURES = (*RANKING, AUC)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one method did with one seed."""

    values: dict[str, Values]  # by measure [U]
    auc: float  # of all steps together
    update_bytes: Values  # [R] encoded patches; empty for a method without
    patch_flops: float  # of one patch, in the cloud; NaN where it is not known
    flops: float  # of ranking one list on the device; NaN where the model does not say


@dataclass(frozen=True, slots=True)
class AskedPart:
    """Some steps: their numbers, what came before, and the patches made of just that."""

    rows: Ints  # [B]
    histories: Items  # [B, L]
    patches: Patches | None
    nbytes: Values  # [B] or [0]
    cloud_flops: Values  # [B] or [0]


def measured(ready: Ready, asked: Asked, *, length: int, seed: int) -> Outcome:
    """Rank every list, and every target among its negatives, after the newest `length` items.

    A personalised method gets a fresh patch for each step, made of those items too. The cloud's list is as fresh, made
    of the newest items that [cloud] history says.
    """
    steps, k = asked.pools.shape
    pooled = np.zeros((steps, k), np.float32)
    tested = np.zeros((steps, 1 + asked.negatives.shape[1]), np.float32)
    nbytes, cloud, device = [], [], []
    counted = getattr(ready.module, "flops_of", None)
    for part in made(ready, asked, length=length, seed=seed):
        rows = part.rows
        pooled[rows] = scores(ready, part, asked.pools[rows])
        tested[rows] = scores(ready, part, np.column_stack([asked.targets[rows], asked.negatives[rows]]))
        nbytes.append(part.nbytes)
        cloud.append(part.cloud_flops)
        if counted is not None and part.patches is not None:
            device.append(np.asarray(counted(part.patches, length, k), np.float64))
    rank, ties = ranked(pooled, asked.pools).place(asked.targets)
    values = {name: asked.per_user(parse(name).of(rank, ties)) for name in RANKING}
    return Outcome(
        values | {AUC: asked.per_user(aucs(tested))},
        overall_auc(tested),
        np.concatenate(nbytes),
        mean(np.concatenate(cloud)),
        mean(np.concatenate(device)) if device else plain_flops(ready, length, k),
    )


def made(ready: Ready, asked: Asked, *, length: int, seed: int) -> Iterator[AskedPart]:
    """All steps, PART at a time."""
    nothing = np.zeros(0, np.float64)
    for rows in parts(len(asked.row)):
        histories = asked.histories(rows, length)
        if ready.personalizer is None:
            yield AskedPart(rows, histories, None, nothing, nothing)
            continue
        draw = draws(seed, "devices patches", asked.user[rows], asked.position[rows])
        personals = ready.personalizer.personalize(histories, np.zeros(len(rows), np.int64), rng=draw)
        sent = encode_personal(
            Personal(asked.user[rows], asked.known[rows], personals.patches), ready.personalizer.layout
        )
        flops = nothing if personals.flops is None else personals.flops
        yield AskedPart(rows, histories, personals.patches, np.array([len(body) for body in sent], np.float64), flops)


def scores(ready: Ready, part: AskedPart, candidates: Items) -> Scores:
    """[B, C] with each step's own patch."""
    model, params = ready.installed.model, ready.installed.params
    scorer = ModelScorer(model, params)

    def ask(rows: Ints) -> Scores:
        history, pool = part.histories[rows], candidates[rows]
        if part.patches is None or not isinstance(model, Personalized):
            return scorer.asked(lambda: model.score(params, history, pool), history, pool)
        own = {name: values[rows] for name, values in part.patches.items()}
        return scorer.asked(lambda: model.score_personal(params, own, history, pool), history, pool)

    return scorer.scored(candidates, ask)


def aucs(tested: Scores) -> Values:
    """[R] share of the negatives below the target, `tested` [R, 1 + K] with the target in front; equals count half."""
    target, others = tested[:, :1], tested[:, 1:]
    return np.asarray((others < target).mean(1) + 0.5 * (others == target).mean(1), np.float64)


def overall_auc(tested: Scores) -> float:
    """Share of the pairs of any step's target and any step's negative in the right order; equals count half."""
    others = np.sort(tested[:, 1:], axis=None)
    below = np.searchsorted(others, tested[:, 0]).mean() + np.searchsorted(others, tested[:, 0], side="right").mean()
    return float(below / 2 / len(others))


def plain_flops(ready: Ready, length: int, candidates: int) -> float:
    """What the model says of itself; NaN where it says nothing."""
    said: Any = getattr(ready.module or ready.installed.model, "flops", None)
    return float("nan") if said is None else float(said(length, candidates))


def mean(values: Values) -> float:
    """NaN without values."""
    return float(values.mean()) if len(values) else float("nan")
