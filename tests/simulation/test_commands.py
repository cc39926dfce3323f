"""Every command but `tandemrec run` as a user types it: what it prints where, what it writes, and the exit code."""

import shutil
import sys
from pathlib import Path

import pytest
from tiny import TOML, only_object, refused, tandemrec, written

from device.consistency import measure
from simulation.commands import catalogue
from simulation.commands.output import flat, four_digits
from simulation.config.reference import reference
from simulation.network import link
from simulation.runs import REPORT, Run

# compare, report


def test_compare_tells_the_paired_difference(tiny_run: Path) -> None:
    said = tandemrec("compare", tiny_run, "--json")
    assert said.code == 0, said.err
    told = only_object(said.out)
    assert told["measure"] == "ndcg@10"
    (one,) = told["comparisons"]
    assert one["label"] == f"{tiny_run.name}: every steps=2"
    assert one["against"] == f"{tiny_run.name}: never"
    means = Run.open(tiny_run).per_user.groupby("policy", observed=True)["ndcg@10"].mean()
    difference = one["difference"]
    assert difference["mean"] == pytest.approx(means["every steps=2"] - means["never"])
    assert difference["low"] < difference["mean"] < difference["high"]
    table = tandemrec("compare", tiny_run, "--measure", "hr@10")
    assert table.code == 0
    assert "every steps=2" in table.out
    assert "never" in table.out


def test_compare_of_one_policy_prints_a_sentence(tiny_run: Path, tmp_path: Path) -> None:
    lonely = tmp_path / "lonely"
    shutil.copytree(tiny_run, lonely)
    people = Run.open(tiny_run).per_user
    people[people["policy"] == "never"].to_parquet(lonely / "per_user_metrics.parquet")
    said = tandemrec("compare", lonely)
    assert (said.code, said.out) == (0, "one run with one policy: nothing to compare; name a second run\n")


def test_compare_refuses_other_data(workshop: Path, tiny_run: Path, tmp_path: Path) -> None:
    """Users of the synthetic source have the same names whatever the seed."""
    other = only_object(tandemrec("run", workshop / "tiny.toml", "--runs", tmp_path, "--seed", 8, "--json").out)
    said = tandemrec("compare", tiny_run, other["folder"])
    assert (said.code, said.out) == (1, "")
    assert f"{tiny_run} and {other['folder']}: different data or splits" in said.err


