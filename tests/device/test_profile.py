import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.errors import ConfigError
from device.profile import BUILT_IN, PRECISIONS, DeviceProfile, battery, fits, misfits, profile_of

PHONE = DeviceProfile("phone", 2.0, 1_000_000, 10_000, ("float32", "int8"), "4g", 0.5, 1000.0, "test")


def test_fits_at_its_limits_and_not_beyond():
    # 5% of 1,000,000 bytes of RAM = 50,000 for a step; installations up to 10,000
    assert PHONE.memory_bytes == 50_000
    assert fits(PHONE, 10_000, 50_000)
    assert not fits(PHONE, 10_001, 50_000)
    assert not fits(PHONE, 10_000, 50_001)
    assert fits(PHONE, 1, 1, precision="int8")
    assert not fits(PHONE, 1, 1, precision="float16")


def test_misfits_name_place_value_and_remedy():
    size, memory, precision = misfits(PHONE, 10_001, 50_001, precision="float16")
    assert size == (
        "profile 'phone': an installation of 10001 bytes, more than its model_bytes = 10000; "
        "install a smaller subnet or an int8 table"
    )
    assert "a step of 50001 bytes, more than 5% of its ram_bytes = 1000000; take a narrower subnet" in memory
    assert "precision float16, found only float32, int8; export in one of these" in precision


@given(st.integers(0, 20_000), st.integers(0, 100_000), st.sampled_from(PRECISIONS))
def test_what_fits_still_fits_when_smaller(nbytes, memory, precision):
    if fits(PHONE, nbytes, memory, precision=precision):
        assert fits(PHONE, nbytes // 2, memory // 2, precision=precision)
    assert fits(PHONE, nbytes, memory, precision=precision) == (
        nbytes <= 10_000 and memory <= 50_000 and precision != "float16"
    )


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("name", " ", "expected a name"),
        ("compute", 0.0, "expected a finite number > 0"),
        ("compute", math.inf, "expected a finite number > 0"),
        ("compute", math.nan, "expected a finite number > 0"),
        ("ram_bytes", 0, "expected a whole number of bytes > 0"),
        ("ram_bytes", 1e6, "expected a whole number of bytes > 0"),
        ("ram_bytes", True, "expected a whole number of bytes > 0"),
        ("model_bytes", 1_000_001, "at most ram_bytes"),
        ("precisions", (), "some of float32, float16, int8, each once"),
        ("precisions", ("int8", "int8"), "each once"),
        ("precisions", ("bfloat16",), "some of float32, float16, int8"),
        ("link", "", "the name of a link or the path of a trace"),
        ("j_per_gflop", -1.0, "finite joules >= 0"),
        ("battery_j", 0.0, "joules > 0, inf on the mains"),
        ("battery_j", math.nan, "joules > 0"),
        ("source", "", "or 'declared'"),
    ],
)
def test_impossible_values_are_refused(field, value, expected):
    with pytest.raises(ConfigError, match=f", {field}: expected .*found .*correct the profile") as caught:
        replace(PHONE, **{field: value})
    assert expected in str(caught.value)


def test_battery_by_hand():
    # 1000 mAh = 3600 C, at 3.85 V = 13,860 J
    assert battery(1000) == pytest.approx(13_860)


def test_built_in_profiles():
    assert list(BUILT_IN) == ["high-end", "mid-range", "entry", "old", "watch", "tv-box"]
    assert all(name == made.name for name, made in BUILT_IN.items())
    phones = [BUILT_IN[name] for name in ("high-end", "mid-range", "entry", "old")]
    assert [round(made.compute, 3) for made in phones] == [0.358, 1.17, 3.377, 6.697]  # 57, 186, 537 / 159; 2324 / 347
    assert all("Declared" in made.source for made in BUILT_IN.values())
    assert all(made.model_bytes * 200 == made.ram_bytes for made in BUILT_IN.values())  # "half a percent of the RAM"
    assert BUILT_IN["tv-box"].battery_j == math.inf


def test_built_in_links_exist():
    from simulation.network import PROFILES

    assert {made.link for made in BUILT_IN.values()} <= set(PROFILES)


@pytest.mark.parametrize(("wrong", "right"), [("highend", "high-end"), ("Entry", "entry"), ("tvbox", "tv-box")])
def test_unknown_names_get_the_nearest(wrong, right):
    assert profile_of(right).name == right
    with pytest.raises(ConfigError, match=f"found '{wrong}'; did you mean '{right}'"):
        profile_of(wrong)


def test_names_far_from_all():
    with pytest.raises(ConfigError, match="found 'x'; choose one of these"):
        profile_of("x")
