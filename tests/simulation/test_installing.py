"""What is installed under a policy: bytes by hand."""

import pytest

from device.fusion import Fusion
from simulation.choosing.chosen import Chosen
from simulation.config.tables import ExperimentConfig, PolicyTable
from simulation.prepare import prepare, serving, setups

SHARES = {0: 0, 0.1: 6, 0.25: 15, 0.5: 30, 1: 60}  # items of 60


def config(items):
    return ExperimentConfig.model_validate(
        {
            "name": "installing",
            "seed": 4,
            "data": {
                "synthetic": {"users": 40, "items": 60, "topics": 5, "length": 16},
                "split": {"leave_last": 4, "validation": 5},
            },
            "cloud": {"generator": {"class": "cloud.generators.floors:Markov"}, "pool": 12, "history": 6},
            "device": {
                "model": {"class": "loop_parts:Dot", "width": 6},
                "history": 6,
                "items": items,
                "cache_rows": 40,
            },
            "policies": [{"class": "device.policy:Always"}],
        }
    )


def table(share):
    """A policy whose devices look through a share of the catalogue."""
    looking = {"own": 5, "resident": share} if share else {}
    return PolicyTable.model_validate({"class": "device.policy:Always"} | looking)


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    return prepare(config("streamed"), tmp_path_factory.mktemp("streamed"), lambda line: None)


@pytest.mark.parametrize(("share", "items"), SHARES.items())
def test_bytes_of_a_share(streamed, share, items):
    """Without its table this model has no arrays: an empty patch of 2 + 1 + 4 bytes.

    The share is one patch more: frame and count 2 + 1 + 4; of each of the names "codes", "ids" and "scale" its length
    (1), letters, dtype (1), axes (1) and sizes (1 each); per item 6 codes of 1 byte, one id and one scale of 4. Who
    holds all items needs no ids.
    """
    heads, each = (1 + 5 + 2 + 2) + (1 + 5 + 2 + 1), 6 + 4
    if items < 60:
        heads, each = heads + (1 + 3 + 2 + 1), each + 4
    assert streamed.installation(table(share)) == [7 + (7 + heads + items * each if items else 0)]


@pytest.mark.parametrize("items", ["resident", "resident-int8"])
def test_a_table_that_is_not_streamed_is_installed_whole(tmp_path, items):
    prepared = prepare(config(items), tmp_path, lambda line: None)
    for share in SHARES:
        assert prepared.installation(table(share)) == prepared.model_bytes
        (setup,) = setups(prepared.config, prepared.installed, table(share), Chosen(0.0, Fusion()), prepared.popular)
        assert not len(setup.installed)


def test_device_and_cloud_are_told_the_same_share(streamed):
    policy = table(0.25)
    (setup,) = setups(streamed.config, streamed.installed, policy, Chosen(0.0, Fusion()), streamed.popular)
    service = serving(streamed.service, policy, 12, streamed.share(policy))
    assert setup.installed.tolist() == service.installed.tolist() == sorted(streamed.popular[:15].tolist())
    assert setup.scorer.resident.tolist() == setup.installed.tolist()
