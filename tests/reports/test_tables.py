import pytest
from rich.console import Console

from device.errors import RunError
from reports import tables
from reports.stats import compare


def printed(renderable) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(renderable)
    return console.export_text()


def test_every_policy_has_its_row_in_the_terminal(fake_run):
    text = printed(tables.terminal_table([fake_run]))
    starts = [line.strip().split("  ")[0] for line in text.splitlines()]
    assert all(starts.count(policy) == 2 for policy in fake_run.summary["policies"])
    for title in ("Asked", "HR@10", "NDCG@10", "− never", "Recall", "Up/step", "Install", "p95"):
        assert title in text


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
    text = printed(tables.comparison_table(compare([fake_run], "hr@10")))
    assert "< 0.001" in text
    assert "always" in text
    assert fake_run.name not in text  # one run: its name is not repeated in every row


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


def test_one_user_has_no_brackets():
    assert tables.with_interval({"mean": 0.25, "low": None, "high": None}) == "0.2500"
    assert tables.with_interval({"mean": 0.25, "low": float("nan"), "high": float("nan")}, sign="+") == "+0.2500"
    assert tables.probability(None) == tables.ABSENT


def test_a_report_needs_a_run():
    with pytest.raises(RunError, match="no run given"):
        tables.headline([])
