"""The reference table: ranks against a count by hand, the two stages, and the files."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from device.errors import ConfigError
from simulation.config.read import check
from simulation.evaluate import EvaluationConfig, Row, evaluate, markdown, summary
from simulation.metrics import parse
from simulation.objects import make_split

POPULARITY = {
    "name": "popularity",
    "model": {"class": "cloud.generators.floors:Popularity"},
    "seeds": [1],
    "refit": True,
}
SASREC = {
    "name": "sasrec",
    "model": {"class": "device.models.sasrec:SASRec", "width": 16, "blocks": 1},
    "training": {"epochs": 6, "patience": 6, "batch": 8, "learning_rate": 0.05},
    "history": 6,
    "refit": True,
}
DATA = {"synthetic": {"users": 30, "items": 40, "topics": 4, "length": 9}, "split": {"leave_last": 1, "validation": 1}}
STAGES = ("train", "train + validation")


def config(**changes: Any) -> EvaluationConfig:
    tables = {"name": "table", "seeds": [1, 2], "metrics": ["hr@5", "ndcg@10"], "data": DATA, "threads": 1}
    return check(tables | {"models": [POPULARITY, SASREC]} | changes, EvaluationConfig, "table.toml")


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def folder(root: Path, told: list[str]) -> Path:
    return evaluate(config(), root, told.append)


@pytest.fixture(scope="module")
def users(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "per_user.parquet")


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return content


# Ranks


SEQUENCES = "1 5 5 5 3 4\n2 5 3 1 4 2\n3 3 5 2 6 1\n4 1 6 3 7\n"  # the user, then what that user took


def by_hand(sequences: list[list[int]], *, refit: bool, hide: bool) -> list[tuple[int, int]]:
    """(rank, ties) of every user's last item by the counts of what is learnt from, without numpy."""
    learnt = Counter(item for taken in sequences for item in taken[: -1 if refit else -2])
    catalogue = {item for taken in sequences for item in taken}
    out = []
    for *past, target in sequences:
        others = catalogue - (set(past) if hide else set()) - {target}
        better = sum(learnt[item] > learnt[target] for item in others)
        equal = sum(learnt[item] == learnt[target] for item in others)
        out.append((better + 1, equal + 1))
    return out


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("seen", ["kept", "filtered"])
def test_popularity_is_counted_by_hand(tmp_path: Path, stage: str, seen: str) -> None:
    (tmp_path / "taken.txt").write_text(SEQUENCES)
    data = {"path": str(tmp_path / "taken.txt"), "split": {"leave_last": 1, "validation": 1}}
    made = evaluate(config(data=data, models=[POPULARITY]), tmp_path, quiet)
    table = pd.read_parquet(made / "per_user.parquet")
    rows = table[(table["stage"] == stage) & (table["seen"] == seen)].set_index("user")
    sequences = [[int(item) for item in line.split()[1:]] for line in SEQUENCES.splitlines()]
    wanted = by_hand(sequences, refit=stage != "train", hide=seen == "filtered")
    assert [(rows["rank"][str(u)], rows["ties"][str(u)]) for u in (1, 2, 3, 4)] == wanted


def test_the_count_by_hand_by_hand() -> None:
    """Learnt without the last two: 5 5 5 | 5 3 1 | 3 5 2 | 1 6, so 5: 5 times, 3 and 1: 2, 2 and 6: 1, 4 and 7: 0."""
    sequences = [[int(item) for item in line.split()[1:]] for line in SEQUENCES.splitlines()]
    assert by_hand(sequences, refit=False, hide=False)[1] == (4, 2)  # 2 comes after 5, 3, 1 and beside 6
    assert by_hand(sequences, refit=False, hide=True)[1] == (1, 2)  # 5 3 1 4 are hidden
    assert by_hand(sequences, refit=True, hide=False)[1] == (5, 2)  # 6 was learnt once more, and 4


