"""Conversion to canonical Parquet, inspection, and the real data."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from hand_made import canonical, put
from hypothesis import given
from hypothesis import strategies as st

from device.errors import DataError
from simulation.data.convert import convert, inspect
from simulation.data.read import read

ids = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=4)
event = st.tuples(ids, ids, st.integers(1, 5), st.integers(0, 4))


@given(st.lists(event, min_size=1, max_size=20), st.integers(0, 3), st.booleans())
def test_converted_data_read_the_same(tmp_path_factory, rows, seed, permute):
    folder = tmp_path_factory.mktemp("c")
    table = pa.table(dict(zip(("user_id", "item_id", "rating", "timestamp"), zip(*rows, strict=True), strict=True)))
    pyarrow.parquet.write_table(table, folder / "x.parquet")
    target = convert(folder / "x.parquet", folder / "out", seed=seed, min_rating=1)
    once, twice = (read(path, seed=seed, permute_ids=permute) for path in (folder / "x.parquet", target))
    assert once.content_hash() == twice.content_hash()


def test_conversion_keeps_filters_titles_sessions_and_order(tmp_path):
    text = "user_id,item_id,order,session_id,title\nu,a,1,4,A\nu,b,0,3,B\nv,a,0,9,A\nv,b,1,9,B\nw,c,0,1,C\n"
    path = put(tmp_path / "x.csv", text)
    target = convert(path, tmp_path / "deep" / "out", seed=5, k_core=2)
    assert sorted(file.name for file in target.iterdir()) == ["interactions.parquet", "items.parquet"]
    assert [entry.name for entry in target.parent.iterdir()] == ["out"]
    assert read(target, seed=5).content_hash() == read(path, seed=5, k_core=2).content_hash()
    with pytest.raises(DataError, match="exists already"):
        convert(path, target, seed=5)


def test_a_failed_conversion_leaves_nothing(tmp_path, monkeypatch):
    path = canonical(tmp_path / "in")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("simulation.data.convert._items", full)
    with pytest.raises(OSError, match="disk full"):
        convert(path, tmp_path / "out", seed=1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def test_inspection_counts(tmp_path):
    report = inspect(canonical(tmp_path))
    assert json.loads(json.dumps(report))["format"] == "canonical"
    assert (report["users"], report["items"], report["events"]) == (2, 3, 5)
    assert report["density"] == 5 / 6
    assert report["events_per_user"] == {"min": 2, "median": 2.5, "mean": 2.5, "max": 3}
    assert report["times"]["last_utc"] == "1970-01-01T00:00:30+00:00"
    assert report["audit"]["test_events"] == 1  # the user with two events has one too few
    assert report["ratings"] == {"min": 1, "max": 5}


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "users", "items", "events", "timed"),
    [
        ("amazon-beauty", 22363, 12101, 198502, True),
        ("ml-1m", 6040, 3706, 1000209, False),
        ("ml-100k", 943, 1682, 100000, True),
        ("lastfm", 1090, 3646, 52551, False),
        ("taobao-tiny", 43, 3276, 4321, True),
    ],
)
def test_real_data_have_the_published_counts(name, users, items, events, timed):
    if "TANDEMREC_DATA" not in os.environ:
        pytest.skip("TANDEMREC_DATA is not set: no real interactions here")
    data = read(Path(os.environ["TANDEMREC_DATA"]) / name, seed=1)
    assert (data.n_users, data.n_items, data.n_events, data.timed) == (users, items, events, timed)


@pytest.mark.data
def test_beauty_is_a_five_core_with_many_tied_days():
    if "TANDEMREC_DATA" not in os.environ:
        pytest.skip("TANDEMREC_DATA is not set: no real interactions here")
    path = Path(os.environ["TANDEMREC_DATA"]) / "amazon-beauty"
    assert read(path, seed=1, k_core=5).content_hash() == read(path, seed=1).content_hash()
    report = inspect(path)
    assert report["audit"]["test_tied"] == pytest.approx(0.435, abs=5e-4)
    assert report["titled_items"] == 12094


@pytest.mark.data
def test_numbering_by_first_appearance_leaks_the_test_item_and_the_permutation_does_not():
    if "TANDEMREC_DATA" not in os.environ:
        pytest.skip("TANDEMREC_DATA is not set: no real interactions here")
    path = Path(os.environ["TANDEMREC_DATA"]) / "amazon-beauty"

    def share_of_next_number(permute_ids):
        data = read(path, seed=1, permute_ids=permute_ids)
        last = data.offsets[1:] - 1
        return (data.item[last] == data.item[last - 1] + 1).mean()

    assert share_of_next_number(False) > 0.02
    assert share_of_next_number(True) < 0.001  # 22,363 tests, chance 1 in 12,101
