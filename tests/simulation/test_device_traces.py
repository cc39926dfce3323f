import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.errors import ConfigError, DataError
from device.profile import BUILT_IN
from simulation.device_traces import (
    Speeds,
    TraceTier,
    read_availability,
    read_speeds,
    tier_of,
    tiers_from_traces,
)

LIST = """phone_model,vit_latency_ms,resnet_latency_ms
Old,,800
Google Pixel 3,400.0,200.0
Twice,,90
Twice,,130
Nobody knows,,
Slow,,400
"""


def written(folder, text, name="phones.csv"):
    path = Path(folder) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["phones.csv", "phones.csv.gz"])
def test_latencies_by_hand(tmp_path, name):
    speeds = read_speeds(written(tmp_path, LIST, name))
    # Twice: median of 90 and 130 = 110, of 200 = 0.55; Slow 400 / 200 = 2; Old 800 / 200 = 4
    assert speeds.phones == ("Twice", "Google Pixel 3", "Slow", "Old")
    np.testing.assert_allclose(speeds.scale, [0.55, 1, 2, 4])
    assert speeds.blank == 1
    assert speeds.source == f"{name}, resnet_latency_ms"


def test_scores_are_the_other_way_round(tmp_path):
    path = written(tmp_path, "phone_model,cpu_float_score\nGoogle Pixel 3,2000\nSlow,500\nFast,4000\n")
    speeds = read_speeds(path, column="cpu_float_score")
    assert dict(zip(speeds.phones, speeds.scale.tolist(), strict=True)) == {
        "Fast": 0.5,
        "Google Pixel 3": 1,
        "Slow": 4,
    }


def test_another_reference(tmp_path):
    speeds = read_speeds(written(tmp_path, LIST), reference="Slow")
    np.testing.assert_allclose(speeds.scale, [0.275, 0.5, 1, 2])


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        (LIST, {"column": "resnet"}, ConfigError, "ends in _ms .* found 'resnet'; give one"),
        (LIST, {"column": "mobilenet_ms"}, DataError, "line 1: expected the columns mobilenet_ms"),
        (LIST, {"reference": "iPhone"}, DataError, "reference phone 'iPhone', found 4 others; add a row"),
        (LIST + "Bad,,0\n", {}, DataError, "line 8, resnet_latency_ms: expected a number > 0, found '0'"),
        (LIST + "Bad,,fast\n", {}, DataError, "line 8, resnet_latency_ms: expected a finite number .* found 'fast'"),
        ("phone_model,resnet_latency_ms\n", {}, DataError, "reference phone 'Google Pixel 3', found 0 others"),
    ],
)
def test_wrong_lists(tmp_path, text, options, error, message):
    with pytest.raises(error, match=message):
        read_speeds(written(tmp_path, text), **options)


def test_no_list(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_speeds(tmp_path / "phones.csv")


def ten() -> Speeds:
    return Speeds(tuple("abcdefghij"), np.arange(1.0, 11.0), 0, "ten")


def test_tiers_by_hand():
    high, mid, low = tiers_from_traces(ten(), {"high": 0.2, "mid": 0.5, "low": 0.3})
    # phones 1, 2 | 3..7 | 8, 9, 10
    assert [(tier.first, tier.last, tier.scale) for tier in (high, mid, low)] == [
        (0, 2, 1.5),
        (2, 7, 5.0),
        (7, 10, 9.0),
    ]
    assert [tier.share for tier in (high, mid, low)] == pytest.approx([0.2, 0.5, 0.3])


def test_tiers_of_a_file(tmp_path):
    fast, slow = tiers_from_traces(written(tmp_path, LIST), {"fast": 1, "slow": 1})
    assert [fast.scale, slow.scale] == pytest.approx([0.775, 3])  # (0.55 + 1) / 2, (2 + 4) / 2


def test_a_tier_as_profile():
    tier = TraceTier("cheap", 0.3, 7, 10, 9.0, "ten")
    made = tier.profile(BUILT_IN["entry"])
    assert (made.name, made.compute, made.ram_bytes) == ("cheap", 9.0, BUILT_IN["entry"].ram_bytes)
    assert made.source.startswith("Compute: median of 3 phones of ten. Else 'entry': Xiaomi")


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({}, "expected at least one tier, found none"),
        ({"a": 1.0, "b": 0.0}, "share of tier 'b': expected a finite number > 0, found 0.0"),
        ({"a": 1.0, "b": 0.01}, "share of tier 'b': 0.01 is none of the 10 phones of ten; raise it"),
    ],
)
def test_wrong_shares(shares, message):
    with pytest.raises(ConfigError, match=message):
        tiers_from_traces(ten(), shares)


