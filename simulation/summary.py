"""What a run's tables say per user and per policy.

Keys of summary.json; no figure stays in it that the other files do not hold:

```
measures     names, in the order given
baseline     the policy others are compared with: `baseline`, else the first whose name starts with "never",
             else the first
policies     name -> users, steps, requests, request_ratio (requests / steps)
             measures: name -> {mean, low, high, n}, over users, 95 % t interval
             candidate_recall: share of steps whose item was in the pool (the ceiling of every measure)
             ndcg@10_in_pool: mean over the steps whose item was in the pool; null without any
             bytes_per_step: {up, down, total} sent, lost messages included, installation apart
             bytes_by_kind: direction -> kind -> bytes, all of the run, installation included
             install_bytes (all of the run), install_bytes_per_device: kinds install and first_list
             latency_s: {p50, p95} seconds from request to usable reply; null without any
             lost_messages: {up, down};  mean_pool_age, steps
             denied_requests: turned away by a cloud that is overloaded or whose budget is spent
             waiting_share: share of steps at which a device could not ask, for a reply was on its way, was lost, or
             was a denial that asks it back later
             cloud_seconds_per_step: seconds the cloud worked on replies, installation apart
             energy_j_per_step: joules of the device's radio and reranking, see simulation.energy; null where unknown
             groups: kind of group (tier; activity: thirds by length of history) -> group ->
             {users, steps, request_ratio, ndcg@10, bytes_per_step}
             budget: group of the budget -> {budget, realised, after_warm_up}: the last two are spending / budget,
             of the whole replay, and between the third horizon and the last tenth of the steps; only where there
             is a budget, null where there is nothing
differences  policy -> measure -> {mean, low, high, t, p, p_holm, d_z, n}: policy minus baseline, paired by user;
             p_holm is corrected over the policies of one measure
```

Whoever writes the run adds what only it knows, and the page shows it where it is there: `command` (text),
`protocol` (word -> text: split, candidates, seen-filter, ...), `leakage` (list of {check, passed, detail}),
`examples` (list of {user, policy, steps: [{shown: [titles], taken, rank, asked}]}).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from device.errors import RunError
from simulation import schema as c
from simulation.fairness import Allowance, by_group, spending
from simulation.metrics import NDCG, Measure
from simulation.statistics import holm, mean_interval, paired_difference


def per_user_metrics(
    steps: c.Columns, ledger: c.Columns, users: Mapping[int, str], measures: Sequence[Measure]
) -> pd.DataFrame:
    """One row per policy and device: steps, requests, bytes sent without installation, and the mean of each measure.

    `users` gives the external id of each device number; RunError for a device that has none.
    """
    s, sent = c.frame(steps, c.STEPS, "steps"), c.frame(ledger, c.LEDGER, "ledger")
    for measure in measures:
        s[str(measure)] = measure.of(s[c.RANK].to_numpy(), s[c.TIES].to_numpy())
    groups = s.groupby([c.POLICY, c.DEVICE], observed=True, sort=False)
    means = {str(m): (str(m), "mean") for m in measures}
    rows = groups.agg(**{c.N_STEPS: (c.STEP, "size"), c.REQUESTS: (c.ASKED, "sum")}, **means)  # type: ignore[call-overload]
    for column, direction in ((c.BYTES_UP, c.UP), (c.BYTES_DOWN, c.DOWN)):
        traffic = sent[(sent[c.DIRECTION] == direction) & ~sent[c.KIND].isin(c.INSTALLATION_KINDS)]
        total = traffic.groupby([c.POLICY, c.DEVICE], observed=True)[c.NBYTES].sum()
        rows[column] = total.reindex(rows.index, fill_value=0)
    rows = rows.reset_index()
    if unknown := sorted(set(rows[c.DEVICE]) - set(users)):
        raise RunError(f"per-user metrics: no external id for device {unknown[0]} and {len(unknown) - 1} more")
    rows[c.USER] = [str(users[device]) for device in rows[c.DEVICE]]
    return rows[[*c.PER_USER.names, *means]]


def summarise(
    steps: c.Columns,
    ledger: c.Columns,
    per_user: c.Columns,
    measures: Sequence[Measure],
    *,
    baseline: str | None = None,
    groups: Mapping[str, NDArray[np.object_]] | None = None,
    allowance: Allowance | None = None,
    joules: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The numbers of summary.json, as the head of this module lists them; RunError for an unknown `baseline`."""
    s, sent = c.frame(steps, c.STEPS, "steps"), c.frame(ledger, c.LEDGER, "ledger")
    people = c.frame(per_user, c.PER_USER, "per-user metrics")
    names = [str(name) for name in people[c.POLICY].unique()]
    reference = baseline or next((name for name in names if name.startswith("never")), names[0] if names else "")
    if reference not in names:
        raise RunError(
            f"summary: baseline {reference!r} is not a policy of this run; it has {', '.join(names) or 'none'}"
        )
    policies = {
        name: _policy(*(_only(table, name) for table in (s, sent, people)), measures=measures) for name in names
    }
    for name in names:
        lived, moved = _only(s, name), _only(sent, name)
        policies[name]["groups"] = {kind: by_group(lived, moved, of) for kind, of in (groups or {}).items()}
        energy = (joules or {}).get(name, np.nan)
        policies[name]["energy_j_per_step"] = energy if np.isfinite(energy) else None
        if allowance is not None:
            policies[name]["budget"] = spending(lived, moved, allowance)
    return {
        "measures": [str(m) for m in measures],
        "baseline": reference,
        "policies": policies,
        "differences": differences(people, reference, [str(m) for m in measures]),
    }


