"""`tandemrec compare`: two policies of runs, or policies of a sweep at equal budgets."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from fake_run import USERS
from fake_sweep import BUDGETS, POLICIES, write_fake_sweep
from rich.console import Console
from scipy import stats as oracle
from typer.testing import CliRunner

from device.errors import RunError
from reports.comparison import comparison_table
from reports.stats import compare, compare_against, compare_folders, compare_pair, compare_sweep
from reports.tradeoff_points import load
from reports.tradeoff_readings import leads
from simulation.commands.cli import app
from simulation.runs import Run
from simulation.statistics import holm


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return write_fake_sweep(tmp_path_factory.mktemp("sweeps"))


def values(run: Run, policy: str, measure: str) -> pd.Series:
    people = run.per_user[run.per_user["policy"] == policy]
    return people.set_index("user")[measure].sort_index()


def printed(renderable, width: int = 200) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(renderable)
    return console.export_text()


# Runs


def test_any_two_policies_of_a_run_are_paired(fake_run):
    found = compare_pair([fake_run], "mrr", ("entropy", "random"))
    test = oracle.ttest_rel(values(fake_run, "entropy", "mrr"), values(fake_run, "random", "mrr"))
    assert (found.label, found.against) == (f"{fake_run.name}: entropy", f"{fake_run.name}: random")
    assert found.difference.t == pytest.approx(test.statistic, abs=1e-9)
    assert found.difference.low == pytest.approx(test.confidence_interval().low, abs=1e-9)
    assert found.p_holm == found.difference.p == pytest.approx(test.pvalue)  # one test needs no correction


def test_turned_round_the_difference_has_the_other_sign(fake_run):
    pair = ("always", "consistency")
    one, other = (compare_pair([fake_run], "mrr", two).difference for two in (pair, pair[::-1]))
    assert one.mean == -other.mean != 0
    assert (one.low, one.d_z, one.p) == pytest.approx((-other.high, -other.d_z, other.p))


def test_policies_of_two_runs_are_paired_by_user(fake_run, make_run, tmp_path):
    # The same users under other device numbers: user-i is device 119 - i in the second run.
    other = make_run(tmp_path, seed=8, users={device: USERS[len(USERS) - 1 - device] for device in USERS})
    found = compare_pair([fake_run, other], "ndcg@10", ("entropy", "always"))
    test = oracle.ttest_rel(values(fake_run, "entropy", "ndcg@10"), values(other, "always", "ndcg@10"))
    assert found.against == f"{other.name}: always"
    assert found.difference.t == pytest.approx(test.statistic, abs=1e-9)
    same_name = compare_pair([fake_run, other], "ndcg@10", ("entropy", "entropy"))
    assert same_name.difference.mean != 0


def test_all_against_one(fake_run, make_run, tmp_path):
    other = make_run(tmp_path, seed=8)
    found = compare_against([fake_run, other], "mrr", "random")
    assert {one.against for one in found} == {f"{fake_run.name}: random"}
    assert len(found) == 5 + 6  # the other run's own "random" too
    assert [one.p_holm for one in found] == holm([one.difference.p for one in found])
    pair = compare_pair([fake_run], "mrr", ("always", "random"))
    assert found[4].difference == pair.difference
    assert found[4].p_holm > pair.p_holm  # eleven tests
    assert compare_against([fake_run], "mrr", "never") == compare([fake_run], "mrr")


def test_a_run_says_what_it_cannot_pair(fake_run, make_run, tmp_path):
    def refuses(words: str, call, *given) -> None:
        with pytest.raises(RunError, match=words):
            call(*given)

    refuses(
        r"beauty-\w+-7: no policy 'entropi'; did you mean 'entropy'\?",
        compare_pair,
        [fake_run],
        "mrr",
        ("entropi", "never"),
    )
    refuses(r"did you mean 'always'\?", compare_pair, [fake_run], "mrr", ("never", "allways"))
    refuses(r"no policy 'x'; known: never, every-8, random", compare_against, [fake_run], "mrr", "x")
    refuses("'never' compared with itself; name two policies", compare_pair, [fake_run], "mrr", ("never", "never"))
    refuses("two policies of 3 runs", compare_pair, [fake_run] * 3, "mrr", ("never", "always"))
    refuses("two policies of 0 runs", compare_pair, [], "mrr", ("never", "always"))
    refuses("'hr@5' was not computed; it has hr@10", compare_pair, [fake_run], "hr@5", ("never", "always"))
    strangers = make_run(tmp_path, seed=9, users={device: f"guest-{device}" for device in USERS})
    refuses("are in only one of them", compare_pair, [fake_run, strangers], "mrr", ("never", "never"))
    refuses("are in only one of them", compare_against, [fake_run, strangers], "mrr", "never")


# Sweeps


def test_two_policies_of_a_sweep_meet_at_every_budget(sweep):
    found = compare_sweep(sweep, "ndcg@10", pair=("expected gain", "random"))
    assert [one.at for one in found] == list(BUDGETS)
    assert {one.label for one in found} == {f"{sweep.name}: expected gain"}
    known = [lead for lead in leads(load(sweep, resamples=1), "ndcg@10", "random") if lead.policy == "expected gain"]
    assert [one.difference for one in found] == [lead.difference for lead in known]
    assert [one.p_holm for one in found] == holm([one.difference.p for one in found])  # over six tests, not over all
    assert all(one.p_holm <= lead.p_holm for one, lead in zip(found, known, strict=True))
    assert all(one.difference.low > 0 and one.difference.n == 400 for one in found)  # 0.23 of 0.045 better at 5 %


def test_a_sweep_against_one_policy_and_against_never(sweep):
    against = compare_sweep(sweep, "hr@10", against="random")
    assert {one.label.partition(": ")[2] for one in against} == set(POLICIES) - {"random"}
    assert len(against) == (len(POLICIES) - 1) * 6
    without = compare_sweep(sweep, "hr@10")
    assert {one.against for one in without} == {f"{sweep.name}: never"}
    assert f"{sweep.name}: always" in {one.label for one in without}  # at its own ratio of 1


def test_a_sweep_says_what_it_cannot_compare(sweep):
    with pytest.raises(RunError, match=r"no policy 'expected gains'; did you mean 'expected gain'\?"):
        compare_sweep(sweep, "ndcg@10", pair=("expected gains", "random"))
    with pytest.raises(RunError, match="no policy 'q'; known: never, always"):
        compare_sweep(sweep, "ndcg@10", against="q")
    with pytest.raises(RunError, match="'mrr' was not computed; it has ndcg@10, hr@10"):
        compare_sweep(sweep, "mrr")
    with pytest.raises(RunError, match="'random' compared with itself"):
        compare_sweep(sweep, "ndcg@10", pair=("random", "random"))
    with pytest.raises(RunError, match=r"always: request ratios 1 to 1; random: request ratios 0\.049 to 0\.49"):
        compare_sweep(sweep, "ndcg@10", pair=("always", "random"))


# Command line


def test_folders_are_told_apart(fake_run, sweep):
    assert compare_folders([fake_run.path], "mrr") == compare([Run.open(fake_run.path)], "mrr")
    pair = ("entropy", "random")
    assert compare_folders([fake_run.path], "mrr", pair=pair) == [compare_pair([fake_run], "mrr", pair)]
    assert compare_folders([fake_run.path], "mrr", against="always") == compare_against([fake_run], "mrr", "always")
    assert compare_folders([sweep.path], "ndcg@10", pair=pair) == compare_sweep(sweep, "ndcg@10", pair=pair)
    for paths in ([sweep.path, fake_run.path], [fake_run.path, sweep.path], [sweep.path, sweep.path]):
        with pytest.raises(RunError, match="is a sweep and 2 folders are named; name one sweep alone"):
            compare_folders(paths, "ndcg@10")
    with pytest.raises(RunError, match="choose --policies or --against"):
        compare_folders([fake_run.path], "mrr", pair=pair, against="never")


def test_half_a_sweep_is_not_taken_for_a_run(sweep, tmp_path):
    shutil.copytree(sweep.path, tmp_path / "half")
    (tmp_path / "half" / "frontier.parquet").unlink()
    with pytest.raises(RunError, match=r"not a complete sweep, frontier\.parquet missing"):
        compare_folders([tmp_path / "half"], "ndcg@10")


def test_the_table_of_a_sweep_shows_the_budgets(sweep):
    found = compare_sweep(sweep, "ndcg@10", pair=("expected gain", "LSC4Rec: footrule displacement"))
    text = printed(comparison_table(found))
    row = next(line for line in text.splitlines() if "20.0 %" in line)
    assert row.split("  ")[0].strip() == "expected gain"
    assert "LSC4Rec" not in row  # the same in all rows: said once
    assert [line.rstrip() for line in text.splitlines()[:2]] == [sweep.name, "minus LSC4Rec: footrule displacement"]
    assert f"{found[2].difference.mean:+.4f} [{found[2].difference.low:+.4f}" in row
    assert "share of steps at which both are read off" in text
    assert "Requests" not in printed(comparison_table([replace(one, at=None) for one in found]))


def test_the_command_pairs_what_it_is_told_to(fake_run, sweep):
    words = ["compare", str(fake_run.path), "--measure", "mrr", "--policies", "entropy", "random", "--json"]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    (one,) = json.loads(said.stdout)["comparisons"]
    wanted = compare_pair([fake_run], "mrr", ("entropy", "random"))
    assert one["difference"]["mean"] == wanted.difference.mean
    assert one["at"] is None
    said = CliRunner().invoke(app, ["compare", str(sweep.path), "--against", "random", "--json"])
    told = json.loads(said.stdout)["comparisons"]
    assert len(told) == (len(POLICIES) - 1) * 6
    assert np.unique([one["at"] for one in told]).tolist() == list(BUDGETS)


def test_the_command_leaves_the_first_runs_own_differences_out(fake_run, make_run, tmp_path):
    other = make_run(tmp_path, seed=8)
    words = ["compare", str(fake_run.path), str(other.path), "--measure", "mrr", "--json"]
    told = json.loads(CliRunner().invoke(app, words).stdout)["comparisons"]
    assert [one["label"].partition(": ")[0] for one in told] == [other.name] * 6
    asked = CliRunner().invoke(app, [*words, "--against", "never"])  # then all others, the first run's too
    assert len(json.loads(asked.stdout)["comparisons"]) == 5 + 6