def test_compare_says_what_it_cannot(tiny_run: Path, tmp_path: Path) -> None:
    said = tandemrec("compare", tmp_path / "absent")
    assert (said.code, said.out) == (1, "")
    assert f"{tmp_path / 'absent'}: no such run folder" in said.err
    unknown = tandemrec("compare", tiny_run, "--measure", "ndcg@7")
    assert unknown.code == 1
    assert "ndcg@7" in unknown.err
    assert "ndcg@10" in unknown.err  # what there is


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("table.md", "made by `tandemrec devices`, not a run; no command reads it: its tables are in table.md"),
        ("results.md", "made by `tandemrec lag` or `evaluate`, not a run; no command reads it"),
    ],
)
def test_folders_that_nobody_reads_are_told_by_their_makers(file: str, told: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text("")
    for command in ("compare", "report"):
        said = tandemrec(command, tmp_path)
        assert (said.code, said.out) == (1, "")
        assert f"{tmp_path}: {told}" in said.err
        said = tandemrec(command, tmp_path / file)
        assert f"{tmp_path / file}: a file, not a run folder; name the folder that `tandemrec run` made" in said.err


def test_a_sweep_is_not_exported(tmp_path: Path) -> None:
    (tmp_path / "cells.parquet").write_text("")
    assert f"{tmp_path}: made by `tandemrec sweep`, not a run" in tandemrec("export", tmp_path).err


def test_report_is_rebuilt_from_the_files(tiny_run: Path, tmp_path: Path) -> None:
    said = tandemrec("report", tiny_run, "--out", tmp_path / "page.html")
    assert (said.code, said.out) == (0, f"{tmp_path / 'page.html'}\n")
    assert (tmp_path / "page.html").read_bytes() == (tiny_run / REPORT).read_bytes()
    several = tandemrec("report", tiny_run, tiny_run)
    target = tiny_run.parent / f"report-{tiny_run.name}-2.html"
    assert (several.code, several.out) == (0, f"{target}\n")
    assert "A · never" in target.read_text(encoding="utf-8")
    assert (tmp_path / "page.html").read_bytes() == (tiny_run / REPORT).read_bytes()  # its own page is as it was
    target.unlink()
    failed = tandemrec("report", tiny_run, "--out", tmp_path / "none" / "page.html")
    assert failed.code == 1
    assert "page could not be written" in failed.err


# check


def test_check_takes_the_three_kinds() -> None:
    for kind, path in (
        ("device-model", "device.models.gru4rec:GRU4Rec"),
        ("policy", "device.policy:Random"),
        ("generator", "cloud.generators.floors:Popularity"),
    ):
        said = tandemrec("check", kind, path)
        assert said.code == 0, said.out
        assert len(said.out.splitlines()) >= 4
        assert all(line.startswith("ok   ") for line in said.out.splitlines())


MINE = """
import numpy as np

class Often:
    '''Asks more often, the smaller `patience` is.'''

    def __init__(self, patience: int = 3, broken: bool = False):
        self.patience, self.broken = patience, broken

    def urgency(self, view, draws):
        found = view.pool_age / self.patience
        return found[:, None] if self.broken else found
"""


def test_check_takes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, MINE, "often_policy.py")
    assert tandemrec("check", "policy", "often_policy.py:Often", "--set", "patience=2").code == 0
    assert tandemrec("check", "policy", tmp_path / "often_policy.py:Often").code == 0
    bad = tandemrec("check", "policy", "often_policy.py:Often", "--set", "broken=true")
    assert bad.code == 1
    assert "FAIL shape: urgency returned (16, 1) for 16 devices; return one number each" in bad.out
    told = tandemrec("check", "policy", "often_policy.py:Often", "--set", "broken=true", "--json")
    assert told.code == 1
    content = only_object(told.out)
    assert content["ok"] is False
    assert [finding["name"] for finding in content["findings"] if not finding["ok"]] == ["shape"]
    sys.modules.pop("often_policy")


DUET = ("personalizer", "cloud.personalizers.duet:Duet")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["polcy", "device.policy:Never"], "unknown kind; did you mean 'policy'?"),
        (["policy", "absent.py:Never"], "absent.py: no such file"),
        (["policy", "device.policy:Nver"], "did you mean 'Never'?"),
        (["policy", "device.policy:Every", "--set", "stps=2"], "did you mean 'steps'?"),
        (["policy", "device.policy:Every", "--set", "steps=often"], "steps = 'often' is a str; expected int"),
        (
            ["policy", "device.policy:Every", "--set", "class=3"],
            "--set class=3: device.policy:Every is what is checked",
        ),
        ([*DUET], "goes on from a trained model; add --set model.class=device.models.sasrec:SASRec"),
        ([*DUET, "--set", "model.width=8"], "add --set model.class=device.models.sasrec:SASRec"),
        ([*DUET, "--set", "model=SASRec"], "add --set model.class=device.models.sasrec:SASRec"),
        ([*DUET, "--set", "model.class=3"], '--set model: class = 3: expected a text in quotes, "3"'),
        (
            [*DUET, "--set", "model.class=device.models.gru4rec:GRU4Rec"],
            "goes on from device.models.sasrec:SASRec, found GRU4Rec; use --set model.class=device.models.",
        ),
        (
            ["personalizer", "cloud.personalizers.diet:Diet"],
            "--set model.class=device.models.masked:MaskedHead or --set model.class=device.models.masked:MaskedSASRec",
        ),
        (
            ["personalizer", "personal_parts:Coded", "--set", "model.class=device.models.sasrec:SASRec"],
            "personal_parts:Coded takes no backbone or device; take --set model out",
        ),
    ],
)
def test_check_refuses_what_it_cannot_make(words: list[str], told: str) -> None:
    assert told in refused(tandemrec("check", *words))


# export


