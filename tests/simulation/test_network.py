import gzip
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.errors import ConfigError, ContractError, DataError
from device.seeds import draws
from simulation.network import PROFILES, Ideal, Losses, SpeedLink, SpeedProfile, link, profile
from simulation.traces import TraceLink, bandwidth, read_traces

FREE = {"losses": Losses(0.0), "source": "test"}


def send(connection, nbytes, at, *, up=False, step=1, seed=3):
    """One message per device 0..B-1."""
    nbytes = np.asarray(nbytes)
    devices = np.arange(nbytes.size)
    at = np.broadcast_to(np.asarray(at, float), nbytes.shape)
    keyed = {"draws": draws(seed, "transfer", devices, step), "devices": draws(seed, "link", devices)}
    return connection.send(nbytes, at, up=up, **keyed)


def trace_file(folder, text, name="trace.csv"):
    path = Path(folder) / name
    path.write_text(text)
    return str(path)


def costs(**more):
    return {"rtt_ms": 100.0, "jitter_ms": 0.0, "loss": 0.0, "up_mbps": 2.0} | more


def test_a_constant_link_by_hand():
    # rtt 100 ms -> 0.05 s one way; 125,000 B = 1 Mbit at 4 Mbit/s down = 0.25 s, at 2 Mbit/s up = 0.5 s
    fixed = SpeedLink(SpeedProfile(4.0, 0, 2.0, 0, 100.0, 0, 0, **FREE))
    np.testing.assert_allclose(send(fixed, [125_000, 0], 10.0).arrive_at, [10.30, 10.05])
    np.testing.assert_allclose(send(fixed, [125_000, 0], 10.0, up=True).arrive_at, [10.55, 10.05])


def test_ideal_is_at_once_and_only_by_name():
    sent = send(link("ideal"), [10**9, 0], [5.0, 6.0])
    assert isinstance(link("ideal"), Ideal)
    assert sent.arrive_at.tolist() == [5.0, 6.0]
    assert sent.attempts.tolist() == [1, 1]
    assert link("ideal").give_up_s == 0
    with pytest.raises(ConfigError, match="wifi, 5g, 4g, 3g, found 'ideal'"):
        profile("ideal")


@pytest.mark.parametrize(("wrong", "right"), [("4G", "4g"), ("wi-fi", "wifi"), ("5", "5g"), ("idela", "ideal")])
def test_unknown_names_get_the_nearest(wrong, right):
    with pytest.raises(ConfigError, match=f"did you mean '{right}'"):
        link(wrong)


@pytest.mark.parametrize("name", PROFILES)
def test_levels_belong_to_devices_and_have_the_stated_medians(name):
    devices = draws(1, "link", np.arange(20_000))
    down, up, rtt = SpeedLink(profile(name)).levels(devices)
    stated = profile(name)
    # the median of 20,000 lognormals is within 5 sigma/sqrt(n)*1.25 = 0.045 sigma of the stated one
    assert abs(np.log(np.median(down) / stated.down_mbps)) < 0.05 * stated.down_sigma
    assert abs(np.log(np.median(up) / stated.up_mbps)) < 0.05 * stated.up_sigma
    assert abs(np.log(np.median(rtt) * 1e3 / stated.rtt_ms)) < 0.05 * stated.rtt_sigma
    assert abs(np.log(down).std() - stated.down_sigma) < 0.03 * stated.down_sigma
    assert "ssumed" in stated.source
    assert "measured" in stated.source


def test_a_device_keeps_its_level_while_jitter_changes():
    steady = SpeedLink(SpeedProfile(4.0, 1.0, 2.0, 1.0, 100.0, 0.5, 0, **FREE))
    shaky = SpeedLink(SpeedProfile(4.0, 1.0, 2.0, 1.0, 100.0, 0.5, 20.0, **FREE))
    size = np.full(4000, 1000)
    np.testing.assert_array_equal(send(steady, size, 0).arrive_at, send(steady, size, 0, step=2).arrive_at)
    jitter = send(shaky, size, 0).arrive_at - send(steady, size, 0).arrive_at
    other = send(shaky, size, 0, step=2).arrive_at - send(steady, size, 0).arrive_at
    assert abs(jitter.mean() - 0.020) < 0.0016  # 5 standard errors of an exponential: 5 * 0.020 / sqrt(4000)
    assert abs(np.corrcoef(jitter, other)[0, 1]) < 0.08


