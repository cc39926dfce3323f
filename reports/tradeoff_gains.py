"""What policies promised themselves of a request against what came of it, from calibration.parquet of a sweep."""

from typing import Any, Final

import numpy as np
import pandas as pd

from reports import tables
from reports.tradeoff_points import Points
from simulation.sweep import folder as f

HEADING: Final = (
    "Policy",
    "Wanted ratio",
    "Steps",
    "Predicted",
    "Realised",
    "Lowest tenth",
    "Highest tenth",
    "Mean gap",
    "In interval",
)

GAINS: Final = "Predicted and realised gain of a request"
"""Title of the table."""
GAIN_MEASURE: Final = "ndcg@10"
"""The measure that gains are in, whatever else the sweep measures."""
GAINS_NOTE: Final = (
    "Gain of a request as the policy predicted it and as it came, in NDCG@10 summed over the policy's horizon. "
    "Taken at the middle one of the wanted ratios only, from at most 1,000 users; a horizon that the end of the log"
    " cuts short is scaled to its full length. The steps are cut into tenths by the predicted gain, seed by seed; "
    "both tenths shown are predicted → realised, the mean gap is that of all tenths (absolute, by steps), and the "
    "last column counts the tenths whose 95 % interval of the realised mean holds the predicted one. An error that "
    "keeps the order of the steps, such as a line steeper than the diagonal, changes no decision, for prices are "
    "found on validation with the same predictions; but what is off the diagonal should not be read as NDCG@10."
)


def gain_rows(points: Points) -> list[list[str]]:
    """The table as text, its heading first, one row per policy and wanted ratio; empty without predictions."""
    rows = [_row(label, budget, part) for (label, budget), part in _groups(points.gains)]
    return [list(HEADING), *rows] if rows else []


def gain_payload(points: Points) -> list[dict[str, Any]]:
    """Per policy and wanted ratio, for each seed the rows [steps, predicted, realised, low, high] by tenth."""
    columns = [f.STEPS, f.PREDICTED, f.REALISED, f.LOW, f.HIGH]
    found: list[dict[str, Any]] = []
    for (label, budget), part in _groups(points.gains):
        seeds = [
            {"seed": seed, "rows": [_plain(row) for row in part[part[f.SEED] == seed][columns].to_numpy(float)]}
            for seed in sorted(part[f.SEED].unique().tolist())
        ]
        found.append({"label": label, "budget": None if np.isnan(budget) else budget, "seeds": seeds})
    return found


def _groups(table: pd.DataFrame) -> list[tuple[tuple[str, float], pd.DataFrame]]:
    """((policy, wanted ratio), its rows by tenth), in the order of the table."""
    keys, found = [f.POLICY, f.BUDGET], []
    for label, budget in table[keys].drop_duplicates().itertuples(index=False):
        of_ratio = table[f.BUDGET].isna() if np.isnan(budget) else table[f.BUDGET] == budget
        part = table[(table[f.POLICY] == label) & of_ratio]
        found.append(((str(label), float(budget)), part.sort_values(f.DECILE)))
    return found


def _row(label: str, budget: float, part: pd.DataFrame) -> list[str]:
    inside = part[f.PREDICTED].between(part[f.LOW], part[f.HIGH])
    gap = (part[f.PREDICTED] - part[f.REALISED]).abs()
    ends = [part[part[f.DECILE] == decile] for decile in (part[f.DECILE].min(), part[f.DECILE].max())]
    return [
        label,
        tables.ABSENT if np.isnan(budget) else tables.percent(budget),
        f"{part[f.STEPS].sum():,}",
        tables.decimal(_mean(part, part[f.PREDICTED])),
        tables.decimal(_mean(part, part[f.REALISED])),
        *(" → ".join(tables.decimal(_mean(end, end[name])) for name in (f.PREDICTED, f.REALISED)) for end in ends),
        tables.decimal(_mean(part, gap)),
        f"{inside.sum()} of {len(part)}",
    ]


def _mean(part: pd.DataFrame, values: pd.Series) -> float:
    """Mean of `values` over the steps of the rows; NaN without steps."""
    steps = part[f.STEPS].sum()
    return float((values * part[f.STEPS]).sum() / steps) if steps else float("nan")


def _plain(row: np.ndarray) -> list[float | None]:
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in row]
