"""Links in virtual time: when a message of so many bytes, sent at a time, can be used, and how many attempts it took.

A message is sent in up to 1 + retries attempts; attempt i starts i * timeout_s after the first one and is lost as a
whole with probability `loss`, independently. The first that is not lost arrives rtt / 2 + jitter + nbytes * 8 / rate
after its start. Every attempt, lost or not, has to be paid for in the ledger.
"""

import difflib
import math
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from device.errors import ConfigError, ContractError
from device.seeds import Draws

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_LOSS, _JITTER = 1, 3  # streams of a message's draws; the odd numbers leave one of each for either direction


def _check(good: bool, place: str, value: object, expected: str) -> None:
    if not good:
        raise ConfigError(f"{place}: expected {expected}, found {value!r}; correct it in the config")


@dataclass(frozen=True, slots=True)
class Transfer:
    """What became of B messages."""

    arrive_at: Floats  # [B] virtual seconds; inf when every attempt was lost
    attempts: Ints  # [B] attempts made, the delivered one included
    attempt_lost: Flags  # [B, 1 + retries]; False for attempts that were not made


class Link(Protocol):
    """The connection of one tier's devices."""

    def send(self, nbytes: Ints, at: Floats, *, up: bool, draws: Draws, devices: Draws) -> Transfer:
        """Transfer of B messages of nbytes [B] sent at [B] seconds.

        `draws` are keyed per message (device and step), `devices` per device only: they fix what a device keeps.
        """

    @property
    def give_up_s(self) -> float:
        """Seconds after sending at which the sender of a message that is lost for good may send another."""


@dataclass(frozen=True, slots=True)
class Losses:
    """Independent loss of whole attempts."""

    loss: float
    retries: int = 3
    timeout_s: float = 2.0

    def __post_init__(self) -> None:
        _check(0 <= self.loss < 1, "loss", self.loss, "a probability in [0, 1)")
        _check(isinstance(self.retries, int) and self.retries >= 0, "retries", self.retries, "a whole number >= 0")
        _check(0 < self.timeout_s < math.inf, "timeout_s", self.timeout_s, "finite seconds > 0")

    @property
    def give_up_s(self) -> float:
        """Seconds from the first attempt to the timeout of the last."""
        return (1 + self.retries) * self.timeout_s

    def attempt(self, draws: Draws, *, up: bool) -> tuple[Floats, Transfer]:
        """Delay [B] until the delivered attempt starts, and a Transfer that arrives at 0 (or inf)."""
        failed = draws.uniform(1 + self.retries, stream=_LOSS + up) < self.loss
        lost = np.logical_and.accumulate(failed, axis=1)
        delivered = ~lost[:, -1]
        attempts = lost.sum(axis=1) + delivered
        return (attempts - 1) * self.timeout_s, Transfer(np.where(delivered, 0.0, np.inf), attempts, lost)


def exponential(draws: Draws, *, up: bool) -> Floats:
    """Jitter of mean 1 [B] of a message: exponential, the same for all of its attempts."""
    return -np.log1p(-draws.uniform(1, stream=_JITTER + up)[:, 0])


def check_sending(nbytes: Ints, at: Floats) -> None:
    """ContractError unless sizes are >= 0 and times finite and >= 0."""
    if (nbytes < 0).any() or not (np.isfinite(at) & (at >= 0)).all():
        raise ContractError(f"send: expected nbytes >= 0 and finite times >= 0, found {nbytes.min()} B, {at.min()} s")


@dataclass(frozen=True, slots=True)
class Ideal:
    """Everything arrives at once and never gets lost; for upper bounds, and only where asked for by name."""

    def send(self, nbytes: Ints, at: Floats, *, up: bool, draws: Draws, devices: Draws) -> Transfer:
        """Transfer with arrive_at == at."""
        check_sending(nbytes, at)
        return Transfer(at.astype(np.float64), np.ones(at.size, np.int64), np.zeros((at.size, 1), np.bool_))

    @property
    def give_up_s(self) -> float:
        """0: nothing is lost."""
        return 0.0


@dataclass(frozen=True, slots=True)
class SpeedProfile:
    """Lognormal speeds of a kind of access: medians, and sigmas of the natural logarithm; the rest is per message."""

    down_mbps: float
    down_sigma: float
    up_mbps: float
    up_sigma: float
    rtt_ms: float
    rtt_sigma: float
    jitter_ms: float  # mean of an exponential
    losses: Losses
    source: str

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith(("mbps", "rtt_ms")):
                _check(0 < value < math.inf, field.name, value, "a finite number > 0")
            elif isinstance(value, int | float):
                _check(0 <= value < math.inf, field.name, value, "a finite number >= 0")


