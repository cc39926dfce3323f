"""What kinds of device there are: speed, memory, link and energy, each figure with its source or the word "declared".

Compute is a number of times: how long a device takes for a network, over how long `REFERENCE` takes for the same one.
"""

import difflib
import math
from dataclasses import dataclass

from device.errors import ConfigError

REFERENCE = "Google Pixel 3"
"""The machine whose compute scale is 1: a phone of 2018 (Snapdragon 845) that both lists of phones hold."""

PRECISIONS = ("float32", "float16", "int8")
APP_SHARE = 0.05
"""Share of a device's RAM that one app may hold: Android (Go edition) asks apps for 50 MB at most on phones of 1 GB."""

GB, MB = 10**9, 10**6
VOLTS = 3.85  # declared: the nominal voltage of a lithium-ion cell, for batteries given in mAh


def battery(mah: float) -> float:
    """Joules of a full battery of so many mAh."""
    return mah * 3.6 * VOLTS


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """One kind of device; ConfigError naming the field for a value that no device has."""

    name: str
    compute: float  # times as long as REFERENCE takes; below 1 is faster
    ram_bytes: int
    model_bytes: int  # the largest installation
    precisions: tuple[str, ...]  # of PRECISIONS, those it computes in
    link: str  # a link's name, or the path of a trace
    j_per_gflop: float  # joules of 10^9 floating-point operations
    battery_j: float  # joules of the full battery; inf on the mains
    source: str

    def __post_init__(self) -> None:
        for field, expected, good in (
            ("name", "a name", bool(self.name.strip())),
            ("compute", "a finite number > 0", 0 < self.compute < math.inf),
            ("ram_bytes", "a whole number of bytes > 0", _whole(self.ram_bytes)),
            (
                "model_bytes",
                "a whole number of bytes > 0, at most ram_bytes",
                _whole(self.model_bytes) and self.model_bytes <= self.ram_bytes,
            ),
            ("precisions", f"some of {', '.join(PRECISIONS)}, each once", _some(self.precisions)),
            ("link", "the name of a link or the path of a trace", bool(self.link.strip())),
            ("j_per_gflop", "finite joules >= 0", 0 <= self.j_per_gflop < math.inf),
            ("battery_j", "joules > 0, inf on the mains", self.battery_j > 0),
            ("source", "where the figures are from, or 'declared'", bool(self.source.strip())),
        ):
            if not good:
                value = getattr(self, field)
                raise ConfigError(
                    f"profile {self.name!r}, {field}: expected {expected}, found {value!r}; correct the profile"
                )

    @property
    def memory_bytes(self) -> int:
        """Bytes that the app may hold while it runs: `APP_SHARE` of the RAM."""
        return int(APP_SHARE * self.ram_bytes)


def misfits(profile: DeviceProfile, nbytes: int, memory: int, *, precision: str = "float32") -> tuple[str, ...]:
    """Why devices cannot run an installation of `nbytes` that holds `memory` bytes at a step; empty where they can."""
    place, found = f"profile {profile.name!r}", []
    if nbytes > profile.model_bytes:
        found.append(
            f"{place}: an installation of {nbytes} bytes, more than its model_bytes = {profile.model_bytes}; "
            "install a smaller subnet or an int8 table"
        )
    if memory > profile.memory_bytes:
        found.append(
            f"{place}: a step of {memory} bytes, more than {APP_SHARE:.0%} of its ram_bytes = {profile.ram_bytes}; "
            "take a narrower subnet, a shorter history or a smaller pool"
        )
    if precision not in profile.precisions:
        found.append(
            f"{place}: precision {precision}, found only {', '.join(profile.precisions)}; export in one of these"
        )
    return tuple(found)


def fits(profile: DeviceProfile, nbytes: int, memory: int, *, precision: str = "float32") -> bool:
    """Whether such devices can run an installation of `nbytes` that holds `memory` bytes at a step."""
    return not misfits(profile, nbytes, memory, precision=precision)


