"""A fleet with patches over a model of two halves: the same scores, the body asked once per history."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from personal_parts import Coded

from device.errors import ConfigError, ContractError
from device.incremental_scorer import incremental
from device.models.masked import MaskedHead, numbers
from device.models.personal_head import PersonalHead
from device.models.personal_torch import PersonalTorch
from device.models.sasrec import SASRec
from device.personal import Headed
from device.personal_codec import Personal, encode_personal
from device.personal_scoring import Bodies, PersonalScorer
from device.scoring import ModelScorer
from device.seeds import rng

N, LENGTH, WIDTH, DEVICES = 40, 6, 8, 70
WHO = np.arange(DEVICES)
ALL = np.arange(1, N + 1, dtype=np.int32)


def world(*, relative=False, seed=0):
    """(model, params with weights that matter, histories with one item more, pools, masks)."""
    model = PersonalTorch(MaskedHead(N, width=WIDTH, length=LENGTH, relative=relative))
    params = model.init(rng(0, "w"))
    draw = np.random.default_rng(seed)
    for values in params.values():
        values[...] += draw.normal(0, 0.2, values.shape).astype(np.float32)
    items = draw.integers(1, N + 1, (DEVICES, LENGTH + 1)).astype(np.int32)
    items[::3, :2] = 0
    pools = draw.integers(1, N + 1, (DEVICES, 5)).astype(np.int32)
    return model, params, items, pools, draw.random((DEVICES, *model.layout["mask"].shape)) < 0.6


def holding(model, params, masks, *, states=None):
    scorer = PersonalScorer(ModelScorer(model, params, ALL), model, WHO, states=states)
    scorer.held["mask"][:] = masks
    return scorer


def test_models_of_two_halves_say_so():
    torch.manual_seed(0)
    assert isinstance(PersonalTorch(MaskedHead(N)), Headed)
    assert isinstance(PersonalTorch(PersonalHead(SASRec(N))), Headed)
    assert not isinstance(PersonalTorch(Coded(N).device), Headed)


@pytest.mark.parametrize("relative", [False, True])
def test_the_halves_make_the_whole(relative):
    model, params, items, pools, masks = world(relative=relative)
    patch, state = {"mask": masks}, model.before(params, items[:, 1:])
    whole = model.score_personal(params, patch, items[:, 1:], pools)
    np.testing.assert_allclose(model.behind(params, patch, state, pools), whole, atol=1e-6)
    every = model.catalogue_behind(params, patch, state)
    assert every.shape == (DEVICES, N + 1)
    np.testing.assert_allclose(np.take_along_axis(every, pools, 1), whole, atol=1e-5)
    assert (np.abs(whole - model.score(params, items[:, 1:], pools)).max(1) > 1e-3).all()


def test_new_parameters_are_seen():
    model, params, items, _, _ = world()
    first = model.before(params, items)
    other = {name: values * 2 for name, values in params.items()}
    assert (model.before(other, items) != first).any()
    np.testing.assert_array_equal(model.before(params, items), first)


def test_each_device_is_scored_with_its_own_mask():
    model, params, items, pools, masks = world()
    scorer, history = holding(model, params, masks), np.ascontiguousarray(items[:, 1:])
    some = WHO[3:69:2]
    got = scorer.scores(some, some * 0, history[some], pools[some])
    best, values = scorer.own(some, some * 0, history[some], 4)
    for row, device in enumerate(some):
        patch, mine = {"mask": masks[[device]]}, history[[device]]
        np.testing.assert_allclose(got[row], model.score_personal(params, patch, mine, pools[[device]])[0], atol=1e-5)
        every = model.score_personal(params, patch, mine, ALL[None])[0]
        every[mine[0][mine[0] > 0] - 1] = -np.inf
        np.testing.assert_allclose(values[row], np.sort(every)[::-1][:4], atol=1e-5)
        np.testing.assert_allclose(every[best[row] - 1], values[row], atol=1e-5)


def test_scores_do_not_depend_on_who_else_asks():
    model, params, items, pools, masks = world()
    whole = holding(model, params, masks).scores(WHO, WHO * 0, items[:, 1:], pools)
    parts = holding(model, params, masks)
    for some in (WHO[50:], WHO[:50:2], WHO[1:50:2]):
        np.testing.assert_array_equal(parts.scores(some, some * 0, items[some, 1:], pools[some]), whole[some])


@dataclass
class Counted:
    """Notes how many histories the body reads."""

    model: PersonalTorch
    asked: list = field(default_factory=list)

    def before(self, params, history):
        self.asked.append(len(history))
        return self.model.before(params, history)


def test_the_body_is_asked_once_per_history():
    model, params, items, pools, masks = world()
    counted, inner = Counted(model), ModelScorer(model, params, ALL)
    scorer = holding(model, params, masks, states=Bodies(inner, counted, WHO))
    history = np.ascontiguousarray(items[:, :-1])
    first = scorer.scores(WHO, WHO * 0, history, pools)
    scorer.own(WHO, WHO * 0, history, 3)
    scorer.held["mask"][:] = True  # another patch and another step change no state
    assert (scorer.scores(WHO, WHO * 0 + 1, history, pools) != first).any()
    assert counted.asked == [64, 64]  # 70 devices
    history[[2, 5]] = items[[2, 5], 1:]
    scorer.scores(WHO, WHO * 0 + 1, history, pools)
    assert counted.asked == [64] * 3
    np.testing.assert_allclose(scorer.states.known, model.before(params, history), atol=1e-6)
    scorer.scores(WHO, WHO * 0, history[:, 1:], pools)  # a history of another length
    np.testing.assert_allclose(scorer.states.known, model.before(params, history[:, 1:]), atol=1e-6)


def test_a_body_that_goes_on_from_states_gives_the_same():
    model, params, items, pools, masks = world(relative=True)
    kept = incremental(ModelScorer(model, params), WHO, LENGTH)
    scorer = holding(model, params, masks, states=kept.state)
    scorer.scores(WHO, WHO * 0, np.ascontiguousarray(items[:, :-1]), pools)
    got = scorer.scores(WHO, WHO * 0 + 1, np.ascontiguousarray(items[:, 1:]), pools)
    np.testing.assert_allclose(got, model.score_personal(params, {"mask": masks}, items, pools), atol=1e-5)


def test_one_item_more_costs_a_step_of_the_body_and_the_head():
    model = MaskedHead(N, width=WIDTH, blocks=1, length=LENGTH, relative=True)
    # a step: items in and out 2 x 8 x 8, a block 6 x 8 x 8 and 2 x 6 x 8; five candidates 5 x 8; the head 2 x 8 x 8
    assert model.flops_step(5) == 2 * (128 + 384 + 96 + 40 + 128)
    assert model.flops_step(5) < model.flops(LENGTH, 5)


def test_masks_wait_as_bits_and_arrive_whole():
    model, params, _, _, masks = world()
    scorer = PersonalScorer(ModelScorer(model, params), model, WHO)
    who = np.array([4, 9])
    sent = encode_personal(Personal(who, who * 0, {"mask": masks[who]}), model.layout)
    assert scorer.take(who, sent, np.array([1.0, 3.0])) == [b"", b""]
    assert scorer.coming["mask"].shape == (DEVICES, 2 * 8 * 9 // 8)
    assert scorer.install(who, np.array([2.0, 2.0])).tolist() == [4]
    np.testing.assert_array_equal(scorer.held["mask"][4], masks[4])
    assert scorer.held["mask"][[3, 5, 9]].all()
    assert scorer.install(WHO, np.full(DEVICES, 3.0)).tolist() == [9]
    np.testing.assert_array_equal(scorer.held["mask"][9], masks[9])


def test_unknown_items_are_refused():
    model, params, items, pools, masks = world()
    scorer = holding(model, params, masks)
    with pytest.raises(ContractError, match="histories go up to id 41"):
        scorer.scores(WHO, WHO * 0, np.full((DEVICES, LENGTH), N + 1, np.int32), pools)
    with pytest.raises(ContractError, match="candidates up to 41"):
        scorer.scores(WHO, WHO * 0, items[:, 1:], np.full_like(pools, N + 1))


def test_heads_of_relative_positions_are_not_chosen():
    assert MaskedHead(N, width=16, relative=True, heads=2).body.spec.width == 16
    with pytest.raises(ConfigError, match="heads = 4"):
        MaskedHead(N, width=16, relative=True, heads=4)


def test_bits_as_numbers():
    bits = torch.tensor([[True, False], [False, True]])
    assert numbers(bits[:, 1]).tolist() == [0.0, 1.0]
    assert numbers(torch.tensor([0.25])).tolist() == [0.25]
