"""Where training, validation and test begin: by position, by time, or as the files say."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError, DataError
from simulation.data.build import build
from simulation.data.clock import DEFAULT, Clock
from simulation.data.dataset import Dataset, Split
from simulation.data.read import load
from simulation.data.table import Table, merged


def leave_last(data: Dataset, test: int, validation: int = 1, min_train: int = 1) -> Split:
    """The last `test` events of every user are tested, the `validation` before them validate, the rest trains.

    A user with fewer than test + validation + min_train events has min(test, what is left over) test events; where
    that is below one, all of its events train. Raises ConfigError for negative numbers or no test events.
    """
    if test < 1 or validation < 0 or min_train < 0:
        raise ConfigError(
            f"leave_last: test = {test}, validation = {validation}, min_train = {min_train}; "
            "expected test of at least 1, the others of at least 0"
        )
    end = data.offsets[1:]
    steps = np.minimum(test, data.lengths - validation - min_train)
    enough = steps >= 1
    return Split(
        data,
        train_end=np.where(enough, end - steps - validation, end),
        valid_end=np.where(enough, end - steps, end),
    )


def global_time(data: Dataset, validation_at: float, test_at: float) -> Split:
    """Validation holds the events recorded from `validation_at` on, test those from `test_at` on, for all users alike.

    Both are virtual seconds, or both quantiles in (0, 1) of all recorded times. Events tied in recorded time stay on
    one side. A user may be without training events. Raises ConfigError where they are out of order.
    """
    recorded = data.recorded
    if not validation_at <= test_at:
        raise ConfigError(f"global_time: validation_at = {validation_at} must not be later than test_at = {test_at}")
    if (0 < validation_at < 1) != (0 < test_at < 1):
        raise ConfigError(f"global_time: {validation_at} and {test_at} must be two quantiles in (0, 1) or two times")
    if 0 < validation_at < 1 and len(recorded):
        validation_at, test_at = (float(q) for q in np.quantile(recorded, [validation_at, test_at]))
    return Split(data, _before(data, recorded < validation_at), _before(data, recorded < test_at))


def pre_split(
    train: Path,
    validation: Path,
    test: Path,
    *,
    seed: int,
    format: str = "auto",
    permute_ids: bool = True,
    clock: Clock = DEFAULT,
) -> Split:
    """Joins three files (or folders) per user and keeps their parts; raises DataError where they do not fit.

    They fit when all three have times or none has, every user of validation and test trains too, and no user's event
    is recorded before one of an earlier part. Without times, an order counts within its own file.
    """
    paths = (Path(train), Path(validation), Path(test))
    table, part = merged(Path(train).parent.name, [load(path, format=format) for path in paths])
    strangers = np.setdiff1d(table.user[part > 0], table.user[part == 0])
    if len(strangers):
        raise DataError(
            f"{validation}, {test}: {len(strangers)} users without training events, first "
            f"{table.users[strangers[0]]!r}; drop them or add their history to {train}"
        )
    _check_chronology(table, part, paths)
    data = build(table, seed=seed, permute_ids=permute_ids, clock=clock, part=part)
    ends = [np.bincount(table.user[part <= p], minlength=data.n_users) + data.offsets[:-1] for p in (0, 1)]
    return Split(data, train_end=ends[0], valid_end=ends[1])


def _before(data: Dataset, early: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[U] absolute position after each user's early events, which come first."""
    total = np.concatenate([np.zeros(1, np.int64), np.cumsum(early)])
    ends: NDArray[np.int64] = data.offsets[:-1] + total[data.offsets[1:]] - total[data.offsets[:-1]]
    return ends


def _check_chronology(table: Table, part: NDArray[np.int8], paths: tuple[Path, ...]) -> None:
    if table.time is None:
        return
    time, user = table.time, table.user
    rows = np.lexsort((time, part, user))
    back = (np.diff(user[rows]) == 0) & (np.diff(time[rows]) < 0)
    if back.any():
        row = rows[int(np.argmax(back)) + 1]
        raise DataError(
            f"{paths[part[row]]}: user {table.users[user[row]]!r} has an event at {time[row]:g}, "
            "before one of an earlier part; the parts must follow each other in time"
        )
