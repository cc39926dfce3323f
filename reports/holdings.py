"""What a device holds under each policy of a resolved configuration: lists, slots, candidates of its own."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from device.errors import RunError
from reports import tables
from simulation.config.tables import CloudTable, PolicyTable

HOLDINGS: Final = "Lists and slots of each policy"
"""Title of the table."""
HEADING: Final = ("Policy", "Candidates per list", "Slots", "A new list", "Own candidates", "Fusion")
HOLDINGS_NOTE: Final = (
    "From the resolved configuration. Bytes of a reply grow with the candidates per list; slots are the candidates of "
    "the cloud's that a device holds; own candidates come on top, from the share of the catalogue that lies on it."
)


@dataclass(frozen=True, slots=True)
class Holding:
    """Candidates per list, slots of the pool, what becomes of a new list, candidates of the device's own, fusion.

    resident: the share of the catalogue from which own candidates come, 0 without any.
    """

    listed: int
    slots: int
    update: str
    own: int
    resident: float
    fusion: str


def holdings(config: Mapping[str, Any], place: Path) -> dict[str, Holding]:
    """Label -> what its devices hold; empty where `config` names no policy, RunError (naming `place`) for a bad one."""
    single = config.get("device", {}).get("policy")
    try:
        policies = [PolicyTable.model_validate(one) for one in config.get("policies") or ([single] if single else [])]
    except ValidationError as error:
        first = error.errors()[0]
        what = f"a policy's {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise RunError(f"{place}: {what}; the file is damaged, make the folder again") from error
    pool = config.get("cloud", {}).get("pool", CloudTable.model_fields["pool"].default)
    return {one.label: _holding(one, pool) for one in policies}


def holding_rows(found: Mapping[str, Holding], labels: Iterable[str]) -> list[list[str]]:
    """The table as text, its heading first, one row per label that is known; empty where none is."""
    rows = [[label, *_row(found[label])] for label in labels if label in found]
    return [list(HEADING), *rows] if rows else []


def _holding(policy: PolicyTable, pool: int) -> Holding:
    update = f"{policy.update}, delta replies" if policy.delta else policy.update
    resident = policy.resident if policy.own else 0.0
    return Holding(policy.listed(pool), policy.held(pool), update, policy.own, resident, policy.fusion)


def _row(one: Holding) -> list[str]:
    own = f"{one.own:,} from {100 * one.resident:.3g} %" if one.own else tables.ABSENT
    return [f"{one.listed:,}", f"{one.slots:,}", one.update, own, one.fusion]
