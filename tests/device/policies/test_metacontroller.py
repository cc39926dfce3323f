from dataclasses import replace

import numpy as np
import pytest
from views import auc, cut, experience, rows, view

from device.errors import ConfigError, ContractError
from device.policies.fitting import Plan
from device.policies.metacontroller import MetaController, uplift
from device.policy import LearnedPolicy, RequestPolicy
from device.seeds import rng

STEPS, DEVICES = 4, 500


def lived(seed=0, gain=0.5):
    """A refresh gains where the first number of the state is positive and costs where it is negative."""
    states = rng(seed, "states").standard_normal((STEPS * DEVICES, 3))
    fresh = np.where(states[:, 0] > 0, 0.3 + gain, 0.0)
    return states, experience(states, STEPS, kept=np.full(len(states), 0.3), fresh=fresh, shown=states[:, 1] * 0.1)


def said(policy, past):
    return np.concatenate([policy.urgency(seen, rows(seen)) for seen in past.views])


def test_it_fits_both_contracts():
    assert isinstance(MetaController(), LearnedPolicy)
    assert isinstance(MetaController(), RequestPolicy)


def test_urgency_by_hand():
    # State 2, all seven other numbers 0 but step = 1 (log 2). The first hidden unit: 2 * (2 - 1) / 0.5 = 4; the second
    # stays below 0. Logits 4 * (0, 0.25, 0.5) + (0, 0, 1) = (0, 1, 3); urgency = 3 - log(1 + e) = 1.6867.
    shift, scale = np.zeros(8, np.float32), np.ones(8, np.float32)
    shift[0], scale[0] = 1, 0.5
    hidden, out = np.zeros((8, 16), np.float32), np.zeros((16, 3), np.float32)
    hidden[0, :2] = 2, -2
    out[0], out[1] = (0, 0.25, 0.5), (9, 9, 9)
    learned = {"shift": shift, "scale": scale, "hidden.weight": hidden, "hidden.bias": np.zeros(16, np.float32)}
    learned |= {"out.weight": out, "out.bias": np.array([0, 0, 1], np.float32)}
    seen = view(table=np.array([[9], [2]], np.float32))
    np.testing.assert_allclose(MetaController().taught(learned).urgency(seen, rows(seen)), [3 - np.log(1 + np.e)])


@pytest.mark.parametrize("learner", ["T", "X"])
def test_it_learns_an_obvious_rule_and_the_same_twice(learner):
    states, past = lived()
    policy = MetaController(learner, budget=1.0, epochs=60)
    learned = policy.fit(past, rng(1, "fit"))
    again = policy.fit(past, rng(1, "fit"))
    assert {values.dtype for values in learned.values()} == {np.dtype(np.float32)}
    for name, values in learned.items():
        np.testing.assert_array_equal(values, again[name])
    other = policy.fit(past, rng(2, "fit"))
    assert any((values != other[name]).any() for name, values in learned.items())
    unseen_states, unseen = lived(seed=7)
    urgency = said(policy.taught(learned), unseen)
    assert auc(urgency, unseen_states[:, 0] > 0) > 0.97
    assert auc(said(policy.taught(learned), past), states[:, 0] > 0) > 0.97


@pytest.mark.parametrize("learner", ["T", "X"])
def test_effects_are_recovered(learner):
    inputs = rng(0, "inputs").standard_normal((4000, 2)).astype(np.float32)
    true = np.stack([np.zeros(4000), 0.5 * inputs[:, 0], np.where(inputs[:, 1] > 0, 1, -1)], axis=1)
    noise = rng(0, "noise").standard_normal((4000, 3)) * 0.2
    outcomes = (inputs[:, :1] + true + noise).astype(np.float32)
    found = uplift(inputs, outcomes, learner=learner, plan=Plan(60, 512, rate=1e-2), rng=rng(0, "fit"))
    assert (found[:, 0] == 0).all()
    for arm in (1, 2):
        assert np.corrcoef(found[:, arm], true[:, arm])[0, 1] > 0.95
        assert abs((found[:, arm] - true[:, arm]).mean()) < 0.05


def test_above_the_budget_refreshes_are_smoothed():
    states, past = lived()
    free, tight = (
        said(policy.taught(policy.fit(past, rng(1, "fit"))), past)
        for policy in (MetaController(budget=1.0, epochs=60), MetaController(budget=0.1, smoothing=0.8, epochs=60))
    )
    # Half of the states gain from a refresh. A positive urgency is a probability of refresh above 1/2.
    assert (free > 0).mean() > 0.45
    assert (tight > 0).mean() < 0.25
    assert auc(tight, states[:, 0] > 0) > 0.9  # the order stays


def test_last_steps_teach_nothing():
    states, past = lived()
    ended = np.arange(len(states)) >= len(states) - DEVICES
    outcomes = {name: np.where(ended[:, None], np.nan, getattr(past, name)) for name in ("kept", "fresh", "shown")}
    policy = MetaController(epochs=2)
    learned = policy.fit(replace(past, **outcomes), rng(1, "fit"))
    np.testing.assert_allclose(learned["shift"][:3], states[~ended].mean(axis=0), atol=1e-6)
    assert all(np.isfinite(values).all() for values in learned.values())
    with pytest.raises(ContractError, match=r"MetaController.fit: no row of experience has a next step"):
        policy.fit(replace(past, kept=past.kept * np.nan), rng(1, "fit"))


def test_a_device_decides_alike_in_any_company():
    _, past = lived()
    policy = MetaController(epochs=1)
    policy = policy.taught(policy.fit(past, rng(1, "fit")))
    (seen, *_) = past.views
    whole = policy.urgency(seen, rows(seen))
    for part in (slice(0, 1), slice(3, 70), slice(64, 500)):
        few = cut(seen, part)
        np.testing.assert_array_equal(policy.urgency(few, rows(few)), whole[part])


def test_before_it_was_taught_and_with_wrong_rows():
    with pytest.raises(ContractError, match=r"MetaController has learned nothing yet.*fit it on validation steps"):
        MetaController().urgency(view(), rows(view()))
    _, past = lived()
    with pytest.raises(ContractError, match="500 rows of views, 2000 of outcomes"):
        MetaController().fit(replace(past, views=past.views[:1]), rng(1, "fit"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MetaController("S"), "learner = 'S'; expected 'T' or 'X'"),
        (lambda: MetaController(budget=1.5), "budget = 1.5; expected 0 to 1"),
        (lambda: MetaController(smoothing=-1), "smoothing = -1; expected 0 to 1"),
        (lambda: MetaController(epochs=0), "epochs = 0; expected 1 or more"),
    ],
)
def test_wrong_options_are_errors_at_once(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
