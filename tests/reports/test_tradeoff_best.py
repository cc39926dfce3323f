"""Ours against the best published policy, shares that are not defined, and predicted gains."""

import numpy as np
import pandas as pd
import pytest
from fake_sweep import PREDICTS, config_of, write_fake_sweep
from small_sweep import VALUES, small_tables, write_small

from device.errors import RunError
from reports.tradeoff_best import EQUAL, best_rows, over_published
from reports.tradeoff_figures import markdown_table
from reports.tradeoff_gains import gain_payload, gain_rows
from reports.tradeoff_page import render
from reports.tradeoff_points import load
from reports.tradeoff_readings import read_at, shares_defined
from simulation.sweep.folder import Sweep, write_sweep

LEADS = {
    ("never", 0.0, 1): [0.0, 0.4],
    ("always", 1.0, 1): [0.6, 1.0],
    ("mine", 0.2, 1): [0.5, 0.7],
    ("mine", 0.4, 1): [0.9, 0.8],
    ("mine, resident", 0.2, 1): [0.8, 0.9],
    ("mine, resident", 0.4, 1): [0.8, 0.9],
    ("a", 0.2, 1): [0.3, 0.6],  # mean .45
    ("a", 0.4, 1): [0.4, 0.5],  # .45
    ("b", 0.2, 1): [0.2, 0.5],  # .35
    ("b", 0.4, 1): [0.6, 0.6],  # .60
    ("resident", 0.2, 1): [0.9, 0.9],
}
RESIDENT = {"mine": 0.0, "mine, resident": 0.25, "a": 0.0, "b": 0.0, "resident": 0.25}


def points_of(root, resident, values=LEADS, bytes_of=None):
    """The sweep of `values`; `bytes_of`: policy -> bytes of a request in the place of 100."""
    tables = small_tables(values, published=("a", "b", "c", "resident"))
    for policy, size in (bytes_of or {}).items():
        tables["cells"].loc[tables["cells"]["policy"] == policy, ["bytes_up_per_step", "bytes_down_per_step"]] *= (
            size / 100
        )
    frontier = pd.DataFrame({"seed": [1, 1], "bound": ["best"] * 2, "request_ratio": [0.0, 1.0], "ndcg@10": [0.2, 1.2]})
    return load(write_small(root, tables | {"frontier": frontier}, config_of(resident)))


def test_the_best_published_of_the_same_share_at_each_ratio(tmp_path):
    lists, own = over_published(points_of(tmp_path, RESIDENT), "ndcg@10", "requests")
    assert (lists.resident, lists.ours, lists.published) == (0.0, ("mine",), ("a", "b"))
    assert [(wanted, one.at, one.policy) for wanted, one in lists.best.items()] == [(0.2, 0.2, "a"), (0.4, 0.4, "b")]
    assert [one.value for one in lists.best.values()] == pytest.approx([0.45, 0.6])
    assert (own.resident, own.published, list(own.best)) == (0.25, ("resident",), [0.2])  # it ends at .2
    found = {**lists.leads, **own.leads}
    # mine at .2: .2 and .1, sd .0707, t 3 with 1 degree of freedom, p .20483; at .4: .3 and .2, t 5, p .12567;
    # resident: -.1 and 0, t -1, p .5. Holm over the three: 3 * .12567, 2 * .20483, .5
    assert {key: one.difference.mean for key, one in found.items()} == pytest.approx(
        {("mine", 0.2): 0.15, ("mine", 0.4): 0.25, ("mine, resident", 0.2): -0.05}
    )
    assert {key: one.p_holm for key, one in found.items()} == pytest.approx(
        {("mine", 0.2): 0.40967, ("mine", 0.4): 0.37700, ("mine, resident", 0.2): 0.5}, abs=1e-5
    )
    assert found["mine", 0.2].difference.d_z == pytest.approx(2.12132, abs=1e-5)
    assert [one.against for one in found.values()] == ["a", "b", "resident"]


def test_longer_lists_are_met_at_the_bytes_of_the_best_published(tmp_path):
    # a request costs b 100 bytes, a 80, mine 160, so at .2 and .4: a 16 and 32 bytes, b 20 and 40, mine 32 and 64
    points = points_of(tmp_path, RESIDENT, bytes_of={"a": 80.0, "mine": 160.0})
    lists, _ = over_published(points, "ndcg@10", "bytes")
    # at .2 a is best and spends 16 bytes; at .4 b, 40 bytes, where a (32) does not reach and mine is a quarter of the
    # way from 32 to 64 bytes: .5 + .1, .7 + .025 against .6, .6: .0 and .125
    assert [(wanted, one.policy) for wanted, one in lists.best.items()] == [(0.2, "a"), (0.4, "b")]
    assert [one.at for one in lists.best.values()] == pytest.approx([16.0, 40.0])
    assert list(lists.leads) == [("mine", 0.4)]  # 16 bytes buy none of its requests
    lead = lists.leads["mine", 0.4]
    assert (lead.against, lead.at, lead.difference.mean) == ("b", pytest.approx(40.0), pytest.approx(0.0625))
    rows = best_rows(points, "ndcg@10", "bytes")
    assert rows[0] == [("Policy",), ("bytes at 20.0 %",), ("bytes at 40.0 %",)]
    assert rows[1][1:] == [("0.4500", "a", "at 16 B"), ("0.6000", "b", "at 40 B")]
    assert (rows[2][0], rows[2][1], rows[2][2][0]) == (("mine",), ("–",), "+0.0625")


