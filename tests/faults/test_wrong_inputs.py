"""What is wrong with what comes in is said: the place, the value and the remedy, in an exception of the right kind."""

import errno
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from loop_parts import World, random_timeline
from tiny import TOML, Said, changed, tandemrec, written

from device.errors import ConfigError, ContractError, DataError, RunError, WireError
from device.export import export_onnx
from device.model import DeviceModel, Items, Scores
from device.models.onnx_file import OnnxFile
from device.models.sasrec import SASRec
from device.models.torch_model import as_device_model
from device.scoring import ModelScorer
from device.seeds import rng
from simulation.config.read import load_config
from simulation.data.read import read
from simulation.launch import launch
from simulation.runs import Run

RERANKER = 'class = "device.models.sasrec:SASRec"\nwidth = 8\nblocks = 1'
PLUGINS = """
import numpy as np
from cloud.generator import Generated


class Model:
    def __init__(self, mistake: str):
        self.mistake = mistake

    def init(self, rng):
        return {"w": np.ones(1, np.float32)}

    def score(self, params, history, candidates):
        good = np.zeros(candidates.shape, np.float32)
        answers = {"nan": good + np.nan, "infinite": good - np.inf, "shape": good[:, :1], "list": good.tolist()}
        return answers[self.mistake]


class Policy:
    def __init__(self, mistake: str):
        self.mistake = mistake

    def urgency(self, view, draws):
        good = np.zeros(len(view.device))
        return {"nan": np.where(view.device == 3, np.nan, good), "shape": good[:, None]}[self.mistake]


class Generator:
    def __init__(self, n_items, mistake: str):
        self.n_items, self.mistake = n_items, mistake

    def generate(self, histories, k, *, rng):
        items = np.repeat(np.arange(1, k + 1, dtype=np.int32)[None], len(histories), 0)
        scores = np.repeat(-np.arange(k, dtype=np.float32)[None], len(histories), 0)
        if self.mistake == "unknown":
            items[:, -1] = self.n_items + 5
        if self.mistake == "negative":
            items[:, -1] = -2
        if self.mistake == "twice":
            items[:, -1] = items[:, 0]
        if self.mistake == "nan":
            scores[:, -1] = np.nan
        if self.mistake == "long":
            items, scores = np.tile(items, 2), np.tile(scores, 2)
        return Generated(items, scores, None if self.mistake == "free" else np.ones(len(items)), None)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder, the current one, with plug-ins that make mistakes."""
    written(tmp_path, PLUGINS, "wrong_plugins.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("wrong_plugins", None)


def start(folder: Path, text: str = TOML, **job: Any) -> Path:
    """The experiment of a text."""
    config = load_config(written(folder, text))
    return launch(config, folder / "runs", say=lambda _: None, progress=lambda *_: None, **job)


def has_all(error: BaseException, *words: str) -> None:
    """Every word is in the message."""
    assert [word for word in words if word not in str(error)] == [], str(error)


def nothing_written(folder: Path) -> None:
    """No run folder, whole or half, and nothing temporary."""
    runs = folder / "runs"
    left = [path.name for path in runs.iterdir() if path.name.startswith(("tiny", ".tiny"))] if runs.exists() else []
    assert left == []
    assert not [path for path in runs.rglob("*.tmp")]


# Configuration


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("pool = 20", "pooll = 20", ["tiny.toml: [cloud]", "unknown key 'pooll'", "did you mean 'pool'?"]),
        ("users = 40", "usr = 40", ["tiny.toml: [data.synthetic]", "unknown key 'usr'", "did you mean 'users'?"]),
        ("[simulation]", "[simulaton]", ["tiny.toml: unknown key 'simulaton'", "did you mean 'simulation'?"]),
    ],
)
def test_an_unknown_key(folder: Path, old: str, new: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        start(folder, changed(old, new))
    has_all(caught.value, *words)
    nothing_written(folder)


def test_several_mistakes_are_told_at_once(folder: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        start(folder, changed("pool = 20", "pool = 0").replace("seed = 5", 'seed = "five"'))
    has_all(caught.value, "seed = 'five'", "[cloud] pool = 0")
    assert len(str(caught.value).splitlines()) == 2


def test_two_tiers_of_one_name(folder: Path) -> None:
    tiers = '[[device.tiers]]\nname = "phone"\nshare = 0.5\n' * 2
    with pytest.raises(ConfigError, match="phone"):
        start(folder, TOML + tiers)


# Data


def with_data(path: str) -> str:
    """The tiny experiment on a file."""
    return changed("synthetic = { users = 40, items = 80, topics = 5, length = 16 }", f'path = "{path}"')


def test_a_missing_data_file(folder: Path) -> None:
    written(folder, "user_id,item_id,timestamp\nu,a,1\n", "events.csv")
    with pytest.raises(DataError) as caught:
        start(folder, with_data("evnets.csv"))
    has_all(caught.value, "evnets.csv: no such file or folder", "events.csv")
    nothing_written(folder)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("v,b,yesterday", ["line 4", "column 'timestamp'", "'yesterday'"]),
        ("v,,9", ["line 4", "column 'item_id'"]),
        ("v,b", ["line 4", "found 2 fields, expected 3"]),
    ],
)
def test_a_malformed_row(folder: Path, row: str, words: list[str]) -> None:
    written(folder, f"user_id,item_id,timestamp\nu,a,1\nu,b,2\n{row}\n", "events.csv")
    with pytest.raises(DataError) as caught:
        read(folder / "events.csv", seed=1)
    has_all(caught.value, "events.csv", *words)
    with pytest.raises(DataError, match=words[0]):  # and from an experiment
        start(folder, with_data("events.csv"))


