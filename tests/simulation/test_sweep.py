"""A small sweep end to end: its tables, resuming, processes, and that its cells are what `run` and hindsight say."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny import TOML, tandemrec, written

from device.errors import ConfigError
from device.fusion import Fusion, FusionByAge
from simulation.config.read import load_config
from simulation.config.tables import PolicyTable
from simulation.metrics import NDCG
from simulation.prepare import prepare
from simulation.runs import Run
from simulation.sweep.bounds import bound, hindsight
from simulation.sweep.cells import NOTHING, World
from simulation.sweep.folder import FILES
from simulation.sweep.folder import Sweep as Folder
from simulation.sweep.plan import floor, plans, resolved, with_floors
from simulation.sweep.sweep import Sweep

HEAD = TOML[: TOML.index("[[policies]]")]
SWEEP = HEAD.replace('["hr@10", "ndcg@10"]', '["ndcg@10", "hr@10"]') + (
    """
[[policies]]
class = "device.policy:Random"
[[policies]]
class = "device.policies.signals:SinceReply"
family = "ablation"
[[policies]]
class = "device.policies.gain:Gain"
name = "gain"

[simulation]
threads = 1

[sweep]
request_ratios = [0.2, 0.5]
seeds = [5, 6]
processes = 2
"""
)


SWEPT = ("random/published", "sincereply/ablation", "gain/ours")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("sweep"), SWEEP)


@pytest.fixture(scope="module")
def folder(path: Path) -> Path:
    said = tandemrec("sweep", path, "--runs", path.parent / "runs")
    assert said.code == 0, said.err
    (found,) = (path.parent / "runs").glob("tiny-*-sweep")
    assert str(found.name) in said.out.replace("\n", "")
    assert "| random |" in said.out
    return found


def again(path: Path, root: Path, *overrides: str) -> tuple[Folder, list[tuple[str, int, int]]]:
    """Another sweep, and its progress."""
    seen: list[tuple[str, int, int]] = []
    (plan,) = plans(path, overrides)
    return Folder.open(Sweep(plan, root, progress=lambda *told: seen.append(told)).run()), seen


def tables(sweep: Folder) -> list[pd.DataFrame]:
    return [sweep.cells, sweep.per_user(), sweep.frontier]


def test_the_folder_holds_every_cell_once(folder: Path) -> None:
    assert {one.name for one in folder.iterdir()} == {*FILES, "tradeoff.html"}
    cells = Folder.open(folder).cells
    assert cells["cell"].tolist() == list(range(16))
    found = [f"{c.seed}/{c.policy}/{c.family}/{c.budget}" for c in cells.itertuples()]
    policies = ["never/floor/nan", "always/floor/nan"]
    policies += [f"{name}/{ratio}" for name in SWEPT for ratio in (0.2, 0.5)]
    assert found == [f"{seed}/{policy}" for seed in (5, 6) for policy in policies]
    assert cells["users"].eq(40).all()
    assert cells["steps"].eq(120).all()
    assert cells.loc[cells["policy"] == "never", "request_ratio"].eq(0).all()
    wanted = cells.dropna(subset="budget")
    assert (wanted["request_ratio"] - wanted["budget"]).abs().max() < 0.2  # 80 validation steps choose for 120


def test_predicted_gains_stand_beside_what_came(folder: Path) -> None:
    """Of the policy that predicts one, at the upper of its two ratios, for both seeds: tenths of the known steps."""
    found = Folder.open(folder).calibration
    assert set(found["policy"]) == {"gain"}
    assert set(found["budget"]) == {0.5}
    assert found.groupby("seed")["decile"].apply(list).to_dict() == {5: list(range(10)), 6: list(range(10))}
    assert (found["predicted"].diff()[found["decile"] > 0] >= 0).all()
    assert (found["low"] <= found["realised"]).all()
    assert found.groupby("seed")["steps"].sum().between(40, 80).all()  # 40 users, 3 steps: two of them have a next one


def test_totals_are_those_of_the_users(folder: Path) -> None:
    sweep = Folder.open(folder)
    cells, sums = sweep.cells.set_index("cell"), sweep.per_user().groupby("cell").sum(numeric_only=True)
    assert (sums["n_steps"] == cells["steps"]).all()
    assert (sums["requests"] == cells["requests"]).all()
    for total, per_step in (
        ("bytes_up", "bytes_up_per_step"),
        ("bytes_down", "bytes_down_per_step"),
        ("cloud_seconds", "cloud_seconds_per_step"),
    ):
        assert (sums[total] / cells["steps"]).to_numpy() == pytest.approx(cells[per_step].to_numpy())
    asking = cells["requests"] > 0
    assert (cells["bytes_up_per_step"] > 0).eq(asking).all()
    assert (cells["cloud_seconds_per_step"] > 0).eq(asking).all()
    assert cells["latency_p50_s"].notna().eq(asking).all()
    assert (cells["latency_p50_s"] <= cells["latency_p95_s"])[asking].all()
    assert (cells["install_bytes_per_device"] > 1000).all()
    never, always = (cells.loc[cells["policy"] == name, "energy_j_per_step"] for name in ("never", "always"))
    assert 0 < never.max() < 1e-3  # J: reranking alone
    assert always.min() > 5  # a tail of 11.6 s at 1.06 W


def never_and_bound(sweep: Folder) -> list[tuple[float, float]]:
    """(NDCG@10 of never asking, of the bound of replaced pools without requests) by seed; all policies lie below it."""
    value, found = sweep.per_user().groupby("cell")["ndcg@10"].mean(), []
    for seed, line in sweep.frontier[sweep.frontier["bound"] == "optimum, pools replaced"].groupby("seed"):
        cells = sweep.cells[sweep.cells["seed"] == seed].set_index("cell")
        reached = np.interp(cells["request_ratio"], line["request_ratio"], line["ndcg@10"])
        assert (value[cells.index] <= reached + 1e-6).all()
        found.append((value[cells.index[cells["policy"] == "never"][0]], line["ndcg@10"].iloc[0]))
    return found


def test_the_bounds_are_above_all_policies_and_begin_at_never(folder: Path) -> None:
    sweep = Folder.open(folder)
    assert list(sweep.frontier["bound"].unique()) == ["optimum, pools replaced", "optimum, two lists merged"]
    for never, begins in never_and_bound(sweep):
        assert begins == pytest.approx(never, abs=1e-6)
    assert (sweep.frontier["request_ratio"] == 0.2).sum() in (3, 4)  # one of them may need no more than 18 %


def test_the_bound_is_above_policies_with_fusions_of_their_own(tmp_path: Path) -> None:
    """What serves always asking best serves never asking worse: under that fusion alone the bound would begin below."""
    text = SWEEP[: SWEEP.index('[[policies]]\nclass = "device.policies.gain')] + SWEEP[SWEEP.index("[simulation]") :]
    text = text.replace("fusion = { alpha = 0.5 }\n", "")
    assert "fusion" not in text
    file = written(tmp_path, text)
    sweep, _ = again(file, tmp_path, "sweep.seeds=[12]", "sweep.processes=1")
    ((never, begins),) = never_and_bound(sweep)
    assert begins >= never - 1e-6
    world = World(prepare(load_config(file, ["seed=12"]), tmp_path, lambda _: None))
    always = PolicyTable.model_validate({"class": "device.policy:Always"})
    [chosen] = world.chooser.choose(always, [None])
    alone = bound([everything(world)], [chosen.fusion], pairs=False, ratios=[])
    assert alone["value"][0] < never - 0.009
    assert chosen.fusion in world.chooser.envelope(always)


def test_one_process_gives_the_same_as_two(path: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(path.parent / "runs" / "models", tmp_path / "models")
    alone, progress = again(path, tmp_path, "sweep.processes=1")
    for one, other in zip(tables(alone), tables(Folder.open(folder)), strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert progress == [(f"seed {seed}", done, 7) for seed in (5, 6) for done in range(8)]


def test_an_interrupted_sweep_goes_on_where_it_was(path: Path, folder: Path) -> None:
    root, before = path.parent / "runs", tables(Folder.open(folder))
    kept = sorted((root / "cells").iterdir())
    assert len(kept) == 14  # five policies and two bounds for each seed
    times = {one: one.stat().st_mtime_ns for one in kept}
    kept[0].unlink()
    resumed, progress = again(path, root)
    assert sum(done < total for _, done, total in progress) == 1
    assert sorted((root / "cells").iterdir()) == kept
    assert [one for one in kept if one.stat().st_mtime_ns != times[one]] == kept[:1]
    for one, other in zip(tables(resumed), before, strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_a_cell_is_what_run_makes_of_the_policy(path, folder, run_experiment, tmp_path) -> None:
    sweep = Folder.open(folder)
    cells = sweep.cells[(sweep.cells["seed"] == 5) & (sweep.cells["policy"] == "sincereply")]
    shutil.copytree(path.parent / "runs" / "models", tmp_path / "models")
    for cell in cells.itertuples():
        text = (
            HEAD
            + f"""