def test_loss_repeats_after_the_timeout():
    losses = Losses(0.5, retries=2, timeout_s=3.0)
    lossy = SpeedLink(SpeedProfile(8.0, 0, 8.0, 0, 20.0, 0, 0, losses=losses, source="test"))
    sent = send(lossy, np.full(8000, 1_000_000), 100.0)
    # attempts 1, 2, 3 start at 100, 103, 106; each takes 0.01 s + 8 Mbit / 8 Mbit/s = 1.01 s
    expected = np.where(np.isfinite(sent.arrive_at), 100 + 3.0 * (sent.attempts - 1) + 1.01, np.inf)
    np.testing.assert_allclose(sent.arrive_at, expected)
    assert lossy.give_up_s == 9.0  # the third attempt starts after 6 s and times out 3 s later
    # lost for good: 0.5^3 = 1/8 of 8000 = 1000, standard deviation sqrt(8000 * 7 / 64) = 30
    assert abs(np.isinf(sent.arrive_at).sum() - 1000) < 150
    assert abs((sent.attempts == 1).sum() - 4000) < 225


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 10**7), min_size=1, max_size=20),
    st.integers(1, 10**7),
    st.floats(0, 1e6),
    st.sampled_from([*PROFILES]),
    st.booleans(),
    st.integers(0, 99),
)
def test_properties_of_every_profile(sizes, more, at, name, up, seed):
    heavy = SpeedProfile(*[getattr(profile(name), f) for f in SpeedProfile.__slots__[:7]], Losses(0.4), "test")
    connection = SpeedLink(heavy)
    one = send(connection, sizes, at, up=up, seed=seed)
    two = send(connection, np.array(sizes) + more, at, up=up, seed=seed)
    rtt = connection.levels(draws(seed, "link", np.arange(len(sizes))))[2]
    assert (two.arrive_at >= one.arrive_at).all()
    assert (one.arrive_at >= at + rtt / 2).all()
    delivered = np.isfinite(one.arrive_at).astype(int)
    assert (delivered + one.attempt_lost.sum(axis=1) == one.attempts).all()
    assert one.attempt_lost.shape == (len(sizes), 4)


def test_rows_do_not_depend_on_the_batch():
    connection = link("4g")
    both = send(connection, [5000, 7000, 9000], 2.0)
    keyed = {"draws": draws(3, "transfer", [2], 1), "devices": draws(3, "link", [2])}
    alone = connection.send(np.array([9000]), np.array([2.0]), up=False, **keyed)
    assert alone.arrive_at[0] == both.arrive_at[2]


@pytest.mark.parametrize(("size", "at"), [(-1, 0.0), (1, -1.0), (1, np.inf), (1, np.nan)])
def test_impossible_messages_are_refused(size, at):
    with pytest.raises(ContractError, match="send"):
        send(link("4g"), [size], at)


@pytest.mark.parametrize(
    "wrong", [{"loss": 1.0}, {"loss": -0.1}, {"loss": 0, "retries": -1}, {"loss": 0, "timeout_s": 0}]
)
def test_impossible_losses_are_refused(wrong):
    with pytest.raises(ConfigError, match="found"):
        Losses(**wrong)


def test_a_profile_without_speed_is_refused():
    with pytest.raises(ConfigError, match="down_mbps"):
        SpeedProfile(0.0, 0, 1.0, 0, 10.0, 0, 0, **FREE)


