import json
import math
import resource
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from device.errors import RunError
from simulation import runs
from simulation.metrics import HR, MRR, NDCG
from simulation.runs import Run, decision_hash, folder_name, per_user_metrics, summarise, write_run

MEASURES = [HR(10), NDCG(10), MRR()]
NAN = math.nan
USERS = {0: "anna", 1: "bob"}


def steps():
    """Two policies x two devices x two steps."""
    return {
        "policy": ["never"] * 4 + ["always"] * 4,
        "device": [0, 0, 1, 1] * 2,
        "step": [1, 2] * 4,
        "at": [0.0, 10.0, 1.0, 11.0] * 2,
        "item": [5, 6, 7, 8] * 2,
        "rank": [1, 0, 11, 0, 1, 3, 11, 1],
        "ties": [1, 1, 1, 1, 1, 1, 1, 2],
        "asked": [False] * 4 + [True, True, True, False],
        "pool_age": [0, 1, 0, 1, 0, 0, 0, 2],
        "latency_s": [NAN] * 4 + [0.5, 1.5, NAN, NAN],
        "urgency": [0.0] * 4 + [0.1, 0.2, 0.3, 0.4],
    }


def ledger():
    rows = [
        ("never", 0.0, 0, "down", "install", 1000, True, 1),
        ("never", 0.0, 1, "down", "install", 1000, True, 1),
        ("always", 0.0, 0, "down", "install", 1000, True, 1),
        ("always", 0.0, 0, "down", "first_list", 200, True, 1),
        ("always", 0.0, 1, "down", "install", 1000, True, 1),
        ("always", 0.0, 0, "up", "request", 30, True, 1),
        ("always", 0.2, 0, "down", "candidates", 300, True, 1),
        ("always", 10.0, 0, "up", "request", 34, True, 1),
        ("always", 10.2, 0, "down", "candidates", 300, True, 1),
        ("always", 1.0, 1, "up", "request", 20, False, 1),
    ]
    names = ["policy", "at", "device", "direction", "kind", "nbytes", "delivered", "attempt"]
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def parts(**changed):
    people = per_user_metrics(steps(), ledger(), USERS, MEASURES)
    content = {
        "config_toml": 'name = "tiny"\n',
        "env": {"python": "3.11", "gain": np.float64(NAN)},
        "steps": steps(),
        "ledger": ledger(),
        "recommendations": {"policy": ["never"], "device": [0], "step": [1], "items": np.array([[5, 6, 7]])},
        "per_user": people,
        "summary": summarise(steps(), ledger(), people, MEASURES),
    }
    return content | changed


@pytest.fixture
def run(tmp_path):
    return Run.open(write_run(tmp_path, "tiny-1234abcd-7", **parts()))


def test_a_run_reads_back_what_was_written(run, tmp_path):
    assert sorted(p.name for p in tmp_path.iterdir()) == ["tiny-1234abcd-7"]
    assert sorted(p.name for p in run.path.iterdir()) == sorted(runs.FILES)
    pd.testing.assert_frame_equal(run.steps, pd.DataFrame(steps()), check_dtype=False, check_categorical=False)
    sent = pd.DataFrame(ledger() | {"cloud_s": 0.0})  # which this one does not say
    pd.testing.assert_frame_equal(run.ledger, sent, check_dtype=False, check_categorical=False)
    assert run.recommendations["items"][0].tolist() == [5, 6, 7]
    assert run.config == {"name": "tiny"}
    assert run.env == {"python": "3.11", "gain": None}
    assert run.name == "tiny-1234abcd-7"


def test_the_files_have_the_declared_types(run):
    schema = pq.read_schema(run.path / "steps.parquet")
    assert {n: str(schema.field(n).type) for n in ("device", "step", "at", "rank", "asked", "latency_s")} == {
        "device": "int64",
        "step": "int32",
        "at": "double",
        "rank": "int32",
        "asked": "bool",
        "latency_s": "float",
    }
    assert pa.types.is_dictionary(schema.field("policy").type)
    items = pq.read_schema(run.path / "recommendations.parquet").field("items").type
    assert (items.list_size, items.value_type) == (3, pa.int32())