def test_data_that_leave_nothing_to_replay(folder: Path) -> None:
    written(folder, "user_id,item_id,timestamp\nu,a,1\nv,b,1\n", "events.csv")
    with pytest.raises(ConfigError, match=r"\[data.split\] leaves no test steps; lower leave_last"):
        start(folder, with_data("events.csv"))


# Device models


def scores(model: DeviceModel, histories: Items, candidates: Items) -> Scores:
    who = np.arange(len(histories))
    return ModelScorer(model, model.init(rng(0, "weights"))).scores(who, who, histories, candidates)


def small_sasrec() -> SASRec:
    """Built for 10 items."""
    torch.manual_seed(0)
    return SASRec(10, width=8, blocks=1, length=10)


@pytest.fixture(scope="module")
def small_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx")
    export_onnx(small_sasrec(), path, length=10, candidates=20, int8=False)
    return path / "fp32.onnx"


@pytest.mark.parametrize(("history", "candidate"), [(10, 11), (80, 10)])
@pytest.mark.parametrize("form", ["torch", "onnx"])
def test_an_item_that_the_model_does_not_know(form: str, history: int, candidate: int, small_onnx: Path) -> None:
    model = as_device_model(small_sasrec()) if form == "torch" else OnnxFile(small_onnx)
    histories = np.array([[0, 1, 10], [2, 3, history]], np.int32)
    pools = np.array([[4, 5], [6, candidate]], np.int32)
    with pytest.raises(ContractError) as caught:
        scores(model, histories, pools)
    name = "TorchModel" if form == "torch" else "OnnxFile"
    has_all(
        caught.value,
        f"device model {name} does not know all items: histories go up to id {history}, candidates up to {candidate}",
        "build or train it for this data set",
    )
    assert scores(model, np.minimum(histories, 10), np.minimum(pools, 10)).shape == (2, 2)


def test_a_model_file_of_a_smaller_catalogue_in_an_experiment(folder: Path, small_onnx: Path) -> None:
    text = changed(RERANKER, f'class = "device.models.onnx_file:OnnxFile"\npath = "{small_onnx}"')
    with pytest.raises((ContractError, RunError)) as caught:
        start(folder, text)
    has_all(caught.value, "OnnxFile does not know all items", "build or train it for this data set")
    nothing_written(folder)


def test_a_reranker_told_a_smaller_catalogue(folder: Path) -> None:
    with pytest.raises((ConfigError, ContractError), match="n_items"):
        start(folder, changed("blocks = 1", "blocks = 1\nn_items = 10"))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"<html>404</html>", bytes(range(256)) * 8])
def test_a_file_that_is_not_onnx(folder: Path, content: bytes) -> None:
    path = folder / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        OnnxFile(path)
    has_all(caught.value, f"{path}: not an ONNX file", "make one with `tandemrec export`")
    with pytest.raises(ConfigError, match="not an ONNX file"):
        start(folder, changed(RERANKER, 'class = "device.models.onnx_file:OnnxFile"\npath = "model.onnx"'))


