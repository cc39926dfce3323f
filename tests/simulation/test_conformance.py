"""Each planted mistake is found by the kit with its cure; everything built in passes it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cloud.generator import Generated
from cloud.generators.digits import DigitWriter
from cloud.sequences import Sequences
from device.check import Finding
from device.errors import ConfigError
from device.export import export_onnx
from device.models.sasrec import SASRec
from device.policy import View
from device.seeds import Draws
from simulation.commands.catalogue import entries
from simulation.conformance.check import conformance, generator
from simulation.conformance.made_up import CANDIDATES, LENGTH, N_ITEMS, ROWS, rows_of, view
from simulation.conformance.policies import policy

Answer = Callable[[View, Draws], Any]
ANSWERS = ["shape", "numbers", "repeatable", "independent", "view unchanged", "own"]


def built_in(kind: str) -> list[str]:
    return [entry["class"] for entry in entries() if entry["kind"] == kind]


def failed(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.message for finding in findings if not finding.ok}


# What is built in


FLOORS = [path for path in built_in("generator") if path.startswith("cloud.generators.floors")]
WRAPPERS = [entry["class"] for entry in entries() if "inner" in entry["options"]]  # made in Python, not by a table
NEURAL = [path for path in built_in("generator") if path not in FLOORS + WRAPPERS]
POLICIES = [path for path in built_in("policy") if not path.endswith(":BatchScore")]  # see test_policy_conformance
RERANKERS = [path for path in built_in("device model") if not path.endswith(":OnnxFile")]


def test_there_is_something_to_check() -> None:
    assert len(POLICIES) >= 5
    assert len(FLOORS) >= 3
    assert len(RERANKERS) >= 3
    assert len(NEURAL) >= 4


@pytest.mark.parametrize("path", POLICIES)
def test_every_policy_passes(path: str) -> None:
    findings = conformance("policy", path, [])
    assert failed(findings) == {}
    assert [finding.name for finding in findings][-len(ANSWERS) :] == ANSWERS


@pytest.mark.parametrize("measure", ["footrule", "kendall", "overlap", "rbo", "js", "entropy"])
def test_every_measure_of_consistency_passes(measure: str) -> None:
    assert failed(conformance("policy", "device.policy:Consistency", [f"measure={measure}"])) == {}


@pytest.mark.parametrize("path", FLOORS)
def test_every_floor_passes(path: str) -> None:
    findings = conformance("generator", path, [])
    assert failed(findings) == {}
    assert [finding.name for finding in findings] == ["lists", "ids", "distinct", "order", "repeatable", "cost"]


@pytest.mark.parametrize("path", NEURAL)
def test_every_neural_generator_passes(path: str) -> None:
    assert failed(conformance("generator", path, [])) == {}


def test_garbled_lists_pass() -> None:
    assert failed(generator(DigitWriter(Makes(), N_ITEMS, garbled=0.3))) == {}


@pytest.mark.parametrize("path", RERANKERS)
def test_every_reranker_passes(path: str) -> None:
    findings = conformance("device-model", path, [])
    assert failed(findings) == {}
    assert len(findings) >= 10


def test_an_onnx_file_passes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = SASRec(N_ITEMS, width=8, blocks=1, length=LENGTH)
    export_onnx(module, tmp_path, length=LENGTH, candidates=CANDIDATES, int8=False)
    findings = conformance("device-model", "device.models.onnx_file:OnnxFile", [f"path={tmp_path / 'fp32.onnx'}"])
    assert failed(findings) == {}


# Policies


@dataclass
class Says:
    """A policy that answers with a function."""

    answer: Answer

    def urgency(self, view: View, draws: Draws) -> Any:
        return self.answer(view, draws)


def ages(view: View, draws: Draws) -> Any:
    return view.pool_age.astype(np.float64)


def fails(view: View, draws: Draws) -> Any:
    raise KeyError("cloud")


def changes(view: View) -> Any:
    """Sorts the pool in place."""
    view.candidates.sort(axis=1)
    return 0


class OwnGenerator:
    """Draws from a generator of its own."""

    def __init__(self) -> None:
        self.numbers = np.random.default_rng(0)

    def urgency(self, view: View, draws: Draws) -> Any:
        return self.numbers.random(len(view.device))


@dataclass
class Counting:
    """Remembers how often it was asked."""

    asked: list[int] = field(default_factory=list)

    def urgency(self, view: View, draws: Draws) -> Any:
        self.asked.append(1)
        return ages(view, draws) + len(self.asked)


def test_a_good_policy_passes() -> None:
    assert failed(policy(Says(ages))) == {}
    assert failed(policy(Says(lambda view, draws: draws.uniform()[:, 0] + view.device_scores.max(1)))) == {}


@pytest.mark.parametrize(
    ("made", "name", "cure"),
    [
        (Says(lambda v, d: ages(v, d)[:, None]), "shape", "urgency returned (16, 1) for 16 devices; return one number"),
        (Says(lambda v, d: 0.5), "shape", "returned () for 16 devices; return one number each"),
        (Says(lambda v, d: ages(v, d)[:3]), "shape", "returned (3,) for 16 devices"),
        (Says(lambda v, d: np.where(v.device == 7, np.nan, 1.0)), "numbers", "guard divisions and logarithms"),
        (OwnGenerator(), "repeatable", "take random numbers from `draws`"),
        (Counting(), "repeatable", "keep no state in the policy"),
        (Says(lambda v, d: ages(v, d) - ages(v, d).mean()), "independent", "use no statistic over the rows of a view"),
        (Says(lambda v, d: ages(v, d) + len(v.device)), "independent", "which devices share a call"),
        (Says(lambda v, d: np.argsort(np.argsort(v.device_scores[:, 0]))), "independent", "no statistic over the rows"),
        (Says(lambda v, d: np.argsort(v.cloud_scores, axis=1)[:, 0] + changes(v)), "view unchanged", "work on a copy"),
        (Says(lambda v, d: v.own[:, 0] + ages(v, d)), "own", "it raised IndexError"),
        (Says(fails), "runs", "urgency raised KeyError: 'cloud'"),
        (object(), "method", "has no urgency(view, draws); add it"),
    ],
)
def test_a_planted_mistake_in_a_policy_is_found(made: Any, name: str, cure: str) -> None:
    findings = failed(policy(made))
    assert name in findings
    assert cure in findings[name]


def test_a_mistake_is_blamed_on_nothing_else() -> None:
    assert failed(policy(Says(lambda v, d: ages(v, d) - ages(v, d).mean()))).keys() == {"independent"}
    assert failed(policy(Says(lambda v, d: np.where(v.device == 7, np.inf, -np.inf)))) == {}  # infinity is a number


def test_an_answer_that_holds_no_numbers_is_a_finding() -> None:
    assert failed(policy(Says(lambda v, d: np.full(len(v.device), "often")))) != {}


def test_the_view_has_what_a_mistake_needs_to_show() -> None:
    whole = view()
    assert (whole.candidates == 0).any()
    assert len(np.unique(whole.pool_age)) > 2
    assert len(np.unique(whole.device_scores)) > ROWS
    part = rows_of(whole, slice(5, ROWS))
    assert np.array_equal(part.device_scores, whole.device_scores[5:])
    assert np.array_equal(part.taken, whole.taken[5:])


# Generators


def lists(histories: Any, k: int) -> tuple[Any, Any]:
    """k distinct items that follow the newest one, with falling scores."""
    items = (histories[:, -1:] + np.arange(k)) % N_ITEMS + 1
    return items.astype(np.int32), np.repeat(-np.arange(k, dtype=np.float32)[None], len(items), 0)


@dataclass
class Makes:
    """A generator whose lists pass through a function that plants a mistake."""

    mistake: Callable[[Any, Any], tuple[Any, Any]] = lambda items, scores: (items, scores)
    flops: Any = 1e6
    seconds: Any = None

    def generate(self, histories: Any, k: int, *, rng: Draws) -> Generated:
        items, scores = self.mistake(*lists(histories, k))
        cost = [None if c is None else np.full(len(histories), float(c)) for c in (self.flops, self.seconds)]
        return Generated(items, scores, *cost)


def put(column: int, value: int) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Lists with one column of ids overwritten."""

    def mistake(items: Any, scores: Any) -> tuple[Any, Any]:
        items[:, column] = value
        return items, scores

    return mistake


