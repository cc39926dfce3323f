from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from loop_parts import Dot, Drawn, random_timeline, service

from device.fusion import Fusion
from device.policy import Consistency, Random
from device.scoring import ModelScorer
from device.seeds import rng
from device.setup import Setup
from simulation import prepare as preparing
from simulation.choosing import chooser as choosing
from simulation.choosing import fusion_search
from simulation.choosing.chosen import Chosen
from simulation.choosing.fusion_search import ALPHAS, NORMALISATIONS, Watch, find_fusion, ndcg
from simulation.choosing.rehearsal import Rehearsal
from simulation.choosing.stage import on_validation
from simulation.config.tables import ExperimentConfig
from simulation.metrics import NDCG

N = 80


def validation(devices=50, steps=8, link=None, seconds=None, seed=0):
    lived = random_timeline(devices, steps, N, seed=seed)
    made = service(lived, Drawn(N), N, pool=30, link=link, seconds=seconds)
    return Rehearsal(lived, made, [1000], slots=30)


def setups(policy, price=0.0, fusion=None):
    model = Dot(N)
    return [Setup(ModelScorer(model, model.init(rng(1, "w"))), policy, fusion or Fusion(), price, seed=3)]


def brute_force(replayed, policy, price):
    """NDCG@10 of every fusion from a whole replay under it, by places counted one by one."""
    values = {}
    for alpha, normalise in product(ALPHAS, NORMALISATIONS):
        columns = replayed.run(setups(policy, price, Fusion(alpha, normalise)))
        gains = [
            sum(1 / np.log2(place + 1) for place in range(rank, rank + ties) if place <= 10) / ties if rank else 0.0
            for rank, ties in zip(columns["rank"].tolist(), columns["ties"].tolist(), strict=True)
        ]
        values[alpha, normalise] = float(np.mean(gains))
    return values


@pytest.mark.parametrize("seed", [0, 1])
def test_the_fusion_is_the_best_of_all(seed):
    replayed = validation(30, 4, seed=seed)
    values = brute_force(replayed, Consistency(), 0.5)
    found = find_fusion(replayed, setups(Consistency(), 0.5, Fusion(0.9, "rank")))
    assert values[found.alpha, found.normalise] == pytest.approx(max(values.values()), abs=1e-12)
    assert max(values.values()) > min(values.values()) + 0.005  # there was something to choose
    best = [alpha for (alpha, _), value in values.items() if value >= max(values.values()) - 1e-12]
    assert found.alpha == min(best)


def test_a_fusion_that_ignores_the_device_does_not_hide_its_scores():
    """The fleet then ranks without them; what is tried on the same steps needs them all the same."""
    ignores, looks = (
        fusion_search.watched(validation(30, 4), setups(Random(0.5), fusion=Fusion(a))) for a in (1.0, 0.5)
    )
    np.testing.assert_array_equal(ignores.device, looks.device)
    assert (ignores.device != ignores.cloud).mean() > 0.9


def test_equal_fusions_go_to_the_smaller_weight_of_the_cloud():
    class Agrees(Drawn):
        """Ranks like the device: the scores are the items' numbers, falling."""

        def generate(self, histories, k, *, rng):
            made = super().generate(histories, k, rng=rng)
            items = -np.sort(-made.items, axis=1)
            return replace(made, items=items, scores=items.astype(np.float32))

    class ById(Dot):
        def score(self, params, history, candidates):
            return candidates.astype(np.float32)

    replayed = validation(20, 4)
    replayed = replace(replayed, service=replace(replayed.service, generator=Agrees(N)))
    (setup,) = setups(Random(0.5))
    setup = replace(setup, scorer=replace(setup.scorer, model=ById(N)))
    assert find_fusion(replayed, [setup]) == Fusion(0.0, NORMALISATIONS[0])


def test_watching_changes_nothing():
    replayed = validation(40, 5)
    plain = replayed.run(setups(Consistency(), 0.5))
    watch = Watch()
    watched = replayed.run(setups(Consistency(), 0.5), watch)
    for name, values in plain.items():
        np.testing.assert_array_equal(watched[name], values, err_msg=name)
    assert sum(len(part.taken) for part in watch.parts) == 200
    assert ndcg(watch.together(), Fusion()) == pytest.approx(NDCG(10).of(plain["rank"], plain["ties"]).mean())


def test_fusions_look_at_some_devices_of_a_large_replay(monkeypatch):
    """400 steps where 100 suffice: every fourth device, with all of its steps."""
    monkeypatch.setattr(fusion_search, "FUSION_ROWS", 100)
    seen = fusion_search.watched(validation(50, 8), setups(Consistency(), 0.5))
    taken = validation(50, 8).timeline.items[::4]
    assert sorted(seen.taken.tolist()) == sorted(taken.ravel().tolist())


def config(**changes):
    tables = {
        "name": "calibration",
        "seed": 4,
        "data": {
            "synthetic": {"users": 40, "items": 60, "topics": 5, "length": 16},
            "split": {"leave_last": 4, "validation": 5},
        },
        "cloud": {"generator": {"class": "cloud.generators.floors:Markov"}, "pool": 12, "history": 6},
        "device": {"model": {"class": "loop_parts:Dot", "width": 6}, "history": 6},
        "policies": [
            {"class": "device.policy:Consistency", "request_ratio": 0.3},
            {"class": "device.policy:Random", "request_ratio": 0.2},
            {"class": "device.policy:Always"},
        ],
        "network": {"link": "3g"},
    }
    return ExperimentConfig.model_validate(tables | changes)


def silent(line):
    pass


