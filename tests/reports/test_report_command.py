"""`tandemrec report` of a sweep; of runs, see tests/simulation/test_commands.py."""

import pytest
from fake_sweep import write_fake_sweep
from tiny import tandemrec

from reports.tradeoff_figures import markdown_table
from reports.tradeoff_page import render
from reports.tradeoff_points import load


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    return write_fake_sweep(tmp_path_factory.mktemp("sweeps"), users=40, seeds=1)


@pytest.fixture(scope="module")
def points(sweep):
    return load(sweep)


def refused(*words: object) -> str:
    said = tandemrec("report", *words)
    assert (said.code, said.out) == (1, "")
    assert said.err.count("error:") == 1
    return said.err


def test_the_page_of_a_sweep_is_rebuilt(sweep, points, tmp_path):
    target, expected = sweep.path / "tradeoff.html", render(sweep, points)
    target.write_text("an old page")
    said = tandemrec("report", sweep.path)
    assert (said.code, said.out) == (0, f"{target}\n"), said.err
    assert target.read_text(encoding="utf-8") == expected
    assert not (sweep.path / "report.html").exists()
    target.unlink()
    said = tandemrec("report", sweep.path, "--out", tmp_path / "page.html")
    assert (said.code, said.out) == (0, f"{tmp_path / 'page.html'}\n"), said.err
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == expected
    assert not target.exists()


@pytest.mark.parametrize(("words", "measure"), [([], "ndcg@10"), (["--measure", "hr@10"], "hr@10")])
def test_the_table_of_a_sweep_is_printed(sweep, points, words, measure):
    said = tandemrec("report", sweep.path, "--markdown", *words)
    assert (said.code, said.out) == (0, markdown_table(points, measure)), said.err
    assert measure.upper() in said.out
    assert not (sweep.path / "tradeoff.html").exists()


def test_a_sweep_stands_alone(sweep, fake_run):
    for folders in ([fake_run.path, sweep.path], [sweep.path, fake_run.path], [sweep.path, sweep.path]):
        told = refused(*folders)
        assert f"{sweep.path} is a sweep and 2 folders are named; name one sweep alone, or runs only" in told
    assert not (fake_run.path / "report.html").exists()


def test_a_measure_is_refused_where_there_is_none(sweep, fake_run):
    assert "measure 'mrr' was not computed; it has ndcg@10, hr@10" in refused(
        sweep.path, "--markdown", "--measure", "mrr"
    )
    for words in ([sweep.path], [fake_run.path], [fake_run.path, "--markdown"]):
        assert "--measure is for the Markdown table of a sweep" in refused(*words, "--measure", "ndcg@10")