def test_the_best_published_at_those_bytes_may_be_another(tmp_path):
    # at .4 b is best (.6) and spends 40 bytes; c has .5 there and .9 for 40 bytes, which are two fifths of its requests
    cheap = {("c", 0.4, 1): [0.5, 0.5], ("c", 0.8, 1): [0.9, 0.9]}
    tables = points_of(tmp_path, RESIDENT | {"c": 0.0}, LEADS | cheap, bytes_of={"c": 50.0})
    (lists, _) = over_published(tables, "ndcg@10", "bytes")
    assert {wanted: (one.policy, round(one.at, 9)) for wanted, one in lists.best.items()} == {
        0.2: ("c", 20.0),
        0.4: ("c", 40.0),
        0.8: ("c", 40.0),
    }
    assert lists.leads["mine", 0.4].difference.mean == pytest.approx(-0.05)  # .85 - .9
    assert over_published(tables, "ndcg@10", "requests")[0].best[0.4].policy == "b"


def test_the_table_says_where_there_is_none_to_compare_with(tmp_path):
    rows = best_rows(points_of(tmp_path / "all", RESIDENT), "ndcg@10", "requests")
    assert rows[0] == [("Policy",), ("20.0 %",), ("40.0 %",)]
    assert rows[1] == [("best published, candidates from lists only",), ("0.4500", "a"), ("0.6000", "b")]
    # .15 -+ 12.7062 * .0707107 / sqrt(2) = .15 -+ .63531
    assert rows[2][1] == ("+0.1500", "[-0.4853, +0.7853]", "p 0.410, d 2.12")
    own = ("best published, own candidates from 25 % of the catalogue",)
    assert rows[3] == [own, ("0.9000", "resident"), ("none reaches it",)]
    assert rows[4][2] == ("–",)
    rows = best_rows(points_of(tmp_path / "other", RESIDENT | {"resident": 1.0}), "ndcg@10", "requests")
    assert rows[3:] == [
        [own, ("none in this sweep",), ("none in this sweep",)],
        [("mine, resident",), ("–",), ("–",)],
    ]
    published = {key: one for key, one in LEADS.items() if not key[0].startswith("mine")}
    points = points_of(tmp_path / "published", RESIDENT, published)
    assert [best_rows(points, "ndcg@10", axis) for axis in EQUAL] == [[], []]
    assert "best published" not in markdown_table(points, "ndcg@10")


def test_a_configuration_that_names_no_policy_is_refused(tmp_path):
    tables = small_tables(VALUES)
    with pytest.raises(RunError, match=r"config\.resolved\.toml: a policy's class: Field required; the file"):
        load(write_small(tmp_path, tables, "[[policies]]\nown = 50\n"))
    with pytest.raises(RunError, match=r"config\.resolved\.toml: cannot be read"):
        load(write_small(tmp_path, tables, "[[policies]\n"))


@pytest.mark.parametrize(
    ("gains", "defined"),
    [
        ([0.1, 0.1], True),
        ([0.0021, 0.0021], True),  # 1.05 % of never's .2
        ([0.0019, 0.0019], False),
        ([0.3, -0.2], False),  # .05 on average, but not in the interval
        ([-0.1, -0.1], False),
        ([0.0, 0.0], False),
    ],
)
def test_shares_are_given_where_always_is_worth_more_than_never(tmp_path, gains, defined):
    one_seed = {key: values for key, values in VALUES.items() if key[2] == 1}
    tables = small_tables(one_seed | {("always", 1.0, 1): [0.0 + gains[0], 0.4 + gains[1]]})
    sweep = write_small(tmp_path, tables | {"frontier": tables["frontier"].iloc[:2]})
    points = load(sweep)
    assert shares_defined(points, "ndcg@10") == defined
    found = read_at(points, "ndcg@10", "p", "requests", 0.2)
    # p at .2 is .2 and .6, never 0 and .4: .2 for both
    assert (found.gain.mean, found.gain.low, found.gain.high) == pytest.approx((0.2, 0.2, 0.2))
    assert (found.recovered is not None) == defined
    table, html = markdown_table(points, "ndcg@10"), render(sweep, points)
    assert ("hardly better" not in table) == defined
    row = table.splitlines()[2].split(" | ")
    assert (row[2] == "+0.2000 [+0.2000, +0.2000]") == (not defined)
    assert f"<td>{row[2]}</td>" in html
    assert ('"shares":{"ndcg@10":true}' in html) == defined
    # the bound at .2 is .2 + .2 * 2 = .6, never .2
    bound = next(line for line in table.splitlines() if line.startswith("| best |")).split(" | ")[2]
    assert (bound == "+0.4000") == (not defined)


