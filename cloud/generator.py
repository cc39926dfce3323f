"""The candidate generator contract, and how a model that scores the whole catalogue becomes one."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cloud.ranking import CatalogueScorer, Neural, catalogue_scores
from device.errors import ContractError
from device.model import Items, Scores
from device.scoring import top_k
from device.seeds import Draws


@dataclass(frozen=True, slots=True)
class Generated:
    """Candidate lists of B requests, best first, and what they cost."""

    items: Items  # [B, k]; 0 where a list is shorter
    scores: Scores  # [B, k]
    flops: NDArray[np.float64] | None  # [B] floating-point operations
    seconds: NDArray[np.float64] | None  # [B] cloud seconds, where the generator knows better than flops / speed


@runtime_checkable
class CandidateGenerator(Protocol):
    """Makes candidate lists in the cloud."""

    def generate(self, histories: Items, k: int, *, rng: Draws) -> Generated:
        """Lists of k candidates for `histories` [B, L]; `rng` has one row per request (seed, device, step)."""
        ...


@runtime_checkable
class Timed(Protocol):
    """A candidate generator, too, whose lists depend on when they are asked for."""

    def generate_at(self, histories: Items, k: int, *, at: NDArray[np.float64], rng: Draws) -> Generated:
        """As `generate`, for requests that leave their devices at `at` [B] virtual seconds; nothing later may count.

        A request leaves at the time of its step. First lists are asked for at the time of the first step. A device
        whose replay has no step asks at inf.
        """
        ...


def lists_at(
    generator: CandidateGenerator, histories: Items, k: int, *, at: NDArray[np.float64], rng: Draws
) -> Generated:
    """Lists for requests that leave at `at` [B] virtual seconds, by any generator: most do not look at the time."""
    if isinstance(generator, Timed):
        return generator.generate_at(histories, k, at=at, rng=rng)
    return generator.generate(histories, k, rng=rng)


@dataclass(frozen=True, slots=True)
class TopK:
    """The k best of the catalogue by a scorer; items of the uploaded history are left out when `hide_seen`."""

    scorer: CatalogueScorer
    hide_seen: bool = True
    nested: ClassVar[bool] = True
    """A list of k is the first k of a longer one, and costs the same."""

    def generate(self, histories: Items, k: int, *, rng: Draws) -> Generated:
        """Lists for `histories` [B, L]; equal scores come in the order of their item ids."""
        items = np.zeros((len(histories), k), np.int32)
        scores = np.zeros((len(histories), k), np.float32)
        for rows, values in catalogue_scores(self.scorer, histories, rng):
            if self.hide_seen:
                np.put_along_axis(values, histories[rows].astype(np.int64), -np.inf, axis=1)
            best, order = top_k(values, k)
            filled = np.isfinite(best)
            items[rows, : best.shape[1]] = np.where(filled, order, 0)
            scores[rows, : best.shape[1]] = np.where(filled, best, 0)
        return Generated(items, scores, self.scorer.flops(histories), None)


def as_generator(made: Any, *, n_items: int, length: int, hide_seen: bool = True) -> CandidateGenerator:
    """A generator of what a configuration names: itself, or the top k of a torch module or catalogue scorer.

    Raises ContractError when it is none of them.
    """
    if isinstance(made, CandidateGenerator):
        return made
    if isinstance(made, nn.Module):
        return TopK(Neural(sized(made, n_items=n_items, length=length)), hide_seen)
    if hasattr(made, "scores") and hasattr(made, "flops"):
        return TopK(made, hide_seen)
    raise ContractError(
        f"generator {type(made).__name__} is no torch module and has neither generate(histories, k, *, rng) nor "
        "scores(histories, rng) with flops(histories); add one of them"
    )


def sized(module: nn.Module, *, n_items: int, length: int) -> nn.Module:
    """The module, with the attributes `n_items` and `length` where its author did not keep them."""
    for attribute, value in (("n_items", n_items), ("length", length)):
        if not hasattr(module, attribute):
            setattr(module, attribute, value)
    return module


def plugin_name(generator: object) -> str:
    """The class that the user named, under what we wrapped around it."""
    for inner in ("inner", "scorer", "module"):
        generator = getattr(generator, inner, generator)
    return type(generator).__name__


def check_lists(generator: object, made: Generated, *, rows: int, pool: int, n_items: int) -> None:
    """ContractError for lists of a wrong shape, unknown or repeated items, scores or costs that are no numbers."""
    name = plugin_name(generator)
    if made.items.shape != made.scores.shape or len(made.items) != rows or made.items.shape[1] > pool:
        raise ContractError(
            f"generator {name}.generate returned items {made.items.shape} and scores {made.scores.shape} for {rows} "
            f"requests of {pool} candidates; return both as [{rows}, {pool}], 0-padded"
        )
    if made.items.size and (made.items.min() < 0 or made.items.max() > n_items):
        raise ContractError(
            f"generator {name}.generate lists item ids {made.items.min()}..{made.items.max()} of a catalogue of "
            f"{n_items}; list ids 1..{n_items}, 0 for an empty place"
        )
    sorted_ids = np.sort(made.items, axis=1)
    if ((sorted_ids[:, 1:] == sorted_ids[:, :-1]) & (sorted_ids[:, 1:] != 0)).any():
        raise ContractError(f"generator {name}.generate lists an item twice; drop duplicates")
    for cost, values in (("flops", made.flops), ("seconds", made.seconds)):
        if values is not None and (np.shape(values) != (rows,) or not (np.isfinite(values) & (values >= 0)).all()):
            raise ContractError(
                f"generator {name}.generate: {cost} {np.shape(values)} for {rows} requests; "
                "give one finite number >= 0 per request, or None"
            )
    if not np.isfinite(made.scores).all():
        raise ContractError(
            f"generator {name}.generate returned NaN or infinite scores; give empty places item 0, score 0"
        )