@dataclass(frozen=True, slots=True)
class SpeedLink:
    """A constant speed and round-trip time per device, drawn once from the profile; up, down and RTT independently."""

    profile: SpeedProfile

    def levels(self, devices: Draws) -> tuple[Floats, Floats, Floats]:
        """Downlink Mbit/s, uplink Mbit/s and RTT in seconds [B] of these devices."""
        p, normal = self.profile, devices.normal(3)
        down = p.down_mbps * np.exp(p.down_sigma * normal[:, 0])
        up = p.up_mbps * np.exp(p.up_sigma * normal[:, 1])
        return down, up, p.rtt_ms / 1e3 * np.exp(p.rtt_sigma * normal[:, 2])

    def send(self, nbytes: Ints, at: Floats, *, up: bool, draws: Draws, devices: Draws) -> Transfer:
        """See Link; ContractError for negative sizes or times."""
        check_sending(nbytes, at)
        down_mbps, up_mbps, rtt = self.levels(devices)
        delay, sent = self.profile.losses.attempt(draws, up=up)
        latency = rtt / 2 + self.profile.jitter_ms / 1e3 * exponential(draws, up=up)
        busy = nbytes * 8 / ((up_mbps if up else down_mbps) * 1e6)
        return Transfer(sent.arrive_at + at + delay + latency + busy, sent.attempts, sent.attempt_lost)

    @property
    def give_up_s(self) -> float:
        """See Link."""
        return self.profile.losses.give_up_s


PROFILES = {
    "wifi": SpeedProfile(
        *(43.2, 0.34, 21.6, 0.34, 30.0, 0.3, 3.0),
        losses=Losses(0.005),
        source="Downlink measured: MobiPerf TCP throughput, medians of 77 Wi-Fi devices as sampled by FLHetBench. "
        "Assumed: uplink half the downlink, same sigma; RTT 30 ms, sigma 0.3; jitter a tenth of the RTT; loss 0.5%.",
    ),
    "5g": SpeedProfile(
        *(50.8, 0.95, 19.8, 1.11, 72.0, 0.20, 7.2),
        losses=Losses(0.005),
        source="Downlink measured: means of the 20 Download traces in 5G mode of Raca et al. (MMSys 2020), which log a "
        "moving or still phone in Ireland; RTT measured: 2,264 pings of the same rows. Assumed: uplink with the ratio "
        "and sigma of the 4G profile (the traces hold acknowledgements only), jitter a tenth of the RTT, loss 0.5%.",
    ),
    "4g": SpeedProfile(
        *(27.1, 0.99, 10.6, 1.11, 84.8, 0.47, 8.5),
        losses=Losses(0.01),
        source="Downlink, uplink and RTT measured: 909 4G speed tests of ERRANT's published sample (Trevisan et al. "
        "2020). Assumed: jitter a tenth of the RTT, loss 1%.",
    ),
    "3g": SpeedProfile(
        *(13.2, 0.86, 2.66, 0.70, 80.0, 0.49, 8.0),
        losses=Losses(0.02),
        source="Downlink, uplink and RTT measured: 91 3G speed tests of ERRANT's published sample (Trevisan et al. "
        "2020). Assumed: jitter a tenth of the RTT, loss 2%.",
    ),
}


def profile(name: str) -> SpeedProfile:
    """The built-in profile of that name; ConfigError with the nearest right word."""
    if name not in PROFILES:
        raise _unknown("profile", name, list(PROFILES))
    return PROFILES[name]


def link(name: str) -> Link:
    """The built-in link of that name: a profile's, or "ideal"; ConfigError with the nearest right word."""
    if name == "ideal":
        return Ideal()
    if name not in PROFILES:
        raise _unknown("link", name, [*PROFILES, "ideal"])
    return SpeedLink(PROFILES[name])


def _unknown(place: str, name: str, known: list[str]) -> ConfigError:
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    remedy = f"did you mean {close[0]!r}?" if close else "choose one of these"
    return ConfigError(f"{place}: expected one of {', '.join(known)}, found {name!r}; {remedy}")
