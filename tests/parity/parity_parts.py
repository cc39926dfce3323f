"""The experiment of the parity tests, and a way to run it that needs no Flower."""

import sys
from pathlib import Path

import numpy as np

from cloud.gateway import Gateway
from cloud.ledger import Ledger
from simulation.choosing.chooser import choose
from simulation.config.tables import ExperimentConfig
from simulation.experiment import labelled, together
from simulation.handout import bounds, read_handout, write_handout
from simulation.prepare import prepare
from simulation.runs import decision_hash
from simulation.waves import replay
from simulation.wire import pack_delivery, pack_wave, part_of, unpack_delivery, unpack_wave

DEVICES = 70


def config(**changes):
    """Two tiers, two policies, late and lost replies; a small SASRec with one epoch of training on every device."""
    tables = {
        "name": "parity",
        "seed": 11,
        "metrics": ["ndcg@10"],
        "data": {
            "synthetic": {"users": DEVICES, "items": 80, "topics": 5, "length": 16},
            "split": {"leave_last": 5, "validation": 2},
            "clock": {"median_s": 20.0},
        },
        "cloud": {
            "generator": {"class": "cloud.generators.floors:Markov"},
            "pool": 12,
            "history": 10,
            "seconds_per_request": 10.0,
        },
        "device": {
            "model": {"class": "device.models.sasrec:SASRec", "width": 8, "blocks": 1},
            "training": {"epochs": 1, "patience": 0},
            "history": 10,
            "fusion": {"alpha": 0.4},
            "items": "streamed",
            "cache_rows": 26,
            "tiers": [
                {"name": "new", "share": 0.6},
                {"name": "old", "share": 0.4, "link": "3g"},
            ],
        },
        "policies": [
            {"class": "device.policy:Consistency", "price": 0.5},
            {"class": "device.policy:Random", "price": 0.4},
        ],
        "network": {"link": "4g", "loss": 0.4},
    }
    return ExperimentConfig.model_validate(tables | changes)


def silent(line):
    pass


def replayed(prepared, parts):
    """decision_hash of a replay in which every shard is made anew and restored from its snapshot before each wave."""
    handout = read_handout(str(write_handout(prepared, choose(prepared, silent))))
    steps, books = [], []
    for policy in prepared.config.all_policies:
        gateway = Gateway(prepared.service, prepared.timeline.histories, Ledger())
        states: dict[int, bytes] = {}

        def exchange(number, delivery, policy=policy, states=states):
            for part in range(parts):
                shard = handout.shard(policy.label, part, parts)
                if number > 1:
                    shard.restore(states[part])
                own = part_of(delivery, *bounds(DEVICES, part, parts))
                yield unpack_wave(pack_wave(shard.wave(number, unpack_delivery(pack_delivery(own)))))
                states[part] = shard.snapshot()

        first = gateway.install(prepared.model_bytes, prepared.timeline.at[:, 0])
        waves = list(replay(exchange, gateway, first, prepared.timeline.steps))
        steps.append(labelled(policy, together(waves)))
        books.append(labelled(policy, gateway.ledger.columns()))
    lived = {name: np.concatenate([part[name] for part in steps]) for name in steps[0] if name != "shown"}
    return decision_hash(lived, together(books))


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    print(replayed(prepare(config(), Path(sys.argv[1]), silent), 7))
