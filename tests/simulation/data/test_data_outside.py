"""Users that are no devices: none of the fleet's clicks is in the stream, and the catalogue stays whole."""

import numpy as np
import pytest
from hand_made import dataset
from tiny import TOML, refused, tandemrec, written

from device.errors import ConfigError
from simulation.data.build import sampled
from simulation.data.outside import set_aside
from simulation.data.read import read
from simulation.runs import Run

HOURS = 20.0 * 3600


def rows(users=60, clicks=12, articles=30, seed=0):
    """(user, article, second): articles are read in the order of their numbers, a few at any time."""
    numbers = np.random.default_rng(seed)
    made = []
    for user in range(users):
        at = np.sort(numbers.choice(int(HOURS), clicks, replace=False))
        newest = (at / HOURS * (articles - 5)).astype(int)
        made += [(f"u{user:03d}", f"a{n + numbers.integers(5):03d}", int(t)) for n, t in zip(newest, at, strict=True)]
    return made


def file(folder, made):
    path = folder / "interactions.csv"
    path.write_text("user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in made), encoding="utf-8")
    return path


def test_by_hand():
    data = dataset([[1, 2], [3], [2, 4, 1]], [[5.0, 9.0], [1.0], [2.0, 7.0, 8.0]])
    kept = sampled(3, 1)
    (inside,) = np.flatnonzero(kept)
    cut = set_aside(data, 1)
    assert cut.users.tolist() == data.users[kept].tolist()
    assert cut.item.tolist() == data.item[data.offsets[inside] : data.offsets[inside + 1]].tolist()
    assert cut.items.tolist() == data.items.tolist()  # the whole catalogue
    clicks = sorted((data.at[e], data.item[e]) for e in range(6) if data.owner[e] != inside)
    assert list(zip(cut.outside.at, cut.outside.item, strict=True)) == clicks
    assert cut.content_hash() != set_aside(data, 2).content_hash()


def test_the_devices_are_those_of_a_run_without_a_stream(tmp_path):
    made = rows()
    path = file(tmp_path, made)
    plain, cut = (read(path, seed=3, limit_users=20, stream=stream) for stream in (False, True))
    assert plain.outside is None
    assert cut.users.tolist() == plain.users.tolist()
    assert cut.offsets.tolist() == plain.offsets.tolist()
    assert cut.items[cut.item - 1].tolist() == plain.items[plain.item - 1].tolist()
    assert cut.at.tolist() == plain.at.tolist()
    devices = set(cut.users)
    others = [(t, i) for u, i, t in made if u not in devices]
    heard = zip(cut.outside.at.tolist(), cut.items[cut.outside.item - 1].tolist(), strict=True)
    assert sorted(heard) == sorted(others)
    assert len(others) == 40 * 12


def test_what_the_fleet_clicks_does_not_change_the_stream(tmp_path):
    made = rows()
    cut = read(file(tmp_path, made), seed=3, limit_users=20, stream=True)
    devices = set(cut.users)
    changed = [(u, "a000" if u in devices else i, t) for u, i, t in made]
    again = read(file(tmp_path, changed), seed=3, limit_users=20, stream=True)
    assert cut.outside.at.tolist() == again.outside.at.tolist()
    assert cut.items[cut.item - 1].tolist() != again.items[again.item - 1].tolist()
    named, renamed = (data.items[data.outside.item - 1].tolist() for data in (cut, again))
    assert named == renamed


@pytest.mark.parametrize("users", [None, 60, 100])
def test_somebody_must_be_outside(tmp_path, users):
    with pytest.raises(ConfigError, match="set \\[data\\] users to fewer"):
        read(file(tmp_path, rows()), seed=3, limit_users=users, stream=True)


def test_times_must_be_recorded():
    with pytest.raises(ConfigError, match="recorded times"):
        set_aside(dataset([[1], [2]]), 1)


def news(folder, data="users = 30\nstream = true", generator="cloud.generators.recent:Recent", made=None):
    path = file(folder, made or rows())
    text = TOML.replace(
        "split = { leave_last = 3, validation = 2 }\nsynthetic = { users = 40, items = 80, topics = 5, length = 16 }",
        f'path = "{path}"\n{data}\nsplit = {{ global_time = [0.6, 0.8] }}',
    ).replace("cloud.generators.floors:Markov", generator)
    return written(folder, text)


def news_run(folder, made):
    """The run over these clicks, of 30 devices whose last step is before HOURS."""
    folder.mkdir()
    said = tandemrec("run", news(folder, made=made), "--runs", folder / "runs")
    assert said.code == 0, said.err
    (path,) = (folder / "runs").glob("tiny-*")
    return Run.open(path)


def test_a_run_of_the_news_generator_lists_what_was_new_after_the_training(tmp_path):
    made = rows()
    devices = read(file(tmp_path, made), seed=5, limit_users=30, stream=True)
    cut = float(np.quantile(devices.recorded, 0.8))
    first = {}
    for _, article, at in made:
        first[article] = min(at, first.get(article, at))
    run = news_run(tmp_path / "run", made)
    listed = np.unique(np.concatenate(run.recommendations["items"].to_list()))
    newer = [article for article in devices.items[listed[listed > 0] - 1] if first[article] >= cut]
    assert len(newer) > 0


def test_what_is_clicked_after_the_last_step_changes_nothing(tmp_path):
    """Two streams that part a minute after the last step, and one that parts from them before."""
    made = rows()
    devices = set(read(file(tmp_path, made), seed=5, limit_users=30, stream=True).users)
    others = [(u, i, t) for u, i, t in made if u not in devices]
    late = {article: [*made, *((u, article, HOURS + 60) for u, *_ in others)] for article in ("a003", "a017")}
    early = [
        (u, "a017" if u not in devices and t > 0.9 * HOURS and n % 2 else i, t) for n, (u, i, t) in enumerate(made)
    ]
    one, other, before = (news_run(tmp_path / name, clicks) for name, clicks in (*late.items(), ("before", early)))
    assert one.summary["decision_hash"] == other.summary["decision_hash"]
    assert one.recommendations.equals(other.recommendations)
    assert one.summary["decision_hash"] != before.summary["decision_hash"]


def test_a_stream_that_nobody_hears_is_refused_before_anything_is_trained(tmp_path):
    path = news(tmp_path, generator="cloud.generators.floors:Markov")
    said = refused(tandemrec("run", path, "--runs", tmp_path / "runs"))
    assert "[data] stream has no effect: cloud.generators.floors:Markov does not listen to it; take it out" in said
    assert not (tmp_path / "runs" / "models").exists()


def test_it_needs_a_stream(tmp_path):
    assert "learns from [data] stream; set it" in refused(
        tandemrec("run", news(tmp_path, "users = 30"), "--runs", tmp_path / "runs")
    )
