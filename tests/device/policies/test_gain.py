"""The expected gain of a request: learned from what requests would have changed, small enough for any phone."""

import sys
from collections import Counter
from dataclasses import fields, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from views import Fixed, auc, rows, view

from device.errors import ConfigError, ContractError
from device.messages import encode_patch
from device.models.sasrec import SASRec
from device.policies.fitting import PredictsGain, summed_gain
from device.policies.gain import HIDDEN, Gain
from device.policies.gain_features import FEATURES, STATE, STATES, Seen, cosine, folded, out_of_pool
from device.policy import Experience, LearnedPolicy, RequestPolicy, View
from device.seeds import rng

HORIZON = 8
WIDTH = 40  # of the reranker's state: more than is looked at


def lively(size, *, width=50, own=10, seed=0, states=WIDTH):
    """A view in which every feature varies."""
    random = np.random.default_rng(seed)
    items = np.argsort(random.random((size, 400)), axis=1)[:, :width].astype(np.int32) + 1
    items[random.random(items.shape) < 0.2] = 0
    return view(
        items,
        cloud=random.normal(size=items.shape),
        scores=random.normal(size=items.shape) * 2 - 5,
        own=random.integers(1, 401, (size, own)),
        step=random.integers(1, 40, size),
        pool_age=random.integers(1, 12, size),
        since_request=random.integers(1, 12, size),
        misses=random.integers(0, 6, size),
        taken=random.integers(0, 20, size),
        hit_rate=random.random(size),
        idle_s=random.exponential(60.0, size),
        reply_age_s=random.exponential(600.0, size),
        age=random.integers(0, 15, items.shape),
        history=np.where(random.random((size, 50)) < 0.5, 0, random.integers(1, 401, (size, 50))).astype(np.int32),
        asked_history=random.integers(0, 401, (size, 50)).astype(np.int32),
        table=random.normal(size=(401, states)).astype(np.float32),
    )


def part(seen, which):
    """Some rows of a view."""
    columns = {f.name: getattr(seen, f.name)[which] for f in fields(View) if f.name != "look"}
    look = seen.look
    return View(**columns, look=Fixed(look.device_scores[which], look.best[which], look.table))


def lived(gain_of, *, waves=4, size=1500, seed=0, known=HORIZON):
    """Experience in which a request gains gain_of(view) [B] at each of the next `known` steps."""
    views = [lively(size, seed=seed + wave) for wave in range(waves)]
    gain = np.concatenate([np.asarray(gain_of(one), np.float32) for one in views])
    kept = np.full((len(gain), HORIZON), 0.2, np.float32)
    fresh = kept + gain[:, None]
    kept[:, known:] = fresh[:, known:] = np.nan
    return Experience(views, kept, fresh, kept)


def rule(seen):
    """A request is worth 0.1 a step after three misses."""
    return 0.1 * (seen.misses >= 3)


@pytest.fixture(scope="module")
def taught():
    gain = Gain(HORIZON)
    return gain.taught(gain.fit(lived(rule, waves=8, size=2500), rng(0, "gain")))


def test_it_is_a_policy_that_learns():
    assert isinstance(Gain(), RequestPolicy)
    assert isinstance(Gain(), LearnedPolicy)


def test_an_obvious_rule_is_learned(taught):
    seen = lively(2000, seed=99)
    urgency = taught.urgency(seen, rows(seen))
    wanted = seen.misses >= 3
    assert (urgency.shape, urgency.dtype) == ((2000,), np.float64)
    assert auc(urgency, wanted) > 0.99
    # In NDCG@10, summed over 8 steps: 0.8 where it pays, 0 where not.
    assert urgency[wanted].mean() == pytest.approx(0.8, abs=0.12)
    assert urgency[~wanted].mean() == pytest.approx(0.0, abs=0.1)


def test_the_opposite_rule_is_learned_too():
    gain = Gain(HORIZON)
    learned = gain.fit(lived(lambda seen: 0.1 * (out_of_pool(Seen(seen)) < 0.9)), rng(0, "gain"))
    seen = lively(2000, seed=99)
    assert auc(gain.taught(learned).urgency(seen, rows(seen)), out_of_pool(Seen(seen)) < 0.9) > 0.9


def test_a_truncated_horizon_is_scaled_up():
    gain = Gain(HORIZON)
    whole, cut = (gain.fit(lived(rule, known=known), rng(0, "gain")) for known in (HORIZON, 3))
    for name, values in whole.items():
        np.testing.assert_allclose(cut[name], values, rtol=1e-3, atol=1e-4, err_msg=name)


def test_only_the_horizon_counts():
    experience = lived(rule)
    experience.fresh[:, 2:] = 7.0
    two = Gain(2).fit(experience, rng(0, "gain"))
    plain = Gain(2).fit(lived(rule, known=2), rng(0, "gain"))
    for name, values in plain.items():
        np.testing.assert_array_equal(two[name], values, err_msg=name)


