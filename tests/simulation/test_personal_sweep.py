"""Sweeps whose devices hold patches: cells are what `run` makes, experience and bounds are what replays would show."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from loop_parts import Drawn, random_timeline, service
from personal_parts import PersonalDot, Shift
from tiny import TOML, written

from cloud.service import Personalization
from device.fusion import Fusion, FusionByAge
from device.policy import Always, Never
from device.scoring import ModelScorer
from device.seeds import rng
from device.setup import Setup
from simulation.choosing.experience import gather
from simulation.choosing.rehearsal import Rehearsal
from simulation.config.read import load_config
from simulation.launch import launch
from simulation.metrics import NDCG
from simulation.remembering import Remembering
from simulation.runs import Run
from simulation.sweep.bounds import hindsight
from simulation.sweep.folder import Sweep as Folder
from simulation.sweep.plan import plans
from simulation.sweep.sweep import Sweep

N = 60
HEAD = TOML[: TOML.index("[device.model]")]
OWN = """
[device.training]
epochs = 1
patience = 0
[cloud.personalizer]
class = "personal_parts:Coded"
width = 8
[cloud.personalizer.training]
epochs = 1
patience = 0
[simulation]
threads = 1
"""


def policies(*tables):
    return HEAD + OWN + "".join(f"[[policies]]\n{table}\n" for table in tables)


def test_a_cell_is_what_run_makes_of_the_policy(tmp_path):
    """At the price that validation steps, lived with patches, gave for a request at every other step."""
    since = 'class = "device.policies.signals:SinceReply"'
    file = written(
        tmp_path, policies(since) + "[sweep]\nrequest_ratios = [0.5]\nseeds = [5]\nprocesses = 1\n", "sweep.toml"
    )
    sweep = Folder.open(Sweep(plans(file, [])[0], tmp_path).run())
    assert set(sweep.frontier["bound"]) == {"optimum, pools replaced"}
    (cell,) = sweep.cells[sweep.cells["policy"] == "sincereply"].itertuples()
    config = load_config(written(tmp_path, policies(f"{since}\nprice = {cell.price!r}")), [])
    run = Run.open(launch(config, tmp_path, say=lambda _: None, progress=lambda *_: None))
    done, users = run.summary["policies"]["sincereply"], sweep.per_user("cell", "ndcg@10", "hr@10")
    book = pd.read_parquet(run.path / "ledger.parquet")
    assert done["requests"] == cell.requests == len(book[(book.kind == "patch") & (book.attempt == 1)]) > 0
    assert done["bytes_per_step"]["down"] == pytest.approx(cell.bytes_down_per_step)
    assert done["install_bytes_per_device"] == pytest.approx(cell.install_bytes_per_device)
    for name in ("ndcg@10", "hr@10"):
        value = users.loc[users["cell"] == cell.cell, name].mean()
        assert done["measures"][name]["mean"] == pytest.approx(value, abs=1e-6)


def world(*, every=1, devices=12, steps=6):
    """Devices whose codes are so large that they decide."""
    lived = random_timeline(devices, steps, N, length=6)
    offered = Personalization(Shift(3.0), np.array([True]), every)
    made = replace(service(lived, Remembering(Drawn(N)), N, pool=20), personalization=offered)
    return Rehearsal(lived, made, [0], slots=20)


def setup_of(policy, **more):
    model = PersonalDot(N)
    scorer = ModelScorer(model, model.init(rng(1, "w")), np.arange(1, N + 1, dtype=np.int32))
    return Setup(scorer, policy, more.pop("fusion", Fusion(0.3)), 0.0, seed=3, **more)


class Asks:
    """Asks at the end of given steps only, all devices or one."""

    def __init__(self, *steps, device=None):
        self.steps, self.device = steps, device

    def urgency(self, view, draws):
        here = np.isin(view.step, self.steps)
        return np.where(here & ((view.device == self.device) | (self.device is None)), 1.0, -1.0)


def earned(columns, shape):
    """[D, S] NDCG@10."""
    values = np.full(shape, np.nan)
    values[columns["device"], columns["step"] - 1] = NDCG(10).of(columns["rank"], columns["ties"])
    return values


@pytest.mark.parametrize("every", [0, 1])
@pytest.mark.parametrize("own", [0, 4])
def test_a_real_request_gives_the_reward_that_was_promised(every, own):
    lived = world(every=every)
    shape = lived.timeline.items.shape
    experience = gather(lived, [setup_of(Never(), own=own)], 5)
    row = {(d, int(v.step[0])): i * shape[0] + d for i, v in enumerate(experience.views) for d in v.device.tolist()}
    never = earned(lived.run([setup_of(Never(), own=own)]), shape)
    for device, step in ((0, 1), (3, 2), (7, 3), (11, 5)):
        forced = earned(lived.run([setup_of(Asks(step, device=device), own=own)]), shape)
        for values, promised in ((forced, experience.fresh), (never, experience.kept)):
            said = promised[row[device, step]][: shape[1] - step]
            np.testing.assert_allclose(said, values[device, step : step + 5], rtol=1e-5, atol=1e-6)
    plain = replace(lived, service=replace(lived.service, personalization=None))
    assert not np.array_equal(gather(plain, [setup_of(Never(), own=own)], 5).kept, experience.kept)


@pytest.mark.parametrize("every", [0, 1])
def test_hindsight_knows_what_a_replay_with_that_list_and_patch_earns(every):
    lived, fusion = world(every=every), Fusion(0.3, "minmax")
    (found,) = hindsight(lived, [setup_of(Always())], NDCG(10))
    assert found.patches["code"].shape == (12, 6, 4)
    assert (np.ptp(found.patches["code"], axis=1) > 0).any() == (every == 1)
    (rewards,) = found.replaced_rewards([fusion])
    whole = [part.replaced_rewards([fusion])[0] for part in found.chunks(pairs=False)]
    for step in range(5):
        values = earned(lived.run([setup_of(Asks(step), fusion=fusion)]), lived.timeline.items.shape)
        for t in range(step + 1, 7):
            np.testing.assert_allclose(rewards.at(t)[:, step, 0], values[found.device, t - 1], atol=1e-6)
    assert len(whole) == 1


def test_two_lists_under_the_patch_of_the_installation():
    lived, fusion = world(every=0), FusionByAge(1.0, tuple(np.linspace(1, 0, 13)), tuple(np.linspace(0.3, 0, 13)))
    (found,) = hindsight(lived, [setup_of(Always())], NDCG(10))
    (rewards,) = found.merged_rewards([fusion])
    real = replace(lived, slots=40)
    for step in range(1, 5):
        columns = real.run([setup_of(Asks(step), fusion=fusion, update="merge")])
        values = earned(columns, lived.timeline.items.shape)
        for t in range(step + 1, 7):
            np.testing.assert_allclose(rewards.at(t)[:, 0, step], values[found.device, t - 1], atol=1e-6)
