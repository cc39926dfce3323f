"""Every file format from small files written here; item numbering and filters."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hand_made import EVENTS, EXPECTED, REVIEW, canonical, names, put

from device.errors import DataError
from simulation.data.read import detect, read
from simulation.data.table import coded


def test_canonical_folder(tmp_path):
    data = read(canonical(tmp_path / "shop"), seed=1)
    assert names(data) == EXPECTED
    assert data.users.tolist() == ["7", "12"]
    assert data.at.tolist() == [10, 20, 30, 5, 6]
    assert (data.name, data.timed, data.session) == ("shop", True, None)
    assert dict(zip(data.items, data.titles, strict=True)) == {"a": "A, the first", "b": "", "c": "C"}


def test_order_sessions_and_titles_in_one_file(tmp_path):
    text = "user_id,item_id,order,session_id,title\nu,a,1,s2,A\nu,b,0,s1,B\nv,a,0,s3,A\n"
    data = read(put(tmp_path / "x.csv", text), seed=1)
    assert names(data) == {"u": ["b", "a"], "v": ["a"]}
    assert not data.timed
    assert data.session.tolist() == [0, 1, 2]
    assert (np.diff(data.at[:2]) > 0).all()
    assert sorted(data.titles) == ["A", "B"]


def test_a_timestamp_goes_before_an_order_which_breaks_its_ties(tmp_path):
    text = "user_id,item_id,order,timestamp\nu,a,1,5\nu,b,0,5\nu,c,2,1\n"
    data = read(put(tmp_path / "x.csv", text), seed=1)
    assert names(data) == {"u": ["c", "b", "a"]}
    assert data.tied.tolist() == [False, False, True]


def test_ties_without_an_order_stay_as_in_the_file(tmp_path):
    text = "user_id,item_id,timestamp\n" + "".join(f"u,{i},86400\n" for i in (3, 1, 2, 9, 4))
    assert names(read(put(tmp_path / "x.csv", text), seed=1)) == {"u": ["3", "1", "2", "9", "4"]}


def test_parquet_with_integer_ids_and_datetimes(tmp_path):
    times = pa.array([1_500_000, 500_000], pa.timestamp("us"))
    table = pa.table({"user_id": [1, 1], "item_id": [10, 9], "timestamp": times})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    data = read(tmp_path / "x.parquet", seed=1)
    assert names(data) == {"1": ["9", "10"]}
    assert data.at.tolist() == [0.5, 1.5]


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path):
    text = "\ufeffuser_id,item_id,timestamp\r\nu,a,1\r\n\r\nu,b,2\r\n"
    path = put(tmp_path / "x.csv", text)
    assert names(read(path, seed=1)) == {"u": ["a", "b"]}
    with pytest.raises(DataError, match="line 5: column 'timestamp': found 'x'"):
        read(put(path, text + "u,c,x\r\n"), seed=1)


def test_movielens_100k(tmp_path):
    put(tmp_path / "u.data", "".join(f"{u}\t{ord(i)}\t{r}\t{t}\n" for u, i, r, t in EVENTS))
    put(tmp_path / "u.item", "97|Amélie|" + "|".join("0" * 22) + "\n", "latin-1")
    for path in (tmp_path, tmp_path / "u.data"):
        data = read(path, seed=1)
        assert names(data) == {"7": ["97", "99", "98"], "12": ["97", "99"]}
        assert data.titles[data.items.tolist().index("97")] == "Amélie"


def test_movielens_1m(tmp_path):
    put(tmp_path / "ratings.dat", "".join(f"{u}::{i}::{r}::{t}\n" for u, i, r, t in EVENTS))
    put(tmp_path / "movies.dat", 'a::Amélie: "the" film::Comedy\n', "latin-1")
    data = read(tmp_path, seed=1)
    assert names(data) == EXPECTED
    assert sorted(data.titles) == ["", "", 'Amélie: "the" film']


def test_movielens_latest_with_rating_filter(tmp_path):
    put(
        tmp_path / "ratings.csv",
        "userId,movieId,rating,timestamp\n" + "".join(f"{u},{i},{r},{t}\n" for u, i, r, t in EVENTS),
    )
    put(tmp_path / "movies.csv", 'movieId,title,genres\na,"A, B",x\n')
    assert names(read(tmp_path, seed=1)) == EXPECTED
    data = read(tmp_path, seed=1, min_rating=3)
    assert names(data) == {"7": ["a", "c", "b"]}


def test_amazon_2014_reviews_with_literal_metadata(tmp_path):
    path = put(tmp_path / "reviews_Toys_5.json.gz", "".join(REVIEW.format(*event) for event in EVENTS))
    put(tmp_path / "meta_Toys.json.gz", "{'asin': 'a', 'title': \"A's\", 'price': 3}\n" + '{"asin": "b"}\n')
    put(tmp_path / "meta_Tools.json.gz", "{'asin': 'a', 'title': 'wrong'}\n")
    data = read(path, seed=1)
    assert names(data) == EXPECTED
    assert sorted(data.titles) == ["", "", "A's"]


def asins(rows):
    return [(f"A{u:>013}", f"B00000000{i.upper()}", r, t) for u, i, r, t in rows]


def test_amazon_2018_and_2014_ratings_are_told_apart_by_the_asin(tmp_path):
    new = put(tmp_path / "Toys.csv", "".join(f"{i},{u},{r}.0,{t}\n" for u, i, r, t in asins(EVENTS)))
    old = put(tmp_path / "ratings_Toys.csv", "".join(f"{u},{i},{r}.0,{t}\n" for u, i, r, t in asins(EVENTS)))
    assert (detect(new), detect(old)) == ("amazon-2018", "amazon-2014-ratings")
    expected = {f"A{u:>013}": [f"B00000000{i.upper()}" for i in items] for u, items in EXPECTED.items()}
    assert names(read(new, seed=1)) == names(read(old, seed=1)) == expected
    unclear = put(tmp_path / "x.csv", "1,2,3,4\n")
    with pytest.raises(DataError, match="which is the item"):
        read(unclear, seed=1)
    assert names(read(unclear, seed=1, format="amazon-2018")) == {"2": ["1"]}


def test_amazon_2023_counts_milliseconds(tmp_path):
    rows = "".join(f"{u},{i},{r}.0,{t}500\n" for u, i, r, t in EVENTS)
    data = read(put(tmp_path / "Toys.csv.gz", "user_id,parent_asin,rating,timestamp\n" + rows), seed=1)
    assert names(data) == EXPECTED
    assert data.at.tolist() == [10.5, 20.5, 30.5, 5.5, 6.5]


def test_recbole(tmp_path):
    head = "item_id:token\tuser_id:token\trating:float\ttimestamp:float\n"
    put(tmp_path / "x.inter", head + "".join(f"{i}\t{u}\t{r}\t{t}\n" for u, i, r, t in EVENTS))
    put(tmp_path / "x.item", 'item_id:token\tmovie_title:token_seq\nb\t"B\n')
    data = read(tmp_path, seed=1)
    assert names(data) == EXPECTED
    assert sorted(data.titles) == ["", "", '"B']
    untimed = put(
        tmp_path / "y" / "y.inter", "user_id:token\titem_id:token\n" + "".join(f"{e[0]}\t{e[1]}\n" for e in EVENTS)
    )
    data = read(untimed, seed=1)
    assert names(data) == {"7": ["b", "a", "c"], "12": ["a", "c"]}
    assert not data.timed


def test_sequence_text(tmp_path):
    data = read(put(tmp_path / "x.txt", "7 a c\n\n12 a c\r\n7 b\n"), seed=1)
    assert names(data) == EXPECTED
    assert not data.timed


def test_item_ids_are_a_seeded_permutation_or_the_order_of_appearance(tmp_path):
    rows = [("u", f"i{k}", 3, k) for k in (5, 3, 8, 1, 9, 2)]
    path = canonical(tmp_path, rows)
    first = read(path, seed=1, permute_ids=False)
    assert first.items.tolist() == ["i5", "i3", "i8", "i1", "i9", "i2"]
    numberings = {tuple(read(path, seed=seed).items) for seed in range(6)}
    assert len(numberings) > 4
    assert all(sorted(items) == sorted(first.items) for items in numberings)
    assert all(names(read(path, seed=seed)) == names(first) for seed in range(3))


def test_the_permutation_depends_on_the_ids_not_on_the_order_of_lines(tmp_path):
    back = canonical(tmp_path / "back", EVENTS[::-1])
    assert read(canonical(tmp_path / "forth"), seed=3).content_hash() == read(back, seed=3).content_hash()


def test_k_core_and_limit_users(tmp_path):
    rows = [(str(u), str(i), 3, 10 * u + i) for u in range(30) for i in range(3)] + [
        ("99", "x", 3, 1),
        ("1", "y", 3, 1),
    ]
    data = read(canonical(tmp_path, rows), seed=1, k_core=3)
    assert (data.n_users, data.n_items, data.n_events) == (30, 3, 90)
    # Seeds number the items anew, but what users there are and what they do is the same for all: seeds can be paired.
    one, two = (read(tmp_path, seed=seed, k_core=3, limit_users=5) for seed in (1, 2))
    assert len(one.users) == 5
    assert names(one) == names(two)
    assert one.at.tolist() == two.at.tolist()
    assert one.item.tolist() != two.item.tolist()
    assert one.users.tolist() not in (data.users[:5].tolist(), sorted(data.users)[:5])
    assert read(tmp_path, seed=1, limit_users=1000).n_users == 31


def test_ids_sort_as_numbers_only_where_all_are():
    assert coded(pa.array(["10", "9", "10", "007", "7"]))[0].tolist() == ["007", "7", "9", "10"]
    texts, codes = coded(pa.array(["10", "9", "x"]))
    assert texts.tolist() == ["10", "9", "x"]
    assert texts[codes].tolist() == ["10", "9", "x"]
