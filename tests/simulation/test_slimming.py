"""Subnets from the file to the run folder: one elastic model, trained once, three tiers that install parts of it."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import TOML

from device.errors import ConfigError, RunError
from device.messages import encode_patch
from device.model import Parameters
from device.models.elastic import ElasticSASRec
from device.models.onnx_file import OnnxFile
from device.models.slimming import SlimmableTorch, narrowed
from device.seeds import rng
from device.subnet import SubnetSpec, installed
from simulation.config.parts import Plugin
from simulation.config.read import check
from simulation.config.tables import ExperimentConfig
from simulation.handout import read_handout, write_handout
from simulation.installing import trained_reranker
from simulation.launch import export_tier, launch
from simulation.objects import assign_tiers, make_split, tiers
from simulation.prepare import Prepared, prepare, try_plugins
from simulation.runs import Run
from simulation.shelf import Shelf
from simulation.slimming import cut, supernet_folder, trained_elastic

PLAIN = 'class = "device.models.sasrec:SASRec"\nwidth = 8\nblocks = 1\n'
ELASTIC = 'class = "device.models.elastic:ElasticSASRec"\nwidth = 16\nblocks = 2\nitems = 16\n'
SUBNETS = {"whole": None, "half": "w16-b1-e8", "small": "w8-b1-e8-int8"}
SPECS = [SubnetSpec(16, 2, 16), SubnetSpec(16, 1, 8), SubnetSpec(8, 1, 8, "int8")]
OWN = 'model = { class = "device.models.elastic_din:ElasticDIN", width = 8, blocks = 1, items = 8 }\n'
SMALL_BYTES = 4006


def tier(name: str, subnet: str | None, more: str = "") -> str:
    line = f'subnet = "{subnet}"\n' if subnet else ""
    return f'[[device.tiers]]\nname = "{name}"\nshare = 1.0\n{line}{more}'


FLEET = "".join(tier(name, subnet) for name, subnet in SUBNETS.items())


def toml(more: str = FLEET, model: str = ELASTIC, *replaced: tuple[str, str]) -> str:
    text: str = TOML.replace(PLAIN, model) + more
    assert model in text
    for old, new in replaced:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def made(text: str) -> ExperimentConfig:
    return check(tomllib.loads(text), ExperimentConfig, "tiny.toml")


def silent(*_: Any) -> None:
    pass


def run(config: ExperimentConfig, root: Path, **more: Any) -> Path:
    return launch(config, root, say=silent, progress=silent, **more)


def shelf_of(config: ExperimentConfig, root: Path, said: list[str] | None = None) -> Shelf:
    say = silent if said is None else said.append
    return Shelf(root / "models", make_split(config.data, config.seed), config.seed, config.device.history, say)


def plugin_of(config: ExperimentConfig) -> Plugin:
    assert config.device.model is not None
    return config.device.model


def decisions(folder: Path) -> str:
    return str(Run.open(folder).summary["decision_hash"])


def installations(folder: Path) -> pd.DataFrame:
    """Ledger rows of the installation under one policy, by device."""
    book = pd.read_parquet(folder / "ledger.parquet")
    return book[(book.kind == "install") & (book.policy == "never")].sort_values("device")


def batch(n_items: int = 80) -> tuple[np.ndarray, np.ndarray]:
    draw = rng(0, "slimming")
    history = draw.integers(1, n_items + 1, (6, 10)).astype(np.int32)
    history[1, :7] = 0
    return history, draw.integers(1, n_items + 1, (6, 20)).astype(np.int32)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    """A run of the fleet on two clients."""
    return run(made(toml()), root)


@pytest.fixture(scope="module")
def large(root: Path, folder: Path) -> torch.nn.Module:
    config = made(toml())
    return trained_elastic(config, shelf_of(config, root), plugin_of(config))


@pytest.fixture(scope="module")
def prepared(root: Path, folder: Path) -> Prepared:
    return prepare(made(toml()), root, silent)


def test_a_supernet_is_introduced_once_for_all_tiers(root: Path, folder: Path) -> None:
    said: list[str] = []
    config = made(toml())
    shelf = shelf_of(config, root, said)
    for one in (shelf, replace(shelf), replace(shelf, say=said.append)):
        trained_elastic(config, one, plugin_of(config))
    assert [line.partition(":")[0] for line in said if line.endswith(" subnets")] == ["supernet ElasticSASRec"]
    trained_elastic(config, shelf_of(config, root, said), plugin_of(config))  # another run says it again
    assert len([line for line in said if line.endswith(" subnets")]) == 2


def test_the_bytes_of_a_small_subnet(large: torch.nn.Module) -> None:
    """Of 80 items, 8 channels, 8 numbers per item, one block, an int8 table.

    Values: codes 81 * 8 and scales 81 * 4; enter, leave and the block's six maps 8 * (8 * 8 + 8) * 4; three norms
    3 * (8 + 8) * 4: 648 + 324 + 2304 + 192 = 3468. Arrays: 2 + 4 + 6 * 2 + 3 * 2 = 24, of each the length of its name,
    dtype and number of axes, 24 * 3 = 72, and its sizes, 2 * 9 for tables and 15 for the others. Letters: item.weight.
    codes and scale 34, enter 22, leave 22, norm 20, norm_attention 58, norm_ffn 46, query 40, key 36, value 40, out 36,
    up 34, down 38, in all 426. Frame, count, CRC: 2 + 1 + 4. 3468 + 72 + 18 + 15 + 426 + 7 = 4006.
    """
    _, params, nbytes = cut(large, SPECS[2])
    assert nbytes == SMALL_BYTES
    slimmable = SlimmableTorch(large)
    assert nbytes == slimmable.size(SPECS[2], length=10, candidates=20).nbytes
    # What is scored is what codes and scales stand for.
    weights = {name: tensor.numpy() for name, tensor in large.state_dict().items()}
    sent = installed(slimmable.slice(weights, SubnetSpec(8, 1, 8)), SPECS[2], item_table="item.weight")
    assert len(encode_patch(sent)) == nbytes
    codes, scale = (np.asarray(sent[f"item.weight.{part}"], np.float32) for part in ("codes", "scale"))
    read = codes * scale[:, None]
    assert read.tobytes() == params["item.weight"].tobytes()
    assert (read != weights["item.weight"][:, :8]).any()


def test_each_tier_pays_for_the_installation_of_its_subnet(folder: Path, large: torch.nn.Module) -> None:
    book = installations(folder)
    assert book.device.tolist() == list(range(40))
    expected = np.array([cut(large, spec)[2] for spec in SPECS])
    assert expected[2] == SMALL_BYTES
    assert len(set(expected)) == 3
    number = assign_tiers(made(toml()), 40)
    assert set(number) == {0, 1, 2}
    assert book.nbytes.tolist() == expected[number].tolist()


@pytest.mark.parametrize("number", range(3), ids=list(SUBNETS))
def test_each_tier_scores_as_the_module_with_the_rest_masked(
    prepared: Prepared, large: torch.nn.Module, number: int
) -> None:
    history, candidates = batch()
    mine = prepared.installed[number]
    with torch.no_grad():
        expected = narrowed(large, SPECS[number])(
            *(torch.from_numpy(a.astype(np.int64)) for a in (history, candidates))
        )
    got = mine.model.score(mine.params, history, candidates)
    assert got.std() > 0
    np.testing.assert_array_equal(got, expected.numpy())


def test_clients_rebuild_the_subnets(prepared: Prepared) -> None:
    history, candidates = batch()
    there = read_handout(str(write_handout(prepared, {})))
    for here, mine in zip(there.installed, prepared.installed, strict=True):
        assert here.params.keys() == mine.params.keys()
        np.testing.assert_array_equal(
            here.model.score(here.params, history, candidates), mine.model.score(mine.params, history, candidates)
        )
    assert [tier.params["item.weight"].shape for tier in there.installed] == [(81, 16), (81, 8), (81, 8)]


@pytest.mark.parametrize("per_client", [40, 14])
def test_one_client_and_three_decide_as_two(folder: Path, root: Path, per_client: int) -> None:
    cuts = toml(FLEET, ELASTIC, ("devices_per_client = 25", f"devices_per_client = {per_client}"))
    again = run(made(cuts.replace('name = "tiny"', f'name = "cut-{per_client}"', 1)), root)
    assert decisions(again) == decisions(folder)


def test_a_resumed_run_is_the_same(folder: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(policy: str, done: int, whole: int) -> None:
        if policy == "every steps=2":
            raise Stop

    with pytest.raises(Stop):
        launch(made(toml()), tmp_path, say=silent, progress=stop)
    assert decisions(run(made(toml()), tmp_path, resume=True)) == decisions(folder)


def test_one_supernet_is_trained_and_found_again(folder: Path, root: Path) -> None:
    said: list[str] = []
    config = made(toml())
    shelf = shelf_of(config, root, said)
    trained = supernet_folder(config, shelf, plugin_of(config))
    assert [one.name for one in (root / "models").iterdir() if "elastic" in one.name] == [trained.name]
    before = (trained / "finished.json").stat().st_mtime_ns
    prepare(config, root, said.append)
    assert [line for line in said if "epoch" in line] == []
    assert (trained / "finished.json").stat().st_mtime_ns == before
    assert not shelf.folder(plugin_of(config), config.device.training.options()).exists()


def test_the_name_of_a_training_holds_how_subnets_are_trained(root: Path) -> None:
    texts = [FLEET, "[device.supernet]\ndistilled = 1.0\n" + FLEET, '[device.supernet]\nnegatives = "all"\n' + FLEET]
    configs = [made(toml(text)) for text in texts]
    assert len({supernet_folder(one, shelf_of(one, root), plugin_of(one)) for one in configs}) == 3
    spelled = made(toml("[device.supernet]\ndistilled = 0.5\n" + FLEET))  # the default
    assert supernet_folder(spelled, shelf_of(spelled, root), plugin_of(spelled)) == supernet_folder(
        configs[0], shelf_of(configs[0], root), plugin_of(configs[0])
    )


def test_a_supernet_without_tiers_is_trained_as_one(tmp_path: Path) -> None:
    config = made(toml("[device.supernet]\nrandom = 0\n"))
    (tier,) = prepare(config, tmp_path, silent).installed
    assert supernet_folder(config, shelf_of(config, tmp_path), plugin_of(config)).exists()
    assert tier.params["item.weight"].shape == (81, 16)


def test_a_tier_may_slim_a_model_of_its_own(tmp_path: Path) -> None:
    """DIN learns from plain sequences; the other tier's SASRec is trained alone."""
    own = 'model = { class = "device.models.elastic_din:ElasticDIN", width = 16, blocks = 1, items = 8 }\n'
    text = toml(tier("plain", None) + tier("din", "w8-b1-e8", own), PLAIN)
    plain, din = prepare(made(text), tmp_path, silent).installed
    assert din.params["query.weight"].shape == (8, 8)
    assert plain.params["item.weight"].shape == (81, 8)
    names = {one.name.rpartition("-")[0] for one in (tmp_path / "models").iterdir()}
    assert names >= {"supernet-elasticdin", "sasrec"}


