"""Models that go on from a state instead of reading the whole history again: a step costs one position."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from device.model import Items, Parameters, Scores

Value = TypeVar("Value")
State: TypeAlias = Mapping[str, NDArray[np.generic]]
"""name -> [B, ...]: one row per device, so a fleet keeps its states as arrays and writes the rows that took a step."""


@runtime_checkable
class Incremental(Protocol):
    """A device model that keeps a state. No row depends on the others.

    A state remembers what came before its window of the newest L items, where `DeviceModel.score` is shown that window
    only. While no item has left the window, and always for a model that cannot look further back, both give the same
    scores up to rounding; after that they are two devices, and the one with the state knows more.
    """

    def start(self, params: Parameters, history: Items) -> State:
        """The state after `history` [B, L], left-padded; L = 0 or all padding: that of a device that knows nothing."""
        ...

    def advance(self, params: Parameters, state: State, item: NDArray[np.int32]) -> State:
        """The state after one more item [B], none of it 0. The arrays of `state` may be written to and returned."""
        ...

    def score_state(self, params: Parameters, state: State, candidates: Items) -> Scores:
        """Scores [B, C] float32 of `candidates` [B, C]; `state` is only read, entry by entry as it is needed."""
        ...


@runtime_checkable
class AdvancesInPlace(Protocol):
    """An incremental model that writes what an item changes into a fleet's arrays, instead of whole states."""

    def advance_at(
        self, params: Parameters, state: State, item: NDArray[np.int32], held: State, rows: NDArray[np.int64]
    ) -> None:
        """One more item [B] for the states at `rows` [B] of `held` [D, ...]; a row that occurs twice has one item.

        `state` copies those rows of an array of `held` at the moment when it is asked for it.
        """
        ...


@runtime_checkable
class RanksFromState(Protocol):
    """An incremental model that scores all items at once."""

    def catalogue_state(self, params: Parameters, state: State) -> Scores:
        """[B, n + 1] float32; column 0 is ignored."""
        ...


@runtime_checkable
class ShowsState(Protocol):
    """An incremental model that shows of its state what `HasState.state` shows after a history."""

    def shown(self, params: Parameters, state: State) -> Scores:
        """[B, d] float32, a copy."""
        ...


def state_bytes(state: State) -> int:
    """Bytes that one device keeps."""
    return sum(array[:1].nbytes for array in state.values())


class OnDemand(Mapping[str, Value]):
    """A mapping whose values are made when they are asked for: scoring looks at the least part of a state."""

    def __init__(self, names: Iterable[str], make: Callable[[str], Value]) -> None:
        self.names, self.make = tuple(names), make

    def __getitem__(self, name: str) -> Value:
        if name not in self.names:
            raise KeyError(name)
        return self.make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)