def test_validation_ends_where_the_test_begins(tmp_path):
    prepared = preparing.prepare(config(), tmp_path, silent)
    split, replayed = prepared.split, on_validation(prepared).base
    assert replayed.timeline.items.shape == (40, 5)
    for row, user in enumerate(prepared.users):
        begin, end = split.train_end[user], split.valid_end[user]
        assert replayed.timeline.items[row].tolist() == split.data.item[begin:end].tolist()
        assert replayed.timeline.at[row].max() == split.data.at[end - 1]
        assert prepared.timeline.items[row].tolist() == split.data.item[end : end + 4].tolist()
        assert replayed.timeline.at[row].max() < prepared.timeline.at[row].min()
        assert replayed.timeline.histories[row].tolist() == split.data.item[begin - 6 : begin].tolist()


def test_every_replay_of_the_calibration_is_a_validation_replay(tmp_path, monkeypatch):
    prepared = preparing.prepare(config(), tmp_path, silent)
    seen, real = [], Rehearsal.run

    def spy(self, *arguments, **named):
        seen.append(self.timeline)
        return real(self, *arguments, **named)

    monkeypatch.setattr(Rehearsal, "run", spy)
    chosen = choosing.choose(prepared, silent)
    assert len(seen) > 8
    assert len(chosen) == 3
    data, ends = prepared.split.data, prepared.split.valid_end[prepared.users]
    for lived in seen:
        last = np.where(np.isfinite(lived.at), lived.at, -np.inf).max(1)
        assert (last == data.at[ends - 1]).all()


def test_other_test_events_give_the_same_choices(tmp_path, monkeypatch):
    """All that is trained and chosen is the same when the test part of the data is replaced by something else."""
    chosen = []
    for number in range(2):
        made = preparing.make_split

        def poisoned(table, seed, made=made, number=number):
            split = made(table, seed)
            items = split.data.item.copy()
            test = split.part() == 2
            items[test] = (items[test] + 17 * number - 1) % split.data.n_items + 1
            return replace(split, data=replace(split.data, item=items))

        with monkeypatch.context() as patch:
            patch.setattr(preparing, "make_split", poisoned)
            prepared = preparing.prepare(config(), tmp_path / str(number), silent)
        histories = [
            prepared.timeline.histories.tolist(),
            prepared.service.generator.inner.scorer.popularity.counts.tolist(),
        ]
        chosen.append((prepared.timeline.items.tolist(), choosing.choose(prepared, silent), histories))
    assert chosen[0][0] != chosen[1][0]
    assert chosen[0][1:] == chosen[1][1:]


def test_other_validation_events_give_other_choices(tmp_path, monkeypatch):
    """The test above could not fail if nothing ever changed the choices."""
    made, chosen = preparing.make_split, []
    for number in range(2):

        def shifted(table, seed, number=number):
            split = made(table, seed)
            items = split.data.item.copy()
            part = split.part() == 1
            items[part] = (items[part] + 17 * number - 1) % split.data.n_items + 1
            return replace(split, data=replace(split.data, item=items))

        with monkeypatch.context() as patch:
            patch.setattr(preparing, "make_split", shifted)
            prepared = preparing.prepare(config(), tmp_path / str(number), silent)
        chosen.append(choosing.choose(prepared, silent))
    assert chosen[0] != chosen[1]


def test_choices_are_made_once_and_kept(tmp_path, monkeypatch):
    prepared = preparing.prepare(config(), tmp_path, silent)
    chosen = choosing.choose(prepared, silent)
    monkeypatch.setattr(choosing, "find_prices", lambda *_: pytest.fail("looked for again"))
    assert choosing.choose(prepared, silent) == chosen
    fixed = config(
        policies=[{"class": "device.policy:Random", "price": 0.7}],
        device={"model": {"class": "loop_parts:Dot"}, "history": 6, "fusion": {"alpha": 0.3, "normalise": "rank"}},
    )
    given = choosing.choose(preparing.prepare(fixed, tmp_path, silent), silent)
    assert list(given.values()) == [Chosen(0.7, Fusion(0.3, "rank"))]


SIZES = {
    # One array: head 2, number of arrays 1; name 1 + 5, dtype 1, axes 1, sizes 1 + 1, 61 rows of 6 float32; CRC32 4.
    "resident": 2 + 1 + (1 + 5 + 1 + 1 + 2) + 61 * 6 * 4 + 4,
    # "table.codes" [61, 6] of one byte and "table.scale" [61] of four.
    "resident-int8": 2 + 1 + (1 + 11 + 1 + 1 + 2) + 61 * 6 + (1 + 11 + 1 + 1 + 1) + 61 * 4 + 4,
    # Nothing but the table was to be installed.
    "streamed": 2 + 1 + 4,
}


@pytest.mark.parametrize("items", list(SIZES))
def test_bytes_of_the_three_ways_to_hold_the_item_table(tmp_path, items):
    device = {"model": {"class": "loop_parts:Dot", "width": 6}, "history": 6, "items": items, "cache_rows": 40}
    prepared = preparing.prepare(config(device=device), tmp_path, silent)
    assert prepared.model_bytes == [SIZES[items]]
    (rows,) = prepared.service.rows
    assert (rows is not None) == (items == "streamed")
    policy, chosen = prepared.config.all_policies[0], Chosen(0.0, Fusion(0.5, "rank"))
    (setup,) = preparing.setups(prepared.config, prepared.installed, policy, chosen, prepared.popular)
    assert setup.cache_rows == (40 if items == "streamed" else 0)
    table, exact = setup.scorer.params["table"], Dot(60, 6).init(rng(4, "device model", "phone"))["table"]
    if items == "resident":
        np.testing.assert_array_equal(table, exact)
    else:
        assert (table != exact).any()
        assert (np.abs(table - exact) <= np.abs(exact).max(1)[:, None] / 254 * 1.001).all()