def test_export_writes_files_that_agree_with_torch(workshop: Path, tiny_run: Path, tmp_path: Path) -> None:
    words = ["export", tiny_run, "--out", tmp_path / "onnx", "--runs", workshop / "runs"]
    said = tandemrec(*words, "--json")
    assert said.code == 0, said.err
    fp32, int8 = only_object(said.out)["files"]
    for file in (fp32, int8):
        assert Path(file["path"]).stat().st_size == file["nbytes"]
        assert 0 < file["p50_ms"] <= file["p95_ms"]
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {"fp32.onnx", "int8.onnx"}
    assert fp32["max_difference"] < 1e-5 < int8["max_difference"] < 0.1
    assert fp32["top10_overlap"] == 1
    assert int8["top10_overlap"] > 0.7
    installed = only_object(said.out)["installed_bytes"]
    ledger = Run.open(tiny_run).ledger
    assert set(ledger.loc[ledger["kind"] == "install", "nbytes"]) == {installed}
    told = tandemrec(*words)
    assert (
        f"A device of tier 'phone' installs {installed:,} bytes in this run, fp32.onnx has {fp32['nbytes']:,}: an ONNX "
        "file also holds the graph, and the item table in full.\n"
    ) in told.out


def test_export_names_the_tiers(workshop: Path, tiny_run: Path, tmp_path: Path) -> None:
    words = ["export", tiny_run, "--out", tmp_path / "onnx", "--runs", workshop / "runs"]
    assert "--tier watch: this run has the tiers phone" in refused(tandemrec(*words, "--tier", "watch"))
    assert not (tmp_path / "onnx").exists()


# list, doctor, data


def test_list_knows_every_built_in() -> None:
    said = tandemrec("list", "--json")
    assert said.code == 0
    listed = {(entry["kind"], entry["class"]) for entry in only_object(said.out)["entries"]}
    assert listed >= {
        *(("policy", f"device.policy:{name}") for name in ("Never", "Always", "Every", "Random", "Consistency")),
        *(("generator", f"cloud.generators.floors:{name}") for name in ("Popularity", "Markov", "IdCounter")),
        ("generator", "cloud.generators.dcrec:DCRec"),
        ("generator", "device.models.sasrec:SASRec"),
        ("device model", "device.models.sasrec:SASRec"),
        ("device model", "device.models.gru4rec:GRU4Rec"),
        ("device model", "device.models.din:DIN"),
        ("device model", "device.models.onnx_file:OnnxFile"),
        ("link", "simulation.traces:TraceLink"),
        *(("link name", name) for name in ("wifi", "5g", "4g", "3g", "ideal")),
        *(("consistency measure", name) for name in ("footrule", "kendall", "overlap", "rbo", "js", "entropy")),
    }


def test_every_name_listed_can_be_written_in_a_configuration() -> None:
    found = catalogue.names()
    assert {entry["kind"] for entry in found} == {"link name", "consistency measure"}
    for entry in found:
        assert (link if entry["kind"] == "link name" else measure)(entry["class"])
        assert len(entry["about"].split()) >= 4


def test_list_prints_the_reference_of_keys() -> None:
    assert tandemrec("list", "--keys").out == reference()


def test_list_shows_import_paths_that_can_be_copied() -> None:
    assert "cloud.generators.floors:Popularity" in tandemrec("list").out


def test_doctor_finds_this_installation_well() -> None:
    said = tandemrec("doctor")
    assert said.code == 0, said.out
    assert all(line.startswith("ok   ") for line in said.out.splitlines())
    findings = only_object(tandemrec("doctor", "--json").out)["findings"]
    assert {"Python", "torch", "flwr", "package device", "disk"} <= {finding["what"] for finding in findings}


def test_doctor_ends_with_1_when_something_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    from simulation.commands import doctor

    monkeypatch.setitem(doctor.PINNED, "flwr", "0.1")
    said = tandemrec("doctor")
    assert said.code == 1
    assert [line for line in said.out.splitlines() if not line.startswith("ok   ")] == ["BAD  flwr: 1.41.0; needs 0.1"]


def test_times_are_not_rounded_and_shares_are() -> None:
    assert flat({"times": {"last": 1700000060.5}, "density": 0.83333333, "users": 12345678}) == [
        "times.last: 1700000060.5",
        "density: 0.8333",
        "users: 12345678",
    ]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (81234.5678, "81,230"),
        (1234.5, "1,234"),
        (0.0123456, "0.01235"),
        (2.5, "2.5"),
        (1.2345e-7, "1.235e-07"),
        (80_001, "80,001"),
        (True, "True"),
        ("SASRec", "SASRec"),
    ],
)
def test_what_was_measured_is_shown_with_four_digits(value: object, told: str) -> None:
    assert four_digits(value) == told
    assert flat({"a": {"b": value}}, shown=four_digits) == [f"a.b: {told}"]


