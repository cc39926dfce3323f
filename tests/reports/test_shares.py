import re

import pytest
from fake_sweep import NASTY

from cloud.coordinator import Budget
from device.errors import RunError
from reports import tables
from reports.page import render
from reports.shares import small_tables
from simulation.runs import Run

GROUP = {"users": 1200, "steps": 5, "request_ratio": 0.125, "ndcg@10": 0.05, "bytes_per_step": 79.2}


def run(path, config: str, **policies) -> Run:
    """A run of which only the configuration and the policies' numbers are there."""
    (path / "config.resolved.toml").write_text(config)
    found = Run(path)
    found.__dict__["summary"] = {"policies": policies, "differences": {}}
    return found


def shown(*runs: Run):
    return {table.title: table for table in small_tables(tables.lines(runs))}


@pytest.mark.parametrize(
    ("unit", "rate", "told"),
    [
        ("requests_per_step", 0.05, "0.05 requests / step"),
        ("bytes_per_hour", 312_000.0, "312.0 kB / h"),
        ("cloud_seconds_per_hour", 7.25, "7.25 s / h"),
    ],
)
def test_a_budget_has_the_unit_of_its_configuration(tmp_path, unit, rate, told):
    spending = {"phone": {"budget": rate, "realised": 1.034, "after_warm_up": None}}
    config = f"[cloud.budget]\nhorizon = 24.0\n[cloud.budget.{unit}]\nphone = {rate}\n"
    found = shown(run(tmp_path, config, random={"budget": spending}))
    assert list(found) == ["Budget"]
    assert found["Budget"].rows == (("random", "phone", told, "103.4 %", "–"),)


def test_a_budget_without_a_unit_is_an_error(tmp_path):
    spending = {"all": {"budget": 1.0, "realised": 1.0, "after_warm_up": None}}
    with pytest.raises(RunError, match=r"config\.resolved\.toml: \[cloud\.budget\] has none of requests_per_step"):
        shown(run(tmp_path, "", random={"budget": spending}))


def test_groups_by_hand(tmp_path):
    empty = {"users": 0, "steps": 0, "request_ratio": None, "ndcg@10": None, "bytes_per_step": None}
    found = shown(run(tmp_path, "", never={}, random={"groups": {"tier": {"phone": GROUP, NASTY: empty}}}))
    assert list(found) == ["By tier"]
    assert found["By tier"].head == ("Policy", "Tier", "Users", "Request ratio", "NDCG@10 over steps", "Bytes / step")
    assert found["By tier"].rows == (
        ("random", "phone", "1,200", "12.5 %", "0.0500", "79 B"),
        ("random", NASTY, "0", "–", "–", "–"),
    )


def test_a_single_group_is_the_whole_fleet_and_has_no_table(tmp_path):
    assert shown(run(tmp_path, "", random={"groups": {"tier": {"phone": GROUP}, "activity": {}}})) == {}


def test_runs_of_two_ages_share_a_table(tmp_path):
    (tmp_path / "new").mkdir()
    new = run(tmp_path / "new", "", always={"denied_requests": 12345, "waiting_share": 0.0625})
    old = run(tmp_path, "", always={})
    (table,) = shown(old, new).values()
    assert table.head == ("Policy", "Denied requests", "Steps spent waiting")
    assert table.rows == (("B · always", "12,345", "6.2 %"),)  # the old run has no row


def tables_of(html: str) -> dict[str, list[list[str]]]:
    """Title -> rows, the head first, of every small table; each is named and described by what stands above it."""
    found = {}
    for name, note, table in re.findall(
        r'<table aria-labelledby="([^"]+)" aria-describedby="([^"]+)">(.*?)</table>', html, re.DOTALL
    ):
        (title,) = re.findall(f'<h3 id="{name}">(.*?)</h3>', html)
        (told,) = re.findall(f'<p class="lead" id="{note}">(.*?)</p>', html)
        assert told.endswith(".")
        assert f'role="region" aria-labelledby="{name}"' in html
        rows = [re.findall(r"<t[hd]\b[^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in table.split("</tr>")[:-1]]
        assert len({len(row) for row in rows}) == 1
        assert table.count('scope="row"') == len(rows) - 1
        assert table.count('scope="col"') == len(rows[0])
        found[title] = rows
    return found


def test_who_waits_and_who_gets_how_much(fake_run):
    found, policies = tables_of(render([fake_run])), fake_run.summary["policies"]
    assert list(found) == ["Waiting and cloud work", "By tier", "By activity"]  # no budget: no table
    # 4 ms for each request
    always = dict(zip(found["Waiting and cloud work"][0], found["Waiting and cloud work"][-1], strict=True))
    assert always == {
        "Policy": "always",
        "Denied requests": "0",
        "Steps spent waiting": "0.0 %",
        "Cloud time / step": "4 ms",
    }
    assert [row[:2] for row in found["By tier"][1:3]] == [["never", "phone"], ["never", "old &lt;phone&gt;"]]
    assert {row[1] for row in found["By activity"][1:]} == {"low", "middle", "high"}
    assert len(found["By activity"]) == 1 + 3 * len(policies)
    high = policies["always"]["groups"]["activity"]["high"]
    assert found["By activity"][-1][2:] == [
        "40",
        "100.0 %",
        f"{high['ndcg@10']:.4f}",
        f"{high['bytes_per_step']:.0f} B",
    ]


def test_what_was_spent_of_a_budget(make_run, tmp_path):
    run = make_run(tmp_path, budget=Budget(requests_per_step=0.25))
    rows = tables_of(render([run]))["Budget"]
    assert rows[0] == ["Policy", "Purse", "Allowed", "Spent", "Spent after warm-up"]
    # always: an answer at every step where one at every fourth is allowed
    assert rows[-1] == ["always", "all", "0.25 requests / step", "400.0 %", "400.0 %"]
    assert rows[1] == ["never", "all", "0.25 requests / step", "0.0 %", "0.0 %"]


def test_older_runs_have_no_such_tables(make_run, tmp_path):
    run = make_run(tmp_path, budget=Budget(requests_per_step=0.25))
    for numbers in run.summary["policies"].values():
        for key in ("groups", "budget", "denied_requests", "waiting_share", "cloud_seconds_per_step"):
            del numbers[key]
    html = render([run])
    assert tables_of(html) == {}
    assert "Who waits" not in html
