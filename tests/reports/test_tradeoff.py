import base64
import hashlib
import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from fake_sweep import NASTY, write_fake_sweep
from small_sweep import VALUES, small_tables, write_small

from device.errors import RunError
from reports.tradeoff_figures import markdown_table, tradeoff_figure
from reports.tradeoff_page import render
from reports.tradeoff_points import load
from reports.tradeoff_readings import area, bound_at, front, hypervolume, leads, read_at
from simulation.sweep.folder import FILES, Sweep, sweep_folder_name

REPLACED, MERGED = "hindsight schedule, pools replaced", "hindsight schedule, two lists merged"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return write_fake_sweep(tmp_path_factory.mktemp("sweeps"))


@pytest.fixture(scope="module")
def points(sweep):
    return load(sweep)


@pytest.fixture(scope="module")
def html(sweep, points):
    return render(sweep, points)


def test_a_user_counts_once_with_the_mean_over_seeds(tmp_path):
    points = load(write_small(tmp_path, small_tables(VALUES)))
    assert points.policy == ("never", "always", "p", "p", "q")
    assert (points.users, points.seeds) == (2, 2)
    # user 0 under never: (0 + .2) / 2 = .1; user 1: (.4 + .2) / 2 = .3
    np.testing.assert_allclose(points.values["ndcg@10"][:, 0], [0.1, 0.3])
    np.testing.assert_allclose(points.means("ndcg@10"), [0.2, 0.8, 0.4, 0.65, 0.25])
    np.testing.assert_allclose(points.cost["requests"], [0.0, 1.0, 0.21, 0.42, 0.2])
    np.testing.assert_allclose(points.cost["bytes"], [0.0, 100.0, 21.0, 42.0, 20.0])
    np.testing.assert_allclose(points.latency, [np.nan, 1.0, 0.21, 0.42, 0.2])
    # at .25: seed 1 .2 + .25 / .5 = .7, seed 2 .2 + .25 / 1 = .45, mean .575 lies between the ratios 0 and .5
    assert bound_at(points.bounds["best"], 0.25) == pytest.approx(0.575)
    assert bound_at(points.bounds["best"], 2.0) == pytest.approx(1.2)


def test_readings_of_a_small_sweep(tmp_path):
    points = load(write_small(tmp_path, small_tables(VALUES)))
    found = read_at(points, "ndcg@10", "p", "requests", 0.28)
    # a third of the way from .21 to .42: .4 + .25 / 3 = .48333; recovered (.48333 - .2) / .6 = .47222
    assert found.value.mean == pytest.approx(0.48333, abs=1e-5)
    assert found.recovered.mean == pytest.approx(0.47222, abs=1e-5)
    # bound at .28: (.2 + .56 + .2 + .28) / 2 = .62; (.48333 - .2) / .42 = .67460
    assert found.of_bound["best"].mean == pytest.approx(0.67460, abs=1e-5)
    assert found.install_bytes == pytest.approx(5.0)
    # two users are drawn (0, 0), (0, 1), (1, 0) or (1, 1); user 0 has .3 + .2 / 3 there, user 1 .5 + .3 / 3
    assert (found.value.low, found.value.high) == pytest.approx((0.36667, 0.6), abs=1e-5)
    assert read_at(points, "ndcg@10", "p", "requests", 0.1) is None
    assert read_at(points, "ndcg@10", "p", "bytes", 28.0).value.mean == pytest.approx(found.value.mean)
    always = read_at(points, "ndcg@10", "always", "requests", 0.1)
    assert (always.recovered.mean, always.recovered.low, always.recovered.high) == (1.0, 1.0, 1.0)


def test_leads_are_taken_at_one_request_ratio(tmp_path):
    points = load(write_small(tmp_path, small_tables(VALUES)))
    over_q = {(lead.policy, lead.at): lead for lead in leads(points, "ndcg@10", "q")}
    # q reaches .2 only; p's first point (.21) holds there; never and always are met at their own ratio, 0 and 1
    assert set(over_q) == {("p", 0.2)}
    # user 0: .3 - .1, user 1: .5 - .4: mean .15, sd .07071, d_z 2.12132, t 3 with 1 degree of freedom, p .20483
    lead = over_q["p", 0.2]
    assert lead.difference.mean == pytest.approx(0.15)
    assert lead.difference.d_z == pytest.approx(2.12132, abs=1e-5)
    assert lead.p_holm == lead.difference.p == pytest.approx(0.20483, abs=1e-5)
    over_never = leads(points, "ndcg@10", "never")  # a floor is the same at every ratio
    assert [(lead.policy, lead.at) for lead in over_never] == [("always", 1.0), ("p", 0.2), ("p", 0.4), ("q", 0.2)]


def test_front_volume_and_area_of_a_small_sweep(tmp_path):
    points = load(write_small(tmp_path, small_tables(VALUES)))
    inside, share = front(points, "ndcg@10", "requests")
    assert inside.tolist() == [True, True, True, True, True]  # each costs more than the last and is worth more
    # q (.1, .4) is worth more than never (.1, .3) unless only user 0 is drawn: 3 of 4 resamples
    assert share.tolist() == pytest.approx([1.0, 1.0, 1.0, 1.0, 0.75], abs=0.05)
    # to (1, .2): .21 * .2 + .58 * .45 = .303
    assert hypervolume(points, "ndcg@10", "requests", "p").mean == pytest.approx(0.21 * 0.2 + 0.58 * 0.45)
    assert area(points, "p", "q", "best") is None  # q is one point: no range


