import numpy as np
import pytest
import torch
from personal_parts import Coded
from torch import nn

from cloud.personalizer import Personalizer
from cloud.personalizers.trained import TrainedPersonalizer, as_personalizer
from device.errors import ContractError
from device.personal import Part
from device.personal_codec import Personal, decode_personal, encode_personal
from device.seeds import draws

N = 30


def coded():
    torch.manual_seed(0)
    return Coded(N)


def histories(size, length=12):
    return np.random.default_rng(1).integers(1, N + 1, (size, length)).astype(np.int32)


def asked(made, known):
    who = np.arange(len(known))
    return made.personalize(known, np.zeros(len(known), np.int64), rng=draws(0, "p", who, who))


def test_a_patch_does_not_depend_on_who_else_asks():
    made = TrainedPersonalizer(coded())
    assert isinstance(made, Personalizer)
    known = histories(130)
    whole = asked(made, known)
    for rows in (np.arange(3), np.array([129]), np.arange(130)[::-1]):
        part = asked(made, known[rows])
        for name, values in part.patches.items():
            np.testing.assert_array_equal(values, whole.patches[name][rows])


def test_patches_are_the_modules_and_survive_the_wire():
    module = coded()
    made = asked(TrainedPersonalizer(module), histories(5))
    with torch.inference_mode():
        expected = module.patches(torch.from_numpy(histories(5)).long())
    np.testing.assert_allclose(made.patches["code"], expected["code"].numpy(), atol=1e-6)
    np.testing.assert_array_equal(made.patches["mask"], expected["mask"].numpy())
    layout = module.device.layout
    who = np.arange(5)
    got = decode_personal(encode_personal(Personal(who, who, made.patches), layout), layout)
    for name, values in made.patches.items():
        np.testing.assert_array_equal(got.patches[name], values)


def test_only_the_newest_items_count():
    made = TrainedPersonalizer(coded())  # length 10
    known = histories(4, 12)
    other = known.copy()
    other[:, :2] = 1
    np.testing.assert_array_equal(asked(made, known).patches["code"], asked(made, other).patches["code"])


def test_flops_are_those_of_the_projection():
    made = asked(TrainedPersonalizer(coded()), histories(3))
    assert made.flops.tolist() == [2 * 8 * 8] * 3  # one 8 x 8 product, 2 per multiply-add


def test_nobody_asks():
    made = asked(TrainedPersonalizer(coded()), histories(0))
    assert made.patches["mask"].shape == (0, 8)
    assert made.flops.shape == (0,)


class Answers(nn.Module):
    """Answers what it is told."""

    def __init__(self, layout, answer):
        super().__init__()
        self.device = nn.Module()
        self.device.layout, self.answer = layout, answer

    def patches(self, history):
        return self.answer(len(history))


@pytest.mark.parametrize(
    ("kind", "answer", "about"),
    [
        ("bool", lambda n: {"p": torch.full((n, 2), 0.5)}, "0 and 1 only"),
        ("int8", lambda n: {"p": torch.full((n, 2), 0.5)}, "whole numbers"),
        ("int8", lambda n: {"p": torch.full((n, 2), 200.0)}, "whole numbers"),
        ("float16", lambda n: {"p": torch.full((n, 2), 1e6)}, "finite float16"),
        ("float32", lambda n: {"p": torch.full((n, 2), torch.nan)}, "finite float32"),
        ("float32", lambda n: {"p": torch.zeros(n, 3)}, r"\(64, 3\)"),
        ("float32", lambda n: {"q": torch.zeros(n, 2)}, "names"),
    ],
)
def test_wrong_answers_are_refused(kind, answer, about):
    made = TrainedPersonalizer(Answers({"p": Part((2,), kind)}, answer))
    with pytest.raises(ContractError, match=about):
        asked(made, histories(3))


@pytest.mark.parametrize("kind", ["bool", "int8"])
def test_exact_numbers_are_taken_as_they_are(kind):
    made = asked(TrainedPersonalizer(Answers({"p": Part((2,), kind)}, lambda n: {"p": torch.ones(n, 2)})), histories(3))
    assert made.patches["p"].dtype == np.dtype(kind)
    assert made.patches["p"].all()


def test_what_personalizes_is_taken_as_it_is():
    made = TrainedPersonalizer(coded())
    assert as_personalizer(made) is made
    assert isinstance(as_personalizer(coded()), TrainedPersonalizer)
    with pytest.raises(ContractError, match="patches"):
        as_personalizer(nn.Linear(2, 2))
    with pytest.raises(ContractError, match="personalize"):
        as_personalizer(object())