def test_streamed_rows_have_the_width_of_the_subnet(tmp_path: Path) -> None:
    config = made(toml(FLEET, ELASTIC, ("[device]\nhistory", '[device]\nitems = "streamed"\nhistory')))
    folder = run(config, tmp_path)
    ready = prepare(config, tmp_path, silent)
    assert [one.rows.codes.shape[1] for one in ready.installed if one.rows] == [16, 8, 8]
    body = SMALL_BYTES - (81 * 8 + 81 * 4) - (17 + 3 + 2) - (17 + 3 + 1)  # without codes and scales
    assert ready.installed[2].nbytes == body
    assert set(installations(folder).nbytes) == {one.nbytes for one in ready.installed}


def test_it_is_the_tiers_subnet_that_is_exported(prepared: Prepared, root: Path) -> None:
    config, (history, candidates) = made(toml()), batch()
    small = trained_reranker(config, shelf_of(config, root), tiers(config)[2])
    with torch.no_grad():
        got = small(*(torch.from_numpy(array.astype(np.int64)) for array in (history, candidates)))
    mine = prepared.installed[2]
    np.testing.assert_array_equal(got.numpy(), mine.model.score(mine.params, history, candidates))


def test_an_export_without_the_supernet_says_where_it_was_sought(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"supernet-elasticsasrec-.* no finished training"):
        export_tier(folder, "small", tmp_path, tmp_path)