def test_bench_rounds_for_the_eye_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from simulation.bench import engine

    measured = {"devices": 12_345, "ratio": 1.23456789, "run_steps_per_s": 81234.5678}
    monkeypatch.setitem(engine.BENCHMARKS, "engine", lambda say: measured)
    assert tandemrec("bench", "engine").out.splitlines() == [
        "devices: 12,345",
        "ratio: 1.235",
        "run_steps_per_s: 81,230",
    ]
    assert only_object(tandemrec("bench", "engine", "--json").out) == measured


def test_bench_says_what_each_benchmark_measures() -> None:
    from simulation.bench.engine import BENCHMARKS

    said = tandemrec("bench", "--help").out
    assert all(f" {name}: " in said for name in BENCHMARKS)


def test_data_is_inspected_and_converted(tmp_path: Path) -> None:
    source = written(
        tmp_path, "user_id,item_id,timestamp,rating\nu,a,10,5\nu,b,20,3\nu,c,30,5\nv,a,5,4\nv,b,9,1\n", "d.csv"
    )
    said = tandemrec("data", "inspect", source, "--json")
    assert said.code == 0, said.err
    told = only_object(said.out)
    assert (told["users"], told["items"], told["events"]) == (2, 3, 5)
    lines = tandemrec("data", "inspect", source).out.splitlines()
    assert "events: 5" in lines
    assert "density: 0.8333" in lines  # 5 / (2 * 3)
    assert "times.last: 30" in lines
    assert "How far a test could be trusted, split leave_last(test=1, validation=1), 1 test events:" in lines
    assert [line for line in lines if "test events before which" in line]
    assert not [line for line in lines if line.startswith("audit.")]
    made = tandemrec("data", "convert", source, tmp_path / "kept", "--min-rating", "3")
    assert (made.code, made.out) == (0, f"{tmp_path / 'kept'}\n")
    assert only_object(tandemrec("data", "inspect", tmp_path / "kept", "--json").out)["events"] == 4
    again = tandemrec("data", "convert", source, tmp_path / "kept")
    assert again.code == 1
    assert "exists already" in again.err


# evaluate

EVALUATION = """
name = "table"
seeds = [1]
metrics = ["ndcg@10"]
threads = 1
[data]
split = { leave_last = 1 }
synthetic = { users = 30, items = 40, topics = 4, length = 8 }
[[models]]
name = "popularity"
model = { class = "cloud.generators.floors:Popularity" }
"""


def test_evaluate_prints_the_table(tmp_path: Path) -> None:
    config = written(tmp_path, EVALUATION)
    said = tandemrec("evaluate", config, "--runs", tmp_path / "runs")
    assert said.code == 0, said.err
    assert (tmp_path / "runs" / "table" / "results.md").read_text() in said.out
    assert "popularity, train, seed 1, seen kept" in said.err
    told = only_object(tandemrec("evaluate", config, "--runs", tmp_path / "runs", "--json").out)
    assert [(row["model"], row["seen items"]) for row in told["rows"]] == [
        ("popularity", "kept"),
        ("popularity", "filtered"),
    ]


def test_evaluate_refuses_an_unknown_key(tmp_path: Path) -> None:
    message = refused(tandemrec("evaluate", written(tmp_path, EVALUATION), "--set", "models.0.histroy=3"))
    assert "unknown key 'histroy'" in message
    assert "did you mean 'history'?" in message


def test_an_experiment_is_no_evaluation(tmp_path: Path) -> None:
    config = written(tmp_path, TOML)
    told = f"{config}: this is a file for run or sweep; evaluate wants [[models]], see configs/reference-beauty.toml"
    assert told in refused(tandemrec("evaluate", config))


def test_an_evaluation_without_measures_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    config = written(tmp_path, EVALUATION)
    message = refused(tandemrec("evaluate", config, "--set", "metrics=[]", "--runs", tmp_path / "runs"))
    assert 'metrics = []: name one at least, for example metrics = ["ndcg@10", "hr@10"]' in message
    assert not (tmp_path / "runs").exists()
