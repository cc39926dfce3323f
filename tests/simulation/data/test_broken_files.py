"""What is wrong with a file is said with its place, value and remedy."""

import pyarrow as pa
import pyarrow.parquet
import pytest
from hand_made import REVIEW, canonical, put
from hypothesis import given
from hypothesis import strategies as st

from device.errors import ConfigError, DataError
from simulation.data.files import Layout, Wanted, floats, read_delimited
from simulation.data.read import read


def test_broken_parquet_says_where_and_what(tmp_path):
    path = put(tmp_path / "x.parquet", "not parquet")
    with pytest.raises(DataError, match="not readable as Parquet"):
        read(path, seed=1)
    good = {"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": [1.0, 2.0]}
    for change, message in (
        ({"timestamp": [1.0, None]}, "row 2, column 'timestamp': found None"),
        ({"timestamp": ["1", "soon"]}, "column 'timestamp': .*soon"),
        ({"item_id": ["a", ""]}, "row 2, column 'item_id'"),
    ):
        pyarrow.parquet.write_table(pa.table(good | change), path)
        with pytest.raises(DataError, match=message):
            read(path, seed=1)
    pyarrow.parquet.write_table(pa.table({"user_id": ["u"], "timestamp": [1.0]}), path)
    with pytest.raises(DataError, match="no column 'item_id'; found user_id, timestamp"):
        read(path, seed=1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "user_id,item_id,timestamp\nu,a,1\n\nu,b,soon\n", r"x.csv: line 4: column 'timestamp': found 'soon'"),
        (
            "x.csv",
            'user_id,item_id,timestamp,title\nu,a,1,"two\nlines"\nu,,2,x\n',
            "line 4: column 'item_id': found not",
        ),
        (
            "x.csv",
            "user_id,item_id,timestamp\nu,a\n",
            r"line 2: found 2 fields, expected 3 \(user_id, item_id, timestamp",
        ),
        ("x.csv", "user_id,item_id,timestamp\nu,a,nan\n", "line 2: column 'timestamp': found 'nan'"),
        ("x.csv", "user_id,item_id,timestamp\nu,a,\n", "line 2: column 'timestamp': found ''"),
        (
            "x.csv",
            "user_id,item_id,time\nu,a,1\n",
            "neither a column 'timestamp' nor 'order'; found user_id, item_id, t",
        ),
        ("x.csv", "user_id,item_id,timestamp\nu,a,1500000000000\n", "is it milliseconds"),
        ("x.csv", "user_id,item_id,order\nu,a,1\nv,a,1\nu,b,1\n", "user 'u' has two events with order 1"),
        ("x.csv", "user_id,item_id,timestamp\n", "holds no interactions"),
        ("x.csv", "", "no known format"),
        ("ratings.dat", "1::2::3::4\n1::2::x::4\n", "line 2: column 'rating': found 'x'"),
        ("u.data", "1\t2\t3\n", "line 1: found 3 fields, expected 4"),
        ("x.inter", "user:token\titem_id:token\n1\t2\n", "line 1: no column 'user_id:token'; found user:token"),
        ("x.inter", "user_id:token\titem_id_list:token_seq\n1\t2 3\n", "no column 'item_id:token'"),
        ("x.txt", "1 2 3\n\n4\n", "line 3: found only '4'"),
        ("x.json", '{"reviewerID": "u"}\n', "line 1, key 'asin': found None, expected an id"),
        ("x.json", REVIEW.format("u", "a", 5, 1) + "[1]\n", r"line 2: found '\[1\]', expected one JSON object"),
        ("x.json", "(" * 5000 + "\n", "line 1: found '"),
    ],
)
def test_broken_files_say_where_and_what(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        read(put(tmp_path / name, text), seed=1)


def test_bytes_that_are_not_utf8_are_reported_with_their_line(tmp_path):
    path = put(tmp_path / "x.csv", "user_id,item_id,timestamp\nu,a,1\nu,é,2\n", "latin-1")
    with pytest.raises(DataError, match="line 3: column 'item_id': bytes that are not text"):
        read(path, seed=1)


def test_a_cut_off_download_is_reported(tmp_path):
    path = canonical(tmp_path) / "interactions.csv.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match=r"interactions.csv.gz"):
        read(tmp_path, seed=1)


def test_a_missing_file_names_the_nearest(tmp_path):
    canonical(tmp_path / "beauty")
    with pytest.raises(DataError, match=r"beuaty: no such file or folder; .* has beauty"):
        read(tmp_path / "beuaty", seed=1)
    with pytest.raises(DataError, match=r"has interactions.csv.gz"):
        read(tmp_path / "beauty" / "interaction.csv", seed=1)


def test_impossible_wishes_are_refused(tmp_path):
    path = put(tmp_path / "x.txt", "1 2 3\n")
    with pytest.raises(ConfigError, match="'sequenc' is unknown; did you mean 'sequence'"):
        read(path, seed=1, format="sequenc")
    with pytest.raises(ConfigError, match="has no ratings"):
        read(path, seed=1, min_rating=3)
    with pytest.raises(ConfigError, match="limit_users = -1"):
        read(path, seed=1, limit_users=-1)
    with pytest.raises(DataError, match="k_core = 5 leaves nothing of 2 interactions"):
        read(path, seed=1, k_core=5)


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=5),
            st.floats(allow_nan=False, allow_infinity=False),
        ),
        max_size=8,
    )
)
def test_quoted_text_and_numbers_survive(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("q") / "x.csv"
    body = "".join('"{}",{!r}\n'.format(text.replace('"', '""'), number) for text, number in rows)
    columns = read_delimited(put(path, "t,n\n" + body), Layout(), Wanted(texts=("t",), numbers=("n",)))
    assert columns["t"].to_pylist() == [text for text, _ in rows]
    assert floats(columns["n"]).tolist() == [number for _, number in rows]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("user_id\titem_id\ttimestamp", "separated by tabs; expected commas"),
        ("user_id;item_id;timestamp", "separated by semicolons; expected commas"),
        ("user_id item_id timestamp", "separated by spaces; expected commas"),
        ("user,item,timestamp", "expected user_id,item_id and timestamp or order"),
    ],
)
def test_a_header_that_is_almost_ours_is_not_read_as_data(tmp_path, header, words):
    path = tmp_path / "log.csv"
    path.write_text(f"{header}\nu,i,3\n")
    with pytest.raises(DataError, match=words):
        read(path, seed=0)
