"""What the benchmark of devices says, never how fast it is."""

from simulation.bench.devices import bench_devices, lived, rows


def test_it_measures_two_ways_to_the_same_scores():
    said = []
    found = bench_devices(said.append, devices=70, steps=2, rounds=1)
    assert (found["devices"], found["steps"], len(said)) == (70, 2, 1)
    assert found["ratio"] > 0
    assert found["ratio_in_fleet"] > 0
    assert found["largest_difference"] < 1e-5
    # keys and values of 50 items in 2 blocks of 32, the last state of 32, position and number of items
    assert found["state_bytes"] == 4 * (2 * 50 * 2 * 32 + 32) + 2 * 8
    assert all(found[f"{name}_steps_per_s"] > 0 for name in ("recomputed", "incremental", "fleet", "fleet_incremental"))


def test_rows_are_copies():
    one = lived(3, 1)
    part = rows({"a": one.items}, slice(0, 2))
    part["a"][:] = 0
    assert one.items.min() > 0
