"""What `tandemrec list` finds: every class that a configuration can name, and nothing else."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

from device.policy import RequestPolicy
from simulation.build import build, imported
from simulation.commands.catalogue import PACKAGES, entries


def listed(kind: str) -> dict[str, dict[str, Any]]:
    """Import path -> entry."""
    return {entry["class"]: entry for entry in entries() if entry["kind"] == kind}


def test_there_is_something_of_every_kind() -> None:
    assert {entry["kind"] for entry in entries()} == set(PACKAGES)
    published = {"intellectreq:IntellectReq", "metacontroller:MetaController"}
    published |= {f"lsc4rec:{name}" for name in ("BatchScore", "Displacement", "InvalidCount")}
    signals = {f"signals:{name}" for name in ("Misses", "OutOfPool", "RankGap", "SinceReply")}
    assert set(listed("policy")) == {
        *(f"device.policy:{name}" for name in ("Never", "Always", "Every", "Random", "Consistency")),
        *(f"device.policies.{name}" for name in {"gain:Gain"} | published | signals),
    }
    assert {path for path in listed("generator") if "floors" in path} == {
        f"cloud.generators.floors:{name}" for name in ("Popularity", "Markov", "IdCounter")
    }
    assert set(listed("device model")) == {
        "device.models.sasrec:SASRec",
        "device.models.gru4rec:GRU4Rec",
        "device.models.din:DIN",
        "device.models.onnx_file:OnnxFile",
        "device.models.elastic:ElasticSASRec",
        "device.models.elastic_gru:ElasticGRU4Rec",
        "device.models.elastic_din:ElasticDIN",
        "device.models.masked:MaskedHead",
        "device.models.masked:MaskedSASRec",
        "device.models.assembled:Assembled",
        "device.models.successors:Successors",
        "device.models.ttt:TTT4Rec",
    }
    methods = ("cki:Cki", "diet:Diet", "duet:Duet", "forward_ofa:ForwardOFA", "solid:Solid")
    assert set(listed("personalizer")) == {f"cloud.personalizers.{name}" for name in methods}


def test_every_path_is_one_that_a_configuration_can_name() -> None:
    found = entries()
    assert len({(entry["kind"], entry["class"]) for entry in found}) == len(found)
    for entry in found:
        assert inspect.isclass(imported(entry["class"], "list")), entry["class"]
        assert not getattr(imported(entry["class"], "list"), "_is_protocol", False)


def test_every_entry_says_what_it_is() -> None:
    for entry in entries():
        assert entry.keys() == {"kind", "class", "options", "about", "models"}
        assert entry["about"] != "no docstring"
        assert len(entry["about"].split()) >= 4, entry
        assert "\n" not in entry["about"]


def test_options_are_those_that_a_table_may_set() -> None:
    sasrec = listed("device model")["device.models.sasrec:SASRec"]["options"]
    assert sasrec == ["width=32", "blocks=2", "heads=2", "length=50", "dropout=0.2"]  # n_items is told by the data
    assert listed("policy")["device.policy:Every"]["options"] == ["steps=None"]
    assert listed("generator")["cloud.generators.floors:Markov"]["options"] == []


def test_a_personalizer_names_the_models_that_it_goes_on_from() -> None:
    found = listed("personalizer")
    assert {path.partition(":")[2]: entry["models"] for path, entry in found.items()} == {
        "Cki": ["device.models.sasrec:SASRec"],
        "Diet": ["device.models.masked:MaskedHead", "device.models.masked:MaskedSASRec"],
        "Duet": ["device.models.sasrec:SASRec"],
        "ForwardOFA": ["device.models.assembled:Assembled"],
        "Solid": ["device.models.sasrec:SASRec"],
    }
    for entry in found.values():
        assert not {"backbone", "device"} & set(entry["options"])  # no key of a table
    assert not [entry for entry in entries() if entry["models"] and entry["kind"] != "personalizer"]


def test_defaults_are_values_that_can_be_written() -> None:
    assert not [option for entry in entries() for option in entry["options"] if "<" in option]


def test_every_policy_listed_can_be_made_without_options() -> None:
    for path in listed("policy"):
        assert isinstance(build(path, {}, "list"), RequestPolicy)


def test_rerankers_are_generators_too_and_a_file_is_not() -> None:
    generators = set(listed("generator"))
    assert {"device.models.sasrec:SASRec", "device.models.gru4rec:GRU4Rec", "device.models.din:DIN"} <= generators
    assert "device.models.onnx_file:OnnxFile" not in generators


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package on the path, as pip leaves it, that announces a policy that works and one that does not."""
    (tmp_path / "lab_policies.py").write_text(
        "class Nightly:\n"
        '    """Asks at night,\n    when the network sleeps.\n\n    More words."""\n\n'
        "    def __init__(self, hour: int = 3): ...\n"
        "    def urgency(self, view, draws): ...\n",
        encoding="utf-8",
    )
    about = tmp_path / "lab_policies-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-policies\nVersion: 1.0\n", encoding="utf-8")
    points = "[tandemrec.policies]\nnightly = lab_policies:Nightly\ngone = lab_policies:Gone\n"
    (about / "entry_points.txt").write_text(points, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()


def test_installed_packages_announce_their_own(installed: None) -> None:
    found = listed("policy")
    assert found["lab_policies:Nightly"] == {
        "kind": "policy",
        "class": "lab_policies:Nightly",
        "options": ["hour=3"],
        "about": "Asks at night, when the network sleeps.",
        "models": [],
    }
    assert found["lab_policies:Gone"]["about"].startswith("cannot be imported: AttributeError")
    assert "device.policy:Never" in found
