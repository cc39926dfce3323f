from dataclasses import replace

import pytest
from rich.console import Console

from device.errors import RunError
from reports import tables
from reports.comparison import between_runs, comparison_table
from reports.stats import compare
from simulation.runs import Run
from simulation.statistics import holm


def printed(renderable, width: int = 200) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(renderable)
    return console.export_text()


def test_every_policy_has_its_row_in_the_terminal(fake_run):
    text = printed(tables.terminal_table([fake_run]))
    starts = [line.strip().split("  ")[0] for line in text.splitlines()]
    assert all(starts.count(policy) == 2 for policy in fake_run.summary["policies"])
    for title in ("Asked", "HR@10", "NDCG@10", "− baseline", "Recall", "Up/step", "Install", "p95"):
        assert title in text
    assert "− baseline: minus never" in text


def test_a_narrow_terminal_keeps_every_number(make_run, tmp_path):
    """The names give way, however long they are."""
    run = make_run(tmp_path)
    policies, differences = run.summary["policies"], run.summary["differences"]
    long = "consistency measure=footrule with a reranker of 64 dimensions 20%"
    policies[long], differences[long] = policies.pop("always"), differences.pop("always")
    run.summary["baseline"] = "never, with the first list that the large generator made"
    text = printed(tables.terminal_table([run]), width=80)
    numbers = policies[long]
    for shown in (
        tables.plus_minus(numbers["measures"]["ndcg@10"]),
        tables.plus_minus(differences[long]["ndcg@10"], sign="+"),
        tables.percent(numbers["candidate_recall"]),
        tables.size(numbers["bytes_per_step"]["down"]),
        tables.seconds(numbers["latency_s"]["p95"]),
        f"{numbers['mean_pool_age']:.1f}",
    ):
        assert shown in text
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    assert "consistency" in text


def test_one_policy_has_no_difference_column(make_run, tmp_path):
    run = make_run(tmp_path)
    run.summary["policies"] = {"never": run.summary["policies"]["never"]}
    run.summary["differences"] = {}
    text = printed(tables.terminal_table([run]), width=80)
    assert "baseline" not in text
    assert tables.plus_minus(run.summary["policies"]["never"]["measures"]["ndcg@10"]) in text


def test_the_columns_that_matter_come_first(fake_run):
    titles = [column.title for column in tables.columns([fake_run])]
    first = ["Request ratio", "Up / step", "Down / step", "NDCG@10", "NDCG@10 − never", "Pool recall", "HR@10", "MRR"]
    assert titles[:8] == first
    assert len(titles) == len(set(titles))


def test_a_narrow_comparison_keeps_names_and_numbers_whole(make_run, fake_run, tmp_path):
    other = make_run(tmp_path, name="a-name-as-long-as-those-that-sets-of-data-have", seed=8)
    found = between_runs(compare([fake_run, other], "ndcg@10"))
    lines = printed(comparison_table(found), width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].rstrip() == other.name
    assert sum(other.name in line for line in lines) == 1  # a heading, not in every row
    assert lines[1].rstrip() == f"minus the policies of the same name of {fake_run.name}"
    rows = {one.label.partition(": ")[2]: one.difference for one in found}
    for policy, d in rows.items():
        (row,) = (line for line in lines if line.startswith(f" {policy} "))
        assert tables.with_interval({"mean": d.mean, "low": d.low, "high": d.high}, sign="+z") in row


def test_of_two_runs_only_the_second_is_compared_with_the_first(make_run, fake_run, tmp_path):
    both = compare([fake_run, make_run(tmp_path, seed=8)], "mrr")
    found = between_runs(both)
    assert [(one.label, one.difference) for one in found] == [(one.label, one.difference) for one in both[5:]]
    assert [one.p_holm for one in found] == holm([one.difference.p for one in found])  # over six tests, not eleven
    same = between_runs(compare([fake_run, Run.open(fake_run.path)], "mrr"))  # as repeated in another folder
    assert len(same) == 6
    assert {one.difference.mean for one in same} == {0.0}


def test_a_difference_that_rounds_to_nothing_has_no_minus(fake_run):
    (one,) = compare([fake_run], "mrr")[:1]
    tiny = replace(one.difference, mean=-0.00001, low=-0.00004, high=0.00002, d_z=-0.001)
    text = printed(comparison_table([replace(one, difference=tiny)]))
    assert "+0.0000 [+0.0000, +0.0000]" in text
    assert "-0.0" not in text
    assert "+0.00 " in text


def test_what_cannot_be_compared_and_what_stands_in_is_said(make_run, fake_run, tmp_path):
    other = make_run(tmp_path, seed=8)
    other.per_user["policy"] = other.per_user["policy"].cat.rename_categories({"always": "eager"})
    text = printed(comparison_table(compare([fake_run, other], "mrr")))
    assert text.count("stands in") == 1
    assert f"eager: {fake_run.name} has no policy of this name; its baseline never stands in" in text
    assert text.splitlines()[0].rstrip() == fake_run.name
    assert text.splitlines()[1].rstrip() == "minus never"
    assert f"minus the policies of the same name of {fake_run.name}" in text
    assert "nothing to compare" in printed(comparison_table([]))


def test_the_markdown_table_is_rectangular_and_holds_the_numbers(fake_run):
    rows = [line.strip("| ").split(" | ") for line in tables.markdown_table([fake_run]).splitlines()]
    assert len(rows) == 2 + 6
    assert len({len(row) for row in rows}) == 1
    numbers = fake_run.summary["policies"]["always"]
    always = dict(zip(rows[0], rows[-1], strict=True))
    assert always["Policy"] == "always"
    assert always["Request ratio"] == f"{100 * numbers['request_ratio']:.1f} %"
    m = numbers["measures"]["ndcg@10"]
    assert always["NDCG@10"] == f"{m['mean']:.4f} [{m['low']:.4f}, {m['high']:.4f}]"
    assert always["NDCG@10 − never"].startswith("+")
    assert dict(zip(rows[0], rows[2], strict=True))["Latency p50"] == tables.ABSENT


def test_names_are_text_not_markup(fake_run):
    line = tables.lines([fake_run])[0]
    assert tables.lines([fake_run, fake_run])[0].label == f"{fake_run.name}: {line.policy}"
    text = printed(comparison_table(compare([fake_run], "hr@10")))
    assert "< 0.001" in text
    assert "always" in text
    assert text.count(fake_run.name) == 1  # the heading


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (8.34, "8.3 B"),
        (79.2, "79 B"),
        (999.6, "1.0 kB"),
        (4_600, "4.6 kB"),
        (2.5e6, "2.5 MB"),
        (3e15, "3000.0 TB"),
    ],
)
def test_sizes_read_well(nbytes, text):
    assert tables.size(nbytes) == text


def test_times_read_well():
    assert tables.milliseconds(0.0031249) == "3.12 ms"
    assert tables.milliseconds(0) == "0 ms"


def test_one_user_has_no_brackets():
    assert tables.with_interval({"mean": 0.25, "low": None, "high": None}) == "0.2500"
    assert tables.with_interval({"mean": 0.25, "low": float("nan"), "high": float("nan")}, sign="+") == "+0.2500"
    assert tables.probability(None) == tables.ABSENT


def test_a_report_needs_a_run():
    with pytest.raises(RunError, match="no run given"):
        tables.headline([])
