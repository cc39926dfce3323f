"""What devices hold under each policy, as the pages and the Markdown table say it."""

import tomllib
from pathlib import Path

import pytest
from fake_sweep import config_of
from small_sweep import VALUES, small_tables, write_small

from device.errors import RunError
from reports.holdings import holding_rows, holdings
from reports.tradeoff_figures import markdown_table
from reports.tradeoff_page import render
from reports.tradeoff_points import load

PLACE = Path("config")
CONFIG = config_of(
    {"p": 0.0, "q": 0.25, "r": 0.0},
    p='update = "merge"\nlength = 100\nslots = 200\nfusion = "by-age"\n',
    r='update = "merge"\ndelta = true\n',
)


def test_lists_slots_and_own_candidates_by_policy():
    found = holding_rows(holdings(tomllib.loads(CONFIG), PLACE), ("never", "r", "q", "p"))
    assert found[1:] == [
        ["r", "40", "160", "merge, delta replies", "–", "constant"],  # four lists of [cloud] pool
        ["q", "40", "40", "replace", "50 from 25 %", "constant"],
        ["p", "100", "200", "merge", "–", "by-age"],
    ]


def test_one_policy_none_and_a_bad_one():
    single = {"device": {"policy": {"class": "device.policy:Always"}}}
    assert holding_rows(holdings(single, PLACE), ["always"])[1][:3] == ["always", "50", "50"]
    assert holding_rows(holdings({}, PLACE), ["always"]) == []
    with pytest.raises(RunError, match="config: a policy's class: Field required"):
        holdings({"policies": [{"own": 50}]}, PLACE)


def test_a_sweep_shows_them(tmp_path):
    sweep = write_small(tmp_path, small_tables(VALUES), CONFIG)
    points = load(sweep, resamples=20)
    assert (points.resident("p"), points.resident("q"), points.resident("never")) == (0.0, 0.25, 0.0)
    assert "<td>50 from 25 %</td>" in render(sweep, points)
    assert "| p | 100 | 200 | merge | – | by-age |" in markdown_table(points, "ndcg@10")
