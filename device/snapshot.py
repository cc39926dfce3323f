"""State that is held in arrays, as one mapping of names, and back."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from device.errors import ContractError

State = Mapping[str, NDArray[np.generic]]


def arrays_of(parts: Mapping[str, object | None]) -> dict[str, NDArray[np.generic]]:
    """The arrays among the attributes of objects, and in mappings there, under their prefixes; None has nothing."""
    held: dict[str, object] = {}
    for prefix, part in parts.items():
        for name, value in vars(part).items() if part is not None else ():
            named = value if isinstance(value, Mapping) else {"": value}
            held |= {f"{prefix}{name}{'.' * bool(key)}{key}": one for key, one in named.items()}
    return {name: value for name, value in held.items() if isinstance(value, np.ndarray)}


def put_back(own: State, state: State) -> None:
    """Write the arrays of `state` into those of `own`; ContractError when they belong to something else."""
    if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
        raise ContractError("this snapshot belongs to a fleet of another size or setup; start the run anew")
    for name, array in state.items():
        own[name][...] = array