def test_per_user_metrics_by_hand(run):
    rows = run.per_user.set_index(["policy", "user"])
    assert rows["hr@10"].tolist() == [0.5, 0, 1, 0.5]  # anna: ranks 1 and 0, then 1 and 3; bob: 11 and 0, then 11 and 1
    assert rows.loc[("always", "anna"), "ndcg@10"] == (1 + 0.5) / 2
    # bob's second target shares places 1 and 2 with one other item: (1 + 1/2) / 2
    assert rows.loc[("always", "bob"), "mrr"] == pytest.approx((1 / 11 + 0.75) / 2)
    assert rows["requests"].tolist() == [0, 0, 2, 1]
    assert rows["n_steps"].tolist() == [2, 2, 2, 2]
    assert rows["bytes_up"].tolist() == [0, 0, 64, 20]
    assert rows["bytes_down"].tolist() == [0, 0, 600, 0]


def test_summary_by_hand(run):
    never, always = run.summary["policies"]["never"], run.summary["policies"]["always"]
    assert (never["candidate_recall"], always["candidate_recall"]) == (0.5, 1.0)
    assert (never["request_ratio"], always["request_ratio"]) == (0, 0.75)
    # In the pool: ranks 1, 3, 11 and 1 tied with one other.
    assert always["ndcg@10_in_pool"] == pytest.approx((1 + 0.5 + 0 + (1 + 1 / math.log2(3)) / 2) / 4)
    assert always["bytes_per_step"] == {"up": 84 / 4, "down": 600 / 4, "total": 684 / 4}
    assert always["bytes_by_kind"] == {
        "up": {"request": 84},
        "down": {"candidates": 600, "first_list": 200, "install": 2000},
    }
    assert (always["install_bytes"], always["install_bytes_per_device"]) == (2200, 1100)
    assert never["bytes_per_step"]["total"] == 0
    assert always["latency_s"] == {"p50": 1.0, "p95": pytest.approx(1.45)}
    assert never["latency_s"] == {"p50": None, "p95": None}
    assert always["lost_messages"] == {"up": 1, "down": 0}
    assert (always["mean_pool_age"], always["users"], always["steps"]) == (0.5, 2, 4)
    assert always["measures"]["hr@10"]["mean"] == 0.75


def test_differences_are_paired_with_never(run):
    assert run.summary["baseline"] == "never"
    assert list(run.summary["differences"]) == ["always"]
    found = run.summary["differences"]["always"]["hr@10"]
    assert (found["mean"], found["n"], found["p"]) == (0.5, 2, 0)  # both users gain 0.5


def test_the_baseline_is_the_first_policy_without_a_never():
    renamed = {"never": "rare", "always": "always"}
    s, sent = steps(), ledger()
    s["policy"], sent["policy"] = [renamed[p] for p in s["policy"]], [renamed[p] for p in sent["policy"]]
    people = per_user_metrics(s, sent, USERS, MEASURES)
    assert summarise(s, sent, people, MEASURES)["baseline"] == "rare"
    assert summarise(s, sent, people, MEASURES, baseline="always")["baseline"] == "always"
    with pytest.raises(RunError, match="'nevr' is not a policy"):
        summarise(s, sent, people, MEASURES, baseline="nevr")


def test_policies_with_different_users_are_not_compared():
    people = per_user_metrics(steps(), ledger(), USERS, MEASURES).iloc[:-1]
    with pytest.raises(RunError, match="1 user"):
        summarise(steps(), ledger(), people, MEASURES)


def test_a_device_without_an_external_id_is_an_error():
    with pytest.raises(RunError, match="no external id for device 1"):
        per_user_metrics(steps(), ledger(), {0: "anna"}, MEASURES)


def test_open_says_what_is_missing(run, tmp_path):
    (run.path / "ledger.parquet").unlink()
    with pytest.raises(RunError, match=r"ledger\.parquet missing"):
        Run.open(run.path)
    with pytest.raises(RunError, match="no such run folder"):
        Run.open(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("file", "read"),
    [
        ("steps.parquet", lambda run: run.steps),
        ("summary.json", lambda run: run.summary),
        ("config.resolved.toml", lambda run: run.config),
    ],
)
def test_a_damaged_file_is_named(run, file, read):
    path = run.path / file
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(RunError, match=file.replace(".", r"\.")):
        read(Run.open(run.path))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": {k: v for k, v in steps().items() if k != "ties"}}, "ties missing"),
        ({"steps": steps() | {"rank": [1]}}, "length"),
        ({"steps": steps() | {"rank": [2**40] * 8}}, "rank int32"),
        ({"steps": steps() | {"rank": ["first"] * 8}}, "rank int32"),
        ({"ledger": ledger() | {"attempt": [300] * 10}}, "attempt int8"),
    ],
)
def test_a_table_that_breaks_the_schema_leaves_nothing(tmp_path, changed, message):
    with pytest.raises(RunError, match=message):
        write_run(tmp_path, "bad", **parts(**changed))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "..", "a/b", "../up", ".hidden/"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, name):
    with pytest.raises(RunError, match="run name"):
        write_run(tmp_path / "root", name, **parts())
    assert list(tmp_path.iterdir()) == []


