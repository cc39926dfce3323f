"""What a step costs a device's battery, in joules: declared constants of published measurements, nothing is measured.

Radio: a message that finds it asleep wakes it (`wake_j`); it then stays awake for `tail_s` after its last message and
draws `tail_w`; every byte costs more on top. For messages of a few hundred bytes the tail is nearly all of it, so what
counts is how often a device speaks, not how much it says. Power of a transfer as in Huang et al. (MobiSys 2012, Table
4): alpha x throughput + beta, at the median throughput of our link profile of that name. Reranker: operations times
joules per operation, all those of the shared model: patches save none, see `simulation.tier_profiles.operations`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulation.config.tables import EnergyTable, ExperimentConfig, PolicyTable
from simulation.installing import Installed
from simulation.network import PROFILES
from simulation.objects import link_of, tiers
from simulation.prepare import Prepared
from simulation.replay import Columns
from simulation.schema import AT, DEVICE, DIRECTION, INSTALLATION_KINDS, KIND, NBYTES, UP
from simulation.tier_profiles import joules_per_gflop, operations

Joules = NDArray[np.float64]
MEGABIT = 8e-6  # in a byte
OVERRIDES = ("wake_j", "tail_w", "tail_s", "up_j_per_byte", "down_j_per_byte")


@dataclass(frozen=True, slots=True)
class Radio:
    """One kind of radio; see the module's docstring."""

    wake_j: float
    tail_w: float
    tail_s: float
    up_j_per_byte: float
    down_j_per_byte: float
    source: str


Three = tuple[float, float, float]


def radio(name: str, power: Three, idle: Three, source: str) -> Radio:
    """A radio from `power` (alpha up, alpha down in W per Mbit/s, beta in W) at a profile's median speeds.

    `idle` = (joules of waking up, watts of the tail, seconds of the tail).
    """
    up, down, base = power
    speeds = PROFILES[name]
    sent, received = MEGABIT * (up + base / speeds.up_mbps), MEGABIT * (down + base / speeds.down_mbps)
    return Radio(*idle, sent, received, source)


HUANG = "Huang et al., MobiSys 2012, Tables 3 and 4"
LTE: tuple[Three, Three] = (0.43839, 0.05197, 1.28804), (1.2107 * 0.2601, 1.060, 11.576)
UMTS_TAIL_S = 8.0882 + 0.8242  # in DCH, then in FACH
UMTS_IDLE = (0.6594 * 0.5821, (0.8039 * 8.0882 + 0.6013 * 0.8242) / UMTS_TAIL_S, UMTS_TAIL_S)
RADIOS = {
    "wifi": radio("wifi", (0.28317, 0.13701, 0.13286), (0.1244 * 0.0791, 0.1193, 0.2381), f"{HUANG}: WiFi."),
    "4g": radio("4g", *LTE, f"{HUANG}: LTE, without its idle DRX cycles."),
    "5g": radio("5g", *LTE, f"Assumed: that of LTE ({HUANG}), over which non-standalone 5G signals."),
    "3g": radio("3g", (0.86898, 0.12212, 0.81788), UMTS_IDLE, f"{HUANG}: 3G, the tails in DCH and FACH as one."),
    "ideal": Radio(0.0, 0.0, 0.0, 0.0, 0.0, "a link that costs nothing, for upper bounds."),
}
"""By the name of the built-in link."""


def radio_of(link: object, table: EnergyTable) -> Radio:
    """The radio behind a link, with what the table overrides; a plug-in link without `radio` is 4g."""
    name = table.radio or (link if isinstance(link, str) else "4g")
    given = {key: getattr(table, key) for key in OVERRIDES}
    return replace(RADIOS[name], **{key: value for key, value in given.items() if value is not None})


def radios(config: ExperimentConfig) -> list[Radio]:
    """One per tier."""
    return [radio_of(link_of(config, tier), config.device.energy) for tier in tiers(config)]


def radio_energy(radio: Radio, ledger: Columns, devices: int) -> Joules:
    """[devices] joules of all transfers in a ledger's columns but the installation's.

    A lost attempt costs as much as one that arrives: the sender has sent it, the receiver was awake.
    """
    running = ~np.isin(ledger[KIND], INSTALLATION_KINDS)
    order = np.flatnonzero(running)[np.lexsort([ledger[AT][running], ledger[DEVICE][running]])]
    device, at = ledger[DEVICE][order], ledger[AT][order]
    gap = np.append(np.where(np.diff(device) == 0, np.diff(at), np.inf), np.inf)[: len(order)]
    awake = np.minimum(gap, radio.tail_s)
    woken = np.concatenate([[True], gap[:-1] > radio.tail_s])[: len(order)]
    up = ledger[DIRECTION][order] == UP
    moved = ledger[NBYTES][order] * np.where(up, radio.up_j_per_byte, radio.down_j_per_byte)
    each = moved + awake * radio.tail_w + woken * radio.wake_j
    return np.asarray(np.bincount(device, each, devices), np.float64)


def reranking_energy(
    config: ExperimentConfig, policy: PolicyTable, tier: Installed, items: int, *, j_per_gflop: float
) -> float:
    """Joules of one step's reranking: one scoring of a full pool, and of the resident items where a device looks there.

    `items` is the size of the catalogue. NaN for a model that does not say what it costs (`flops(length, candidates)`).
    """
    scored = policy.held(config.cloud.pool) + (round(policy.resident * items) if policy.own else 0)
    return operations(config, tier, scored) / 1e9 * j_per_gflop


def device_energy(
    ledger: Columns, radios: Sequence[Radio], tier: NDArray[np.int64], per_step: Sequence[float], steps: Joules
) -> Joules:
    """[D] joules: radio and reranking; `tier` [D], `per_step` joules of a reranking per tier, `steps` [D] lived."""
    total = np.asarray(per_step, np.float64)[tier] * steps
    for number, radio in enumerate(radios):
        total += np.where(tier == number, radio_energy(radio, ledger, len(tier)), 0.0)
    return total


def joules_per_step(prepared: Prepared, policy: PolicyTable, steps: Columns, ledger: Columns) -> float:
    """Mean over all steps of a policy's replay, from its tables; NaN for a model that does not say what it costs."""
    config = prepared.config
    lived = np.bincount(steps[DEVICE], minlength=len(prepared.users)).astype(np.float64)
    per_step = [
        reranking_energy(config, policy, tier, len(prepared.popular), j_per_gflop=joules)
        for tier, joules in zip(prepared.installed, joules_per_gflop(config), strict=True)
    ]
    return float(device_energy(ledger, radios(config), prepared.timeline.tier, per_step, lived).sum() / lived.sum())
