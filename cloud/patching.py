"""When a device gets parameters of its own, and the messages that bring them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud.personalizer import Personalizer, Personals
from cloud.service import Service
from device.errors import ConfigError, ContractError
from device.model import Items
from device.personal_codec import Personal, encode_personal, split
from device.seeds import draws

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Patched:
    """Encoded patches for B devices, and the cloud seconds that they took."""

    bodies: list[bytes]  # b"" = none
    seconds: Floats  # [B]

    def rows(self, rows: Ints) -> "Patched":
        """Some of them."""
        return Patched([self.bodies[row] for row in rows], self.seconds[rows])

    def before(self, replies: Sequence[bytes]) -> list[bytes]:
        """[B] transfers: the patch, then the reply."""
        return [patch + reply for patch, reply in zip(self.bodies, replies, strict=True)]


class Patcher:
    """Of devices 0..D-1: how many requests of each were answered. No book says which patch a device holds.

    A patch that is lost leaves the older one in place; the next is made anew, from what the cloud knows then.

    Args:
        service: what is offered; without `personalization` nobody gets a patch.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.answered = np.zeros(len(service.tier), np.int64)

    def first(self, device: Ints, told: Items) -> Patched:
        """Patches of the installation, from the histories `told` [B, L]."""
        return self._made(device, np.zeros(len(device), np.int64), told, np.ones(len(device), np.bool_))

    def next(self, device: Ints, step: Ints, told: Items) -> Patched:
        """Patches that go with the next answers to `device` [B], where one is due."""
        personal = self.service.personalization
        every = 0 if personal is None else personal.every
        due = (self.answered[device] + 1) % every == 0 if every else np.zeros(len(device), np.bool_)
        return self._made(device, step, told, due)

    def sent(self, device: Ints) -> None:
        """Requests of `device` [B] are answered with a list."""
        self.answered[device] += 1

    def split(self, transfers: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
        """(patches, replies) of transfers [B]."""
        personal = self.service.personalization
        if personal is None:
            return [b""] * len(transfers), list(transfers)
        return split(transfers, personal.personalizer.layout)

    def _made(self, device: Ints, step: Ints, told: Items, due: NDArray[np.bool_]) -> Patched:
        bodies, seconds = [b""] * len(device), np.zeros(len(device))
        personal = self.service.personalization
        rows = np.flatnonzero(due & personal.tiers[self.service.tier[device]]) if personal else np.zeros(0, np.int64)
        if personal is None or not len(rows):
            return Patched(bodies, seconds)
        who, layout = device[rows], personal.personalizer.layout
        rng = draws(self.service.seed, "personalizer", who, step[rows])
        made = personal.personalizer.personalize(told[rows], self.service.tier[who], rng=rng)
        check_personals(personal.personalizer, made, len(rows))
        for row, body in zip(rows, encode_personal(Personal(who, step[rows], made.patches), layout), strict=True):
            bodies[row] = body
        seconds[rows] = patch_seconds(self.service, made, len(rows))
        return Patched(bodies, seconds)


def patch_seconds(service: Service, made: Personals, size: int) -> Floats:
    """[B] cloud seconds of `size` patches, beside those of the lists; ConfigError when nobody says what one costs."""
    if made.seconds is not None:
        return made.seconds
    if made.flops is not None:
        return made.flops / (service.gflops * 1e9)
    if service.seconds is None:
        raise ConfigError(
            "[cloud.personalizer] does not say what a patch costs (flops or seconds); set seconds_per_request in "
            "[cloud], which then stands for list and patch together"
        )
    return np.zeros(size)


def check_personals(personalizer: Personalizer, made: Personals, rows: int) -> None:
    """ContractError for patches that are not what the layout says, and for costs that are no numbers."""
    name = type(personalizer).__name__
    if made.patches.keys() != personalizer.layout.keys():
        raise ContractError(
            f"{name}.personalize returned the parts {sorted(made.patches)}; return those of its layout, "
            f"{sorted(personalizer.layout)}"
        )
    for part_name, part in personalizer.layout.items():
        values, shape = made.patches[part_name], (rows, *part.shape)
        if values.shape != shape or values.dtype != np.dtype(part.kind):
            raise ContractError(
                f"{name}.personalize returned {part_name!r} as {values.dtype} {values.shape}; return {part.kind} "
                f"{shape}, one row per device"
            )
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ContractError(
                f"{name}.personalize returned {part_name!r} with NaN or infinity; did training diverge?"
            )
    for cost, numbers in (("flops", made.flops), ("seconds", made.seconds)):
        if numbers is not None and (np.shape(numbers) != (rows,) or not (np.isfinite(numbers) & (numbers >= 0)).all()):
            raise ContractError(
                f"{name}.personalize: {cost} {np.shape(numbers)} for {rows} devices; give one finite number >= 0 "
                "per device, or None"
            )
