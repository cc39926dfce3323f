"""What is had without asking, what was wanted and spent, and families that the reports do not know."""

import re

import pytest
from fake_sweep import write_fake_sweep
from small_sweep import VALUES, small_tables, write_small

from reports.tradeoff_best import over_published
from reports.tradeoff_figures import markdown_table
from reports.tradeoff_page import render
from reports.tradeoff_points import load
from reports.tradeoff_shares import any_unasked, recovered_rows, shown_ratios, unasked
from reports.tradeoff_spent import spent_rows

POOLS = 'update = "merge"\nfusion = "by-age"\nlength = 100\n'
OWN = 'own = 50\nfusion = "by-age"\n'
HELD = {
    "never": "",
    "always": "",
    "never, pools": POOLS,
    "alone": OWN,
    "plain": "",
    "deltas": POOLS + "delta = true\n",
    "two lists": 'update = "merge"\n',
    "own": "own = 50\n",
    "own of a quarter": "own = 50\nresident = 0.25\n",
}
FLOORS = ("never", "always", "never, pools", "alone")
# never is .2, always .8: .35 is 25 % of the way, .5 is 50 %
MEANS = {"never": 0.2, "always": 0.8, "never, pools": 0.35, "alone": 0.5} | dict.fromkeys(list(HELD)[4:], 0.65)


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    ratios = {label: float(label == "always") if label in FLOORS else 0.2 for label in HELD}
    tables = small_tables({(label, ratios[label], 1): [MEANS[label]] * 2 for label in HELD})
    tables["cells"].loc[tables["cells"]["policy"].isin(FLOORS), ["family", "budget"]] = ["floor", None]
    config = "\n".join(
        f'[[policies]]\nclass = "device.policy:Random"\nname = "{label}"\n{held}' for label, held in HELD.items()
    )
    return load(write_small(tmp_path_factory.mktemp("shares"), tables | {"frontier": tables["frontier"][:2]}, config))


def test_each_policy_begins_at_the_never_asking_one_that_holds_the_same(points):
    assert {label: unasked(points, label) for label in list(HELD)[4:]} == {
        "plain": ("never", True),
        "deltas": ("never, pools", True),  # who gets no reply has no deltas
        "two lists": ("never", False),  # length and fusion are never's, the update is not
        "own": ("alone", False),
        "own of a quarter": None,
    }
    assert any_unasked(points)
    rows = {row[0]: row[1:] for row in recovered_rows(points, "ndcg@10")}
    assert rows["Policy"] == ["0 %", "20 %"]  # nobody reaches another of the five ratios
    assert [rows[label][0] for label in list(HELD)[4:]] == [
        "0 %",
        "25 % [25, 25] never, pools",
        "0 %",
        "≈ 50 % [50, 50] alone",
        "–",
    ]
    assert rows["own"][1] == "75 % [75, 75]"


def test_a_sweep_outside_the_usual_ratios_shows_its_own(tmp_path):
    values = {key: one for key, one in VALUES.items() if key[0] != "q" and key[2] == 1}
    moved = {
        (policy, 0.7 if at == 0.2 else 0.9 if at == 0.4 else at, seed): v for (policy, at, seed), v in values.items()
    }
    tables = small_tables(moved)
    assert shown_ratios(load(write_small(tmp_path, tables | {"frontier": tables["frontier"][:2]}))) == [0.7, 0.9]


def test_wanted_and_spent_side_by_side(tmp_path):
    points = load(write_small(tmp_path, small_tables(VALUES)))
    # p spent .2 and .22 for .2, .4 and .44 for .4: .21 and .42 are 5 % more; its replies took as many seconds
    assert spent_rows(points) == [
        ["Policy", "wanted 20.0 %", "wanted 40.0 %", "Reply, median"],
        ["always", "–", "–", "1 s"],
        ["p", "20.0 → 21.0 %", "40.0 → 42.0 %", "0.21 s to 0.42 s"],
        ["q", "20.0 → 20.0 %", "–", "0.2 s"],
    ]
    tables = small_tables(VALUES)
    tables["cells"]["budget"] *= 0.5
    html = render(sweep := write_small(tmp_path, tables, name="half"), half := load(sweep))
    assert spent_rows(half)[2][1:3] == ["10.0 → 21.0 % (+110 %)", "20.0 → 42.0 % (+110 %)"]
    assert '<td class="sure">10.0 → 21.0 %<small>(+110 %)</small></td>' in html
    tables["cells"]["budget"] *= 4
    assert spent_rows(load(write_small(tmp_path, tables, name="double")))[2][1] == "40.0 → 21.0 % (−48 %)"
    ends = {key: one for key, one in VALUES.items() if key[0] in ("never", "always")}
    assert spent_rows(load(write_small(tmp_path, small_tables(ends)))) == []


def test_a_family_of_another_name_is_shown_and_never_published(tmp_path):
    tables = small_tables(VALUES, published=("q",))
    sweep = write_small(tmp_path / "published", tables)
    (group,) = over_published(load(sweep), "ndcg@10", "requests")
    assert (group.ours, group.published) == (("p",), ("q",))
    tables["cells"].loc[tables["cells"]["policy"] == "q", "family"] = "custom"
    sweep = write_small(tmp_path / "custom", tables)
    points = load(sweep)
    (group,) = over_published(points, "ndcg@10", "requests")
    assert (group.ours, group.published) == (("p",), ())
    html = render(sweep, points)
    assert '"label":"q","family":"custom"' in html
    assert "none in this sweep" in html
    tables["cells"].loc[tables["cells"]["policy"] == "p", "family"] = "custom"
    html = render(sweep := write_small(tmp_path / "none", tables), load(sweep))
    assert "best published" not in html


def test_the_page_counts_policies_and_says_what_bounds_know(tmp_path):
    sweep = write_fake_sweep(tmp_path, users=20, seeds=1)
    points = load(sweep)
    html, table = render(sweep, points), markdown_table(points, "ndcg@10")
    assert "<dd>13 + 3 references</dd>" in html
    assert "<dt>points of policies</dt><dd>78</dd>" in html  # 13 policies at 6 ratios
    for text in (html, table):
        assert "Its share can exceed 100 %" in text
        assert "hindsight schedule, two lists merged" in text
        assert "optimum" not in text
    assert "Its share can exceed" not in markdown_table(points, "hr@10")  # bounds are about the first measure
    axes = re.search(r'"axes":\[(.*?)\]', html).group(1)
    assert re.findall(r'"key":"(\w+)"', axes) == ["requests", "bytes", "cloud", "energy"]  # no policy steers latency
