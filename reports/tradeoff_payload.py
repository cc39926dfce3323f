"""What the trade-off page's script needs, as JSON text that is safe inside a <script> element."""

import base64
import json
from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from reports import tradeoff_readings as readings
from reports.palette import COLOURS, MARKERS
from reports.tradeoff_gains import gain_payload
from reports.tradeoff_points import AXES, BYTES, REQUESTS, Points
from reports.tradeoff_shares import unasked, undefined_note
from reports.tradeoff_spent import OFF
from reports.tradeoff_stats import REACH, Floats
from simulation.statistics import Interval
from simulation.sweep import folder as f

_AXES: Final = {
    REQUESTS: ("Requests per step", "share"),
    BYTES: ("Bytes per step, both directions", "bytes"),
    "cloud": ("Cloud seconds per step", "s"),
    "energy": ("Device energy per step", "J"),
}
_STEPS: Final = 65_535


def payload(points: Points) -> str:
    """One JSON object; numbers have six significant digits, unknown ones are null."""
    policies, measures = points.policies, points.measures
    axes = [axis for axis in AXES if np.isfinite(points.cost[axis]).any()]
    content = {
        "reach": REACH,
        "least": readings.LEAST,
        "off": OFF,
        "floor": f.FLOOR,
        "colours": COLOURS,
        "markers": MARKERS,
        "measures": [{"key": one, "title": one.upper()} for one in measures],
        "axes": [dict(zip(("key", "title", "unit"), (axis, *_AXES[axis]), strict=True)) for axis in axes],
        "policies": [
            {"label": label, "family": points.family_of(label), "points": points.of(label).tolist()}
            | {"unasked": _unasked(points, label)}
            for label in policies
        ],
        "random": random_label(points),
        "shares": {one: readings.shares_defined(points, one) for one in measures},
        "undefined": {one: undefined_note(one) for one in measures},
        "never": points.never,
        "always": points.always,
        "budget": _numbers(points.budget),
        "install": _numbers(points.install_bytes),
        "cost": {axis: _numbers(points.cost[axis]) for axis in axes},
        "values": {one: _numbers(points.means(one)) for one in measures},
        "resampled": {one: _packed(points.resampled[one]) for one in measures},
        "bounds": [{"label": label, "x": _numbers(x), "y": _numbers(y)} for label, (x, y) in points.bounds.items()],
        "front": {one: {axis: _front(points, one, axis) for axis in axes} for one in measures},
        "volume": {one: {axis: _volumes(points, one, axis) for axis in axes} for one in measures},
        "area": {bound: _areas(points, bound, random_label(points)) for bound in points.bounds},
        "gains": gain_payload(points),
        "leads": {one: {against: _leads(points, one, against) for against in policies} for one in measures},
    }
    return json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def random_label(points: Points) -> str | None:
    """The policy that asks at random: the first whose label starts with that word."""
    return next((one for one in points.policies if one.lower().startswith("random")), None)


def _unasked(points: Points, label: str) -> int | None:
    """The point of the same devices without a request (see `unasked`); None for floors and where there is none."""
    found = None if points.family_of(label) == f.FLOOR else unasked(points, label)
    return int(points.of(found[0])[0]) if found else None


def _numbers(values: Iterable[float] | Floats) -> list[float | None]:
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]


def _ends(interval: Interval) -> list[float | None]:
    return _numbers((interval.mean, interval.low, interval.high))


def _packed(resampled: Floats) -> dict[str, Any]:
    """[R, P] as 16-bit steps between the least and the greatest value, little-endian, row after row."""
    low, width = float(resampled.min()), float(np.ptp(resampled)) or 1.0
    steps = np.rint((resampled - low) / width * _STEPS).astype("<u2")
    return {"low": low, "step": width / _STEPS, "rows": len(steps), "data": base64.b64encode(steps.tobytes()).decode()}


def _front(points: Points, measure: str, axis: str) -> dict[str, Any]:
    inside, share = readings.front(points, measure, axis)
    return {"inside": [int(one) for one in inside], "share": _numbers(share)}


def _volumes(points: Points, measure: str, axis: str) -> list[list[float | None]]:
    return [_ends(readings.hypervolume(points, measure, axis, policy)) for policy in points.policies]


def _areas(points: Points, bound: str, random: str | None) -> list[list[float | None] | None]:
    """Per policy: share, its interval, and the ratios from which to which it was taken."""
    if random is None:
        return [None] * len(points.policies)
    found = [readings.area(points, policy, random, bound) for policy in points.policies]
    return [None if one is None else [*_ends(one.share), *_numbers((one.low, one.high))] for one in found]


def _leads(points: Points, measure: str, against: str) -> list[list[float | None]]:
    """Rows of policy number, request ratio, difference, low, high, d_z, corrected p."""
    number = {label: i for i, label in enumerate(points.policies)}
    rows = []
    for lead in readings.leads(points, measure, against):
        d = lead.difference
        rows.append(_numbers((number[lead.policy], lead.at, d.mean, d.low, d.high, d.d_z, lead.p_holm)))
    return rows
