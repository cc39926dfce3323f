import json

import numpy as np
import pandas as pd

from cloud.coordinator import Budget
from simulation.fairness import Allowance, activity
from simulation.metrics import HR, MRR, NDCG
from simulation.runs import Run, folder_name, per_user_metrics, summarise, write_run

# name -> share of steps that ask; more requests make fresher pools and better ranks
POLICIES = {"never": 0.0, "every-8": 0.125, "random": 0.2, "consistency": 0.2, "entropy": 0.35, "always": 1.0}
DEVICES, STEPS = 120, 8
MEASURES = [HR(10), NDCG(10), MRR()]
NASTY = "<script>alert(1)</script>"
USERS = {device: f"user-{device}" for device in range(DEVICES)}


def policy_steps(name: str, ratio: float, generator: np.random.Generator) -> pd.DataFrame:
    step = np.tile(np.arange(1, STEPS + 1), DEVICES)
    n = step.size
    asked = (step % 8 == 1) if name == "every-8" else generator.random(n) < ratio
    skill = 0.55 + 0.25 * min(1.0, ratio * (2.4 if name == "consistency" else 1.2))
    rank = np.where(generator.random(n) < skill, generator.geometric(0.10 + 0.08 * ratio, n), 0)
    return pd.DataFrame(
        {
            "policy": name,
            "device": np.repeat(np.arange(DEVICES), STEPS),
            "step": step,
            "at": np.cumsum(generator.exponential(30, n)),
            "item": generator.integers(1, 400, n),
            "rank": np.minimum(rank, 50),
            "ties": np.where(generator.random(n) < 0.05, 2, 1),
            "asked": asked,
            "pool_age": np.minimum(step - 1, generator.geometric(max(ratio, 0.05), n) - 1),
            "latency_s": np.where(asked & (generator.random(n) < 0.97), 0.12 + generator.gamma(2, 0.12, n), np.nan),
            "urgency": generator.random(n),
        }
    )


def policy_ledger(steps: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    asked = steps[steps["asked"]]
    start = steps.drop_duplicates("device").assign(at=0.0)
    cloud_s = {"candidates": 0.004}

    def rows(at: pd.DataFrame, direction: str, kind: str, nbytes: int) -> pd.DataFrame:
        sizes = nbytes + generator.integers(0, 1 + nbytes // 10, len(at))
        delivered = at["latency_s"].notna() if kind in ("candidates", "rows") else True
        return at[["policy", "at", "device"]].assign(
            direction=direction, kind=kind, nbytes=sizes, delivered=delivered, attempt=1, cloud_s=cloud_s.get(kind, 0.0)
        )

    return pd.concat(
        [
            rows(start, "down", "install", 190_000),
            rows(start, "down", "first_list", 420),
            rows(asked, "up", "request", 64),
            rows(asked, "down", "candidates", 420),
            rows(asked, "down", "rows", 180),
        ]
    )


def examples() -> list[dict[str, object]]:
    shown = ["Rose water toner", NASTY, "Hand cream, unscented", "Clay mask", "Lip balm"]
    first = {"shown": shown, "taken": NASTY, "rank": 2, "asked": False}
    second = {"shown": shown, "taken": "Night cream & serum", "rank": 0, "asked": True}
    return [{"user": USERS[3], "policy": "consistency", "steps": [first, second]}]


TIERS = np.array(["phone", "old <phone>"], object)[np.arange(DEVICES) % 2]


def write_fake(root, name="beauty", seed=7, users=None, budget: Budget | None = None) -> Run:
    """A run of two tiers; `budget` is of requests per step, one purse for all."""
    generator = np.random.default_rng(seed)
    tables = [policy_steps(policy, ratio, generator) for policy, ratio in POLICIES.items()]
    steps = pd.concat(tables, ignore_index=True)
    ledger = pd.concat([policy_ledger(table, generator) for table in tables], ignore_index=True)
    people = per_user_metrics(steps, ledger, users or USERS, MEASURES)
    config = f'name = "{name}"\nseed = {seed}\nmetrics = ["hr@10", "ndcg@10", "mrr"]\n\n[cloud.generator]\npool = 50\n'
    config += '\n[[policies]]\nclass = "device.policy:Always"\n'
    config += f'\n[[policies]]\nclass = "device.policy:Every"\nsteps = 8\nname = {json.dumps(NASTY)}\nown = 30\n'
    allowance = None
    if budget is not None:
        config += f"\n[cloud.budget]\nrequests_per_step = {budget.rate[0]}\nhorizon = 100.0\n"
        allowance = Allowance(budget, 100.0, ("all",), np.zeros(DEVICES, np.int64))
    groups = {"tier": TIERS, "activity": activity(np.arange(DEVICES))}
    extra = {
        "command": f"tandemrec run configs/{name}.toml --seed {seed}",
        "protocol": {"split": "leave last 8 per user", "seen-filter": "items of the history are not shown again"},
        "leakage": [
            {
                "check": "Learnt only from before the snapshot",
                "passed": True,
                "detail": "0 of 960 steps later",
            },
            {"check": "Item ids are permuted", "passed": False, "detail": "fixed seed 11 was <not> applied"},
        ],
        "examples": examples(),
    }
    path = write_run(
        root,
        folder_name(name, config, seed),
        config_toml=config,
        env={"python": "3.11", "numpy": np.__version__},
        steps=steps,
        ledger=ledger,
        recommendations={"policy": ["never"], "device": [0], "step": [1], "items": np.arange(10)[None]},
        per_user=people,
        summary=summarise(steps, ledger, people, MEASURES, groups=groups, allowance=allowance) | extra,
    )
    return Run.open(path)
