import numpy as np
import pytest
from fake_run import USERS
from scipy import stats as oracle

from device.errors import RunError
from reports.stats import compare
from simulation.runs import Run


def test_policies_of_one_run_are_compared_with_its_baseline(fake_run):
    found = compare([fake_run], "ndcg@10")
    assert [one.label.split(": ")[1] for one in found] == ["every-8", "random", "consistency", "entropy", "always"]
    assert {one.against for one in found} == {f"{fake_run.name}: never"}
    people = fake_run.per_user
    values = {name: rows["ndcg@10"].to_numpy() for name, rows in people.groupby("policy", observed=True)}
    test = oracle.ttest_rel(values["always"], values["never"])
    assert found[-1].difference.t == pytest.approx(test.statistic, abs=1e-9)
    assert found[-1].difference.low == pytest.approx(test.confidence_interval().low, abs=1e-9)
    assert fake_run.summary["differences"]["always"]["ndcg@10"]["p_holm"] == found[-1].p_holm
    assert all(one.p_holm >= one.difference.p for one in found)


def test_a_second_run_is_compared_policy_by_policy_whatever_its_order_of_users(fake_run, make_run, tmp_path):
    # The same users under other device numbers: user-i is device 119 - i in the second run.
    other = make_run(tmp_path, seed=8, users={device: USERS[len(USERS) - 1 - device] for device in USERS})
    found = [one for one in compare([fake_run, other], "mrr") if one.label.startswith(other.name)]
    assert (found[0].label, found[0].against) == (f"{other.name}: never", f"{fake_run.name}: never")
    assert len(found) == 6
    mine = other.per_user[other.per_user["policy"] == "always"]["mrr"].to_numpy()[::-1]
    theirs = fake_run.per_user[fake_run.per_user["policy"] == "always"]["mrr"].to_numpy()
    assert found[-1].difference.t == pytest.approx(oracle.ttest_rel(mine, theirs).statistic, abs=1e-9)


def test_other_users_or_another_measure_are_an_error(fake_run, make_run, tmp_path):
    other = make_run(tmp_path, seed=9, users={device: f"guest-{device}" for device in USERS})
    with pytest.raises(RunError, match=r"240 user\(s\) are in only one of them, e.g. 'guest-0'"):
        compare([fake_run, other], "ndcg@10")
    with pytest.raises(RunError, match="'hr@5' was not computed; it has hr@10, ndcg@10, mrr"):
        compare([fake_run], "hr@5")
    with pytest.raises(RunError, match="no run given"):
        compare([], "hr@10")


def test_the_same_run_twice_differs_by_nothing(fake_run):
    again = compare([fake_run, Run.open(fake_run.path)], "hr@10")[5:]
    assert np.allclose([one.difference.mean for one in again], 0.0)
    assert all(one.p_holm == 1.0 for one in again)


def told(run: Run, *, hash: str, test_events: int = 960, data: str = "", name: str = "beauty") -> Run:
    """A copy of a run that says which data it replayed."""
    copy = Run.open(run.path)
    copy.summary["data"] = {"name": name, "hash": hash, "test_events": test_events}
    copy.config["data"] = {"path": data, "split": {"leave_last": 8}} if data else {"synthetic": {"users": 120}}
    return copy


def test_runs_over_other_data_are_not_paired(fake_run):
    """The synthetic source gives every seed the same user names, but other events."""
    one, other = told(fake_run, hash="a" * 64), told(fake_run, hash="b" * 64)
    with pytest.raises(RunError, match="different data or splits") as found:
        compare([one, other], "mrr")
    assert str(found.value).count(str(fake_run.path)) == 2
    assert "beauty aaaaaaaa, 960 test events; beauty bbbbbbbb, 960 test events" in str(found.value)
    assert len(compare([one, told(fake_run, hash="a" * 64, name="copy")], "mrr")) == 5 + 6
    assert len(compare([one, fake_run], "mrr")) == 5 + 6  # an old run does not say


def test_the_same_data_split_elsewhere_are_not_paired(fake_run):
    one, other = told(fake_run, hash="a" * 64), told(fake_run, hash="a" * 64, test_events=480)
    with pytest.raises(RunError, match="480 test events"):
        compare([one, other], "mrr")


def test_two_seeds_of_one_file_are_paired(fake_run):
    """Item numbers and drawn times follow the seed, and the hash follows them."""
    one, other = (told(fake_run, hash=letter * 64, data="beauty/") for letter in "ab")
    assert len(compare([one, other], "mrr")) == 5 + 6
    with pytest.raises(RunError, match="different data"):
        compare([one, told(fake_run, hash="b" * 64, data="games/")], "mrr")


def test_a_policy_without_a_namesake_stands_against_the_baseline(fake_run):
    assert not any(one.stand_in for one in compare([fake_run, Run.open(fake_run.path)], "mrr"))