[[policies]]
class = "device.policies.signals:SinceReply"
price = {cell.price!r}
[simulation]
threads = 1
"""
        )
        done = Run.open(run_experiment(written(tmp_path, text), tmp_path)).summary["policies"]["sincereply"]
        assert done["requests"] == cell.requests
        assert done["bytes_per_step"]["up"] == pytest.approx(cell.bytes_up_per_step)
        assert done["bytes_per_step"]["down"] == pytest.approx(cell.bytes_down_per_step)
        assert done["install_bytes_per_device"] == pytest.approx(cell.install_bytes_per_device)
        assert done["energy_j_per_step"] == pytest.approx(cell.energy_j_per_step)
        assert done["latency_s"]["p95"] == pytest.approx(cell.latency_p95_s)
        users = sweep.per_user("cell", "ndcg@10", "hr@10")
        for name in ("ndcg@10", "hr@10"):
            value = users.loc[users["cell"] == cell.cell, name].mean()
            assert done["measures"][name]["mean"] == pytest.approx(value, abs=1e-6)


# The bounds


@pytest.fixture(scope="module")
def world(path: Path, folder: Path) -> World:
    config = load_config(path, ["seed=5", 'network.link="ideal"'])
    return World(prepare(config, path.parent / "runs", lambda _: None))


class Asks:
    """Asks at the end of given steps only."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def urgency(self, view, draws):
        return np.isin(view.step, self.steps).astype(float)