def test_an_onnx_file_that_is_not_there_or_cut(folder: Path, small_onnx: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent.onnx: no such file; give the path of an .onnx file"):
        OnnxFile(folder / "absent.onnx")
    (folder / "cut.onnx").write_bytes(small_onnx.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"cut.onnx: .*(make one with `tandemrec export`|export it again)"):
        OnnxFile(folder / "cut.onnx")


MODELS = [
    ("nan", "Model.score returned NaN or infinity; run `tandemrec check device-model` on it"),
    ("infinite", "Model.score returned NaN or infinity"),
    ("shape", "Model.score returned (64, 1) for candidates (64, 20); return a numpy array of that shape"),
    ("list", "Model.score returned <class 'list'> for candidates (64, 20); return a numpy array"),
]


def with_model(mistake: str) -> str:
    return changed(RERANKER, f'class = "wrong_plugins:Model"\nmistake = "{mistake}"')


@pytest.mark.parametrize(("mistake", "words"), MODELS)
def test_a_device_model_that_breaks_its_contract(folder: Path, mistake: str, words: str) -> None:
    with pytest.raises(RunError) as caught:  # on a client
        start(folder, with_model(mistake))
    has_all(caught.value, "client 1 failed", words)
    with pytest.raises(ContractError) as found:  # on the server, while the fusion is chosen
        start(folder, with_model(mistake).replace("fusion = { alpha = 0.5 }", ""))
    has_all(found.value, words)
    nothing_written(folder)


def failed(said: Said) -> str:
    """The message of a run that failed."""
    assert said.code == 1, said.err
    assert said.out == ""
    assert said.err.count("error: ") == 1
    return said.err


def test_a_failed_run_ends_with_1(folder: Path) -> None:
    message = failed(tandemrec("run", written(folder, with_model("nan"))))
    assert "NaN or infinity; run `tandemrec check device-model` on it" in message
    nothing_written(folder)


def test_a_failed_run_shows_no_traceback_of_a_known_mistake(folder: Path) -> None:
    assert "Traceback" not in failed(tandemrec("run", written(folder, with_model("nan"))))


# Policies


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        ("nan", "Policy.urgency returned shape (40,) with NaN for 40 devices; return one number each"),
        ("shape", "Policy.urgency returned shape (40, 1) for 40 devices; return one number each"),
    ],
)
def test_a_policy_that_breaks_its_contract(folder: Path, mistake: str, words: str) -> None:
    policy = f'class = "wrong_plugins:Policy"\nmistake = "{mistake}"'
    text = changed('class = "device.policy:Every"\nsteps = 2', policy).replace("devices_per_client = 25", "")
    with pytest.raises(RunError) as caught:
        start(folder, text)
    has_all(caught.value, words)
    with pytest.raises(ContractError, match=r"Policy.urgency returned shape"):  # while its price is looked for
        start(folder, text.replace(policy, f"{policy}\nrequest_ratio = 0.3"))
    nothing_written(folder)


# Generators


@pytest.mark.parametrize(
    ("mistake", "error", "words"),
    [
        ("unknown", ContractError, "lists item ids 1..85 of a catalogue of 80; list ids 1..80, 0 for an empty place"),
        ("negative", ContractError, "lists item ids -2..19 of a catalogue of 80; list ids 1..80"),
        ("twice", ContractError, "lists an item twice; drop duplicates"),
        ("nan", ContractError, "returned NaN or infinite scores; give empty places item 0, score 0"),
        ("long", ContractError, "items (40, 40) and scores (40, 40) for 40 requests of 20 candidates"),
        ("free", ConfigError, "does not say what a list costs (flops or seconds); set seconds_per_request in [cloud]"),
    ],
)
def test_a_generator_that_breaks_its_contract(folder: Path, mistake: str, error: type[Exception], words: str) -> None:
    text = changed('"cloud.generators.floors:Markov"', f'"wrong_plugins:Generator"\nmistake = "{mistake}"')
    with pytest.raises(error) as caught:
        start(folder, text)
    has_all(caught.value, words)
    nothing_written(folder)


@pytest.mark.parametrize("mistake", ["unknown", "twice"])
def test_the_generator_is_named_in_the_message(folder: Path, mistake: str) -> None:
    text = changed('"cloud.generators.floors:Markov"', f'"wrong_plugins:Generator"\nmistake = "{mistake}"')
    with pytest.raises(ContractError) as caught:
        start(folder, text)
    has_all(caught.value, "generator Generator.generate")


# Messages


@pytest.fixture
def asking() -> tuple[World, Any]:
    """A world after its first wave, and the requests it sent."""
    world: Any = World(random_timeline(6, 3, 40), 40)  # type: ignore[no-untyped-call]
    shard = world.shard()
    wave = shard.wave(1, world.install())
    assert len(wave.requests) == 6
    return world, wave