def test_a_trace_by_hand(tmp_path):
    # 0..1 s 1 Mbit/s, 1..2 s 0, 2..3 s 4 (the last holds the median gap, 1 s): 5 Mbit a turn of 3 s
    path = trace_file(tmp_path, "t_s,downlink_mbps\n10,1\n11,0\n12,4\n")
    connection = TraceLink(path, **costs())
    sizes = np.array([62_500, 125_000, 250_000, 1_250_000, 625_000])  # 0.5, 1, 2, 10, 5 Mbit
    assert connection.give_up_s == 8.0
    # from 0.5 s: 0.5 ends at 1.0; 1 at 2 + 0.5/4; 2 at 2 + 1.5/4; 10 = two turns -> 6.5; 5 = one turn -> 3.5
    np.testing.assert_allclose(send(connection, sizes, 0.5).arrive_at - 0.05, [1.0, 2.125, 2.375, 6.5, 3.5])
    # three turns later the same, and the uplink is 2 Mbit/s throughout
    np.testing.assert_allclose(send(connection, sizes, 9.5).arrive_at - 9.05, [1.0, 2.125, 2.375, 6.5, 3.5])
    np.testing.assert_allclose(send(connection, sizes, 0.5, up=True).arrive_at - 0.55, [0.25, 0.5, 1.0, 5.0, 2.5])


def slow_finish(seconds, speed, at, mbit):
    """Walks from sample to sample."""
    gaps = [b - a for a, b in pairwise(seconds)]
    gaps.append(float(np.median(gaps)) if gaps else 1.0)
    turn, clock = divmod(at, sum(gaps))
    clock, passed = turn * sum(gaps), clock
    index = 0
    while passed >= gaps[index] and index < len(gaps) - 1:
        passed, clock, index = passed - gaps[index], clock + gaps[index], index + 1
    while mbit > (gaps[index] - passed) * speed[index]:
        mbit, clock = mbit - (gaps[index] - passed) * speed[index], clock + gaps[index]
        passed, index = 0.0, (index + 1) % len(gaps)
    return clock + passed + (mbit / speed[index] if mbit else 0.0)


