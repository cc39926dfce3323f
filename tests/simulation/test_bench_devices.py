"""What the benchmark of devices says, never how fast it is."""

from simulation.bench.devices import bench_devices, lived, rows
from simulation.bench.personal import SIZES, bench_personal


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


def test_masks_in_calls_of_many_say_the_same_as_one_by_one():
    said = []
    found = bench_personal(said.append, devices=70, sample=3, rounds=1)
    assert (found["devices"], found["sample"], len(said)) == (70, 3, len(SIZES) + 1)
    # 2 x 32 x 33 bits; in use a byte each, and once more as bits on their way
    assert (found["mask_bytes_sent"], found["mask_bytes_held"]) == (264, 2112 + 264)
    assert found["body_bytes"] == 4 * (50 + 32)  # a history and a state
    for length, pool in SIZES:
        part = found[f"history_{length}_pool_{pool}"]
        assert part["largest_difference"] < 1e-6
        assert all(part[f"{name}_to_loop"] > 0 for name in ("fleet", "batched", "shared"))
        assert part["loop_steps_per_s"] > 0
    gone_on = found["continued"]
    assert gone_on["largest_difference"] < 1e-6
    assert gone_on["state_bytes"] == 4 * (2 * 50 * 2 * 32 + 32) + 2 * 8
    assert all(gone_on[f"{a}_to_{b}"] > 0 for a in ("fleet", "batched") for b in ("loop", "loop_continued"))
    assert "loop_continued_to_loop" not in gone_on
