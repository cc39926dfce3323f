"""A run in words: what is measured on what, what leaks, and a few sessions to look at."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from simulation.config.tables import ExperimentConfig
from simulation.prepare import Prepared
from simulation.replay import Columns


def protocol(config: ExperimentConfig) -> dict[str, str]:
    """What every metric of this run is measured on, in words."""
    split = config.data.split
    if split.global_time is not None:
        cut = f"global time: validation from {split.global_time[0]}, test from {split.global_time[1]}"
    elif split.leave_last is not None:
        cut = (
            f"up to the last {split.leave_last} interactions of each user are replayed, fewer where training would "
            f"keep less than {split.min_train}; the {split.validation} before them validate; models learn from the rest"
        )
    else:
        cut = "given files"
    seen = (
        f"the newest {config.cloud.history} items of the history, and all taken since, are left out of every list"
        if config.cloud.hide_seen
        else "no item is left out"
    )
    if any(policy.own for policy in config.all_policies):
        seen += f"; the newest {config.device.history} items of the history are left out of the device's own candidates"
    return {
        "costs": f"latency is the network's and {cloud_said(config)}; ranking on the device takes no time; "
        "the first list comes with the installation" + patches_said(config),
        "split": cut,
        "candidates": f"pools of {config.cloud.pool} from the whole catalogue unless the policy's own length, slots or "
        "own say otherwise; a target that is not among the candidates counts 0",
        "seen-filter": seen,
        "ties": "equal scores count by their expected value",
    }


def patches_said(config: ExperimentConfig) -> str:
    """What patches do not save."""
    if config.cloud.personalizer is None:
        return ""
    return "; a patch that takes weights or blocks away saves no energy: every step counts all operations of the model"


def cloud_said(config: ExperimentConfig) -> str:
    """Whose latency the cloud's is."""
    if config.cloud.servers is None:
        return "an unloaded cloud's"
    window = config.simulation.window_s
    exact = "in exact order of time" if window == 0 else f"in order of arrival, waves of {window:g} s"
    return f"that of {config.cloud.servers.count} servers with one line, {exact}"


def leakage(audit: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The audit as the page shows it."""
    texts = {
        "test_items_unseen": "test events whose item no user's training part holds",
        "train_after_first_test": "training events recorded later than the earliest test event",
        "test_before_other_train": "test events before which some model input of another user lies in the future",
        "test_tied": "test events tied in recorded time with the event before (flatters first-order models)",
    }
    return [
        {
            "check": text,
            "passed": None if audit[name] is None else audit[name] < 0.05,
            "detail": "the data have no recorded times" if audit[name] is None else f"{audit[name]:.1%}",
        }
        for name, text in texts.items()
    ]


def examples(prepared: Prepared, steps: Columns, shown: Columns, count: int = 3) -> list[dict[str, Any]]:
    """A few sessions with item titles, for a human to look at: the first devices under the last policy."""
    data = prepared.split.data
    names = data.items if data.titles is None else np.where(data.titles == "", data.items, data.titles)
    policy = steps["policy"][-1]
    out = []
    for device in range(min(count, len(prepared.users))):
        rows = np.flatnonzero((steps["device"] == device) & (steps["policy"] == policy))
        lived = [
            {
                "shown": [str(names[i - 1]) for i in shown["items"][row] if i],
                "taken": str(names[steps["item"][row] - 1]),
                "rank": int(steps["rank"][row]),
                "asked": bool(steps["asked"][row]),
            }
            for row in rows[:8]
        ]
        out.append({"user": str(data.users[prepared.users[device]]), "policy": str(policy), "steps": lived})
    return out
