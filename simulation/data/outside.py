"""Users that are no devices: their clicks are what the cloud sees happen while the fleet is replayed."""

from dataclasses import replace

import numpy as np

from cloud.stream import Stream
from device.errors import ConfigError
from simulation.data.build import sampled
from simulation.data.dataset import Dataset


def set_aside(data: Dataset, limit_users: int | None) -> Dataset:
    """Keeps `limit_users` users, those of `simulation.data.build.select`; the clicks of all others become `outside`.

    The catalogue stays whole: which items the kept users are going to take is not known before.
    Raises ConfigError where nobody is left outside, or where the times of different users cannot be compared.
    """
    if limit_users is None or limit_users >= data.n_users:
        raise ConfigError(
            f"[data] stream is made of the users that are not drawn, and all {data.n_users} of {data.name} are; "
            "set [data] users to fewer"
        )
    if not data.timed:
        raise ConfigError(f"[data] stream needs recorded times; those of {data.name} are drawn user by user")
    kept = sampled(data.n_users, limit_users)
    owner = data.owner
    inside = kept[owner]
    return replace(
        data,
        users=data.users[kept],
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(data.lengths[kept])]),
        item=data.item[inside],
        at=data.at[inside],
        tied=data.tied[inside],
        session=None if data.session is None else data.session[inside],
        outside=Stream.of(owner[~inside], data.item[~inside], data.at[~inside]),
    )