def test_steps_without_a_future_tell_nothing():
    experience = lived(rule)
    for outcomes in (experience.kept, experience.fresh):
        outcomes[::2] = np.nan
    views = [part(seen, slice(1, None, 2)) for seen in experience.views]
    half = Experience(views, experience.kept[1::2], experience.fresh[1::2], experience.shown[1::2])
    gain = Gain(HORIZON)
    one, other = (gain.fit(each, rng(0, "gain")) for each in (experience, half))
    for name, values in one.items():
        np.testing.assert_array_equal(other[name], values, err_msg=name)


def test_the_same_seed_learns_the_same():
    gain = Gain(HORIZON)
    small = lived(rule, waves=1, size=200)
    one, two, other = (gain.fit(small, rng(seed, "gain")) for seed in (0, 0, 1))
    assert all((one[name] == two[name]).all() for name in one)
    assert (one["hidden.weight"] != other["hidden.weight"]).any()


def test_what_is_installed_is_small(taught):
    assert len(FEATURES) == 16
    assert (
        sum(values.size for values in taught.learned.values()) == (16 + STATES) * HIDDEN + HIDDEN + HIDDEN + 1 + 2 * 16
    )
    assert {values.dtype for values in taught.learned.values()} == {np.dtype(np.float32)}
    assert len(encode_patch(taught.learned)) <= 2048


class Counted(np.ndarray):
    """Counts floating-point and comparison work by the function that does it.

    One operation per element of the result of a ufunc (also exp, log and tanh), one per element that is reduced,
    2 m n k for a matrix product. Other numpy functions (where, einsum) count 2 per element of their largest argument.
    """

    book: ClassVar[Counter] = Counter()

    def __array_ufunc__(self, ufunc, method, *inputs, **more):
        plain = [np.asarray(i) if isinstance(i, Counted) else i for i in inputs]
        more = {k: np.asarray(v) if isinstance(v, Counted) else v for k, v in more.items()}
        out = getattr(ufunc, method)(*plain, **more)
        if ufunc is np.matmul:
            work = 2 * np.size(out) * np.shape(plain[0])[-1]
        else:
            work = np.size(out) if method == "__call__" else np.size(plain[0])
        Counted.book[f"{ufunc.__name__}.{method}"] += work
        return np.asarray(out).view(Counted) if np.ndim(out) else out

    def __array_function__(self, function, types, arguments, named):
        def plain(value):
            if isinstance(value, (list, tuple)):
                return type(value)(map(plain, value))
            return np.asarray(value) if isinstance(value, Counted) else value

        arguments, named = plain(tuple(arguments)), {k: plain(v) for k, v in named.items()}
        sizes = [
            sum(map(np.size, a)) if isinstance(a, (list, tuple)) else np.size(a) for a in (*arguments, *named.values())
        ]
        Counted.book[function.__name__] += 2 * max(sizes)
        out = function(*arguments, **named)
        return out.view(Counted) if isinstance(out, np.ndarray) else out


def operations(policy, seen):
    """Counted operations of one urgency."""
    Counted.book.clear()
    columns = {f.name: getattr(seen, f.name).view(Counted) for f in fields(View) if f.name != "look"}
    look = Fixed(seen.look.device_scores.view(Counted), seen.look.best.view(Counted), seen.look.table)
    policy.urgency(View(**columns, look=look), rows(seen))
    return sum(Counted.book.values())


@pytest.mark.parametrize(("slots", "own"), [(50, 0), (100, 0), (200, 0), (200, 50)])
def test_an_urgency_costs_at_most_a_hundredth_of_a_reranker_of_width_32(taught, slots, own):
    """A device that looks for candidates of its own scores the catalogue too, here of 3,706 items."""
    reranker = SASRec(4000, width=32, blocks=1).flops(50, slots + (3706 if own else 0))
    urgency = operations(taught, lively(64, width=slots, own=own, states=32)) / 64
    assert urgency == pytest.approx(operations(taught, lively(1, width=slots, own=own, states=32)), rel=0.01)
    network_alone = 2 * (16 + STATES) * HIDDEN + 2 * HIDDEN
    assert urgency > network_alone + slots * 7  # the counter saw the features too
    assert urgency <= 0.01 * reranker


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_can_be_left_out(name):
    whole, without = Gain(), Gain(without=[name])
    seen = lively(30)
    assert without.names == [other for other in FEATURES if other != name]
    place = list(FEATURES).index(name)
    np.testing.assert_array_equal(without.features(seen), np.delete(whole.features(seen), place, axis=1))
    learned = without.fit(lived(rule, waves=1, size=100), rng(0, "gain"))
    assert learned["hidden.weight"].shape == (15 + STATES, HIDDEN)
    assert np.isfinite(without.taught(learned).urgency(seen, rows(seen))).all()