@given(st.lists(st.floats(0.6, 1), min_size=1, max_size=5))
def test_tiers_part_the_list(weights):
    made = tiers_from_traces(ten(), {str(i): weight for i, weight in enumerate(weights)})
    assert made[0].first == 0
    assert made[-1].last == 10
    assert [tier.last for tier in made[:-1]] == [tier.first for tier in made[1:]]
    assert sum(tier.share for tier in made) == pytest.approx(1)
    assert (np.diff([tier.scale for tier in made]) > 0).all()
    inside = tier_of(made, np.arange(10))
    assert all(made[tier].first <= phone < made[tier].last for phone, tier in enumerate(inside))


def test_draws_depend_on_seed_and_device_only():
    speeds = ten()
    drawn = speeds.drawn(1, np.arange(20_000))
    np.testing.assert_array_equal(speeds.drawn(1, [19_999, 3, 5]), drawn[[19_999, 3, 5]])
    assert (speeds.drawn(2, np.arange(100)) != drawn[:100]).any()
    counts = np.bincount(drawn, minlength=10)
    # uniform over 10 phones: 2000 each, standard deviation sqrt(20000 * 0.1 * 0.9) = 42
    assert np.abs(counts - 2000).max() < 5 * 42


DEVICES = "device_id,trace_start_s,trace_end_s\n7,1000,1100\n9,500,550\n8,0,10\n"
INTERVALS = """device_id,eligible_start_s,eligible_end_s
7,1010,1020
9,500,510
7,1050,1050
7,1050,1060
9,540,550
"""


def phones(folder, devices=DEVICES, intervals=INTERVALS):
    written(folder, devices, "flash_devices.csv.gz")
    written(folder, intervals, "flash_eligible_intervals.csv.gz")
    return folder


def test_availability_by_hand(tmp_path):
    times = read_availability(phones(tmp_path))
    assert times.phones == ("7", "9", "8")
    np.testing.assert_allclose(times.length, [100, 50, 10])
    np.testing.assert_allclose(times.share, [0.2, 0.4, 0.0])  # (10 + 0 + 10) / 100, (10 + 10) / 50, none
    # Phone 7 at 10..20 and 50..60 of every 100 s; phone 9 at 0..10 and 40..50 of every 50 s; phone 8 never.
    at = [5, 10, 19.9, 20, 55, 60, 155, 99]
    assert times.available(np.zeros(8, np.int64), np.array(at)).tolist() == [0, 1, 1, 0, 1, 0, 1, 0]
    at = [0, 9.9, 10, 45, 49.9, 50, 160]
    assert times.available(np.ones(7, np.int64), np.array(at)).tolist() == [1, 1, 0, 1, 1, 1, 0]
    assert not times.available(np.full(20, 2), np.arange(20.0)).any()


def test_availability_of_phones_that_never_are(tmp_path):
    times = read_availability(phones(tmp_path, intervals="device_id,eligible_start_s,eligible_end_s\n"))
    assert times.share.tolist() == [0, 0, 0]
    assert not times.available(np.array([0, 1, 2]), np.array([5.0, 5.0, 5.0])).any()


