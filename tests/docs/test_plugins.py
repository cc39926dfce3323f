"""Every example of docs/plugins.md is written out, checked and run."""

import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud.sequences import Sequences
from device.check import check_device_model
from device.model import DeviceModel
from device.models.onnx_file import OnnxFile
from device.models.torch_model import as_device_model
from device.policy import RequestPolicy, View
from device.seeds import rng
from simulation.build import build
from simulation.config.read import check
from simulation.config.tables import ExperimentConfig
from simulation.conformance.check import conformance
from simulation.conformance.made_up import view
from simulation.experiment import Job
from simulation.flower.client_app import app as client_app
from simulation.flower.in_process_grid import run_in_process
from simulation.flower.server_app import app_for
from simulation.prepare import prepare
from simulation.runs import Run

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
BLOCK = re.compile(r"^## (?P<title>.+?)$|^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"# (\S+\.(?:py|toml|csv))\n")
Tables = dict[str, Any]


def sections() -> dict[str, dict[str, list[str]]]:
    """Title -> language -> blocks; what stands before the first title is under ""."""
    found: dict[str, dict[str, list[str]]] = {"": {}}
    for match in BLOCK.finditer(PAGE.read_text()):
        if match["title"]:
            found[match["title"]] = {}
        else:
            found[list(found)[-1]].setdefault(match["language"], []).append(match["text"])
    return found


PAGES = sections()
SLIM, PERSONAL = "A slimmable device model", "A personalised method"
MODELS = ["A device model in numpy", "A device model in torch", SLIM, "A device model as an ONNX file"]
POLICIES = ["A request policy", "A request policy that learns"]
LINKS = ["A link from a trace file", "A link of your own"]
OTHERS = [*POLICIES, "A candidate generator", PERSONAL, *LINKS]
PATH = "From an empty file to a run"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the files of all examples, as a reader would have it: the current one, and importable."""
    modules = []
    for language, text in [(lang, t) for page in PAGES.values() for lang, texts in page.items() for t in texts]:
        name = NAME.match(text)
        if name and language in ("python", "csv", "toml"):
            (tmp_path / name[1]).write_text(text if language != "csv" else text[name.end() :])
            modules += [name[1].removesuffix(".py")] if language == "python" else []
    assert len(modules) == 9
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for module in modules:
        sys.modules.pop(module, None)


def merged(base: Tables, change: Tables) -> Tables:
    """`change` over `base`; a table that names a class replaces the one it meets."""
    if "class" in change:
        return change
    both = {
        key: merged(base.get(key, {}), value) if isinstance(value, dict) else value for key, value in change.items()
    }
    return base | both


def experiment(title: str) -> tuple[Tables, ExperimentConfig]:
    (fragment,) = PAGES[title]["toml"]
    (tiny,) = PAGES[""]["toml"]
    change = tomllib.loads(fragment)
    return change, check(merged(tomllib.loads(tiny), change), ExperimentConfig, f"docs/plugins.md, {title}")


def test_there_is_an_example_of_everything():
    assert list(PAGES) == ["", PATH, *MODELS, *OTHERS]
    assert sum(len(texts) for page in PAGES.values() for texts in page.values()) >= 15


@pytest.mark.parametrize(("title", "most"), [("A device model in numpy", 20), *((p, 20) for p in POLICIES)])
def test_the_short_ones_are_short(title: str, most: int):
    (code,) = PAGES[title]["python"]
    lines = [line for line in code[code.index("class ") :].splitlines() if line.strip()]
    assert len(lines) < most


def test_the_base_is_a_whole_experiment():
    (tiny,) = PAGES[""]["toml"]
    assert check(tomllib.loads(tiny), ExperimentConfig, "tiny.toml").name == "tiny"


@pytest.mark.parametrize("title", MODELS)
def test_device_models_pass_the_conformance_kit(title: str, folder: Path):
    importlib.invalidate_caches()
    if title == "A device model as an ONNX file":
        importlib.import_module("make_onnx")
    plugin = experiment(title)[1].device.model
    model = build(plugin.class_, plugin.options, title, n_items=80, length=20)
    if hasattr(model, "fit"):
        items = rng(0, "items").integers(1, 81, 400, dtype=np.int32)
        model.fit(Sequences(items, np.array([0, 200]), np.array([200, 400])))
    report = check_device_model(model, n_items=80)
    report.raise_on_failure()
    assert len(report.findings) == 10
    usable = as_device_model(model)
    scores = usable.score(usable.init(rng(0, "init")), np.array([[0, 3, 5]], np.int32), np.array([[1, 2, 7]], np.int32))
    assert len(np.unique(scores)) == 3  # a model that scores everything alike would pass the kit


@pytest.mark.parametrize("title", POLICIES)
def test_policies_pass_the_conformance_kit_as_the_page_says(title: str, folder: Path):
    importlib.invalidate_caches()
    policy = experiment(title)[1].all_policies[0]
    assert isinstance(build(policy.class_, policy.options, "policy"), RequestPolicy)
    (command,) = PAGES[title]["console"]
    kind, path, *options = command.removeprefix("tandemrec check ").split()
    assert path == policy.class_
    findings = conformance(kind, path, options[1:])
    assert [finding.message for finding in findings if not finding.ok] == []
    assert len(findings) == (11 if title.endswith("learns") else 6)


@pytest.mark.parametrize(
    ("title", "traits"),
    [
        ("A device model in numpy", set()),
        (SLIM, {"item table", "slices", "whole", "subnet scores", "costs", "training"}),
        (PERSONAL, {"patches", "gradients", "unpatched", "effect"}),
    ],
)
def test_models_and_methods_pass_the_conformance_kit_as_the_page_says(title: str, traits: set[str], folder: Path):
    importlib.invalidate_caches()
    (command,) = PAGES[title]["console"]
    kind, path, *options = command.removeprefix("tandemrec check ").split()
    findings = conformance(kind, path, options[1::2])
    assert [finding.message for finding in findings if not finding.ok] == []
    assert traits <= {finding.name for finding in findings}


def test_the_path_has_commands_of_the_page():
    """Each numbered step names a file, a table or a command that the sections below hold."""
    text = PAGE.read_text()
    path = text[text.index(f"## {PATH}") : text.index("## A device model in numpy")]
    commands = re.findall(r"`(tandemrec check [^`]+|tandemrec run [^`]+)`", path)
    shown = {line for page in PAGES.values() for block in page.get("console", []) for line in block.splitlines()}
    assert len(commands) >= 2
    assert {command for command in commands if "--set" not in command} <= shown
    assert all(f"# {name}\n" in text for name in re.findall(r"`(\w+\.(?:py|toml))`", path))


USER, RECENT = "        user = recent + self.down(torch.relu(self.up(recent)))\n", " @ self.item(history)\n"
SCORES = "(user @ self.item(candidates).mT)[:, 0]"
MISTAKES = {
    "without `[:, 0]`": (SCORES, "user @ self.item(candidates).mT"),
    ".double()": (SCORES, f"{SCORES}.double()"),
    "recent / (history > 0)": (RECENT, f"{RECENT}        recent = recent / (history > 0).sum(1)[:, None, None]\n"),
    "recent / history.shape[1]": (RECENT, f"{RECENT}        recent = recent / history.shape[1]\n"),
    "from the oldest item": ("torch.arange(history.shape[1]).flip(0)", "(history > 0).cumsum(1) - 1"),
    "clamp_": (USER, f"        with torch.no_grad():\n            self.item.weight.clamp_(-0.5, 0.5)\n{USER}"),
    "user.mean(0)": (USER, f"{USER}        user = user - user.mean(0)\n"),
    "randn_like": (USER, f"{USER}        user = user + 0.1 * torch.randn_like(user)\n"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_mistakes_of_the_page_are_found_as_it_says(mistake: str, folder: Path):
    ((check, cure),) = re.findall(
        rf"^\| [^|]*{re.escape(mistake)}.* \| `(.+?)` \| (.+) \|$", PAGE.read_text(), re.MULTILINE
    )
    right, wrong = MISTAKES[mistake]
    code = (folder / "my_slim.py").read_text()
    assert code.count(right) == 1
    (folder / "my_mistake.py").write_text(code.replace(right, wrong))
    found = [finding for finding in conformance("device-model", "my_mistake.py:SlimRecent", []) if not finding.ok]
    assert cure in {finding.name: finding.message for finding in found}[check]
    assert found[-1].name == check
    assert "my_mistake" in sys.modules  # and not a file of another test
    sys.modules.pop("my_mistake")


def test_two_tiers_hold_two_parts_of_one_model(folder: Path):
    importlib.invalidate_caches()
    prepared = prepare(experiment(SLIM)[1], folder / "runs", lambda line: None)
    new, old = (tier.params["item.weight"] for tier in prepared.installed)
    assert (new.shape, old.shape) == ((81, 16), (81, 8))
    assert np.abs(new[:, :8] - old).max() <= np.abs(new[:, :8]).max() / 254 * 1.01  # int8: half a code at most
    assert prepared.model_bytes[1] < prepared.model_bytes[0] / 4  # one byte for four, and half of them
    assert len(list((folder / "runs" / "models").glob("supernet-*"))) == 1


def test_the_policies_look_at_all_that_is_worth_a_look(folder: Path):
    code = "".join(text for title in POLICIES for text in PAGES[title]["python"])
    assert all(f"view.{name}" in code for name in ("misses", "hit_rate", "age", "own", "state", "asked_state"))


def test_the_table_of_the_view_is_whole():
    """All that a policy can look at, by its own name, type and number of axes."""
    rows = dict(re.findall(r"^\| (`.+?) \| (\w+ `\[.+?\]`) \|", PAGE.read_text(), re.MULTILINE))
    told = {name: kind for names, kind in rows.items() for name in re.findall(r"`(\w+)`", names)}
    computed = {name for name, member in vars(View).items() if isinstance(member, property | cached_property)}
    assert told.keys() == (View.__dataclass_fields__.keys() - {"look"}) | computed
    seen = view()
    for name, kind in told.items():
        array = getattr(seen, name)
        assert kind.split()[0] == str(array.dtype), name
        assert kind.count(",") + 1 == array.ndim, name


def test_the_generator_fulfils_its_contract(folder: Path):
    importlib.invalidate_caches()
    generator = experiment("A candidate generator")[1].cloud.generator
    from cloud.generator import CandidateGenerator

    assert isinstance(build(generator.class_, generator.options, "generator", n_items=80), CandidateGenerator)


@pytest.mark.parametrize("title", [*MODELS, *OTHERS])
def test_a_tiny_experiment_runs_with_it(title: str, folder: Path):
    importlib.invalidate_caches()
    if title == "A device model as an ONNX file":
        importlib.import_module("make_onnx")
        assert isinstance(OnnxFile("exported/fp32.onnx"), DeviceModel)
    change, config = experiment(title)
    run_in_process(app_for(Job(config, folder / "runs", 2)), client_app, clients=2, run_config={})
    (made,) = [path for path in (folder / "runs").iterdir() if path.name.startswith("tiny-")]
    run = Run.open(made)
    assert str(change).split("'class': '")[1].split("'")[0] in run.config_toml
    # 40 users of 30 events replay 6 steps each; every other step asks
    assert len(run.steps) == 240
    (summary,) = run.summary["policies"].values()
    least = 0.05 if title.endswith("learns") else 0.2  # what is learned and priced on 120 steps does not carry far
    assert least < summary["request_ratio"] <= 0.5
    assert 0 < summary["measures"]["hr@10"]["mean"] < 1
    if title == PERSONAL:
        assert {"patch", "first_patch"} <= set(run.ledger["kind"])
