"""`[device.collaboration]`: which stages follow a reranker's own training, where they are kept, what is refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TOML, changed, tandemrec, written

import simulation.collaboration
from cloud.generators.digits import DigitWriter
from device.errors import ConfigError
from device.seeds import draws
from simulation.collaboration import STAGES, Course
from simulation.config.read import load_config
from simulation.config.tables import ExperimentConfig
from simulation.installing import course, trained_reranker
from simulation.objects import make_generator, make_split, tiers
from simulation.shelf import Shelf

SMALL = "[device.collaboration]\nepochs = 1\nbeams = 4\nwidth = 12\n\n[device.training]"


def experiment(folder: Path, *overrides: str) -> ExperimentConfig:
    return load_config(written(folder, changed("[device.training]", SMALL)), overrides)


def shelf_of(config: ExperimentConfig, root: Path) -> Shelf:
    return Shelf(root, make_split(config.data, config.seed), config.seed, config.device.history, lambda _: None)


def weights(config: ExperimentConfig, root: Path) -> dict[str, Any]:
    model = trained_reranker(config, shelf_of(config, root), tiers(config)[0])
    return {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all((a[name] == b[name]).all() for name in a)


def test_every_training_leaves_other_weights_and_is_only_loaded_the_second_time(tmp_path: Path) -> None:
    root = tmp_path / "models"
    made = {}
    for training in STAGES:
        config = experiment(tmp_path, f"device.collaboration.training={training}")
        made[training] = weights(config, root)
    assert not any(same(made[a], made[b]) for a in made for b in made if a < b)
    assert sorted(path.name.partition("-")[0] for path in root.iterdir()) == ["lists", "newest", "sasrec"]
    times = {path: path.stat().st_mtime_ns for path in root.rglob("best.safetensors")}
    for training in STAGES:
        config = experiment(tmp_path, f"device.collaboration.training={training}")
        assert same(weights(config, root), made[training])
    assert {path: path.stat().st_mtime_ns for path in root.rglob("best.safetensors")} == times


@pytest.mark.parametrize(
    "override",
    [
        "device.collaboration.epochs=2",
        "device.collaboration.beams=5",
        "device.collaboration.augment=none",
        "device.collaboration.faithful=true",
        "device.collaboration.lists=found",
        "device.training.epochs=2",
        "cloud.generator_errors={ garbled = 0.2 }",
        "cloud.history=9",
        "seed=6",
    ],
)
def test_the_folder_follows_what_the_weights_depend_on(tmp_path: Path, override: str) -> None:
    def folder(config: ExperimentConfig) -> str:
        shelf = shelf_of(config, tmp_path)
        start = shelf.folder(config.device.model, config.device.training.options()).name
        return course(config, shelf).folder("lists", start)

    usual = experiment(tmp_path)
    assert folder(usual) == folder(experiment(tmp_path, "name=other", "device.collaboration.training=cooperative"))
    changed_width = "device.collaboration.width=100" if override.endswith("found") else override
    assert folder(usual) != folder(experiment(tmp_path, override, changed_width))


def test_the_folder_follows_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = experiment(tmp_path)
    made = course(config, shelf_of(config, tmp_path))
    before = made.folder("lists", "start")
    monkeypatch.setattr(simulation.collaboration, "code", lambda: "edited")
    assert made.folder("lists", "start") != before
    assert replace(made, newest=replace(made.newest, ends=made.newest.ends - 1)).folder("lists", "start") != before


def test_lists_are_of_the_training_part_only(tmp_path: Path) -> None:
    """Neither validation nor test items are learned from, whatever the stage."""
    config = experiment(tmp_path)
    shelf = shelf_of(config, tmp_path)
    made = course(config, shelf)
    for part in (made.learn, made.newest):
        np.testing.assert_array_equal(part.ends, shelf.split.train_end)


def test_patience_keeps_the_weights_before_the_stage_where_it_only_harms(tmp_path: Path) -> None:
    """A learning rate of 10 destroys the reranker; with patience it comes out as it went in."""
    rate = "device.collaboration.learning_rate=10.0"
    cooperative = "device.collaboration.training=cooperative"
    start = weights(experiment(tmp_path), tmp_path / "models")
    assert not same(weights(experiment(tmp_path, cooperative, rate), tmp_path / "models"), start)
    kept = experiment(tmp_path, cooperative, rate, "device.collaboration.patience=1")
    model = trained_reranker(kept, shelf_of(kept, tmp_path / "models"), tiers(kept)[0])
    value = course(kept, shelf_of(kept, tmp_path / "models")).value()
    best = value(model)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in start.items()})
    assert best >= value(model) > 0


def test_errors_are_made_where_the_configuration_asks_for_them(tmp_path: Path) -> None:
    histories = np.tile(np.arange(1, 11, dtype=np.int32), (30, 1))
    asked = draws(0, "test", np.arange(30))
    exact = experiment(tmp_path)
    wrong = experiment(tmp_path, "cloud.generator_errors.garbled=0.5")
    made = [make_generator(config, shelf_of(config, tmp_path)) for config in (exact, wrong)]
    assert not isinstance(made[0], DigitWriter)
    assert isinstance(made[1], DigitWriter)
    assert (made[1].garbled, made[1].heavy_share, made[1].n_items) == (0.5, 0.0, 80)
    lists = [one.generate(histories, 20, rng=asked).items for one in made]
    assert (lists[0] > 0).all()
    assert (lists[1] == 0).any()


@pytest.mark.parametrize(
    ("keys", "cure"),
    [
        ("beams = 50\nwidth = 50", "raise width or lower beams"),
        ('lists = "found"\nwidth = 30', 'belong to lists = "released"; take them out'),
        ('training = "cooperatively"', "cooperatively"),
        ("beam = 3", "did you mean 'beams'?"),
    ],
)
def test_wrong_tables_are_answered_with_the_cure(tmp_path: Path, keys: str, cure: str) -> None:
    text = changed("[device.training]", f"[device.collaboration]\n{keys}\n\n[device.training]")
    with pytest.raises(ConfigError) as error:
        load_config(written(tmp_path, text))
    assert cure in str(error.value)


def test_a_reranker_without_weights_cannot_learn_in_company(tmp_path: Path) -> None:
    config = experiment(tmp_path)
    made: Course = course(config, shelf_of(config, tmp_path))
    with pytest.raises(ConfigError, match='use training = "independent"'):
        made.go_on(object(), "start", ("lists",))
    made.go_on(object(), "start", ())


def test_a_whole_run_with_a_cooperative_reranker(tmp_path: Path) -> None:
    text = TOML.replace("[device.training]", SMALL).replace(
        "epochs = 1\nbeams", 'training = "adaptive"\nepochs = 1\nbeams'
    )
    said = tandemrec("run", written(tmp_path, text), "--runs", tmp_path / "runs", "--json")
    assert said.code == 0, said.err
    assert "newest: epoch 1/1" in said.err