@pytest.mark.slow
def test_subnets_run_as_onnx_files(tmp_path: Path) -> None:
    text = toml(tier("small", "w8-b1-e8"), ELASTIC, ("[device]\n", '[device]\nruntime = "onnxruntime"\n'))
    ready = prepare(made(text), tmp_path, silent)
    (mine,), (there,) = ready.installed, read_handout(str(write_handout(ready, {}))).installed
    history, candidates = batch()
    expected = trained_reranker(ready.config, shelf_of(ready.config, tmp_path), tiers(ready.config)[0])
    with torch.no_grad():
        wanted = expected(*(torch.from_numpy(array.astype(np.int64)) for array in (history, candidates)))
    for one in (mine, there):
        np.testing.assert_allclose(one.model.score(one.params, history, candidates), wanted, atol=1e-5)


@pytest.mark.slow
def test_export_gives_the_tiers_subnet(folder: Path, prepared: Prepared, root: Path, tmp_path: Path) -> None:
    exported = export_tier(folder, "small", tmp_path, root)
    file, mine, (history, candidates) = OnnxFile(exported.files[0].path), prepared.installed[2], batch()
    given: Parameters = file.init(rng(0, "none"))
    expected = mine.model.score(mine.params, history[:1], candidates[:1])
    np.testing.assert_allclose(file.score(given, history[:1], candidates[:1]), expected, atol=1e-5)
    assert file.score(given, history[:1], candidates[:1]).std() > 0


