"""[cloud.personalizer] from the file to the run folder."""

import tomllib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import TOML

from cloud.options import Training
from device.errors import ConfigError, ContractError
from device.models.personal_torch import PersonalTorch
from simulation.config.parts import Plugin
from simulation.config.read import check
from simulation.config.tables import ExperimentConfig
from simulation.conformance.check import conformance
from simulation.fingerprint import fingerprint
from simulation.handout import read_handout, write_handout
from simulation.installing import trained_reranker
from simulation.launch import launch
from simulation.objects import make_split, tiers
from simulation.personalizing import device_half, personalization, start, trained_folder, trained_method
from simulation.prepare import prepare
from simulation.shelf import Shelf, Start, code_of
from simulation.sweep.plan import plans

MODEL = """[device.model]
class = "device.models.sasrec:SASRec"
width = 8
blocks = 1

[device.training]
epochs = 1
patience = 0
"""
OWN = """[cloud.personalizer]
class = "personal_parts:Coded"
width = 8
[cloud.personalizer.training]
epochs = 1
patience = 0
"""
HEADER, VALUES = 8, 8 * 4 + 1  # eight float32 and eight bits


def silent(line):
    pass


def toml(own=OWN, *more):
    text = TOML.replace(MODEL, own)
    for old, new in more:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def made(text):
    return check(tomllib.loads(text), ExperimentConfig, "tiny.toml")


def shelf_of(config, root):
    split = make_split(config.data, config.seed)
    return Shelf(root / "models", split, config.seed, config.device.history, silent)