def lived(world: World, way: dict, fusion, asks: tuple[int, ...]) -> np.ndarray:
    """[D, S] NDCG@10 of a real replay that asks at the end of these steps."""
    policy = PolicyTable.model_validate({"class": "device.policy:Always", **way})
    fleet = [replace(s, policy=Asks(*asks), price=0.5, fusion=fusion) for s in world.stage.setups(policy, NOTHING)]
    steps = world.stage.rehearsal(policy).run(fleet)
    values = np.full(world.prepared.timeline.items.shape, np.nan)
    values[steps["device"], steps["step"] - 1] = NDCG(10).of(steps["rank"], steps["ties"])
    return values


def everything(world: World):
    plain = PolicyTable.model_validate({"class": "device.policy:Always"})
    (found,) = hindsight(world.stage.rehearsal(plain), world.stage.setups(plain, NOTHING), NDCG(10))
    return found


def test_hindsight_knows_what_a_replay_with_that_list_earns(world: World) -> None:
    fusion = Fusion(0.4, "minmax")
    (rewards,) = everything(world).replaced_rewards([fusion])
    for s in range(3):
        values = lived(world, {}, fusion, (s,))
        for t in range(s + 1, 4):
            assert rewards.at(t)[:, s, 0] == pytest.approx(values[:, t - 1], abs=1e-6)
    assert len({rewards.at(3)[:, s, 0].tobytes() for s in range(3)}) == 3


def test_hindsight_knows_what_two_lists_earn(world: World) -> None:
    fusion = FusionByAge(1.0, tuple(np.linspace(1, 0, 13)), tuple(np.linspace(0.3, 0, 13)))
    (rewards,) = everything(world).merged_rewards([fusion])
    way = {"update": "merge", "slots": 40}  # two lists of 20
    for older, newer in ((0, 1), (0, 2), (1, 2)):
        values = lived(world, way, fusion, (older, newer))
        if older:  # three lists would be held: the first falls out of 40 slots
            continue
        for t in range(newer + 1, 4):
            assert rewards.at(t)[:, older, newer] == pytest.approx(values[:, t - 1], abs=1e-6)
    assert rewards.at(3)[:, 0, 0] == pytest.approx(lived(world, way, fusion, ())[:, 2], abs=1e-6)