@pytest.mark.parametrize("stage", STAGES)
def test_popularity_is_counted_by_hand_on_synthetic_data(users: pd.DataFrame, stage: str) -> None:
    data = make_split(config().data, 1).data
    sequences = [data.item[a:b].tolist() for a, b in zip(data.offsets[:-1], data.offsets[1:], strict=True)]
    for seen in ("kept", "filtered"):
        rows = users[(users["model"] == "popularity") & (users["stage"] == stage) & (users["seen"] == seen)]
        wanted = by_hand(sequences, refit=stage != "train", hide=seen == "filtered")
        absent = data.n_items - len(set(data.item.tolist()))  # items nobody took tie with a target learnt 0 times
        assert absent == 0
        assert list(zip(rows["rank"], rows["ties"], strict=True)) == wanted


def test_hiding_what_was_seen_puts_nobody_lower(users: pd.DataFrame) -> None:
    key = ["model", "stage", "seed", "user"]
    kept, filtered = (users[users["seen"] == seen].set_index(key).sort_index() for seen in ("kept", "filtered"))
    assert kept.index.equals(filtered.index)
    assert (filtered["rank"] <= kept["rank"]).all()
    for model in ("popularity", "sasrec"):
        of_model = kept.index.get_level_values("model") == model
        assert (filtered["rank"] < kept["rank"])[of_model].any()


# Stages


def test_the_second_stage_takes_the_epochs_of_the_first(
    root: Path, users: pd.DataFrame, results: dict[str, Any]
) -> None:
    rows = [row for row in results["rows"] if row["model"] == "sasrec"]
    chosen = {row["epochs"] for row in rows}
    assert len(chosen) == 1
    (epochs,) = chosen
    assert 1 <= epochs < 6  # or the choice would show nothing
    logs = [json.loads(path.read_text()) for path in root.glob("models/sasrec-*/finished.json")]
    assert len(logs) == 3  # one first stage, the second with both seeds
    first = [log for log in logs if log["options"]["patience"]]
    assert [log["log"]["best_epoch"] for log in first] == [epochs]
    assert [log["log"]["epoch"] for log in logs if not log["options"]["patience"]] == [epochs, epochs]


def test_seeds_of_the_stages(users: pd.DataFrame) -> None:
    seeds = users.groupby(["model", "stage"])["seed"].unique().map(sorted).to_dict()
    assert seeds == {
        ("popularity", "train"): [1],
        ("popularity", "train + validation"): [1],
        ("sasrec", "train"): [1],  # epochs are chosen once
        ("sasrec", "train + validation"): [1, 2],
    }
    both = users[(users["model"] == "sasrec") & (users["stage"] == STAGES[1]) & (users["seen"] == "kept")]
    one, other = (both[both["seed"] == seed]["rank"].to_numpy() for seed in (1, 2))
    assert (one != other).any()


def test_without_a_second_stage_every_seed_is_trained_once(tmp_path: Path) -> None:
    once = SASREC | {"refit": False, "training": {"epochs": 1, "patience": 0}}
    table = pd.read_parquet(evaluate(config(models=[once]), tmp_path, quiet) / "per_user.parquet")
    assert set(table["stage"]) == {"train"}
    assert sorted(set(table["seed"])) == [1, 2]


# Files


def test_the_folder_is_complete(folder: Path, told: list[str]) -> None:
    assert {path.name for path in folder.iterdir()} == {"results.json", "results.md", "per_user.parquet"}
    assert any("leakage audit" in line for line in told)
    assert sum("HR@10" in line for line in told) == 2 * (2 + 3)  # kept and filtered; 2 of popularity, 3 of SASRec


