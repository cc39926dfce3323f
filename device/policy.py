"""When a device asks: a policy says how urgent a new list is, and the device asks where urgency exceeds the price.

The price is one number for a whole fleet. It is given, or found on validation steps for a wanted request ratio (see
`simulation.choosing.price_search`). So every policy, also a random one, is compared at the same request ratio.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from device.consistency import measure
from device.errors import ConfigError
from device.model import Items, Scores
from device.seeds import Draws

Urgency = NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """All that a policy may look at, for B devices after an interaction; rows are devices.

    `device_scores` is computed when it is first looked at: a policy pays only for what it uses.
    """

    device: NDArray[np.int64]  # [B]
    step: NDArray[np.int64]  # [B] interactions observed so far
    at: NDArray[np.float64]  # [B] virtual seconds
    pool_age: NDArray[np.int64]  # [B] interactions since the history the pool was made from
    since_request: NDArray[np.int64]  # [B] interactions since the last request (or the start)
    history: Items  # [B, L] the interaction just observed included
    asked_history: Items  # [B, L] as it was at the last request (or the start)
    candidates: Items  # [B, C] the pool; 0 = empty slot
    cloud_scores: Scores  # [B, C] the cloud's, standardised over the list that they came with
    age: NDArray[np.int64]  # [B, C] interactions since the history that each candidate's list was made from
    empty: NDArray[np.int64]  # [B] places of the newest list that the cloud left empty (invalid generations)
    taken: NDArray[np.int64]  # [B] rank in the shown list of what the user took; 0 = it was not in the pool
    misses: NDArray[np.int64]  # [B] items taken since the newest list came, not among the candidates shown
    hit_rate: NDArray[np.float64]  # [B] running share of taken items that were in the pool, newest weigh most
    idle_s: NDArray[np.float64]  # [B] seconds since the interaction before
    reply_age_s: NDArray[np.float64]  # [B] seconds since the newest list came
    tier: NDArray[np.int64]  # [B]
    look: "Look" = field(repr=False)

    @cached_property
    def device_scores(self) -> Scores:
        """[B, C] the reranker's scores with the newest history."""
        return self.look.scores()

    @cached_property
    def own(self) -> Items:
        """[B, K] the device's own best of its resident items, best first; [B, 0] if it looks for none."""
        return self.look.own()

    @cached_property
    def state(self) -> Scores:
        """[B, d] the reranker's state after the newest history; ContractError when the model shows none."""
        return self.look.state(self.history, self.step)

    @cached_property
    def asked_state(self) -> Scores:
        """[B, d] the state after `asked_history`."""
        return self.look.state(self.asked_history, self.step - self.since_request)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """[B, C] True where a slot holds a candidate."""
        return np.not_equal(self.candidates, 0)


class Look(Protocol):
    """What a view computes only when a policy looks at it; rows are the view's devices."""

    def scores(self) -> Scores:
        """[B, C] device scores of the candidates."""
        ...

    def own(self) -> Items:
        """[B, K] best resident items that the user has not taken."""
        ...

    def state(self, history: Items, step: NDArray[np.int64]) -> Scores:
        """[B, d] the reranker's state after `history` [B, L], which is that of `step` [B]."""
        ...


@runtime_checkable
class RequestPolicy(Protocol):
    """Decides on the device whether a step ends with a request."""

    def urgency(self, view: View, draws: Draws) -> Urgency:
        """[B] float64, the expected gain of a request now; the device asks where it exceeds the price.

        `draws` holds one row of random numbers per device and step. Devices that wait for a reply are not asked.
        """
        ...


Learned = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Experience:
    """What a policy may learn from: validation steps and what a request would have changed at each (counterfactual).

    The log tells what the user took next whatever the device held, so both branches can be scored: `kept` goes on with
    the pool as it is, `fresh` with the pool as a request now (answered at once) would leave it; neither asks again.
    """

    views: Sequence[View]  # one per wave; B_i rows each
    kept: NDArray[np.float32]  # [sum B_i, H] NDCG@10 at the 1st .. H-th step from now; NaN after the last step
    fresh: NDArray[np.float32]  # [sum B_i, H]
    shown: NDArray[np.float32]  # [sum B_i, H] of `kept` without reranking: the cloud's order alone


@runtime_checkable
class LearnedPolicy(Protocol):
    """A policy that learns on validation steps before it decides on test steps."""

    def fit(self, experience: Experience, rng: np.random.Generator) -> Learned:
        """Parameters by name, float32; they travel to the device with the installation and are counted."""
        ...

    def taught(self, learned: Learned) -> RequestPolicy:
        """The policy with these parameters."""
        ...


@dataclass(frozen=True, slots=True)
class Never:
    """Never asks: the first list is the only one."""

    def urgency(self, view: View, draws: Draws) -> Urgency:
        """-inf for everybody."""
        return np.full(len(view.device), -np.inf)


@dataclass(frozen=True, slots=True)
class Always:
    """Asks after every interaction."""

    def urgency(self, view: View, draws: Draws) -> Urgency:
        """+inf for everybody."""
        return np.full(len(view.device), np.inf)


@dataclass(frozen=True, slots=True)
class Every:
    """Asks after every m-th interaction; without `steps`, urgency is the number of interactions since the last request.

    With a wanted request ratio the price lies between two whole numbers, and a draw below one decides the rest.
    """

    steps: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"Every: steps = {self.steps}; expected 1 or more")

    def urgency(self, view: View, draws: Draws) -> Urgency:
        """Interactions since the last request, less `steps` (positive from the m-th on)."""
        if self.steps is None:
            return np.asarray(view.since_request + draws.uniform()[:, 0], np.float64)
        return np.asarray(view.since_request - self.steps + 0.5, np.float64)


@dataclass(frozen=True, slots=True)
class Random:
    """Asks with probability `p`; without `p`, the urgency is uniform and the price sets the probability."""

    p: float | None = None

    def __post_init__(self) -> None:
        if self.p is not None and not 0 <= self.p <= 1:
            raise ConfigError(f"Random: p = {self.p}; expected a probability")

    def urgency(self, view: View, draws: Draws) -> Urgency:
        """A uniform number per device and step, less 1 - p."""
        return draws.uniform()[:, 0] - (0.0 if self.p is None else 1.0 - self.p)


@dataclass(frozen=True, slots=True)
class Consistency:
    """Asks when the cloud's order of the pool and the reranker's order disagree (LSC4Rec's idea, decided per user).

    Args:
        measure: "footrule" (LSC4Rec's displacement, normalised), "kendall", "overlap", "rbo", "js" or "entropy".
        options: of that measure, e.g. `{ p = 0.9 }` for "rbo", `{ k = 10 }` for "overlap".
    """

    measure: str = "footrule"
    options: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        measure(self.measure, **self.options)

    def urgency(self, view: View, draws: Draws) -> Urgency:
        """The disagreement, in [0, 1]; 0 = the same order.

        A coarse measure (the overlap of two top-10s has 11 values) gets a draw below one of its steps on top, or no
        price could give the wanted request ratio.
        """
        disagreement = measure(self.measure, **self.options)
        values = disagreement(view.cloud_scores, view.device_scores, view.valid)
        return values + disagreement.resolution * draws.uniform()[:, 0] if disagreement.resolution else values