@pytest.mark.parametrize("policies", [("never", "always"), ("never", "always", "p", "q")])
def test_a_sweep_without_bounds_or_policies_still_has_a_page(tmp_path, policies):
    tables = small_tables({key: values for key, values in VALUES.items() if key[0] in policies})
    sweep = write_small(tmp_path, tables | {"frontier": tables["frontier"].iloc[:0]})
    html = render(sweep, load(sweep))
    assert "no policy that asks at random" in html
    assert "The command was not recorded." in html
    assert "NaN" not in re.search(r'id="data">(.*?)</script>', html, re.DOTALL).group(1)


def test_area_against_random_and_bound(points):
    found = area(points, "random", "random", REPLACED)
    assert (found.share.mean, found.share.low, found.share.high) == (0.0, 0.0, 0.0)
    best = area(points, "expected gain, lists merged", "random", REPLACED)
    assert best.low == pytest.approx(0.051)  # its own first point, the last to begin
    assert best.high == pytest.approx(0.49)  # random's last
    assert 0.2 < best.share.low < best.share.mean < best.share.high < 0.35
    assert area(points, "expected gain, lists merged", "random", MERGED).share.mean < best.share.mean


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["per_user"].drop(index=0, inplace=True), "different users"),
        (lambda t: t["cells"].drop(index=9, inplace=True), "has seeds"),
        (lambda t: t["cells"].__setitem__("seed", 1), "has seeds"),
        (lambda t: t["per_user"].__setitem__("cell", 99), "lacks"),
        (lambda t: t["per_user"].__setitem__("ndcg@10", np.nan), "not finite"),
    ],
)
def test_a_sweep_that_is_not_paired_is_refused(tmp_path, change, message):
    tables = small_tables(VALUES)
    change(tables)
    with pytest.raises(RunError, match=message):
        load(write_small(tmp_path, tables))


def test_the_folder_is_whole_or_absent(tmp_path, sweep):
    assert sorted(path.name for path in sweep.path.iterdir() if path.suffix != ".html") == sorted(FILES)
    assert sweep.name == sweep_folder_name("fake", sweep.config_toml)
    with pytest.raises(RunError, match="no such sweep folder"):
        Sweep.open(tmp_path / "none")
    tables = small_tables(VALUES)
    with pytest.raises(RunError, match="no column hr@10"):
        write_small(tmp_path, tables, measures=["ndcg@10", "hr@10"])
    with pytest.raises(RunError, match="energy_j_per_step missing"):
        write_small(tmp_path, tables | {"cells": tables["cells"].drop(columns="energy_j_per_step")})
    assert list(tmp_path.iterdir()) == []
    path = write_small(tmp_path, tables).path
    (path / "cells.parquet").write_bytes(b"PAR1")
    with pytest.raises(RunError, match="cannot be read"):
        load(Sweep.open(path))
    (path / "cells.parquet").unlink()
    with pytest.raises(RunError, match=r"not a complete sweep, cells\.parquet missing"):
        Sweep.open(path)
    with pytest.raises(RunError, match="never is 'nobody'"):
        load(write_small(tmp_path, tables, never="nobody"))
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


def test_the_page_is_alone_and_its_policy_allows_only_itself(html):
    links = re.findall(r"""(?:src|href|action)\s*=\s*["']([^"']*)""", html)
    assert links
    assert all(link.startswith("data:") for link in links)
    assert "@import" not in html
    assert "url(" not in html
    csp = re.search(r'Content-Security-Policy" content="([^"]*)"', html).group(1).replace("&#39;", "'")
    assert csp.startswith("default-src 'none'")
    assert "unsafe" not in csp
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in csp
    assert not re.search(r"<[^>]+\s(?:style|on\w+)=", html)


def test_names_are_escaped_everywhere(html):
    assert NASTY not in html
    assert "<title>fake &lt;sweep&gt;" in html
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert "<" not in block
    assert NASTY in [policy["label"] for policy in json.loads(block)["policies"]]


def test_the_static_texts(points):
    drawing = tradeoff_figure(points, "ndcg@10")
    assert ET.fromstring(drawing).tag == "{http://www.w3.org/2000/svg}svg"
    for label in ("requests per step", "NDCG@10, mean over 400 users", "always", REPLACED, "expected gain"):
        assert f"<!-- {label} -->" in drawing
    assert drawing == tradeoff_figure(points, "ndcg@10")
    assert REPLACED not in tradeoff_figure(points, "hr@10")  # the bounds are about the first measure
    table = markdown_table(points, "ndcg@10")
    found = read_at(points, "ndcg@10", "expected gain", "requests", 0.1).recovered
    row = next(line for line in table.splitlines() if line.startswith("| expected gain |"))
    assert f" {100 * found.mean:.0f} % [{100 * found.low:.0f}, {100 * found.high:.0f}] |" in row
    assert "<script>" not in table
    assert {line.count("|") for line in table.partition("\n\n")[0].splitlines()} == {8}
    assert "| device alone | 0.0 % | 0.0" in table
