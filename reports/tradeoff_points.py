"""A sweep folder as arrays: points, values per user, resamples and bounds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from device.errors import RunError
from reports import tradeoff_stats as stats
from reports.holdings import Holding, holdings
from reports.tradeoff_stats import Floats
from simulation.sweep import folder as f
from simulation.sweep.folder import Sweep

REQUESTS: Final = "requests"
BYTES: Final = "bytes"
AXES: Final = {
    REQUESTS: (f.REQUEST_RATIO,),
    BYTES: (f.BYTES_UP_PER_STEP, f.BYTES_DOWN_PER_STEP),
    "cloud": (f.CLOUD_SECONDS_PER_STEP,),
    "energy": (f.ENERGY_J_PER_STEP,),
}
"""Axis -> the columns of cells.parquet that add up to it: costs that asking less often lowers."""


@dataclass(frozen=True, slots=True)
class Points:
    """P points (a policy at a budget, mean over seeds) of U users; policies and points in the order of the sweep.

    cost: axis -> [P], NaN where unknown; latency: [P] median seconds from a request to its usable reply, NaN without;
    values: measure -> [U, P]; resampled: measure -> [R, P];
    bounds: name -> (request ratios, value of the first measure), both [G], mean over seeds; holdings: policy -> what
    its devices hold, without those that the configuration does not name; gains: rows of calibration.parquet.
    """

    policy: tuple[str, ...]
    family: tuple[str, ...]
    budget: Floats
    install_bytes: Floats
    cost: Mapping[str, Floats]
    latency: Floats
    values: Mapping[str, Floats]
    resampled: Mapping[str, Floats]
    bounds: Mapping[str, tuple[Floats, Floats]]
    never: int
    always: int
    seeds: int
    holdings: Mapping[str, Holding]
    gains: pd.DataFrame

    @property
    def users(self) -> int:
        """Number of users."""
        return len(next(iter(self.values.values())))

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures, the one that the bounds are about first."""
        return tuple(self.values)

    @property
    def policies(self) -> tuple[str, ...]:
        """Labels in the order of the sweep."""
        return tuple(dict.fromkeys(self.policy))

    def of(self, policy: str) -> NDArray[np.int64]:
        """Positions of the points of a policy."""
        found = np.flatnonzero([label == policy for label in self.policy])
        if not found.size:
            raise RunError(f"trade-off: no policy {policy!r}; it has {', '.join(self.policies)}")
        return found

    def family_of(self, policy: str) -> str:
        """The family a policy belongs to."""
        return self.family[int(self.of(policy)[0])]

    def resident(self, policy: str) -> float:
        """Share of the catalogue from which a policy's devices add candidates of their own, 0 where none is known."""
        held = self.holdings.get(policy)
        return held.resident if held else 0.0

    def weights(self, policy: str, axis: str, at: float) -> Floats:
        """Weights [P] of the points for `policy` at cost `at`, see `weights_at`; a floor is the same at every cost."""
        mine, weights = self.of(policy), np.zeros(len(self.policy))
        floor = self.family[mine[0]] == f.FLOOR
        weights[mine] = 1.0 / mine.size if floor else stats.weights_at(self.cost[axis][mine], at)
        return weights

    def means(self, measure: str) -> Floats:
        """Mean over users at every point, [P]."""
        return np.asarray(self.values[measure].mean(axis=0), np.float64)


def load(sweep: Sweep, *, resamples: int = 1000) -> Points:
    """The sweep as arrays; RunError when cells are not over the same seeds and users, or a label is unknown."""
    cells = sweep.cells
    point = _point_of(cells)
    _same_seeds(cells, point, sweep)
    first = cells[~pd.Series(point).duplicated().to_numpy()]
    labels = tuple(map(str, first[f.POLICY]))
    values = {measure: _values(sweep, measure, point) for measure in sweep.measures}
    means = stats.resampled_means(np.hstack(list(values.values())), seed=0, resamples=resamples)
    parts = np.split(means, len(values), axis=1)
    return Points(
        policy=labels,
        family=tuple(map(str, first[f.FAMILY])),
        budget=first[f.BUDGET].to_numpy(float),
        install_bytes=_mean(cells, (f.INSTALL_BYTES,), point),
        cost={axis: _mean(cells, columns, point) for axis, columns in AXES.items()},
        latency=_mean(cells, (f.LATENCY_P50_S,), point),
        values=values,
        resampled=dict(zip(values, parts, strict=True)),
        bounds=_bounds(sweep),
        never=_labelled(labels, "never", sweep),
        always=_labelled(labels, "always", sweep),
        seeds=int(cells[f.SEED].nunique()),
        holdings=holdings(sweep.config, sweep.path / f.CONFIG),
        gains=sweep.calibration,
    )


