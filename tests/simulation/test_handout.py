"""What clients read from the handout is what the server prepared."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from device.errors import RunError
from device.fusion import AGE_EDGES, Fusion, FusionByAge
from device.seeds import rng
from simulation.choosing.chosen import Chosen
from simulation.config.read import load_config
from simulation.handout import Handout, bounds, read_handout, write_handout
from simulation.prepare import Prepared, prepare

GOLDEN = Path(__file__).parents[1] / "golden"
CHOSEN = {label: Chosen(0.25, Fusion(0.3, "minmax")) for label in ("never", "always", "every steps=2")}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    config = load_config(GOLDEN / "neural.toml")
    return prepare(config, tmp_path_factory.mktemp("handout"), lambda line: None)


@pytest.fixture(scope="module")
def handout(prepared: Prepared) -> Handout:
    return read_handout(str(write_handout(prepared, CHOSEN)))


def test_the_models_give_the_same_scores(prepared: Prepared, handout: Handout) -> None:
    numbers = rng(0, "handout")
    history = numbers.integers(0, 81, (5, 8)).astype(np.int32)
    candidates = numbers.integers(1, 81, (5, 20)).astype(np.int32)
    assert len(handout.installed) == len(prepared.installed) == 2
    for here, there in zip(handout.installed, prepared.installed, strict=True):
        got = here.model.score(here.params, history, candidates)
        assert (got == there.model.score(there.params, history, candidates)).all()
        assert got.std() > 0


FLOOR = "cloud.generator={ class = 'cloud.generators.floors:Popularity' }"
FORMS = {
    "int8": ["device.items=resident-int8"],
    "streamed": ["device.items=streamed"],
    "onnxruntime": [
        "device.runtime=onnxruntime",
        "device.model={ class = 'device.models.gru4rec:GRU4Rec', width = 8 }",
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_model_gives_the_same_scores(form: str, tmp_path: Path) -> None:
    config = load_config(GOLDEN / "neural.toml", [*FORMS[form], FLOOR])
    prepared = prepare(config, tmp_path, lambda line: None)
    got = read_handout(str(write_handout(prepared, CHOSEN)))
    history, candidates = np.array([[0, 3, 9]], np.int32), np.arange(1, 21, dtype=np.int32)[None]
    for here, there in zip(got.installed, prepared.installed, strict=True):
        scores = here.model.score(here.params, history, candidates)
        assert scores == pytest.approx(there.model.score(there.params, history, candidates), abs=1e-6)
        assert type(here.model) is type(there.model)
        assert here.params.keys() == there.params.keys()


def test_timeline_config_and_choices_survive(prepared: Prepared, handout: Handout) -> None:
    assert handout.config == prepared.config
    assert handout.chosen == CHOSEN
    for name in ("devices", "histories", "items", "at", "tier"):
        there, here = getattr(prepared.timeline, name), getattr(handout.timeline, name)
        assert here.dtype == there.dtype
        assert (here == there).all()


def test_shards_are_blocks_that_make_the_fleet(handout: Handout) -> None:
    shards = [handout.shard("always", part, 3) for part in range(3)]
    assert np.concatenate([shard.timeline.devices for shard in shards]).tolist() == list(range(40))
    assert [len(shard.timeline.devices) for shard in shards] == [13, 13, 14]
    setup = shards[0].fleets[0].setup
    assert (setup.price, setup.fusion.alpha, setup.fusion.normalise, setup.seed) == (0.25, 0.3, "minmax", 11)


@pytest.mark.parametrize(("devices", "parts"), [(10, 3), (3, 3), (2, 5), (1, 1)])
def test_bounds_cover_every_device_once(devices: int, parts: int) -> None:
    assert [d for part in range(parts) for d in range(*bounds(devices, part, parts))] == list(range(devices))


def test_other_choices_go_into_another_folder(prepared: Prepared) -> None:
    folder = write_handout(prepared, CHOSEN)
    assert read_handout(str(folder)).chosen == CHOSEN
    other = {label: replace(one, price=9.0) for label, one in CHOSEN.items()}
    second = write_handout(prepared, other)
    assert second != folder
    assert read_handout(str(second)).chosen == other
    assert read_handout(str(folder)).chosen == CHOSEN


def test_a_fusion_by_age_and_what_was_learned_survive(prepared: Prepared) -> None:
    numbers = rng(0, "learned").normal(size=(3, 2)).astype(np.float32)
    size = len(AGE_EDGES) + 1
    fusion = FusionByAge(0.7, tuple(i / 3 for i in range(size)), tuple(-i / 7 for i in range(size)))
    other = {label: Chosen(0.25, fusion, {"w": numbers, "b": numbers[0]}) for label in CHOSEN}
    read = read_handout(str(write_handout(prepared, other))).chosen
    assert read.keys() == CHOSEN.keys()
    for one in read.values():
        assert one.price == 0.25
        assert isinstance(one.fusion, FusionByAge)
        assert one.fusion.device_weight == 0.7
        assert tuple(one.fusion.cloud_weight) == fusion.cloud_weight
        assert tuple(one.fusion.bias) == fusion.bias
        assert one.learned is not None
        assert one.learned.keys() == {"w", "b"}
        assert (one.learned["w"] == numbers).all()
        assert one.learned["w"].dtype == np.float32
        weights = Chosen(0.25, fusion).learned_bytes - (2 + 1 + 4)
        assert one.learned_bytes == 2 + 1 + (1 + 1 + 1 + 1 + 2 + 24) + (1 + 1 + 1 + 1 + 1 + 8) + weights + 4
        # Name and length, dtype, number of axes, axes, values: one number, then two times one per age class and OWN.
        assert weights == (1 + 20 + 1 + 1 + 4) + (1 + 19 + 1 + 1 + 1 + 52) + (1 + 11 + 1 + 1 + 1 + 52)
    assert Chosen(0.25, Fusion()).learned_bytes == 0


def test_a_folder_that_is_there_is_not_written_again(prepared: Prepared) -> None:
    folder = write_handout(prepared, CHOSEN)
    before = (folder / "about.json").stat().st_mtime_ns
    assert write_handout(prepared, CHOSEN) == folder
    assert (folder / "about.json").stat().st_mtime_ns == before


def test_a_full_disk_leaves_no_half_handout(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_handout(prepared, CHOSEN)
    before = sorted(path.name for path in folder.iterdir())
    kept = set(folder.parent.iterdir())
    other = {label: replace(one, price=7.5) for label, one in CHOSEN.items()}

    def full(path: Path, text: str, **_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        write_handout(prepared, other)
    monkeypatch.undo()
    assert sorted(path.name for path in folder.iterdir()) == before
    assert set(folder.parent.iterdir()) == kept  # no temporary folder stays


def test_a_folder_that_is_no_handout(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no prepared experiment; clients must see the folder"):
        read_handout(str(tmp_path))