samples = st.lists(st.tuples(st.integers(1, 5), st.sampled_from([0.0, 0.25, 1.0, 7.5])), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(st.lists(samples, min_size=1, max_size=4), st.floats(0, 100), st.floats(0.01, 60))
def test_trace_integration_equals_a_walk(traces, at, mbit):
    named = {}
    for number, trace in enumerate(traces):
        speed = np.array([s for _, s in trace])
        speed[0] += 0.5
        named[str(number)] = (np.cumsum([g for g, _ in trace]).astype(float), speed)
    rows = np.arange(len(named))
    found = bandwidth(named).finish(rows, np.full(rows.size, at), np.full(rows.size, mbit))
    expected = [slow_finish(list(t), list(s), at, mbit) for t, s in named.values()]
    # where bandwidth is 0 the finishing time jumps with the last bit of a sum: the carried amount is compared there
    early = bandwidth(named).finish(rows, np.full(rows.size, at), np.full(rows.size, mbit - 1e-6))
    late = bandwidth(named).finish(rows, np.full(rows.size, at), np.full(rows.size, mbit + 1e-6))
    assert ((early - 1e-6 <= expected) & (expected <= late + 1e-6)).all()
    assert ((early - 1e-6 <= found) & (found <= late + 1e-6)).all()
    assert (found >= at).all()


def test_traces_are_drawn_per_device_or_named(tmp_path):
    rows = "".join(f"{name},{t},{speed},{speed / 2}\n" for name, speed in (("a", 1), ("b", 8)) for t in (0, 1))
    path = trace_file(tmp_path, "trace_id,t_s,downlink_mbps,uplink_mbps\n" + rows)
    both = TraceLink(path, **costs(up_mbps=None, up_column="uplink_mbps"))
    size = np.full(1000, 1_000_000)  # 8 Mbit: 8 s or 1 s down, 16 s or 2 s up
    down, up = send(both, size, 0).arrive_at - 0.05, send(both, size, 0, up=True, step=2).arrive_at - 0.05
    np.testing.assert_allclose(up, 2 * down)
    assert abs(np.isclose(down, 8).sum() - 500) < 80
    assert (np.isclose(down, 8) | np.isclose(down, 1)).all()
    named = TraceLink(path, **costs(trace="b"))
    np.testing.assert_allclose(send(named, size, 0).arrive_at, 1.05)
    with pytest.raises(ConfigError, match="has no trace 'c'; it has a, b"):
        TraceLink(path, **costs(trace="c"))


def test_rows_are_chosen_and_equal_times_averaged(tmp_path):
    path = Path(tmp_path) / "t.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("trace_id,app,t_s,downlink_mbps\nx,Video,0,9\nx,Download,0,2\nx,Download,0,4\nx,Download,1,5\n")
    traces = read_traces(path, "downlink_mbps", only={"app": "Download"})
    assert {name: [column.tolist() for column in trace] for name, trace in traces.items()} == {"x": [[0, 1], [3, 5]]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t_s,downlink_mbps\n0,1\n1,fast\n", "line 3, downlink_mbps: expected a finite number >= 0, found 'fast'"),
        ("t_s,downlink_mbps\n0,1\n1,-2\n", "line 3, downlink_mbps"),
        ("t_s,downlink_mbps\n0,nan\n", "line 2, downlink_mbps"),
        ("t_s,downlink_mbps\n0\n", "line 2, downlink_mbps: .* found ''"),
        ("t_s,downlink_mbps\n5,1\n4,1\n", "line 3, t_s: expected"),
        ("t_s,speed\n0,1\n", "line 1: expected .*downlink_mbps.* found t_s, speed"),
        ("t_s,downlink_mbps\n", "at least one row"),
        ("", "line 1: expected"),
        ("t_s,downlink_mbps\n0,0\n1,0\n", "only 0 Mbit/s"),
    ],
)
def test_bad_traces_name_file_and_line(tmp_path, text, message):
    with pytest.raises(DataError, match=f"trace.csv.*{message}"):
        TraceLink(trace_file(tmp_path, text), **costs())


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv: cannot be read"):
        TraceLink(str(tmp_path / "nowhere.csv"), **costs())
    with pytest.raises(DataError, match=r"not a readable CSV file"):
        TraceLink(trace_file(tmp_path, "no gzip", "broken.csv.gz"), **costs())


@pytest.mark.parametrize(
    "wrong", [{"up_mbps": None}, {"up_column": "uplink_mbps"}, {"rtt_ms": 0.0}, {"jitter_ms": -1.0}, {"loss": 1.0}]
)
def test_nothing_is_free_by_omission(tmp_path, wrong):
    with pytest.raises(ConfigError, match="found"):
        TraceLink(trace_file(tmp_path, "t_s,downlink_mbps\n0,1\n"), **costs(**wrong))
    with pytest.raises(TypeError, match="rtt_ms"):
        TraceLink("unused.csv", jitter_ms=0.0, loss=0.0, up_mbps=1.0)


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "options", "traces"),
    [
        ("lte_4g_ghent", {}, 40),
        ("hsdpa_3g_norway", {}, 224),
        ("irish_5g_production", {"only": {"app": "Download"}}, None),
        ("us_cellular_updown_1s", {"only": {"direction": "down"}, "down_column": "capacity_mbps"}, None),
    ],
)
def test_published_traces(name, options, traces):
    path = Path(os.environ.get("TANDEMREC_DATA", "")) / "device-traces" / "network" / f"{name}.csv.gz"
    if not path.exists():
        pytest.skip("TANDEMREC_DATA does not hold the device traces")
    connection = TraceLink(str(path), **costs(**options))
    sent = send(connection, np.full(2000, 20_000), np.linspace(0, 5000, 2000))
    assert traces in (None, len(connection.names))
    assert np.isfinite(sent.arrive_at).all()
    assert (sent.arrive_at - np.linspace(0, 5000, 2000) >= 0.05).all()
