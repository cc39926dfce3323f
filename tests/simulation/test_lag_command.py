"""`tandemrec lag`: all trainings over the same lists, and files from which the tables can be made again."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import TOML, changed, tandemrec, written

from simulation.config.read import load_config
from simulation.lag.protocol import LAGS, MEASURES
from simulation.lag.released_score import RULES
from simulation.lag.report import ROWS, LagReport, lag_report, lists, measured, rescore
from simulation.objects import make_split
from simulation.shelf import Shelf
from simulation.statistics import mean_interval, paired_difference

SMALL = (
    changed("[cloud.generator]", "[cloud.generator_errors]\ngarbled = 0.3\n\n[cloud.generator]").replace(
        "[device.training]", "[device.collaboration]\nepochs = 1\nbeams = 4\nwidth = 12\n\n[device.training]"
    )
    + "calibration_devices = 10\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lag")
    said = tandemrec("lag", written(root, SMALL), "--runs", root / "runs", "--json")
    assert said.code == 0, said.err
    content = json.loads(said.out)
    assert content["folder"] == str(root / "runs" / "tiny-lag")
    assert content["command"].startswith("tandemrec lag ")
    assert "training: adaptive per device" in said.err
    return root / "runs" / "tiny-lag"


def test_one_row_per_training_lag_rule_and_user(folder: Path) -> None:
    found = pd.read_parquet(folder / "per_user.parquet")
    assert list(found.columns) == ["training", "lag", "rule", "user", *MEASURES]
    assert len(found) == len(ROWS) * len(LAGS) * len(RULES) * 40
    assert not found.duplicated(["training", "lag", "rule", "user"]).any()
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.resolved.toml",
        "env.json",
        "per_user.parquet",
        "results.json",
        "results.md",
    ]


def test_the_tables_follow_from_the_values_per_user(folder: Path) -> None:
    content = json.loads((folder / "results.json").read_text())
    found = pd.read_parquet(folder / "per_user.parquet").set_index(["training", "lag", "rule"])
    for name, entries in content["trainings"].items():
        assert len(entries) == len(LAGS) * len(RULES)
        for entry in entries:
            mine = found.loc[(name, entry["lag"], entry["rule"]), "ndcg@10"].to_numpy()
            over = found.loc[(name, entry["lag"], "m1"), "ndcg@10"].to_numpy()
            start = found.loc[("independent", entry["lag"], entry["rule"]), "ndcg@10"].to_numpy()
            assert entry["ndcg@10"]["mean"] == pytest.approx(mean_interval(mine).mean)
            assert entry["over m1"]["ndcg@10"]["low"] == pytest.approx(paired_difference(mine, over).low)
            assert entry["over independent"]["ndcg@10"]["high"] == pytest.approx(paired_difference(mine, start).high)
            assert entry["hr@20"]["mean"] <= entry["recall"] + 1e-12


def test_the_cloud_alone_is_the_same_in_every_training(folder: Path) -> None:
    """m1 never asks the reranker; the others do, and each training says something of its own."""
    found = pd.read_parquet(folder / "per_user.parquet")
    alone = found[found.rule == "m1"].pivot_table(index=["lag", "user"], columns="training", values="ndcg@20")
    assert (alone.to_numpy() == alone[["independent"]].to_numpy()).all()
    with_reranker = found[found.rule == "m5"].pivot_table(
        index=["lag", "user"], columns="training", values="ndcg@20", observed=True
    )
    assert not with_reranker.T.duplicated().any()


def test_the_request_score_is_that_of_lists_with_invalid_generations(folder: Path) -> None:
    """40 users are two batches of 16 and one of 8; three ids in ten are garbled, so every batch lacks some."""
    for one in json.loads((folder / "results.json").read_text())["requests"].values():
        assert one["batches"] == 3
        assert one["random"] == pytest.approx((20 * 20 - 1) / 60)
        assert all(t["invalid"] > 0 for t in one["thresholds"])
        assert all(t["score"] == pytest.approx(t["penalty"] + t["displacement"]) for t in one["thresholds"])


def test_the_page_says_all(folder: Path) -> None:
    text = (folder / "results.md").read_text()
    for row in ROWS:
        assert f"## {row.name}\n" in text
        assert f"## Released request score, lists of lag 2, {row.name}\n" in text
    assert text.count("\n| 8 | ") == len(ROWS) * (len(RULES) + 1)


def test_adaptations_cost_bytes(folder: Path) -> None:
    """The whole model with everybody's newest items, all but the item table per device, nothing otherwise."""
    sent = json.loads((folder / "results.json").read_text())["update_bytes"]
    assert list(sent) == [row.name for row in ROWS]
    assert [name for name, count in sent.items() if not count] == [
        "independent",
        "cooperative",
        "cooperative, unlearned lists",
    ]
    assert sent["adaptive"] == sent["newest only"]
    assert sent["adaptive per device"] == sent["newest only per device"]
    assert sent["adaptive"] - sent["adaptive per device"] > 81 * 8 * 4  # 80 items and padding, 8 numbers each
    assert f"{sent['adaptive']:,} bytes per device and adaptation" in (folder / "results.md").read_text()


def test_a_second_time_nothing_is_trained_and_nothing_changes(folder: Path) -> None:
    config = load_config(folder / "config.resolved.toml")
    before = pd.read_parquet(folder / "per_user.parquet")
    weights = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*.safetensors")}
    assert len(weights) == 5  # its own, lists, newest after lists, newest alone, unlearned lists; Markov has none
    lines: list[str] = []
    lag_report(config, folder.parent, lines.append)
    pd.testing.assert_frame_equal(before, pd.read_parquet(folder / "per_user.parquet"))
    assert not any("epoch" in line for line in lines)
    assert {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*.safetensors")} == weights


def test_no_user_depends_on_the_others(folder: Path) -> None:
    """Devices train in parts of 64: the scores of a few users are those they have among all, also per device."""
    config = load_config(folder / "config.resolved.toml")
    split = make_split(config.data, config.seed)
    shelf = Shelf(folder.parent / "models", split, config.seed, config.device.history, lambda _: None)
    one = lists(config, shelf)[0]
    histories = np.random.default_rng(0).integers(1, 80, (len(one.users), 10)).astype(np.int32)
    for row in ROWS:
        score, _ = rescore(config, shelf, row)
        some = np.array([3, 17, 30])
        np.testing.assert_array_equal(
            score(one.users, histories, one.items)[some], score(one.users[some], histories[some], one.items[some])
        )


def test_several_tiers_are_refused(tmp_path: Path) -> None:
    tiers = TOML + "".join(f'[[device.tiers]]\nname = "{name}"\nshare = 1.0\n' for name in "ab")
    said = tandemrec("lag", written(tmp_path, tiers), "--runs", tmp_path / "runs")
    assert said.code == 2
    assert "take the [[device.tiers]] out" in said.err


def test_differences_by_hand(folder: Path) -> None:
    """A training that is better by a tenth for every user is better by a tenth, without doubt."""
    config = load_config(folder / "config.resolved.toml")
    shelf = Shelf(
        folder.parent / "models", make_split(config.data, config.seed), config.seed, config.device.history, print
    )
    start = measured(config, shelf).tables["independent"]
    report = LagReport({"independent": start, "better": replace(start, values=start.values + 0.1)}, {}, {})
    found = report.over_independent("better", 4, "m3", "ndcg@10")
    assert found.mean == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1)
    assert "+0.1000 [+0.1000, +0.1000] |" in report.differences("ndcg@10")