def altered(body: bytes, how: str) -> bytes:
    if how == "cut":
        return body[:-3]
    if how == "empty":
        return b""
    place = {"first bit": 0, "middle bit": len(body) // 2, "last bit": len(body) - 1}[how]
    return body[:place] + bytes([body[place] ^ 4]) + body[place + 1 :]


DAMAGE = ["cut", "empty", "first bit", "middle bit", "last bit"]


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_request_changes_nothing_in_the_cloud(asking: tuple[World, Any], how: str) -> None:
    world, wave = asking
    told, booked = world.gateway.memory.told.copy(), len(world.ledger.columns()["device"])
    bodies = [*wave.requests[:4], altered(wave.requests[4], how), wave.requests[5]]
    with pytest.raises(WireError) as caught:
        world.gateway.answer(bodies, wave.asked_at)
    has_all(caught.value, "message 4 of 6", "expected", "found")
    assert "discard" in str(caught.value)
    assert np.array_equal(world.gateway.memory.told, told)
    assert len(world.ledger.columns()["device"]) == booked
    assert len(world.gateway.answer(wave.requests, wave.asked_at).bodies) == 6  # the whole ones are answered


@pytest.mark.parametrize("how", [how for how in DAMAGE if how != "empty"])  # b"" stands for a reply that was lost
def test_a_damaged_reply_is_refused_by_the_device(how: str) -> None:
    world: Any = World(random_timeline(6, 3, 40), 40)  # type: ignore[no-untyped-call]
    delivery = world.install()
    bodies = [*delivery.bodies[:2], altered(delivery.bodies[2], how), *delivery.bodies[3:]]
    with pytest.raises(WireError) as caught:
        world.shard().wave(1, replace(delivery, bodies=bodies))
    has_all(caught.value, "message 2 of 6", "expected", "found", "discard")


# A full disk


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("table", [1, 2, 3, 4])
def test_a_full_disk_leaves_no_half_run(folder: Path, monkeypatch: pytest.MonkeyPatch, table: int) -> None:
    """The n-th table of the run folder fails after half of it was written; what was there before stays."""
    before = start(folder)
    kept = {path.name: path.read_bytes() for path in before.iterdir()}
    written_so_far = []
    real = pq.write_table

    def runs_full(content: Any, path: Path, **options: Any) -> None:
        written_so_far.append(path)
        real(content, path, **options)
        if len(written_so_far) == table:
            Path(path).write_bytes(Path(path).read_bytes()[:10])
            full()

    with monkeypatch.context() as patched:
        patched.setattr("simulation.whole_folder.pq.write_table", runs_full)
        with pytest.raises(RunError) as caught:
            start(folder)
    has_all(caught.value, str(before), "No space left on device", "nothing of it was left behind", "Free disk space")
    assert {path.name: path.read_bytes() for path in before.iterdir()} == kept
    assert [path.name for path in (folder / "runs").iterdir() if path.name.startswith(".tiny")] == []
    assert Run.open(start(folder, resume=True)).summary["decision_hash"] == Run.open(before).summary["decision_hash"]


def test_a_disk_that_is_full_at_the_last_moment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is written, the folder cannot get its name."""
    real = Path.rename
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", lambda self, to: full() if "tiny-" in Path(to).name else real(self, to))
        said = tandemrec("run", written(folder, TOML))
    assert "No space left on device" in failed(said)
    nothing_written(folder)


PLACES = ["simulation.handout.save_file", "simulation.kept.save_file", "cloud.training.save_file"]


@pytest.mark.parametrize("place", [*PLACES, "simulation.choosing.chooser.write_text"])
def test_a_full_disk_elsewhere_is_one_message_too(folder: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    monkeypatch.setattr(place, full)
    assert "No space left on device" in failed(tandemrec("run", written(folder, TOML)))


@pytest.mark.parametrize("place", [*PLACES, "simulation.choosing.chooser.write_text"])
def test_a_full_disk_elsewhere_leaves_nothing_half_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(place, full)
        with pytest.raises((OSError, RunError), match="No space left"):
            start(folder)
    nothing_written(folder)
    assert not list((folder / "runs").glob("handout/.*"))
    assert Run.open(start(folder)).steps.shape[0] == 2 * 40 * 3  # and it goes on when there is room again


def test_a_folder_of_runs_that_is_a_file(folder: Path) -> None:
    (folder / "runs").write_text("not a folder")
    assert "runs" in failed(tandemrec("run", written(folder, TOML)))
