"""Tiny experiments whose numbers are kept in JSON: a change of any of them must be meant.

`pytest tests/golden --update-golden` writes the files anew; look at the difference before committing it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simulation.runs import Run

CONFIGS = sorted(Path(__file__).parent.glob("*.toml"))


def golden_numbers(run: Run) -> dict[str, Any]:
    """What a policy sent and how well it served."""
    return {
        name: {
            "steps": policy["steps"],
            "requests": policy["requests"],
            "bytes_by_kind": policy["bytes_by_kind"],
            "lost_messages": policy["lost_messages"],
            "candidate_recall": policy["candidate_recall"],
            "mean_pool_age": policy["mean_pool_age"],
            "hr@10": policy["measures"]["hr@10"]["mean"],
        }
        for name, policy in run.summary["policies"].items()
    }


def rounded(value: Any) -> Any:
    """Fractions to six decimals, everything else as it is."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def test_there_are_golden_experiments() -> None:
    assert {path.stem for path in CONFIGS} >= {"floors", "neural"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_numbers_are_those_kept(
    path: Path, run_experiment: Callable[..., Path], tmp_path: Path, update_golden: bool
) -> None:
    numbers = golden_numbers(Run.open(run_experiment(path, tmp_path)))
    kept = path.with_suffix(".json")
    if update_golden:
        kept.write_text(json.dumps(rounded(numbers), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    wanted = json.loads(kept.read_text(encoding="utf-8"))
    assert numbers.keys() == wanted.keys()
    for name, policy in wanted.items():
        for key, value in policy.items():
            got = numbers[name][key]
            assert got == (pytest.approx(value, abs=1e-6) if isinstance(value, float) else value), (name, key)
