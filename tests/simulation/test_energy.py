from types import SimpleNamespace

import numpy as np
import pytest
from tiny import written

from simulation.config.read import load_config
from simulation.config.tables import EnergyTable, PolicyTable
from simulation.energy import RADIOS, Radio, device_energy, radio_energy, radio_of, reranking_energy
from simulation.network import Ideal

RADIO = Radio(wake_j=2.0, tail_w=3.0, tail_s=10.0, up_j_per_byte=0.1, down_j_per_byte=0.01, source="test")


def ledger(rows):
    """Columns from (device, at, direction, kind, nbytes)."""
    device, at, direction, kind, nbytes = zip(*rows, strict=True)
    return {
        "device": np.array(device, np.int64),
        "at": np.array(at, np.float64),
        "direction": np.array(direction, object),
        "kind": np.array(kind, object),
        "nbytes": np.array(nbytes, np.int64),
    }


ROWS = [
    (0, 0.0, "down", "install", 1000),
    (0, 0.0, "down", "first_list", 100),
    (2, 7.0, "down", "candidates", 10),
    (0, 100.0, "up", "request", 1),
    (0, 0.0, "up", "request", 5),
    (0, 4.0, "down", "candidates", 20),
]
# Device 0 is awake 4 s, then 10 s, and 10 s from 100 on: 24 s x 3 W = 72 J; it wakes twice: 4 J; bytes 0.5 + 0.2 + 0.1.
# Device 1 is silent. Device 2: 10 s x 3 W + 2 J + 0.1 J. The installation is no step's.
EXPECTED = [72 + 4 + 0.8, 0.0, 30 + 2 + 0.1]


@pytest.mark.parametrize("order", [range(6), range(5, -1, -1)])
def test_radio_energy_by_hand(order):
    assert radio_energy(RADIO, ledger([ROWS[i] for i in order]), 3) == pytest.approx(EXPECTED)


def test_a_fleet_that_never_speaks_draws_nothing():
    assert radio_energy(RADIO, ledger(ROWS[:2]), 2).tolist() == [0.0, 0.0]


def test_each_tier_has_its_own_radio_and_reranker():
    silent = Radio(0.0, 0.0, 0.0, 0.0, 0.0, "none")
    tier = np.array([0, 0, 1])
    spent = device_energy(ledger(ROWS), [RADIO, silent], tier, [0.5, 2.0], np.array([4.0, 1.0, 3.0]))
    assert spent == pytest.approx([EXPECTED[0] + 2.0, 0.5, 6.0])


def test_declared_radios_are_those_of_the_sources():
    lte = RADIOS["4g"]  # Huang et al., Table 3: promotion 1210.7 mW for 260.1 ms, tail 1060 mW for 11.576 s
    assert lte.wake_j == pytest.approx(0.31490, abs=1e-5)
    assert (lte.tail_w, lte.tail_s) == (1.06, 11.576)
    # Table 4 at our 10.6 Mbit/s up: 438.39 mW per Mbit/s + 1288.04 mW / 10.6 = 559.90 mJ per Mbit of 125,000 bytes
    assert lte.up_j_per_byte * 125_000 == pytest.approx(0.55990, abs=1e-5)
    # and at 27.1 Mbit/s down: 51.97 + 1288.04 / 27.1 = 99.499 mJ per Mbit
    assert lte.down_j_per_byte * 125_000 == pytest.approx(0.099499, abs=1e-6)
    umts = RADIOS["3g"]  # promotion 659.4 mW x 582.1 ms = 0.38384 J
    assert umts.wake_j == pytest.approx(0.38384, abs=1e-5)
    # 803.9 mW x 8.0882 s in DCH + 601.3 mW x 824.2 ms in FACH = 6.5021 + 0.4956 = 6.9977 J in 8.9124 s
    assert umts.tail_s == pytest.approx(8.9124)
    assert umts.tail_w * umts.tail_s == pytest.approx(6.9977, abs=1e-4)
    # at our 2.66 Mbit/s up: 868.98 + 817.88 / 2.66 = 1176.45 mJ per Mbit, at 13.2 down: 122.12 + 817.88 / 13.2 = 184.08
    assert (umts.up_j_per_byte * 125_000, umts.down_j_per_byte * 125_000) == pytest.approx((1.17645, 0.18408), abs=1e-5)
    wifi = RADIOS["wifi"]  # promotion 124.4 mW x 79.1 ms = 9.84 mJ; tail 119.3 mW for 238.1 ms
    assert wifi.wake_j == pytest.approx(0.00984, abs=1e-6)
    assert (wifi.tail_w, wifi.tail_s) == (0.1193, 0.2381)
    # at our 21.6 up: 283.17 + 132.86 / 21.6 = 289.32 mJ per Mbit; at 43.2 down: 137.01 + 132.86 / 43.2 = 140.09
    assert (wifi.up_j_per_byte * 125_000, wifi.down_j_per_byte * 125_000) == pytest.approx((0.28932, 0.14009), abs=1e-5)


def test_a_request_on_lte_costs_its_tail():
    """A request of 90 bytes and a reply of 110 a tenth of a second later, over LTE.

    Promotion 1.2107 W x 0.2601 s = 0.3149 J, awake 0.1 + 11.576 s at 1.06 W = 12.3766 J,
    bytes 90 x 8e-6 x 0.55990 + 110 x 8e-6 x 0.099499 = 0.0005 J: 12.692 J, of which 98 % for staying awake.
    """
    asked = ledger([(0, 0.0, "up", "request", 90), (0, 0.1, "down", "candidates", 110)])
    assert radio_energy(RADIOS["4g"], asked, 1) == pytest.approx([12.692], abs=1e-3)


def test_the_radio_follows_the_link_unless_the_table_says_otherwise():
    assert radio_of("wifi", EnergyTable()) == RADIOS["wifi"]
    assert radio_of(Ideal(), EnergyTable()) == RADIOS["4g"]
    assert radio_of(Ideal(), EnergyTable(radio="3g")) == RADIOS["3g"]
    changed = radio_of("4g", EnergyTable(tail_s=5.0))
    assert (changed.tail_s, changed.tail_w) == (5.0, RADIOS["4g"].tail_w)


def test_reranking_costs_what_the_model_says(tmp_path):
    config = load_config(written(tmp_path))
    model = SimpleNamespace(flops=lambda length, candidates: 1e6 * length + 1e3 * candidates)
    tier = SimpleNamespace(model=model)
    plain = PolicyTable.model_validate({"class": "device.policy:Never"})
    # 10 items of history, a pool of 20: 10e6 + 20e3 operations at 2 J per 1e9
    assert reranking_energy(config, plain, tier, 80, j_per_gflop=2.0) == pytest.approx(0.02004)
    # four lists of 20, and half of the 80 items: 10e6 + 120e3
    both = plain.model_copy(update={"update": "merge", "own": 5, "resident": 0.5})
    assert reranking_energy(config, both, tier, 80, j_per_gflop=2.0) == pytest.approx(0.02024)
    assert np.isnan(reranking_energy(config, plain, SimpleNamespace(model=object()), 80, j_per_gflop=2.0))
    # a device that goes on from its state reads one item: 1e6 + 20e3
    model.flops_step = lambda candidates: 1e6 + 1e3 * candidates
    kept = config.model_copy(update={"device": config.device.model_copy(update={"states": "incremental"})})
    assert reranking_energy(kept, plain, tier, 80, j_per_gflop=2.0) == pytest.approx(0.00204)
    assert reranking_energy(config, plain, tier, 80, j_per_gflop=2.0) == pytest.approx(0.02004)