def test_a_bound_is_a_rising_line_through_the_swept_ratios(world: World) -> None:
    line = bound([everything(world)], [Fusion()], pairs=False, ratios=[0.1, 0.99])
    assert 0.1 in line["ratio"]
    assert 0.99 not in line["ratio"]  # more requests than the optimum wants
    assert (np.diff(line["ratio"]) > 0).all()
    assert (np.diff(line["value"]) >= 0).all()


# Plans


def test_who_is_swept_says_the_table() -> None:
    def swept(**table) -> bool:
        return PolicyTable.model_validate(table).swept

    assert swept(**{"class": "device.policy:Every"})
    assert swept(**{"class": "mine:Policy", "p": 0.1})
    for table in (
        {"class": "device.policy:Never"},
        {"class": "device.policy:Always", "update": "merge"},
        {"class": "device.policy:Every", "steps": 2},
        {"class": "device.policy:Random", "p": 0.1},
        {"class": "mine:Policy", "price": 0.0},
        {"class": "mine:Policy", "request_ratio": 0.3},
    ):
        assert not swept(**table)


def test_a_sweep_of_what_it_wrote_is_the_same_sweep(path: Path, folder: Path, tmp_path: Path) -> None:
    (plan,) = plans(folder / "config.resolved.toml", [])
    text = resolved(with_floors(plan))
    assert text == Folder.open(folder).config_toml
    assert "price" not in text.split("[[policies]]")[-1]


@pytest.mark.parametrize("other", ['update = "merge"', "own = 5", "length = 10", 'fusion = "by-age"'])
def test_never_asking_is_added_where_none_is_plain(tmp_path: Path, other: str) -> None:
    text = HEAD + f'[[policies]]\nclass = "device.policy:Never"\nname = "other"\n{other}\n'
    config = with_floors(load_config(written(tmp_path, text), []))
    assert [policy.label for policy in config.all_policies] == ["never", "always", "other"]
    assert floor(config, "device.policy:Never").label == "never"
    with pytest.raises(ConfigError, match="called 'never' and is not the plain one"):
        with_floors(load_config(written(tmp_path, text.replace('"other"', '"never"')), []))
    plain = with_floors(load_config(written(tmp_path, text.replace(other, "")), []))
    assert floor(plain, "device.policy:Never").label == "other"


def test_vary_makes_a_sweep_per_combination(tmp_path: Path) -> None:
    models = '[{ class = "device.models.sasrec:SASRec" }, { class = "device.models.gru4rec:GRU4Rec", width = 16 }]'
    file = written(tmp_path, SWEEP + f'[sweep.vary]\n"cloud.pool" = [10, 20]\n"device.model" = {models}\n')
    made = plans(file, [])
    assert [one.name for one in made] == [f"tiny-{pool}-{m}" for pool in (10, 20) for m in ("sasrec", "gru4rec")]
    assert [(one.cloud.pool, one.device.model.options) for one in made] == [
        (pool, options) for pool in (10, 20) for options in ({}, {"width": 16})
    ]
    assert not any(one.sweep.vary for one in made)
    with pytest.raises(ConfigError, match="makes two sweeps called 'tiny-random'"):
        plans(written(tmp_path, SWEEP + '[sweep.vary]\n"baseline" = ["random", "random"]\n'), [])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweep.seeds=[1, 1]", "a value occurs twice"),
        ("sweep.request_ratios=[1.5]", "a number below 1"),
        ("policies.0.family='floor'", "for policies without a budget"),
        ("sweep.vary={ cloud = 3 }", "expected a list"),
        ('sweep.vary={ "seed" = [1, 2] }', "cannot be varied"),
        ("policies.0.price=0.3;policies.0.request_ratio=0.2", "no effect beside"),
    ],
)
def test_contradictions_are_refused(path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(path, override.split(";"))
