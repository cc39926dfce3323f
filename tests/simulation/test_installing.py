"""What is installed under a policy: bytes by hand."""

import pytest

from device.errors import ConfigError
from device.fusion import Fusion
from device.models.incremental_torch import IncrementalTorch
from simulation.choosing.chosen import Chosen
from simulation.config.read import check
from simulation.config.tables import ExperimentConfig, PolicyTable
from simulation.prepare import prepare, serving, setups
from simulation.tier_profiles import kept_bytes

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


def kept(**changes):
    """The tables of an experiment whose devices keep states."""
    tables = config("resident").model_dump(mode="json", by_alias=True, exclude_none=True)
    tables["device"] |= {"states": "incremental", "model": {"class": "device.models.gru4rec:GRU4Rec", "width": 6}}
    tables["device"] |= changes
    tables["device"].pop("cache_rows", None)
    return tables


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"items": "streamed"}, r'states = "incremental": rows that come and go .* use items = "resident"'),
        ({"runtime": "onnxruntime-int8"}, r'states = "incremental": ONNX files read whole histories; use runtime'),
    ],
)
def test_states_that_could_not_go_on(changes, message):
    with pytest.raises(ConfigError, match=message):
        check(kept(**changes), ExperimentConfig, "kept.toml")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"class": "personal_parts:Coded"}, "patches work in all of .* MaskedHead with relative = true does"),
        (
            {"class": "cloud.personalizers.diet:Diet"},
            "the body of MaskedHead keeps no state: SASRec counts positions .*; for MaskedHead set relative = true",
        ),
    ],
)
def test_patches_where_no_state_could_go_on_are_refused(tmp_path, method, message):
    tables = kept()
    tables["device"]["model"] = {"class": "device.models.masked:MaskedHead", "width": 8, "blocks": 1}
    if method["class"] == "personal_parts:Coded":
        del tables["device"]["model"]
    tables["cloud"]["personalizer"] = method
    with pytest.raises(ConfigError, match=r'\[device\] states = "incremental": ' + message):
        prepare(check(tables, ExperimentConfig, "kept.toml"), tmp_path, lambda line: None)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("device.models.sasrec:SASRec", r'\[device\] states = "incremental": SASRec counts positions .*ElasticSASRec'),
        ("device.models.din:DIN", "DIN cannot go on from a state; give it item_table, begin"),
        ("loop_parts:Dot", "Dot keeps no state; give it start, advance and score_state"),
    ],
)
def test_models_without_a_state_are_refused_before_anything_is_trained(tmp_path, model, message):
    tables = check(kept(model={"class": model, "width": 6}), ExperimentConfig, "kept.toml")
    with pytest.raises(ConfigError, match=message):
        prepare(tables, tmp_path, lambda line: None)
    assert not (tmp_path / "models").exists()


def test_what_a_device_with_a_state_holds(tmp_path):
    """A layer of 6 and the last state of 6, float32; and what that showed at the last request, 6 more."""
    made = check(kept(training={"epochs": 1, "patience": 0}), ExperimentConfig, "kept.toml")
    (tier,) = prepare(made, tmp_path, lambda line: None).installed
    assert isinstance(tier.model, IncrementalTorch)
    assert kept_bytes(made, tier) == 4 * (6 + 6 + 6)