def differences(per_user: pd.DataFrame, baseline: str, measures: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Policy -> measure -> paired difference to the baseline; RunError where two policies served different users."""
    by_policy = {str(n): g.set_index(c.USER) for n, g in per_user.groupby(c.POLICY, observed=True, sort=False)}
    base = by_policy.pop(baseline)
    result: dict[str, dict[str, Any]] = {name: {} for name in by_policy}
    for measure in measures:
        tests = {name: _paired(rows, base, name, measure) for name, rows in by_policy.items()}
        corrected = holm([test["p"] for test in tests.values()])
        for (name, test), p_holm in zip(tests.items(), corrected, strict=True):
            result[name][measure] = {**test, "p_holm": p_holm}
    return result


def _paired(rows: pd.DataFrame, base: pd.DataFrame, name: str, measure: str) -> dict[str, Any]:
    if len(rows) != len(base) or set(rows.index) != set(base.index):
        alone = len(set(rows.index) ^ set(base.index))
        raise RunError(f"policy {name!r}: {alone} user(s) differ from the baseline's; compare runs of the same users")
    return asdict(paired_difference(rows[measure].to_numpy(), base[measure].reindex(rows.index).to_numpy()))


def _only(table: pd.DataFrame, policy: str) -> pd.DataFrame:
    return table[table[c.POLICY] == policy]


def _policy(
    steps: pd.DataFrame, ledger: pd.DataFrame, people: pd.DataFrame, *, measures: Sequence[Measure]
) -> dict[str, Any]:
    n, asked = len(steps), int(steps[c.ASKED].sum())
    in_pool = steps[steps[c.RANK] > 0]
    gain = NDCG(10).of(in_pool[c.RANK].to_numpy(), in_pool[c.TIES].to_numpy())
    latency = steps[c.LATENCY_S].dropna().to_numpy()
    return {
        "users": len(people),
        "steps": n,
        "requests": asked,
        "request_ratio": asked / n if n else None,
        "measures": {str(m): asdict(mean_interval(people[str(m)].to_numpy())) for m in measures},
        "candidate_recall": len(in_pool) / n if n else None,
        "ndcg@10_in_pool": float(gain.mean()) if gain.size else None,
        "latency_s": {f"p{q}": float(np.percentile(latency, q)) if latency.size else None for q in (50, 95)},
        "mean_pool_age": float(steps[c.POOL_AGE].mean()) if n else None,
        "waiting_share": float(steps[c.URGENCY].isna().mean()) if n else None,
        **_traffic(ledger, n, len(people)),
    }


def _traffic(ledger: pd.DataFrame, steps: int, devices: int) -> dict[str, Any]:
    once = ledger[c.KIND].isin(c.INSTALLATION_KINDS)
    running = ledger[~once]
    per_step = {d: _sum(running[running[c.DIRECTION] == d]) / max(steps, 1) for d in (c.UP, c.DOWN)}
    by_kind = ledger.groupby([c.DIRECTION, c.KIND], observed=True, as_index=False)[c.NBYTES].sum()
    kinds: dict[str, dict[str, int]] = {c.UP: {}, c.DOWN: {}}
    for direction, kind, total in zip(by_kind[c.DIRECTION], by_kind[c.KIND], by_kind[c.NBYTES], strict=True):
        kinds[str(direction)][str(kind)] = int(total)
    lost = ledger[~ledger[c.DELIVERED]]
    return {
        "bytes_per_step": {**per_step, "total": sum(per_step.values())},
        "bytes_by_kind": kinds,
        "install_bytes": _sum(ledger[once]),
        "install_bytes_per_device": _sum(ledger[once]) / max(devices, 1),
        "denied_requests": int(((ledger[c.KIND] == c.DENIAL) & (ledger[c.ATTEMPT] == 1)).sum()),
        "cloud_seconds_per_step": float(running[c.CLOUD_S].sum()) / max(steps, 1),
        "lost_messages": {d: int((lost[c.DIRECTION] == d).sum()) for d in (c.UP, c.DOWN)},
    }


def _sum(ledger: pd.DataFrame) -> int:
    return int(ledger[c.NBYTES].sum())
