"""Who gets how much: groups of devices side by side, and what was spent of a budget."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cloud.coordinator import Budget
from simulation import schema as c
from simulation.metrics import NDCG

Ints = NDArray[np.int64]
WARM_UP = 3
"""Horizons that a price needs to find its level (see `cloud.coordinator`)."""
TAIL = 0.1
"""Share of the steps at the end of a replay in which ever fewer devices are left to spend anything."""
ACTIVITY = ("low", "middle", "high")


@dataclass(frozen=True, slots=True)
class Allowance:
    """A budget and whose it is."""

    budget: Budget
    horizon: float
    names: tuple[str, ...]  # [G] of the groups that have a purse each
    group: Ints  # [D]


def activity(history: Ints) -> NDArray[np.object_]:
    """[D] third of the users by the length of their history before the replay (equals by device)."""
    place = np.empty(len(history), np.int64)
    place[np.argsort(history, kind="stable")] = np.arange(len(history))
    return np.array(ACTIVITY, object)[place * len(ACTIVITY) // max(len(history), 1)]


def by_group(steps: pd.DataFrame, ledger: pd.DataFrame, names: NDArray[np.object_]) -> dict[str, dict[str, Any]]:
    """Name -> users, steps, request_ratio, ndcg@10 and bytes_per_step of the devices with this name in names [D]."""
    gain = NDCG(10).of(steps[c.RANK].to_numpy(), steps[c.TIES].to_numpy())
    asked, device = steps[c.ASKED].to_numpy(), steps[c.DEVICE].to_numpy()
    running = ledger[~ledger[c.KIND].isin(c.INSTALLATION_KINDS)]
    sender, nbytes = running[c.DEVICE].to_numpy(), running[c.NBYTES].to_numpy()
    table = {}
    for name in dict.fromkeys(names.tolist()):
        lived = names[device] == name
        n = int(lived.sum())
        table[str(name)] = {
            "users": len(np.unique(device[lived])),
            "steps": n,
            "request_ratio": float(asked[lived].mean()) if n else None,
            "ndcg@10": float(gain[lived].mean()) if n else None,
            "bytes_per_step": float(nbytes[names[sender] == name].sum() / n) if n else None,
        }
    return table


def spending(steps: pd.DataFrame, ledger: pd.DataFrame, allowance: Allowance) -> dict[str, dict[str, float | None]]:
    """Group -> budget, and realised spending / budget over the whole replay and after the warm-up; null without any."""
    running = ledger[~ledger[c.KIND].isin(c.INSTALLATION_KINDS)]
    result: dict[str, dict[str, float | None]] = {}
    for number, name in enumerate(allowance.names):
        lived = np.sort(steps[c.AT].to_numpy()[allowance.group[steps[c.DEVICE].to_numpy()] == number])
        spent = running[allowance.group[running[c.DEVICE].to_numpy()] == number]
        rate = float(allowance.budget.rate[number])
        start, end = steady(lived, allowance)
        result[name] = {
            "budget": rate,
            "realised": share(lived, spent, allowance.budget, rate),
            "after_warm_up": share(
                lived[(lived >= start) & (lived < end)],
                spent[(spent[c.AT] >= start) & (spent[c.AT] < end)],
                allowance.budget,
                rate,
            ),
        }
    return result


def steady(lived: NDArray[np.float64], allowance: Allowance) -> tuple[float, float]:
    """Virtual time after WARM_UP horizons, and when TAIL of the steps at times `lived` (rising) are left."""
    if not len(lived):
        return np.inf, np.inf
    end = float(lived[int((1 - TAIL) * len(lived))])
    if allowance.budget.unit == "hours":
        return float(lived[0] + WARM_UP * allowance.horizon * 3600), end
    first = int(np.ceil(WARM_UP * allowance.horizon))
    return float(lived[first]) if first < len(lived) else np.inf, end


def share(lived: NDArray[np.float64], spent: pd.DataFrame, budget: Budget, rate: float) -> float | None:
    """Spending / budget over the steps at times `lived`; None where there is no time to speak of."""
    if not len(lived):
        return None
    allowed = rate * (len(lived) if budget.unit == "steps" else float(lived[-1] - lived[0]) / 3600)
    return amounts(spent, budget) / allowed if allowed > 0 else None


def amounts(spent: pd.DataFrame, budget: Budget) -> float:
    """What the rows of a ledger cost in the unit of the budget."""
    if budget.bytes_per_hour is not None:
        return float(spent[c.NBYTES].sum())
    if budget.cloud_seconds_per_hour is not None:
        return float(spent[c.CLOUD_S].sum())
    return float(((spent[c.KIND] == c.CANDIDATES) & (spent[c.ATTEMPT] == 1)).sum())
