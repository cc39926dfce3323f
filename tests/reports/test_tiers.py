"""The table of tiers on the page of a run."""

from types import SimpleNamespace

from reports.tiers import tier_rows

COST = {"profile": "entry", "memory_bytes": 61_400, "flops": 1.25e6, "joules": 0.00125, "p50_ms": 4.567, "fits": True}


def rows(*tiers):
    return tier_rows(SimpleNamespace(summary={"tiers": list(tiers)}))


def test_a_row_per_tier_and_no_column_that_stays_empty():
    plain = {"tier": "rest", "installed_bytes": 12_345}
    assert rows({"tier": "slow", "installed_bytes": 999, **COST}, plain) == [
        ["Tier", "Profile", "Installed", "Memory", "MFLOPs / step", "Energy / step", "p50, scaled", "Fits"],
        ["slow", "entry", "999 B", "61.4 kB", "1.25", "0.00125 J", "4.57 ms", "yes"],
        ["rest", "–", "12.3 kB", *["–"] * 5],
    ]


def test_a_state_has_a_column_of_its_own_and_no_milliseconds():
    tier = {"tier": "a", "installed_bytes": 10, "state_bytes": 1_240, **COST, "p50_ms": None}
    heading, found = rows(tier)
    assert heading == ["Tier", "Profile", "Installed", "State", "Memory", "MFLOPs / step", "Energy / step", "Fits"]
    assert found == ["a", "entry", "10 B", "1.2 kB", "61.4 kB", "1.25", "0.00125 J", "yes"]


def test_unknown_operations_are_no_zero():
    (_, found) = rows({"tier": "a", "installed_bytes": 10, **COST, "flops": None, "joules": None})
    assert found == ["a", "entry", "10 B", "61.4 kB", "4.57 ms", "yes"]


def test_one_tier_without_a_profile_needs_no_table():
    assert rows({"tier": "phone", "installed_bytes": 10}) == []
    assert tier_rows(SimpleNamespace(summary={})) == []