def test_every_feature_varies_and_is_finite():
    values = Gain().features(lively(300))
    assert values.dtype == np.float32
    assert np.isfinite(values).all()
    assert (values.std(0) > 1e-3).all()


def test_an_empty_pool_has_finite_features():
    empty = view(np.zeros((3, 5)), scores=np.full((3, 5), np.nan), own=np.ones((3, 2)))
    assert np.isfinite(Gain().features(empty)).all()


def test_features_by_hand():
    seen = view(
        [[7, 8, 0, 9]],
        cloud=[[1.0, -1.0, 50.0, 0.0]],
        scores=[[0.0, np.log(3.0), 50.0, np.log(4.0)]],
        own=[[9, 5, 6, 4]],
        taken=[3],
        misses=[2],
        pool_age=[4],
        since_request=[5],
        age=[[0, 3, 100, 6]],
        history=[[0, 0, 1, 2, 3]],
        hit_rate=[0.25],
        idle_s=[np.e - 1],
        reply_age_s=[0.0],
    )
    # Scores of 1, 3 and 4 before the logarithm: 8 in all, the best has a half.
    np.testing.assert_allclose(Seen(seen).mass, [np.log(8)], rtol=1e-6)
    np.testing.assert_allclose(FEATURES["best share"](Seen(seen)), [np.log(0.5)], rtol=1e-6)
    # 9 of four is in the pool.
    assert out_of_pool(Seen(seen)).tolist() == [0.75]
    expected = {
        "pool age": np.log(5),
        "since request": np.log(6),
        "misses": np.log(3),
        "miss share": 2 / 4,
        "last hit": 1.0,
        "last rank": 1 / np.log2(4),
        "hit rate": 0.25,
        "candidates": np.log(4),
        "history": np.log(4),
        "idle": 1.0,
        "reply age": 0.0,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(FEATURES[name](Seen(seen)), [value], rtol=1e-6, err_msg=name)
    missed = view([[7]], taken=[0])
    assert (FEATURES["last hit"](Seen(missed))[0], FEATURES["last rank"](Seen(missed))[0]) == (0, 0)
    assert out_of_pool(Seen(missed)).tolist() == [0]  # it looks for none


@pytest.mark.parametrize("size", [33, 700, 2000])
@pytest.mark.parametrize("which", [slice(0, 1), slice(5, 9), slice(0, 17), slice(3, -1), slice(None, None, -1)])
def test_an_urgency_does_not_depend_on_who_else_is_in_the_batch(taught, size, which):
    seen = lively(size, seed=5)
    whole = taught.urgency(seen, rows(seen))
    some = part(seen, which)
    np.testing.assert_array_equal(taught.features(some), taught.features(seen)[which])
    np.testing.assert_array_equal(taught.urgency(some, rows(some)), whole[which])  # to the last bit
    assert len(np.unique(whole)) > size / 2


def test_nobody_is_asked(taught):
    none = part(lively(3), slice(0, 0))
    assert taught.urgency(none, rows(none)).shape == (0,)


def test_what_cannot_be_is_said():
    seen = lively(3)
    with pytest.raises(ContractError, match="Gain has learned nothing yet, so it cannot say how urgent a request is"):
        Gain().urgency(seen, rows(seen))
    with pytest.raises(ConfigError, match="horizon = 0; expected 1 or more"):
        Gain(0)
    with pytest.raises(ConfigError, match="without = 'mises' is no feature; known: pool age, since request"):
        Gain(without=["idle", "mises"])
    with pytest.raises(ContractError, match=r"Gain.fit: no row of experience has a next step; give more validation"):
        Gain().fit(lived(rule, waves=1, size=3, known=0), rng(0, "gain"))
    twice = lived(rule, waves=1, size=3)
    with pytest.raises(ContractError, match="6 rows of views, 3 of outcomes"):
        Gain().fit(Experience([*twice.views, *twice.views], twice.kept, twice.fresh, twice.shown), rng(0, "gain"))


def test_one_step_is_enough_to_learn_its_gain():
    only = lived(lambda seen: np.full(len(seen.step), 0.05), waves=1, size=1)
    gain = Gain(4).taught(Gain(4).fit(only, rng(0, "gain")))
    assert gain.urgency(only.views[0], rows(only.views[0])) == pytest.approx([0.2], abs=1e-3)  # 4 steps of 0.05


def test_the_gain_of_a_request_by_hand():
    nan = np.nan
    kept = np.float32([[0.5, 0.0, 0.25, 0.0], [0.5, nan, nan, nan], [nan] * 4])
    fresh = np.float32([[1.0, 0.25, 0.0, 1.0], [0.25, nan, nan, nan], [nan] * 4])
    made = Experience([], kept, fresh, kept)
    # .5 + .25 - .25 + 1; one known step of -.25 stands for all four; nothing is known.
    np.testing.assert_array_equal(summed_gain(made, 4), [1.5, -1.0, nan])
    np.testing.assert_array_equal(summed_gain(made, 2), [0.75, -0.5, nan])
    np.testing.assert_array_equal(summed_gain(made, 8), [3.0, -2.0, nan])  # it looks 4 steps ahead, not 8


def test_its_urgency_is_said_to_be_a_gain():
    assert isinstance(Gain(3), PredictsGain)
    assert Gain(3).predicts_gain == 3


def test_fitting_leaves_the_global_random_numbers_alone():
    small = lived(rule, waves=1, size=200)
    torch.manual_seed(4)
    before = torch.get_rng_state()
    one = Gain().fit(small, rng(0, "gain"))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    other = Gain().fit(small, rng(0, "gain"))
    assert all((one[name] == other[name]).all() for name in one)


def test_deciding_needs_no_torch():
    """The device decides with numpy alone; torch is imported where something is fitted."""
    source = sys.modules["device.policies.gain"].__file__
    with open(source, encoding="utf-8") as file:
        lines = file.read().splitlines()
    assert not [line for line in lines if line.startswith(("import torch", "from torch"))]


def test_a_wide_state_is_folded():
    """40 numbers become 32: the last 8 are added to the first 8."""
    state = np.arange(80, dtype=np.float32).reshape(2, 40)
    expected = state[:, :32] + np.pad(state[:, 32:], ((0, 0), (0, 24)))
    np.testing.assert_array_equal(folded(state), expected)
    np.testing.assert_array_equal(folded(state[:, :32]), state[:, :32])
    np.testing.assert_array_equal(folded(state[:, :3]), np.pad(state[:, :3], ((0, 0), (0, STATES - 3))))
    assert folded(state[:, :0]).shape == (2, 0)


def test_the_shift_of_the_state_by_hand():
    """(3, 4) against (0, 0) and (4, -3): distances 5 and sqrt(1 + 49) = sqrt(50), cosines 0 (no angle) and 0."""
    table = np.array([[0, 0], [3, 4], [4, -3], [6, 8]], np.float32)
    now = np.array([[1], [1], [1]], np.int32)
    seen = view(((7, 8, 9),) * 3, history=now, asked_history=np.array([[0], [2], [3]], np.int32), table=table)
    np.testing.assert_allclose(FEATURES["state shift"](Seen(seen)), [5, 50**0.5, 5], rtol=1e-6)
    np.testing.assert_allclose(FEATURES["state cosine"](Seen(seen)), [0, 0, 1], atol=1e-6)
    assert cosine(table[:1], table[:1]).tolist() == [0]


def test_the_state_is_looked_at_and_can_be_left_out():
    seen = lively(20)
    whole, without = Gain().features(seen), Gain(without=(STATE,)).features(seen)
    np.testing.assert_array_equal(whole[:, : len(FEATURES)], without)
    np.testing.assert_array_equal(whole[:, len(FEATURES) :], folded(seen.state))


def test_a_model_without_a_state_is_no_obstacle():
    """What the reranker does not show is left out; a rule of misses is learned all the same."""

    class Hidden(Fixed):
        def state(self, history, step):
            raise ContractError("this model shows no state")

    def hidden(seen):
        look = Hidden(seen.look.device_scores, seen.look.best, seen.look.table)
        return replace(seen, look=look)

    some = lived(rule, waves=4)
    blind = replace(some, views=[hidden(one) for one in some.views])
    gain = Gain(HORIZON)
    learned = gain.fit(blind, rng(0, "gain"))
    assert learned["hidden.weight"].shape == (len(FEATURES), HIDDEN)
    seen = hidden(lively(500, seed=77))
    urgency = gain.taught(learned).urgency(seen, None)
    assert urgency[seen.misses >= 3].min() > urgency[seen.misses < 3].max()


def test_a_taste_that_only_the_state_shows_is_learned():
    """Requests pay for those whose state points one way: without the state nobody can tell who they are."""

    def taste(seen):
        return 0.1 * (folded(seen.state)[:, 0] > 0)

    some, seen = lived(taste, waves=6, size=2500), lively(1500, seed=78)
    pays = taste(seen) > 0
    gaps = []
    for gain in (Gain(HORIZON), Gain(HORIZON, without=(STATE,))):
        urgency = gain.taught(gain.fit(some, rng(0, "gain"))).urgency(seen, None)
        gaps.append(urgency[pays].mean() - urgency[~pays].mean())
    assert gaps[0] > 0.5  # of 0.8 over the horizon
    assert abs(gaps[1]) < 0.1