class Unseeded(Makes):
    """Shuffles by a generator that nobody seeded."""

    def generate(self, histories: Any, k: int, *, rng: Draws) -> Generated:
        items, scores = lists(histories, k)
        return Generated(np.random.default_rng().permuted(items, axis=1), scores, np.ones(len(items)), None)


class Raises:
    """Fails."""

    def generate(self, histories: Any, k: int, *, rng: Draws) -> Generated:
        raise KeyError("embedding")


class NoCost:
    """Scores the catalogue and does not know what that takes."""

    def scores(self, histories: Any, rng: Draws) -> Any:
        return np.repeat(np.arange(N_ITEMS + 1, dtype=np.float32)[None], len(histories), 0)

    def flops(self, histories: Any) -> None:
        return None


def test_good_generators_pass() -> None:
    assert failed(generator(Makes())) == {}
    assert failed(generator(Makes(flops=None, seconds=0.2))) == {}


@pytest.mark.parametrize(
    ("made", "name", "cure"),
    [
        (Makes(lambda i, s: (np.repeat(i[:, ::2], 2, axis=1), s)), "lists", "lists an item twice; drop duplicates"),
        (Makes(put(2, N_ITEMS + 1)), "lists", f"list ids 1..{N_ITEMS}, 0 for an empty place"),
        (Makes(put(2, -1)), "lists", "lists item ids -1..50 of a catalogue of 50"),
        (Makes(lambda i, s: (i, -s)), "order", "scores rise along a list; sort it, best first"),
        (Makes(flops=None), "cost", "neither flops nor seconds; say what a list costs"),
        (NoCost(), "cost", "say what a list costs"),
        (Makes(flops=-1.0), "lists", "give one finite number >= 0 per request"),
        (Makes(seconds=np.nan), "lists", "seconds (16,) for 16 requests; give one finite number"),
        (Unseeded(), "repeatable", "take random numbers from `rng`"),
        (Makes(lambda i, s: (i[:, :3], s)), "lists", "return both as [16, 8], 0-padded"),
        (Makes(lambda i, s: (np.tile(i, 2), np.tile(s, 2))), "lists", "items (16, 16) and scores (16, 16)"),
        (Makes(lambda i, s: (i, s * np.float32(np.nan))), "lists", "give empty places item 0, score 0"),
        (Raises(), "runs", "generate raised KeyError: 'embedding'"),
        (
            object(),
            "method",
            "has neither generate(histories, k, *, rng) nor scores(histories, rng) with flops(histories); add one",
        ),
    ],
)
def test_a_planted_mistake_in_a_generator_is_found(made: Any, name: str, cure: str) -> None:
    findings = failed(generator(made))
    assert name in findings
    assert cure in findings[name]