@pytest.mark.parametrize(
    ("text", "about"),
    [
        (toml(tier("a", "16x8")), r"\[device.tiers\] subnet: '16x8' is no subnet"),
        (toml('[device.supernet]\nsubnets = ["big"]\n'), r"\[device.supernet\] subnet: 'big' is no subnet"),
        (toml('[device.supernet]\nnegatives = "none"\n'), "negatives"),
        (toml("[device.supernet]\nrandon = 1\n"), "did you mean 'random'"),
        (toml(FLEET + '[cloud.personalizer]\nclass = "personal_parts:Coded"\n'), "personalizer"),
        (toml(FLEET + '[device.collaboration]\ntraining = "cooperative"\n'), "collaboration"),
        (toml("[device.supernet]\n" + tier("a", None, OWN)), "no effect: every tier"),
        (toml(FLEET, ELASTIC, ("[device.training]", "[device.training]\nnegatives = 9")), "negatives have no effect"),
        (toml(FLEET, ELASTIC, ("[device]\n", '[device]\nruntime = "onnxruntime"\n')), '"-int8" off'),
    ],
)
def test_what_the_file_alone_tells_is_refused(text: str, about: str) -> None:
    with pytest.raises(ConfigError, match=about):
        made(text)


@pytest.mark.parametrize(
    ("text", "about"),
    [
        (toml(tier("a", "w8-b1-e8"), PLAIN), "SASRec has no subnets; take an elastic model"),
        (toml("[device.supernet]\n", PLAIN), "SASRec has no subnets; take an elastic model"),
        (toml(tier("a", "w24-b1-e8")), "tier 'a': w24-b1-e8 is beyond ElasticSASRec w16-b2-e16"),
        (toml(tier("a", "w8-b1-e9")), "tier 'a': w8-b1-e9 is not trained; choose one of w8-b1-e8-int8"),
        (
            toml('[device.supernet]\nsubnets = ["w8-b1-e8"]\n' + FLEET),
            "w16-b1-e8 is not trained; choose one of w8-b1-e8",
        ),
        (toml('[device.supernet]\nsubnets = ["w8-b3-e8"]\n'), "subnets: w8-b3-e8 is beyond ElasticSASRec"),
    ],
)
def test_what_the_model_cannot_be_cut_to_is_refused(text: str, about: str) -> None:
    with pytest.raises(ConfigError, match=about):
        try_plugins(made(text))


def test_a_module_is_not_cut_beyond_its_size() -> None:
    with pytest.raises(ConfigError, match="only w8-b1-e8"):
        cut(ElasticSASRec(5, width=8, blocks=1, items=8), SubnetSpec(16, 1, 8))
