from dataclasses import replace

import numpy as np
import pytest
from views import auc, cut, experience, rows, view

from device.errors import ConfigError, ContractError
from device.policies.intellectreq import LATENT, SAMPLES, IntellectReq, next_rows
from device.policy import LearnedPolicy, RequestPolicy
from device.seeds import rng

STEPS, DEVICES, WIDTH = 6, 500, 3


def lived(seed=0):
    """The old pool is right where asked + now point one way; what comes next is uncertain where now[1] > 0."""
    random = rng(seed, "states")
    states = [random.standard_normal((DEVICES, WIDTH))]
    for _ in range(STEPS - 1):
        wild = np.where(states[-1][:, 1:2] > 0, 1.5, 0.1)
        states.append(np.tanh(states[-1]) + wild * random.standard_normal((DEVICES, WIDTH)))
    now = np.concatenate(states)
    asked = random.standard_normal(now.shape)
    right = asked[:, 0] + now[:, 0] > 0
    return now, right, experience(now, STEPS, asked=asked, kept=np.where(right, 0.5, 0.0))


def said(policy, past):
    return np.concatenate([policy.urgency(seen, rows(seen)) for seen in past.views])


def test_it_fits_both_contracts():
    assert isinstance(IntellectReq(), LearnedPolicy)
    assert isinstance(IntellectReq(), RequestPolicy)


def test_next_rows_are_those_of_the_same_device():
    past = experience(np.zeros((6, 1)), 3)  # rows 0..5 = (device 0, 1) at steps 1, 2, 3
    assert next_rows(past).tolist() == [2, 3, 4, 5, -1, -1]
    skipping = replace(past, views=[past.views[0], past.views[2], past.views[2]])
    assert next_rows(skipping).tolist() == [-1] * 6
    turned = replace(past, views=past.views[::-1])  # steps 3, 2, 1
    assert next_rows(turned).tolist() == [-1, -1, 0, 1, 2, 3]


def simple(**more):
    """Parameters for states of width 1 that are easy to compute with."""
    return {"shift": np.array([1], np.float32), "scale": np.array([2], np.float32)} | {
        name: np.array(values, np.float32) for name, values in more.items()
    }


def test_the_detector_by_hand():
    learned = simple(**{"asked.weight": [[0.5]], "asked.bias": [0], "now.weight": [[-1]]})
    learned |= simple(**{"judge.weight": [[2]], "judge.bias": [0.25]})
    seen = view(table=np.array([[5], [2]], np.float32), history=[[1]], asked_history=[[0]])
    # asked (5 - 1) / 2 = 2, now (2 - 1) / 2 = 0.5: a = tanh(1 - 0.5) = 0.462117; m = 2 a + 0.25; urgency = -m.
    urgency = IntellectReq("mrd").taught(learned).urgency(seen, rows(seen))
    np.testing.assert_allclose(urgency, [-(2 * np.tanh(0.5) + 0.25)], rtol=1e-6)


def mapper(width=2):
    """z = (now + 1) * noise in its first number, 0 elsewhere; decoded = (3 z, -z) + u for width 2."""
    zeros = {"prior.weight": (width, LATENT), "prior.bias": LATENT, "prior.mean.weight": (LATENT, LATENT)}
    zeros |= {"prior.mean.bias": LATENT, "prior.scale.weight": (LATENT, LATENT), "decode.bias": width}
    learned = {name: np.zeros(shape, np.float32) for name, shape in zeros.items()}
    scale, to = np.full(LATENT, -50, np.float32), np.zeros((LATENT, width), np.float32)
    scale[0], to[0] = np.log(2), (3, -1)
    learned |= {"prior.scale.bias": scale, "decode.weight": np.eye(width, dtype=np.float32), "decode.z.weight": to}
    return learned | {"shift": np.zeros(width, np.float32), "scale": np.ones(width, np.float32)}


def test_the_spread_across_samples_by_hand():
    seen = view([[7, 8]] * 3, table=np.array([[0, 0], [1, 5]], np.float32), device=[4, 5, 6])
    noise = rows(seen).normal(SAMPLES * LATENT).reshape(3, SAMPLES, LATENT)[:, :, 0]
    # Samples 3 * 2 e and -2 e around the state: their variances are (36 + 4) Var(e), whatever the state.
    urgency = IntellectReq("dm").taught(mapper()).urgency(seen, rows(seen))
    np.testing.assert_allclose(urgency, 40 * noise.var(axis=1), rtol=1e-5)