def test_an_existing_run_is_replaced(run):
    (run.path / "report.html").write_text("old")
    again = write_run(run.path.parent, run.name, **parts(config_toml="seed = 2\n"))
    assert again == run.path
    assert Run.open(again).config == {"seed": 2}
    assert sorted(p.name for p in again.iterdir()) == sorted(runs.FILES)
    assert [p.name for p in again.parent.iterdir()] == [run.name]


def test_a_full_disk_leaves_the_old_run_and_nothing_else(run):
    big = json.dumps(list(range(200_000)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    content = parts(config_toml=f"# {big}\n")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # the kernel refuses to write more, as a full disk does
    try:
        with pytest.raises(RunError, match="could not be written") as caught:
            write_run(run.path.parent, run.name, **content)
        with pytest.raises(RunError):
            write_run(run.path.parent, "fresh", **content)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "Free disk space" in str(caught.value)
    assert [p.name for p in run.path.parent.iterdir()] == [run.name]
    assert Run.open(run.path).config == {"name": "tiny"}


def test_a_root_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunError, match="could not be written"):
        write_run(tmp_path / "runs", "tiny", **parts())


def test_folder_name_follows_the_configuration():
    first = folder_name("beauty", "a = 1\n", 7)
    assert first == folder_name("beauty", "a = 1\n", 7)
    assert first != folder_name("beauty", "a = 2\n", 7)
    assert first.startswith("beauty-")
    assert first.endswith("-7")
    assert len(first) == len("beauty-") + 8 + len("-7")


def test_decision_hash_ignores_order_chunks_categories_and_encoding(run):
    wanted = decision_hash(steps(), ledger())
    assert decision_hash(run.steps, run.ledger) == wanted
    shuffled = run.steps.sample(frac=1, random_state=1)
    shuffled["policy"] = shuffled["policy"].astype(str)
    assert decision_hash(shuffled, run.ledger.iloc[::-1]) == wanted
    table = pq.read_table(run.path / "steps.parquet")
    assert decision_hash(pa.concat_tables([table.slice(5), table.slice(0, 5)]), ledger()) == wanted
    unused = pd.Categorical(steps()["policy"], categories=["zzz", "always", "never", "aaa"])
    assert decision_hash(steps() | {"policy": unused}, ledger()) == wanted


@pytest.mark.parametrize(
    ("column", "value"),
    [("policy", "often"), ("rank", 2), ("asked", True), ("at", 0.5), ("latency_s", 0.25), ("item", 9), ("ties", 3)],
)
def test_decision_hash_sees_every_decision(column, value):
    changed = steps()
    changed[column] = [value, *changed[column][1:]]
    assert decision_hash(changed, ledger()) != decision_hash(steps(), ledger())


def test_decision_hash_sees_the_ledger_and_not_the_urgency():
    sent = ledger()
    sent["nbytes"][-1] += 1
    assert decision_hash(steps(), sent) != decision_hash(steps(), ledger())
    assert decision_hash(steps() | {"urgency": [9.0] * 8}, ledger()) == decision_hash(steps(), ledger())


def test_a_million_steps_are_written_in_seconds(tmp_path):
    n = 1_000_000
    generator = np.random.default_rng(0)
    many = {
        "policy": pd.Categorical.from_codes(np.arange(n) % 2, ["never", "always"]),
        "device": np.arange(n) // 10,
        "step": np.arange(n) % 10 + 1,
        "at": generator.random(n),
        "item": generator.integers(1, 9999, n),
        "rank": generator.integers(0, 50, n),
        "ties": np.ones(n, np.int32),
        "asked": generator.random(n) < 0.1,
        "pool_age": generator.integers(0, 9, n),
        "latency_s": generator.random(n),
        "urgency": generator.random(n),
    }
    content = parts(steps=many)
    start = time.perf_counter()
    path = write_run(tmp_path, "big", **content)
    assert time.perf_counter() - start < 5.0  # about 0.2 s on an idle core
    assert pq.read_metadata(path / "steps.parquet").num_rows == n
