"""Scores of devices that hold parameters of their own in worlds that no fleet lives, with one more patch or without."""

import numpy as np

from cloud.patching import check_personals
from cloud.service import Service
from device.fleet import FleetLook
from device.model import Items
from device.personal import Patches
from device.personal_codec import Personal, decode_personal, encode_personal
from device.personal_scoring import personal
from device.policy import View
from device.scoring import Rows, Scorer
from device.seeds import draws


def held(view: View) -> Patches:
    """The patches [B, *shape] that the devices of a view hold, a copy; {} where they hold none."""
    look = view.look
    if not isinstance(look, FleetLook) or look.fleet.personal is None:
        return {}
    return {name: values[look.who] for name, values in look.fleet.personal.held.items()}


def renewed(service: Service, view: View, histories: Items, patches: Patches) -> Patches:
    """The patches [B, *shape] after a request whose reply comes at once, from `histories` [B, L] as the cloud knows
    them; `patches` as they are where a request does not always bring one."""
    offered = service.personalization
    if offered is None or not patches or offered.every != 1:
        return patches
    rng = draws(service.seed, "personalizer", view.device, view.step)
    made = offered.personalizer.personalize(histories, service.tier[view.device], rng=rng)
    check_personals(offered.personalizer, made, len(histories))
    layout = offered.personalizer.layout
    return decode_personal(encode_personal(Personal(view.device, view.step, made.patches), layout), layout).patches


def patched(scorer: Scorer, rows: Rows, patches: Patches) -> Scorer:
    """A scorer of rows [B], ascending numbers that stand for devices, with `patches` [B, *shape]; {} = `scorer`."""
    made = personal(scorer, rows) if patches else None
    if made is None:
        return scorer
    made.held = {name: np.asarray(values) for name, values in patches.items()}
    return made