def _point_of(cells: pd.DataFrame) -> NDArray[np.int64]:
    """Number of the point of each cell, in the order of their first cells."""
    policy = pd.factorize(cells[f.POLICY].astype("category").cat.codes.to_numpy())[0]
    budget = pd.factorize(cells[f.BUDGET].to_numpy(float), use_na_sentinel=False)[0]
    return np.asarray(pd.factorize(policy * (budget.max(initial=0) + 1) + budget)[0], np.int64)


def _same_seeds(cells: pd.DataFrame, point: NDArray[np.int64], sweep: Sweep) -> None:
    seeds = cells[f.SEED].to_numpy()
    expected = sorted(set(seeds.tolist()))
    for i in range(int(point.max(initial=-1)) + 1):
        found = sorted(seeds[point == i].tolist())
        if found != expected:
            row = cells.iloc[int(np.flatnonzero(point == i)[0])]
            raise RunError(
                f"{sweep.path / f.CELLS_FILE}: policy {row[f.POLICY]!r} at budget {row[f.BUDGET]} has seeds "
                f"{found}, the sweep {expected}; every cell needs each seed once, repeat the sweep"
            )


def _values(sweep: Sweep, measure: str, point: NDArray[np.int64]) -> Floats:
    """Mean of `measure` over seeds, [users, points]."""
    rows = sweep.per_user(f.CELL, f.USER, measure)
    of_cell = pd.Series(point, index=sweep.cells[f.CELL])
    if not of_cell.index.is_unique or not rows[f.CELL].isin(of_cell.index).all():
        raise RunError(f"{sweep.path / f.PER_USER_FILE}: rows of cells that cells.parquet lacks or has twice")
    users = np.unique(rows[f.USER].astype("category").cat.codes, return_inverse=True)[1]
    points, size = int(point.max()) + 1, int(users.max(initial=-1)) + 1
    where = users * points + of_cell.reindex(rows[f.CELL]).to_numpy()
    counts = np.bincount(where, minlength=size * points).reshape(size, points)
    if not (counts == counts[:, :1]).all():
        raise RunError(f"{sweep.path / f.PER_USER_FILE}: cells of one seed have different users; repeat the sweep")
    total = np.bincount(where, weights=rows[measure], minlength=size * points).reshape(size, points)
    return np.asarray(total / counts, np.float64)


def _mean(cells: pd.DataFrame, columns: tuple[str, ...], point: NDArray[np.int64]) -> Floats:
    total = cells[list(columns)].sum(axis=1, skipna=False)
    return total.groupby(point).mean().to_numpy(np.float64)


def _bounds(sweep: Sweep) -> dict[str, tuple[Floats, Floats]]:
    """Mean over seeds, on all ratios that occur and every seed covers."""
    measure, found = sweep.measures[0], {}
    if measure not in sweep.frontier:
        raise RunError(f"{sweep.path / f.FRONTIER_FILE}: no column {measure}; repeat the sweep")
    for name, rows in sweep.frontier.groupby(f.BOUND, observed=True, sort=False):
        curves = [r.groupby(f.REQUEST_RATIO)[measure].mean() for _, r in rows.groupby(f.SEED)]
        low = max(curve.index.min() for curve in curves)
        places = np.unique(np.concatenate([curve.index.to_numpy(float) for curve in curves]))
        places = places[places >= low]
        lines = [np.interp(places, curve.index.to_numpy(float), curve.to_numpy(float)) for curve in curves]
        found[_called(str(name))] = (places, np.asarray(np.mean(lines, axis=0), np.float64))
    return found


def _called(bound: str) -> str:
    """How a bound is called where it is shown: `optimum, ...` is the best schedule of requests in hindsight."""
    rest = bound.removeprefix("optimum, ")
    return bound if rest == bound else f"hindsight schedule, {rest}"


def _labelled(labels: tuple[str, ...], key: str, sweep: Sweep) -> int:
    label = sweep.summary.get(key)
    if label not in labels:
        raise RunError(f"{sweep.path / f.SUMMARY}: {key} is {label!r}, not a policy; it has {', '.join(set(labels))}")
    return labels.index(label)
