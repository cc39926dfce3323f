import json
from pathlib import Path

import numpy as np
import pandas as pd

from simulation.sweep.folder import Sweep, sweep_folder_name, write_sweep

NASTY = "<script>alert(1)</script> & co"
BUDGETS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
NEVER, ALWAYS, ALONE = 0.0414, 0.0864, 0.0503
# label -> (family, share recovered at 5 % and at 50 % of requests, installed bytes)
POLICIES = {
    "random": ("published", 0.20, 0.85, 190e3),
    "every k steps": ("published", 0.15, 0.88, 190e3),
    "steps since the last reply": ("published", 0.18, 0.92, 190e3),
    "LSC4Rec: footrule displacement": ("published", 0.25, 0.81, 190e3),
    "LSC4Rec: per batch of 16, as released": ("published", 0.20, 0.84, 190e3),
    "IntellectReq": ("published", 0.31, 0.83, 260e3),
    "MetaController": ("published", 0.33, 0.86, 240e3),
    "entropy": ("published", 0.27, 0.80, 190e3),
    "out-of-pool share": ("ours", 0.32, 0.84, 420e3),
    "expected gain": ("ours", 0.43, 0.93, 192e3),
    "expected gain, lists merged": ("ours", 0.52, 1.08, 192e3),
    NASTY: ("ablation", 0.36, 0.88, 192e3),
    "MetaController, resident table": ("published", 0.40, 0.88, 420e3),
}
MEASURES = ("ndcg@10", "hr@10")
RESIDENT = {"out-of-pool share": 1.0, "MetaController, resident table": 1.0}
PREDICTS = ("expected gain", "expected gain, lists merged")


def config_of(policies: dict[str, float], **extra: str) -> str:
    """A resolved configuration that names policies (all of them random) and their resident shares, 0 for none.

    extra: label -> more lines of its table.
    """
    tables = [
        f'[[policies]]\nclass = "device.policy:Random"\nname = {json.dumps(label)}\n'
        + (f"own = 50\nresident = {share}\n" if share else "")
        + extra.get(label, "")
        for label, share in policies.items()
    ]
    return "\n".join(['name = "fake"\n\n[cloud]\npool = 40\n', *tables])


def _points() -> list[dict[str, object]]:
    floors = [("never", 0.0, NEVER), ("always", 1.0, ALWAYS), ("device alone", 0.0, ALONE)]
    rows: list[dict[str, object]] = [
        {
            "policy": label,
            "family": "floor",
            "budget": np.nan,
            "request_ratio": ratio,
            "mean": mean,
            "install_bytes_per_device": 664e3 if label == "device alone" else 190e3,
        }
        for label, ratio, mean in floors
    ]
    for i, (label, (family, low, high, install)) in enumerate(POLICIES.items()):
        for budget in BUDGETS:
            share = low + (high - low) * np.log(budget / 0.05) / np.log(10)
            rows.append(
                {
                    "policy": label,
                    "family": family,
                    "budget": budget,
                    "request_ratio": budget * (0.98 + 0.004 * i),
                    "mean": NEVER + share * (ALWAYS - NEVER),
                    "install_bytes_per_device": install,
                }
            )
    return rows


def _cells(seeds: int) -> pd.DataFrame:
    table = pd.concat([pd.DataFrame(_points()).assign(seed=seed) for seed in range(1, seeds + 1)], ignore_index=True)
    ratio = table["request_ratio"]
    bytes_down = np.where(table["policy"].str.contains("merged"), 310.0, 480.0)
    return table.assign(
        cell=np.arange(len(table)),
        price=0.01,
        users=0,
        steps=0,
        requests=0,
        bytes_up_per_step=64 * ratio,
        bytes_down_per_step=bytes_down * ratio,
        latency_p50_s=np.where(ratio > 0, 0.2 + 0.05 * ratio, np.nan),
        latency_p95_s=np.where(ratio > 0, 0.5, np.nan),
        cloud_seconds_per_step=0.0031 * ratio,
        energy_j_per_step=0.02 + 0.4 * ratio,
    )


def _frontier(seeds: int) -> pd.DataFrame:
    ratios = np.array([0.0, 0.01, 0.03, 0.05, 0.08, 0.11, 0.14])
    shape = {"optimum, pools replaced": 1.64, "optimum, two lists merged": 1.9}
    return pd.concat(
        pd.DataFrame(
            {
                "seed": seed,
                "bound": bound,
                "request_ratio": ratios,
                "ndcg@10": NEVER + (ALWAYS - NEVER) * top * np.sqrt(ratios / 0.14),
            }
        )
        for seed in range(1, seeds + 1)
        for bound, top in shape.items()
    )


def _calibration(seeds: int) -> pd.DataFrame:
    """Tenths of 800 steps each; predictions are too small in the three lowest."""
    table = pd.MultiIndex.from_product(
        [PREDICTS, range(1, seeds + 1), BUDGETS, range(10)], names=["policy", "seed", "budget", "decile"]
    ).to_frame(index=False)
    predicted = 0.02 * (table["decile"] - 2) * (1 - table["budget"])
    realised = predicted + np.where(table["decile"] < 3, 0.006, 0.0) + 0.001 * table["seed"]
    half = 0.004 + 0.0004 * table["decile"]
    ends = {"low": realised - half, "high": realised + half}
    return table.assign(steps=800, predicted=predicted, realised=realised, **ends)


def write_fake_sweep(root: Path, *, users: int = 400, seeds: int = 2) -> Sweep:
    """13 policies at 6 budgets and 3 floors; a user's values are its taste plus the policy's mean."""
    generator = np.random.default_rng(3)
    cells, taste = _cells(seeds), generator.normal(0, 0.03, users)
    tables = []
    for cell, mean in zip(cells["cell"], cells["mean"], strict=True):
        ndcg = mean + taste - taste.mean() + generator.normal(0, 0.012, users)
        tables.append(
            pd.DataFrame(
                {
                    "cell": cell,
                    "user": [f"u{i}" for i in range(users)],
                    "n_steps": 20,
                    "requests": 1,
                    "bytes_up": 64,
                    "bytes_down": 480,
                    "cloud_seconds": 0.0,
                    "ndcg@10": ndcg,
                    "hr@10": 1.8 * ndcg,
                }
            )
        )
    config = config_of({label: RESIDENT.get(label, 0.0) for label in POLICIES})
    path = write_sweep(
        root,
        sweep_folder_name("fake", config),
        config_toml=config,
        env={"python": "3.11"},
        cells=cells.drop(columns="mean"),
        per_user=pd.concat(tables),
        frontier=_frontier(seeds),
        calibration=_calibration(seeds),
        summary={
            "name": "fake <sweep>",
            "measures": list(MEASURES),
            "never": "never",
            "always": "always",
            "command": "tandemrec sweep configs/fake.toml",
            "protocol": {"split": "the last 20 interactions of every user are replayed", "pool": "50 items"},
            "seconds": {"total": 12.5},
        },
    )
    return Sweep.open(path)