def profile_of(name: str) -> DeviceProfile:
    """The built-in profile of that name; ConfigError with the nearest right word."""
    if name not in BUILT_IN:
        close = difflib.get_close_matches(name.lower(), BUILT_IN, n=1, cutoff=0.5)
        remedy = f"did you mean {close[0]!r}?" if close else "choose one of these"
        raise ConfigError(f"profile: expected one of {', '.join(BUILT_IN)}, found {name!r}; {remedy}")
    return BUILT_IN[name]


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _some(precisions: tuple[str, ...]) -> bool:
    return 0 < len(precisions) == len(set(precisions) & set(PRECISIONS))


_LATENCY = "Compute: ResNet latency in FLHetBench's list of phones (Zhang et al., CVPR 2024), Pixel 3: 159 ms"
_DECLARED = (
    "Declared: link, largest installation (half a percent of the RAM) and 1 J per GFLOP, the same for all devices."
)

# Half precision is arithmetic of Armv8.2 and later: not in Cortex-A53 and Cortex-A72.
_HALF, _FULL = PRECISIONS, ("float32", "int8")

BUILT_IN = {
    made.name: made
    for made in (
        DeviceProfile(
            "high-end",
            *(57 / 159, 8 * GB, 40 * MB, _HALF, "5g", 1.0, battery(3900)),
            source=f"Samsung Galaxy S23 (2023, Snapdragon 8 Gen 2). {_LATENCY}; it: 57 ms. RAM 8 GB, battery 3900 mAh: "
            f"as reported at its launch. {_DECLARED}",
        ),
        DeviceProfile(
            "mid-range",
            *(186 / 159, 6 * GB, 30 * MB, _HALF, "4g", 1.0, battery(4500)),
            source=f"Samsung Galaxy A52 (2021, Snapdragon 720G). {_LATENCY}; it: 186 ms. RAM 6 GB, battery 4500 mAh: "
            f"as reported at its launch. {_DECLARED}",
        ),
        DeviceProfile(
            "entry",
            *(537 / 159, 2 * GB, 10 * MB, _FULL, "4g", 1.0, battery(5000)),
            source=f"Xiaomi Redmi 9A (2020, Helio G25, Cortex-A53). {_LATENCY}; it: 537 ms. RAM 2 GB, battery 5000 "
            f"mAh: as reported at its launch. {_DECLARED}",
        ),
        DeviceProfile(
            "old",
            *(2324 / 347, 1500 * MB, 7500 * 10**3, _FULL, "3g", 1.0, battery(2600)),
            source="Samsung Galaxy J5 (2015, Snapdragon 410, Cortex-A53 at 1.2 GHz). Compute: AI-Benchmark's CPU float "
            "score (Ignatov et al., 2019), Pixel 3: 2324; it: 347. FLHetBench's ResNet latency (1711 ms against 159) "
            f"has it slower still, 10.8. RAM 1.5 GB, battery 2600 mAh: as reported at its launch. {_DECLARED}",
        ),
        DeviceProfile(
            "watch",
            *(2324 / 347, 1500 * MB, 7500 * 10**3, _HALF, "wifi", 1.0, battery(361)),
            source="Samsung Galaxy Watch4, 44 mm (2021, Exynos W920, two Cortex-A55 at 1.18 GHz). RAM 1.5 GB, battery "
            f"361 mAh: as reported at its launch. Declared: compute, that of `old`, whose clock is the same. "
            f"{_DECLARED}",
        ),
        DeviceProfile(
            "tv-box",
            *(422 / 159, 2 * GB, 10 * MB, _FULL, "wifi", 1.0, math.inf),
            source=f"Chromecast with Google TV (2020): RAM 2 GB as reported; on the mains. {_LATENCY}; declared: "
            f"that of the Raspberry Pi 4 of the same list, 422 ms. {_DECLARED}",
        ),
    )
}
"""By name, fastest phone first."""