def test_the_spread_as_released_by_hand():
    seen = view([[7, 8]] * 3, table=np.array([[0, 0], [1, 5]], np.float32), device=[4, 5, 6])
    noise = rows(seen).uniform(SAMPLES * LATENT).reshape(3, SAMPLES, LATENT)[:, :, 0]
    # One sample: (1 + 6 e, 5 - 2 e); the variance of two numbers is (difference / 2)^2 = (4 e - 2)^2; summed over 10.
    urgency = IntellectReq("dm", faithful=True).taught(mapper()).urgency(seen, rows(seen))
    np.testing.assert_allclose(urgency, ((4 * noise - 2) ** 2).sum(axis=1), rtol=1e-5)


def test_both_add_the_standardised_spread_to_the_margin():
    seen = view([[7, 8]] * 3, table=np.array([[0, 0], [1, 5]], np.float32), device=[4, 5, 6])
    nothing = {name: np.zeros((2, 1), np.float32) for name in ("asked.weight", "now.weight")}
    learned = mapper() | nothing | {"asked.bias": np.zeros(1, np.float32), "judge.weight": np.ones((1, 1), np.float32)}
    learned |= {"judge.bias": np.array([0.5], np.float32), "doubt.weight": np.array([[-3]], np.float32)}
    learned |= {"doubt.shift": np.array([10], np.float32), "doubt.scale": np.array([4], np.float32)}
    doubt = IntellectReq("dm").taught(mapper()).urgency(seen, rows(seen))
    # a = tanh(0) = 0, m = 0.5 - 3 (U - 10) / 4, urgency = -m.
    urgency = IntellectReq().taught(learned).urgency(seen, rows(seen))
    np.testing.assert_allclose(urgency, 3 * (doubt - 10) / 4 - 0.5, rtol=1e-5)


@pytest.mark.parametrize(("signal", "epochs"), [("both", 100), ("mrd", 300)])
def test_the_detector_learns_an_obvious_rule_and_the_same_twice(signal, epochs):
    _, _, past = lived()
    policy = IntellectReq(signal, epochs=epochs)
    learned = policy.fit(past, rng(1, "fit"))
    assert {values.dtype for values in learned.values()} == {np.dtype(np.float32)}
    assert not [name for name in learned if name.startswith("posterior")]  # stays at home
    _, right, unseen = lived(seed=7)
    assert auc(said(policy.taught(learned), unseen), ~right) > 0.95
    short = replace(policy, epochs=2)
    one, two, other = (short.fit(past, rng(seed, "fit")) for seed in (1, 1, 2))
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name])
    assert (one["now.weight"] != other["now.weight"]).any()


def test_the_mapper_learns_where_the_next_interest_is_uncertain():
    _, _, past = lived()
    policy = IntellectReq("dm", epochs=100)
    learned = policy.fit(past, rng(1, "fit"))
    now, _, unseen = lived(seed=7)
    assert auc(said(policy.taught(learned), unseen), now[:, 1] > 0) > 0.8


def test_the_released_form_can_be_fitted():
    _, _, past = lived()
    policy = IntellectReq(faithful=True, epochs=2)
    urgency = said(policy.taught(policy.fit(past, rng(1, "fit"))), past)
    assert np.isfinite(urgency).all()
    assert urgency.std() > 0


@pytest.mark.parametrize("signal", ["both", "dm", "mrd"])
def test_a_device_decides_alike_in_any_company(signal):
    _, _, past = lived()
    policy = IntellectReq(signal, epochs=1)
    policy = policy.taught(policy.fit(past, rng(1, "fit")))
    (seen, *_) = past.views
    whole = policy.urgency(seen, rows(seen))
    for part in (slice(0, 1), slice(3, 70), slice(64, 500)):
        few = cut(seen, part)
        np.testing.assert_array_equal(policy.urgency(few, rows(few)), whole[part])


def test_what_cannot_be_learned_from_is_refused():
    with pytest.raises(ContractError, match=r"IntellectReq has learned nothing yet.*fit it on validation steps"):
        IntellectReq().urgency(view(), rows(view()))
    _, _, past = lived()
    first = slice(0, DEVICES)
    outcomes = {name: getattr(past, name)[first] for name in ("kept", "fresh", "shown")}
    alone = replace(past, views=past.views[:1], **outcomes)
    with pytest.raises(ContractError, match="no row of experience has its device's next step"):
        IntellectReq().fit(alone, rng(1, "fit"))
    assert "judge.weight" in IntellectReq("mrd", epochs=1).fit(alone, rng(1, "fit"))
    with pytest.raises(ContractError, match="no row of experience has a next step"):
        IntellectReq("mrd").fit(replace(alone, kept=alone.kept * np.nan), rng(1, "fit"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: IntellectReq("md"), "signal = 'md'; expected one of both, dm, mrd"),
        (lambda: IntellectReq(epochs=0), "epochs = 0; expected 1 or more"),
    ],
)
def test_wrong_options_are_errors_at_once(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