def test_share_is_what_is_available(tmp_path):
    times = read_availability(phones(tmp_path))
    moments = np.arange(0, 1000, 0.5)  # every length divides 1000
    for phone, share in enumerate(times.share):
        assert times.available(np.full(moments.size, phone), moments).mean() == pytest.approx(share)
    drawn = times.drawn(3, np.arange(300))
    np.testing.assert_array_equal(times.drawn(3, [7]), drawn[[7]])
    assert set(drawn.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("devices", "intervals", "message"),
    [
        ("device_id,trace_start_s,trace_end_s\n", INTERVALS, "expected at least one phone, found none"),
        ("device_id,trace_start_s,trace_end_s\n7,5,5\n", INTERVALS, "line 2: expected a start before the end"),
        (DEVICES, INTERVALS + "1,0,5\n", "line 7, device_id: expected a phone of flash_devices, found '1'"),
        (DEVICES, INTERVALS + "7,1055,1070\n", "line 7: expected an interval within 1060.0 to 1100.0, found 1055.0"),
        (DEVICES, INTERVALS + "7,1090,1101\n", "line 7: expected an interval within"),
        (DEVICES, INTERVALS + "7,1090,1080\n", "line 7: expected an interval within"),
        (DEVICES, "device_id,eligible_start_s\n", "line 1: expected the columns eligible_end_s"),
    ],
)
def test_wrong_availability(tmp_path, devices, intervals, message):
    with pytest.raises(DataError, match=message):
        read_availability(phones(tmp_path, devices, intervals))


@pytest.fixture
def traces(data_dir):
    folder = data_dir / "device-traces"
    if not folder.is_dir():
        pytest.skip("TANDEMREC_DATA does not hold the device traces")
    return folder


@pytest.mark.data
def test_published_latencies_and_scores(traces):
    latency = read_speeds(traces / "compute" / "phone_latency_vit_resnet.csv.gz")
    score = read_speeds(traces / "compute" / "ai_benchmark_phones.csv.gz", column="cpu_float_score")
    by_latency = dict(zip(latency.phones, latency.scale, strict=True))
    by_score = dict(zip(score.phones, score.scale, strict=True))
    assert latency.blank == 19
    assert (len(latency.phones), len(score.phones)) == (933, 307)
    assert np.median(latency.scale) == pytest.approx(174 / 159, abs=1e-3)
    for name, phone in (
        ("high-end", "Samsung Galaxy S23"),
        ("mid-range", "Samsung Galaxy A52"),
        ("entry", "Xiaomi Redmi 9A"),
        ("tv-box", "Raspberry Pi 4"),
    ):
        assert BUILT_IN[name].compute == pytest.approx(by_latency[phone])
    # The list of scores holds two phones of that name, of 2015 and of 2016: 347 and 381.
    assert by_score["Samsung Galaxy J5"] == pytest.approx(2324 / 364)
    # The two lists, of other makers and years, agree on who is how fast.
    both = np.array([[by_latency[phone], by_score[phone]] for phone in by_latency if phone in by_score])
    assert len(both) > 100
    assert np.corrcoef(np.log(both.T))[0, 1] > 0.9


@pytest.mark.data
def test_tiers_of_published_latencies(traces):
    path = traces / "compute" / "phone_latency_vit_resnet.csv.gz"
    tiers = tiers_from_traces(path, {"high": 0.3, "mid": 0.4, "low": 0.3})
    assert [round(tier.scale, 2) for tier in tiers] == [0.51, 1.09, 2.54]
    drawn = tier_of(tiers, read_speeds(path).drawn(1, np.arange(10_000)))
    np.testing.assert_allclose(np.bincount(drawn) / 1e4, [0.3, 0.4, 0.3], atol=0.02)


@pytest.mark.data
def test_published_availability(traces):
    times = read_availability(traces / "availability")
    assert len(times.phones) == 710
    assert (times.share == 0).sum() == 6
    assert np.median(times.share) == pytest.approx(0.0547, abs=1e-4)
    moments = np.random.default_rng(0).uniform(0, 1e7, 50_000)
    drawn = times.drawn(1, np.arange(50_000))
    assert times.available(drawn, moments).mean() == pytest.approx(times.share.mean(), abs=0.005)
