"""Runs with patches do not depend on how the fleet is cut."""

from parity_parts import config, replayed, silent

from device.models.personal_torch import PersonalTorch
from device.models.torch_model import TorchModel
from simulation.prepare import prepare


def test_any_number_of_clients_gives_the_same_run(tmp_path):
    """Streamed rows, merged pools, two tiers of which one takes patches, lost and late replies, restored shards."""
    plain = config()
    cloud = plain.cloud.model_dump(by_alias=True, exclude={"personalizer"}, exclude_none=True) | {
        "personalizer": {
            "class": "personal_parts:Coded",
            "training": {"epochs": 1, "patience": 0},
            "when": {"every": 2},
        }
    }
    device = plain.device.model_dump(by_alias=True, exclude={"model", "policy", "energy"}, exclude_none=True)
    device["tiers"][1]["model"] = {"class": "device.models.sasrec:SASRec", "width": 8, "blocks": 1}
    device["cache_rows"] = 70
    policies = [
        {"class": "device.policy:Random", "price": 0.4, "update": "merge", "own": 2},
        {"class": "device.policy:Consistency", "price": 0.5},
    ]
    prepared = prepare(config(cloud=cloud, device=device, policies=policies), tmp_path, silent)
    assert [type(tier.model) for tier in prepared.installed] == [PersonalTorch, TorchModel]
    assert prepared.service.personalization.tiers.tolist() == [True, False]
    assert replayed(prepared, 1) == replayed(prepared, 7)