def test_the_numbers_are_the_means_of_the_users(users: pd.DataFrame, results: dict[str, Any]) -> None:
    assert results["config"]["name"] == "table"
    assert len(results["rows"]) == 8  # two models, two stages, kept and filtered
    for row in results["rows"]:
        mine = users[
            (users["model"] == row["model"])
            & (users["stage"] == row["trained on"])
            & (users["seen"] == row["seen items"])
        ]
        assert row["users"] == 30
        assert len(mine) == 30 * len(row["seeds"])
        for name in ("hr@5", "ndcg@10"):
            told = row[name]
            assert told["mean"] == pytest.approx(mine[name].mean())
            assert told["low"] <= told["mean"] <= told["high"]
            assert told["by_seed"] == pytest.approx([mine[mine["seed"] == s][name].mean() for s in row["seeds"]])
            assert mine[name].tolist() == pytest.approx(parse(name).of(mine["rank"], mine["ties"]).tolist())


def test_the_table_says_what_the_numbers_say(folder: Path, results: dict[str, Any]) -> None:
    head, rule, *lines = (folder / "results.md").read_text().splitlines()
    assert head == "| model | trained on | seen items | epochs | validation NDCG@10 | seeds | hr@5 | ndcg@10 |"
    assert rule.count("|") == head.count("|")
    assert len(lines) == 8
    for line, row in zip(lines, results["rows"], strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[:3] == [row["model"], row["trained on"], row["seen items"]]
        assert cells[3] == (str(row["epochs"]) if row["model"] == "sasrec" else "–")
        assert cells[7] == "{mean:.4f} [{low:.4f}, {high:.4f}]".format(**row["ndcg@10"])


def test_a_second_time_nothing_is_trained(folder: Path, root: Path) -> None:
    before = json.loads((folder / "results.json").read_text())["rows"]
    said: list[str] = []
    assert evaluate(config(), root, said.append) == folder
    assert not any("epoch" in line for line in said)
    assert json.loads((folder / "results.json").read_text())["rows"] == before


def test_intervals_by_hand() -> None:
    """Two seeds of three users: hits 1 0 1 and 1 0 0, so users' averages are 1, 0, 0.5: mean 0.5, sd 0.5."""
    row = Row("m", "train", 1, "kept", 3, 0.4, np.array([1, 9, 2]), np.ones(3, np.int64))
    measure = parse("hr@5")
    got = summary([row, replace(row, seed=2, rank=np.array([1, 9, 8]))], [measure])
    half = 4.302652729911275 * 0.5 / 3**0.5  # Student's t, 2 degrees of freedom, times sd / sqrt(n)
    assert got["hr@5"] == {
        "mean": pytest.approx(0.5),
        "low": pytest.approx(0.5 - half),
        "high": pytest.approx(0.5 + half),
        "by_seed": pytest.approx([2 / 3, 1 / 3]),
    }
    assert markdown([got], [measure]).splitlines()[2].startswith("| m | train | kept | 3 | 0.4000 | 2 | 0.5000 [")


# What is refused


def test_a_wrong_measure_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(ConfigError, match=r"ndgc@10.*did you mean 'ndcg@10'"):
        evaluate(config(metrics=["ndgc@10"], models=[POPULARITY]), tmp_path, said.append)
    assert said == []


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    markov = {"name": "popularity", "model": {"class": "cloud.generators.floors:Markov"}, "seeds": [1]}
    with pytest.raises(ConfigError, match="popularity"):
        evaluate(config(models=[POPULARITY | {"refit": False}, markov]), tmp_path, quiet)


@pytest.mark.parametrize("change", [{"seeds": []}, {"models": []}])
def test_nothing_to_do_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        evaluate(config(**change), tmp_path, quiet)


def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="becomes a folder"):
        evaluate(config(name="../elsewhere", models=[POPULARITY]), tmp_path / "runs", quiet)


def test_a_full_disk_leaves_no_half_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: pd.DataFrame, path: Path, **_: Any) -> None:
        Path(path).write_bytes(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(OSError, match=r"No space left|could not be written"):
        evaluate(config(models=[POPULARITY]), tmp_path, quiet)
    assert not list(tmp_path.glob("table/*.parquet"))
