"""One whole experiment: what it writes, that it can be repeated and resumed, and that its numbers agree."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simulation import schema
from simulation.config.read import load_config
from simulation.config.tables import PolicyTable
from simulation.experiment import labelled, together
from simulation.kept import finished, keep, slug
from simulation.protocol import leakage, protocol
from simulation.runs import FILES, Run

TINY = Path(__file__).parents[1] / "golden" / "neural.toml"
LABELS = ["never", "always", "every steps=2"]
Start = Callable[..., Path]


class Interrupted(Exception):
    """What stops a run here."""


class Watch:
    """Keeps the progress and interrupts one policy at one wave."""

    def __init__(self, policy: str = "", wave: int = 0) -> None:
        self.stop = (policy, wave)
        self.seen: list[tuple[str, int, int]] = []

    def __call__(self, policy: str, wave: int, waves: int) -> None:
        self.seen.append((policy, wave, waves))
        if (policy, wave) == self.stop:
            raise Interrupted

    @property
    def policies(self) -> list[str]:
        return list(dict.fromkeys(policy for policy, _, _ in self.seen))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def folder(run_experiment: Start, root: Path) -> Path:
    return run_experiment(TINY, root, command="tandemrec run tiny.toml")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return Run.open(folder)


def decisions(folder: Path) -> str:
    return str(Run.open(folder).summary["decision_hash"])


# What is written


def test_the_folder_is_complete_and_nothing_else_stays(folder: Path, root: Path, run: Run) -> None:
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert {path.name for path in root.iterdir()} == {folder.name, "models", "handout"}
    assert folder.name.startswith("golden-neural-")
    assert folder.name.endswith("-11")
    assert run.summary["command"] == "tandemrec run tiny.toml"


def test_tables_have_the_columns_of_the_schema(run: Run) -> None:
    for table, wanted in (
        (run.steps, schema.STEPS),
        (run.ledger, schema.LEDGER),
        (run.recommendations, schema.RECOMMENDATIONS),
        (run.per_user, schema.PER_USER),
    ):
        assert list(table.columns[: len(wanted.names)]) == wanted.names
        assert list(dict.fromkeys(table["policy"].astype(str))) == LABELS
    assert list(run.per_user.columns[-2:]) == ["hr@10", "ndcg@10"]
    assert run.recommendations["items"].map(len).eq(10).all()


def test_every_device_lives_every_step_once_under_every_policy(run: Run) -> None:
    steps = run.steps
    assert len(steps) == len(run.recommendations) == 3 * 40 * 6
    assert not steps.duplicated(["policy", "device", "step"]).any()
    assert sorted(steps["step"].unique()) == [1, 2, 3, 4, 5, 6]
    assert steps.groupby("device")["at"].apply(lambda at: at.nunique()).eq(6).all()
    # what users do does not depend on the policy
    lived = [
        steps[steps["policy"] == label][["device", "step", "at", "item"]].reset_index(drop=True) for label in LABELS
    ]
    assert all(lived[0].equals(other) for other in lived[1:])


def test_the_slate_holds_the_taken_item_at_its_rank(run: Run) -> None:
    steps, shown = run.steps, np.stack(run.recommendations["items"].to_list())
    rank, ties = steps["rank"].to_numpy(), steps["ties"].to_numpy()
    clear = np.flatnonzero((rank >= 1) & (rank <= 10) & (ties == 1))
    assert len(clear) > 20
    assert (shown[clear, rank[clear] - 1] == steps["item"].to_numpy()[clear]).all()
    absent = (rank == 0) | (rank > 10)
    assert not (shown[absent] == steps["item"].to_numpy()[absent, None]).any()


def test_the_summary_is_what_the_tables_say(run: Run) -> None:
    for label in LABELS:
        steps, ledger = (table[table["policy"] == label] for table in (run.steps, run.ledger))
        said = run.summary["policies"][label]
        assert said["requests"] == steps["asked"].sum()
        sent = ledger.groupby(["direction", "kind"], observed=True)["nbytes"].sum()
        assert {(d, k): n for d, kinds in said["bytes_by_kind"].items() for k, n in kinds.items()} == sent.to_dict()
        untied = steps["ties"] == 1
        hit = (steps["rank"].between(1, 10))[untied]
        if untied.all():
            assert said["measures"]["hr@10"]["mean"] == pytest.approx(hit.mean())
        assert said["candidate_recall"] == pytest.approx((steps["rank"] > 0).mean())
    assert [run.summary["policies"][label]["requests"] > 0 for label in LABELS] == [False, True, True]


def test_every_request_is_in_the_ledger_and_pays_for_its_answer(run: Run) -> None:
    steps, ledger = run.steps, run.ledger
    first = ledger[(ledger["kind"] == "request") & (ledger["attempt"] == 1)]
    assert len(first) == steps["asked"].sum()
    arrived = ledger[(ledger["kind"] == "request") & ledger["delivered"]]
    replies = ledger[(ledger["kind"] == "candidates") & (ledger["attempt"] == 1)]
    assert len(replies) == len(arrived)
    installs = ledger[ledger["kind"] == "install"]
    assert len(installs) == 3 * 40
    assert (installs["nbytes"] > 81 * 8 * 4).all()  # the item table alone: 81 rows of 8 float32


def test_environment_and_configuration_are_kept(run: Run, folder: Path) -> None:
    assert run.env["threads"] == 1
    assert {"python", "packages", "commit", "seconds", "tandemrec"} <= run.env.keys()
    assert load_config(folder / "config.resolved.toml") == load_config(TINY)


def test_the_story_for_the_page(run: Run) -> None:
    examples = run.summary["examples"]
    assert len(examples) == 3
    assert examples[0]["policy"] == LABELS[-1]
    assert [len(example["steps"]) for example in examples] == [6, 6, 6]
    first = run.steps[(run.steps["policy"] == LABELS[-1]) & (run.steps["device"] == 0)].iloc[0]
    assert examples[0]["steps"][0]["rank"] == first["rank"]
    assert run.summary["protocol"].keys() == {"costs", "split", "candidates", "seen-filter", "ties"}
    assert run.summary["data"]["name"] == "synthetic"


# Again


def test_the_same_seed_decides_the_same_in_another_place_and_cut(
    folder: Path, run_experiment: Start, tmp_path: Path
) -> None:
    again = run_experiment(TINY, tmp_path, clients=7)
    assert again.name == folder.name
    assert decisions(again) == decisions(folder)
    for name in ("per_user", "ledger", "recommendations"):
        one, other = getattr(Run.open(folder), name), getattr(Run.open(again), name)
        assert one.astype(str).equals(other.astype(str))


def test_running_again_replaces_the_folder(folder: Path, root: Path, run_experiment: Start) -> None:
    said: list[str] = []
    before = decisions(folder)
    assert run_experiment(TINY, root, say=said.append) == folder
    assert decisions(folder) == before
    assert not any("epoch" in line for line in said)  # trained models are only loaded


def test_another_seed_decides_otherwise(folder: Path, root: Path, run_experiment: Start) -> None:
    other = run_experiment(TINY, root, ["seed=12"])
    assert other.name.endswith("-12")
    assert decisions(other) != decisions(folder)


# Interrupted


def test_an_interrupted_run_is_resumed(folder: Path, run_experiment: Start, tmp_path: Path) -> None:
    first = Watch("every steps=2", 3)
    with pytest.raises(Interrupted):
        run_experiment(TINY, tmp_path, progress=first)
    assert first.policies == LABELS
    assert not list(tmp_path.glob("golden-*"))  # complete or absent
    second = Watch()
    resumed = run_experiment(TINY, tmp_path, progress=second, resume=True)
    assert second.seen == [("every steps=2", wave, 6) for wave in range(1, 7)]  # finished policies are kept
    assert decisions(resumed) == decisions(folder)
    assert Run.open(resumed).summary["policies"] == Run.open(folder).summary["policies"]
    assert not list(tmp_path.glob(".*"))


def test_without_resume_all_is_lived_again(folder: Path, run_experiment: Start, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run_experiment(TINY, tmp_path, progress=Watch("every steps=2", 1))
    second = Watch()
    again = run_experiment(TINY, tmp_path, progress=second)
    assert second.policies == LABELS
    assert decisions(again) == decisions(folder)


def test_another_experiment_does_not_take_what_was_kept(folder: Path, run_experiment: Start, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run_experiment(TINY, tmp_path, progress=Watch("every steps=2", 1))
    second = Watch()
    other = run_experiment(TINY, tmp_path, ["seed=12"], progress=second, resume=True)
    assert second.policies == LABELS
    assert decisions(other) != decisions(folder)


# Parts


def columns(rows: int = 3) -> tuple[dict[str, Any], dict[str, Any]]:
    steps = {"device": np.arange(rows), "asked": np.arange(rows) > 0, "shown": np.zeros((rows, 2), np.int32)}
    kinds = np.array(["first_list", "candidates", "install", "request"], object)[:rows]
    ledger = {"device": np.arange(rows), "direction": np.full(rows, "down", object), "kind": kinds}
    return steps, ledger


def policy(**options: Any) -> PolicyTable:
    return PolicyTable.model_validate({"class": "device.policy:Always", **options})


@pytest.mark.parametrize("rows", [0, 3])
def test_what_was_put_aside_comes_back(rows: int, tmp_path: Path) -> None:
    steps, ledger = columns(rows)
    assert finished(tmp_path / "work", policy()) is None
    keep(tmp_path / "work", policy(), steps, ledger)
    got = finished(tmp_path / "work", policy())
    assert got is not None
    for one, other in zip(got, (steps, ledger), strict=True):
        assert one.keys() == other.keys()
        assert all(one[k].dtype == other[k].dtype and one[k].tolist() == other[k].tolist() for k in one)
    assert finished(tmp_path / "work", policy(name="other")) is None


def test_a_full_disk_leaves_nothing_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("simulation.kept.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        keep(tmp_path, policy(), *columns())
    assert not list(tmp_path.iterdir())


def test_a_policy_of_many_options_fits_into_a_file_name() -> None:
    table = policy(measure="rbo", options={"p": 0.9, "depth": 10}, signals=["a" * 30, "b" * 30, "c" * 30])
    assert len(f"{slug(table)}.safetensors") <= 255
    assert slug(table) != slug(policy(measure="rbo"))


def test_labels_and_tables_under_each_other() -> None:
    steps, _ = columns(2)
    both = together([labelled(policy(), steps), labelled(policy(name="b"), steps)])
    assert both["policy"].tolist() == ["always", "always", "b", "b"]
    assert both["device"].tolist() == [0, 1, 0, 1]
    assert both["shown"].shape == (4, 2)


def test_the_protocol_says_how_it_was_cut() -> None:
    config = load_config(TINY)
    assert "the last 6 interactions" in protocol(config)["split"]
    assert "the 3 before them validate" in protocol(config)["split"]
    assert "pools of 20" in protocol(config)["candidates"]
    assert "left out" in protocol(config)["seen-filter"]
    timed = load_config(TINY, ["data.split={ global_time = [0.8, 0.9] }", "cloud.hide_seen=false"])
    assert protocol(timed)["split"].startswith("global time: validation from 0.8, test from 0.9")
    assert protocol(timed)["seen-filter"] == "no item is left out"
    files = replace_split(config, files=("a", "b", "c"))
    assert protocol(files)["split"] == "given files"


def replace_split(config: Any, **split: Any) -> Any:
    changed = config.data.split.model_copy(update={"leave_last": None, **split})
    return config.model_copy(update={"data": config.data.model_copy(update={"split": changed})})


def test_the_audit_in_words() -> None:
    audit = {
        "test_items_unseen": 0.01,
        "train_after_first_test": 0.4,
        "test_before_other_train": None,
        "test_tied": 0.05,
    }
    rows = leakage(audit)
    assert [row["passed"] for row in rows] == [True, False, None, False]  # None: nobody knows
    assert [row["detail"] for row in rows] == ["1.0%", "40.0%", "the data have no recorded times", "5.0%"]
    assert json.dumps(rows)


def test_a_prepared_experiment_is_not_prepared_again(folder: Path, run_experiment: Start, tmp_path: Path) -> None:
    from simulation.prepare import prepare

    config = load_config(TINY)
    said: list[str] = []
    made = prepare(config, tmp_path, said.append)
    again: list[str] = []
    assert decisions(run_experiment(TINY, tmp_path, say=again.append, prepared=replace(made))) == decisions(folder)
    assert any("epoch" in line for line in said)
    assert not any("epoch" in line for line in again)
