"""Names and types of the columns in a run folder; whatever writes or reads one uses these constants."""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from device.errors import RunError

POLICY: Final = "policy"
DEVICE: Final = "device"
STEP: Final = "step"  # 1 = the first replayed step
AT: Final = "at"  # virtual seconds
ITEM: Final = "item"  # the item the user really took
RANK: Final = "rank"  # 1 = first, 0 = not in the pool
TIES: Final = "ties"  # size of the group of equal scores whose best position is `rank`
ASKED: Final = "asked"
POOL_AGE: Final = "pool_age"  # steps since the history the pool was made from
LATENCY_S: Final = "latency_s"  # request to usable reply; NaN where none was asked or the reply was lost
URGENCY: Final = "urgency"
DIRECTION: Final = "direction"
KIND: Final = "kind"
NBYTES: Final = "nbytes"
DELIVERED: Final = "delivered"
ATTEMPT: Final = "attempt"
CLOUD_S: Final = "cloud_s"  # seconds the cloud worked on this reply; 0 in all other rows and for further attempts
ITEMS: Final = "items"
USER: Final = "user"  # external id
N_STEPS: Final = "n_steps"
REQUESTS: Final = "requests"
BYTES_UP: Final = "bytes_up"  # sent, lost messages included, installation apart
BYTES_DOWN: Final = "bytes_down"

UP: Final = "up"
DOWN: Final = "down"
CANDIDATES: Final = "candidates"
DENIAL: Final = "denial"
INSTALLATION_KINDS: Final = ("install", "first_list", "first_patch")
"""Kinds sent once per device before its first step; reported apart from the bytes per step."""

_TEXT = pa.dictionary(pa.int32(), pa.string())

STEPS: Final = pa.schema(
    [
        (POLICY, _TEXT),
        (DEVICE, pa.int64()),
        (STEP, pa.int32()),
        (AT, pa.float64()),
        (ITEM, pa.int32()),
        (RANK, pa.int32()),
        (TIES, pa.int32()),
        (ASKED, pa.bool_()),
        (POOL_AGE, pa.int32()),
        (LATENCY_S, pa.float32()),
        (URGENCY, pa.float32()),
    ]
)
LEDGER: Final = pa.schema(
    [
        (POLICY, _TEXT),
        (AT, pa.float64()),
        (DEVICE, pa.int64()),
        (DIRECTION, _TEXT),
        (KIND, _TEXT),
        (NBYTES, pa.int64()),
        (DELIVERED, pa.bool_()),
        (ATTEMPT, pa.int8()),
        (CLOUD_S, pa.float64()),
    ]
)
LATER: Final = (CLOUD_S,)
"""Columns that older run folders lack; they are read as 0."""
RECOMMENDATIONS: Final = pa.schema([(POLICY, _TEXT), (DEVICE, pa.int64()), (STEP, pa.int32())])
"""Besides these, `items`: the item ids shown, int32 [n, k], stored as lists of one length."""
PER_USER: Final = pa.schema(
    [
        (POLICY, _TEXT),
        (USER, pa.string()),
        (DEVICE, pa.int64()),
        (N_STEPS, pa.int32()),
        (REQUESTS, pa.int32()),
        (BYTES_UP, pa.int64()),
        (BYTES_DOWN, pa.int64()),
    ]
)
"""Besides these, one float64 column per measure: the mean over the user's steps, named by `str(measure)`."""

Columns: TypeAlias = Mapping[str, Any] | pd.DataFrame | pa.Table
"""A table in any of the forms that are accepted: columns by name, a pandas frame or an Arrow table."""


def table(columns: Columns, schema: pa.Schema, place: str) -> pa.Table:
    """Arrow table with the columns of `schema` first, in its types, then all others as they are.

    RunError naming `place` when a column is missing, of another length, or holds what its type cannot.
    """
    given = _by_name(columns)
    size = len(next(iter(given.values()), ()))
    given |= {name: np.zeros(size) for name in LATER if name in schema.names and name not in given}
    if missing := [name for name in schema.names if name not in given]:
        raise RunError(f"{place}: column(s) {', '.join(missing)} missing; it has {', '.join(given)}")
    extra = [name for name in given if name not in schema.names]
    try:
        arrays = [_column(given[field.name], field.type) for field in schema]
        arrays += [_column(given[name], None) for name in extra]
        return pa.table(arrays, names=[*schema.names, *extra])
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise RunError(f"{place}: {error}; the columns must be {_spell(schema)}, all of one length") from error


def frame(columns: Columns, schema: pa.Schema, place: str) -> pd.DataFrame:
    """The same as a pandas frame; text columns of few values become categories."""
    result: pd.DataFrame = table(columns, schema, place).to_pandas()
    return result


def _by_name(columns: Columns) -> dict[str, Any]:
    if isinstance(columns, pa.Table):
        return {name: columns[name] for name in columns.column_names}
    return {str(name): values for name, values in columns.items()}


def _column(values: Any, wanted: pa.DataType | None) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), pa.int32()), values.shape[1])
    array = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values)
    if wanted is None or array.type == wanted:
        return array
    if pa.types.is_dictionary(wanted) and not pa.types.is_dictionary(array.type):
        return pc.dictionary_encode(array.cast(pa.string()))
    return array.cast(wanted)


def _spell(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {'text' if field.type == _TEXT else field.type}" for field in schema)