def test_lists_shorter_than_asked_pass() -> None:
    def short(items: Any, scores: Any) -> tuple[Any, Any]:
        return np.where(np.arange(items.shape[1]) < 3, items, 0), np.where(np.arange(items.shape[1]) < 3, scores, 0)

    assert failed(generator(Makes(short))) == {}


def test_a_generator_that_learns_is_taught_first() -> None:
    class Learns(Makes):
        taught = 0

        def fit(self, data: Sequences) -> None:
            self.taught = len(data.flat())

    made = Learns()
    assert failed(generator(made)) == {}
    assert made.taught == 200


# What cannot be made


@pytest.mark.parametrize(
    ("kind", "path", "options", "words"),
    [
        ("generatr", "x:y", [], "check generatr: unknown kind; did you mean 'generator'?"),
        ("policy", "device.policy:Rndom", [], "did you mean 'Random'?"),
        ("policy", "device.policy:Random", ["p=2.0"], "p = 2.0; expected a probability"),
        ("policy", "device.policy:Random", ["q=0.5"], "check policy: Random has no option 'q'"),
        ("device-model", "device.models.onnx_file:OnnxFile", [], "OnnxFile needs 'path'; add it"),
        ("policy", "no_such_module_here:Policy", [], "there is no module 'no_such_module_here'"),
        ("policy", "nowhere/mine.py:Policy", [], "nowhere/mine.py: no such file"),
        ("policy", "device.policy", [], 'write "package.module:Name"'),
    ],
)
def test_what_cannot_be_made_is_a_wrong_configuration(kind: str, path: str, options: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        conformance(kind, path, options)
    assert words in str(caught.value)


def test_what_is_no_model_is_told_how_to_become_one() -> None:
    findings = failed(conformance("device-model", "device.policy:Never", []))
    assert "give it init(rng) and score(params, history, candidates)" in findings["contract"]


def test_a_file_that_is_not_python(tmp_path: Path) -> None:
    (tmp_path / "half_written.py").write_text("def urgency(:\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"half_written\.py"):
        conformance("policy", f"{tmp_path / 'half_written.py'}:Policy", [])