def test_a_bound_hardly_above_never_gives_no_share(tmp_path):
    tables = small_tables(VALUES)
    tables["frontier"]["ndcg@10"] = [0.2, 0.203, 0.2, 0.202]  # mean at .28: .2 + (.00168 + .00056) / 2, under .202
    found = read_at(load(write_small(tmp_path, tables)), "ndcg@10", "p", "requests", 0.28)
    assert found.of_bound == {}
    assert found.recovered is not None


PROMISES = {
    "policy": ["p"] * 5,
    "seed": [1, 1, 2, 1, 2],
    "budget": [0.2, 0.2, 0.2, np.nan, 0.2],
    "decile": [9, 0, 0, 0, 9],
    "steps": [10, 30, 10, 5, 10],
    "predicted": [0.4, 0.1, 0.3, 0.5, 0.2],
    "realised": [0.3, 0.2, 0.3, np.nan, 0.4],
    "low": [0.2, 0.15, 0.2, np.nan, 0.3],
    "high": [0.45, 0.25, 0.4, np.nan, 0.5],
}


def test_calibration_by_hand(tmp_path):
    summary = {"name": "small", "measures": ["ndcg@10"], "never": "never", "always": "always"}
    said = {"config_toml": "", "env": {}, "summary": summary}
    sweep = Sweep.open(write_sweep(tmp_path, "small", **said, **small_tables(VALUES), calibration=PROMISES))
    points = load(sweep)
    _, swept, own = gain_rows(points)
    # predicted (10 * .4 + 30 * .1 + 10 * .3 + 10 * .2) / 60 = .2; realised (3 + 6 + 3 + 4) / 60 = .26667;
    # lowest tenth (3 + 3) / 40 = .15 and (6 + 3) / 40 = .225, highest (4 + 2) / 20 and (3 + 4) / 20;
    # gaps .1, .1, 0, .2: (1 + 3 + 0 + 2) / 60 = .1; .4 and .3 are inside
    assert swept == ["p", "20.0 %", "60", "0.2000", "0.2667", "0.1500 → 0.2250", "0.3000 → 0.3500", "0.1000", "2 of 4"]
    assert own[:4] == ["p", "–", "5", "0.5000"]
    first, second = gain_payload(points)
    assert (first["budget"], second["budget"]) == (0.2, None)
    assert [one["seed"] for one in first["seeds"]] == [1, 2]
    assert first["seeds"][0]["rows"] == [[30, 0.1, 0.2, 0.15, 0.25], [10, 0.4, 0.3, 0.2, 0.45]]
    assert second["seeds"][0]["rows"] == [[5, 0.5, None, None, None]]
    assert "| " + " | ".join(swept) + " |" in markdown_table(points, "ndcg@10")


def test_a_sweep_that_predicts_nothing_has_an_empty_table(tmp_path):
    sweep = write_small(tmp_path, small_tables(VALUES))
    assert (sweep.path / "calibration.parquet").is_file()
    assert list(sweep.calibration.columns) == list(PROMISES)
    (sweep.path / "calibration.parquet").unlink()  # as older sweeps
    older = Sweep.open(sweep.path)
    assert (len(sweep.calibration), len(older.calibration)) == (0, 0)
    points = load(older)
    assert gain_rows(points) == []
    assert 'id="gains"' not in render(older, points)
    assert "Predicted" not in markdown_table(points, "ndcg@10")
    with pytest.raises(RunError, match=r"calibration: column.* high missing"):
        write_sweep(
            tmp_path,
            "bad",
            config_toml="",
            env={},
            summary={"measures": ["ndcg@10"]},
            **small_tables(VALUES),
            calibration={name: values for name, values in PROMISES.items() if name != "high"},
        )


def test_the_texts_of_the_fake_sweep(tmp_path):
    sweep = write_fake_sweep(tmp_path, users=40, seeds=2)
    points = load(sweep)
    assert {label for label in points.policies if points.resident(label)} == {
        "out-of-pool share",
        "MetaController, resident table",
    }
    table = markdown_table(points, "ndcg@10")
    assert table.count("| best published, ") == 4  # two shares, at equal requests and at equal bytes
    assert (
        table.index("At equal requests")
        < table.index("At equal bytes")
        < table.index("Lists and slots of each policy.")
    )
    assert "the comparison favours the published side" in table
    assert [row[0] for row in gain_rows(points)[1:]] == [one for one in PREDICTS for _ in range(6)]
    other = markdown_table(points, "hr@10")
    assert "Predicted and realised gain of a request: in NDCG@10 only" in other
    assert "| Predicted |" not in other
    html = render(sweep, points)
    assert "the comparison favours the published side" in html
    assert "14 of 20" in html  # of ten tenths of two seeds the lowest three of each are off