def run(config, root, **more):
    return launch(config, root, say=silent, progress=lambda *_: None, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with patches, whose trained models lie beside it."""
    return run(made(toml()), tmp_path_factory.mktemp("runs"))


def test_a_run_pays_for_a_patch_with_every_reply(folder):
    book = pd.read_parquet(folder / "ledger.parquet")
    first = book[book.kind == "first_patch"].groupby("policy", observed=True)
    assert first.device.nunique().tolist() == [40, 40]
    assert first.nbytes.sum().tolist() == [40 * (HEADER + VALUES)] * 2
    own, lists = book[book.kind == "patch"], book[book.kind == "candidates"]
    assert len(own) == len(lists) > 0
    assert (own.nbytes == HEADER + VALUES).all()
    assert (own[own.attempt == 1].cloud_s == 2 * 8 * 8 / 100e9).all()  # one 8 x 8 product, 2 per multiply-add


def test_it_is_the_devices_half_that_is_installed(folder):
    book = pd.read_parquet(folder / "ledger.parquet")
    table = 81 * 8 * 4
    (nbytes,) = book[book.kind == "install"].nbytes.unique()
    assert table < nbytes < table + 100


def test_a_resumed_run_is_the_same(folder, tmp_path):
    class Stop(Exception):
        pass

    def stop(policy, done, whole):
        if policy == "every steps=2":
            raise Stop

    config = made(toml())
    with pytest.raises(Stop):
        launch(config, tmp_path, say=silent, progress=stop)
    again = run(config, tmp_path, resume=True)
    for name in ("steps.parquet", "ledger.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(again / name), pd.read_parquet(folder / name))


def test_clients_get_the_trained_half(tmp_path):
    prepared = prepare(made(toml()), tmp_path, silent)
    handout = read_handout(str(write_handout(prepared, {})))
    (tier,) = handout.installed
    assert isinstance(tier.model, PersonalTorch)
    np.testing.assert_array_equal(tier.params["item.weight"], prepared.installed[0].params["item.weight"])


def test_a_method_may_go_on_from_a_trained_model(tmp_path):
    text = toml(
        OWN.replace("Coded", "Going").replace("width = 8\n", "")
        + MODEL.replace(
            'class = "device.models.sasrec:SASRec"\nwidth = 8\nblocks = 1', 'class = "personal_parts:Half"\nwidth = 8'
        )
    )
    config = made(text)
    shelf = shelf_of(config, tmp_path)
    method, begun = trained_method(config, shelf), start(config, shelf)
    for name, tensor in begun.model.state_dict().items():
        assert torch.equal(method.device.state_dict()[name], tensor)
    assert prepare(config, tmp_path, silent).installed[0].params.keys() == {"item.weight"}
    assert trained_folder(config, shelf, tiers(config)[0]).exists()


def test_the_name_of_a_training_holds_what_it_started_from(tmp_path):
    shelf = shelf_of(made(toml()), tmp_path)
    plugin, training = Plugin.model_validate({"class": "personal_parts:Going"}), Training()
    names = [shelf.folder(plugin, training, one).name for one in (None, Start("a", None), Start("b", None))]
    assert len(set(names)) == 3


def test_the_name_of_a_training_holds_the_code_of_the_other_half(tmp_path, monkeypatch):
    """A method's file that takes a class from a device model: with that file the name changes."""
    for name in ("one", "two"):
        (tmp_path / f"method_{name}.py").write_text("from device.models.sasrec import SASRec\n\n\ndef f():\n    pass\n")
    (tmp_path / "method_two.py").write_text("from os import path as SASRec\n\n\ndef f():\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import method_one  # type: ignore[import-not-found]
    import method_two  # type: ignore[import-not-found]

    import simulation.shelf as shelf_module

    assert [file.name for file in shelf_module.parts_of(method_one)] == ["sasrec.py"]
    assert shelf_module.parts_of(method_two) == []
    assert code_of("method_one:f") != code_of("method_two:f")


def test_models_without_parts_are_named_as_before():
    """The neighbours of SASRec do not matter, so what was trained stays trained."""
    import sys

    import device.models.sasrec
    from simulation.shelf import parts_of

    assert parts_of(sys.modules[device.models.sasrec.__name__]) == []


def test_another_method_is_another_run(tmp_path):
    prepared = prepare(made(toml()), tmp_path, silent)
    table = prepared.config.cloud.personalizer
    other = prepared.config.cloud.model_copy(update={"personalizer": table.model_copy(update={"when": "installation"})})
    changed = replace(prepared, config=prepared.config.model_copy(update={"cloud": other}))
    assert fingerprint(changed) != fingerprint(prepared)


def test_it_is_the_devices_half_that_is_exported(tmp_path):
    config = made(toml())
    half = trained_reranker(config, shelf_of(config, tmp_path), tiers(config)[0])
    assert type(half).__name__ == "Half"


@pytest.mark.parametrize(
    ("text", "about"),
    [
        (TOML.replace(MODEL, ""), "'model' is missing"),
        (toml(OWN.replace("epochs = 1", "epochs = -1")), "epochs = -1"),
        (toml(OWN + 'when = "sometimes"'), "unknown key 'when'"),
        (toml('[cloud.personalizer]\nclass = "a:B"\nwhen = "sometimes"\n'), "when"),
        (toml(OWN, ("fusion = { alpha = 0.5 }", 'fusion = { alpha = 0.5 }\nruntime = "onnxruntime"')), "onnxruntime"),
        (toml(OWN + '[device.collaboration]\ntraining = "cooperative"\n'), "collaboration"),
        (
            toml(
                OWN + '[[device.tiers]]\nname = "a"\nshare = 1.0\nmodel = { class = "device.models.sasrec:SASRec" }\n'
            ),
            "every tier",
        ),
    ],
)
def test_what_cannot_be_is_refused(text, about):
    with pytest.raises(ConfigError, match=about):
        made(text)


@pytest.mark.parametrize(
    ("text", "about"),
    [
        (toml(OWN.replace("Coded", "Half")), "patches"),
        (toml(OWN + MODEL), "no effect"),
        (toml(OWN.replace("width = 8", "breadth = 8")), "breadth"),
        (toml(OWN.replace("personal_parts:Coded", "loop_parts:Dot")), "personalizer"),
    ],
)
def test_what_is_no_method_is_refused(text, about, tmp_path):
    with pytest.raises((ConfigError, ContractError), match=about):
        prepare(made(text), tmp_path, silent)


def test_halves_of_two_layouts_are_refused():
    from personal_parts import Coded, PersonalDot, Shift

    config = made(toml())
    shift = Shift()
    shift.device = PersonalDot(5)
    assert personalization(config, shift).every == 1
    shift.device = Coded(5).device
    with pytest.raises(ContractError, match="one and the same"):
        personalization(config, shift)
    with pytest.raises(ContractError, match="device half"):
        device_half(object())


def test_a_sweep_says_that_its_bounds_know_no_rarer_patches(tmp_path):
    (tmp_path / "tiny.toml").write_text(toml().replace("[device]\n", '[device]\nstates = "incremental"\n', 1))
    with pytest.raises(ConfigError, match=r'states = "incremental" beside .cloud.personalizer.: the bounds of a sweep'):
        plans(tmp_path / "tiny.toml", [])
    (tmp_path / "tiny.toml").write_text(toml().replace("width = 8", "width = 8\nwhen = { every = 3 }"))
    with pytest.raises(ConfigError, match="every = 3"):
        plans(tmp_path / "tiny.toml", [])


@pytest.mark.parametrize("named", ["solid:Solid", "cki:Cki"])
def test_heads_of_published_methods_travel_in_a_run(named, tmp_path):
    """By their names alone: 2 (8 x 8 + 8) weights of four bytes, and a header, with every reply."""
    own = OWN.replace("personal_parts:Coded", f"cloud.personalizers.{named}").replace("width = 8\n", "code = 4\n")
    folder = run(made(toml(own + MODEL)), tmp_path)
    book = pd.read_parquet(folder / "ledger.parquet")
    assert (book[book.kind == "patch"].nbytes == HEADER + 576).all()
    assert len(book[book.kind == "patch"]) == len(book[book.kind == "candidates"]) > 0
    options = ["model.class=device.models.sasrec:SASRec", "model.width=8", "model.blocks=1", "code=4"]
    findings = conformance("personalizer", f"cloud.personalizers.{named}", options)
    assert [finding.message for finding in findings if not finding.ok] == []


@pytest.mark.parametrize(
    ("method", "backbone", "needed"),
    [
        ("diet:Diet", "sasrec:SASRec", "device.models.masked:MaskedHead or device.models.masked:MaskedSASRec"),
        ("forward_ofa:ForwardOFA", "gru4rec:GRU4Rec", "device.models.assembled:Assembled"),
        ("duet:Duet", "elastic:ElasticSASRec", "device.models.sasrec:SASRec"),
    ],
)
def test_a_method_names_the_model_that_it_can_go_on_from(tmp_path, method, backbone, needed):
    own = f'[cloud.personalizer]\nclass = "cloud.personalizers.{method}"\n'
    model = MODEL.replace("sasrec:SASRec", backbone)
    model = model.replace("blocks = 1\n", "") if "gru" in backbone else model
    with pytest.raises(ConfigError, match=f"goes on from {needed}, found {backbone.partition(':')[2]}"):
        prepare(made(toml(own + model)), tmp_path, silent)
