"""The conformance kit for policies that learn, and for answers that depend on who else is asked."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import pytest

from device.check import Finding
from device.errors import ConfigError, ContractError
from device.policy import Experience, Learned, Urgency, View
from device.seeds import Draws, rng
from simulation.conformance.check import conformance
from simulation.conformance.made_up import HORIZON, ROWS, WAVES, experience, rows_of, view
from simulation.conformance.policies import block_of, policy

LESSONS = ["untaught", "parameters", "size", "deterministic", "experience unchanged"]
ANSWERS = ["shape", "numbers", "repeatable", "independent", "view unchanged", "own"]


def failed(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.message for finding in findings if not finding.ok}


# What is built in


LEARNERS = {
    "device.policies.gain:Gain": [],
    "device.policies.intellectreq:IntellectReq": ["signal=both", "signal=dm", "signal=mrd", "faithful=true"],
    "device.policies.metacontroller:MetaController": ["learner=T", "learner=X"],
}


@pytest.mark.parametrize(("path", "option"), [(path, o) for path, found in LEARNERS.items() for o in found or [""]])
def test_every_policy_that_learns_passes(path: str, option: str) -> None:
    findings = conformance("policy", path, [option] if option else [])
    assert failed(findings) == {}
    assert [finding.name for finding in findings] == [*LESSONS, *ANSWERS]
    assert "has learned nothing yet" in findings[0].message


@pytest.mark.parametrize("name", ["SinceReply", "Misses", "OutOfPool", "RankGap"])
def test_every_policy_of_one_number_passes(name: str) -> None:
    findings = conformance("policy", f"device.policies.signals:{name}", [])
    assert failed(findings) == {}
    said = findings[-1].message
    assert ("needs items of the device's own, and says so" in said) == (name in ("OutOfPool", "RankGap"))


@pytest.mark.parametrize("name", ["Displacement", "InvalidCount"])
def test_the_halves_of_the_released_score_pass_per_user(name: str) -> None:
    assert failed(conformance("policy", f"device.policies.lsc4rec:{name}", [])) == {}


@pytest.mark.parametrize(("options", "batch"), [([], 16), (["batch=8"], 8), (["batch=16", "displacement=false"], 16)])
def test_a_score_per_batch_is_told_its_batch(options: list[str], batch: int) -> None:
    found = failed(conformance("policy", "device.policies.lsc4rec:BatchScore", options))
    assert found.keys() == {"independent"}
    assert f"urgency depends on the {batch - 1} others" in found["independent"]
    assert "compare runs on one client only" in found["independent"]


# Who is asked with whom


@dataclass(frozen=True)
class Says:
    """A policy that answers with a function."""

    answer: Callable[[View], Any]

    def urgency(self, view: View, draws: Draws) -> Any:
        return self.answer(view)


def test_the_smallest_block_is_found() -> None:
    """A mean over groups of three; over all; and over nobody."""

    def mean_of(group: Any, view: View) -> Any:
        _, place = np.unique(group, return_inverse=True)
        return (np.bincount(place, view.misses) / np.bincount(place))[place]

    assert block_of(Says(lambda v: mean_of(v.device // 3, v))) == 3
    assert block_of(Says(lambda v: mean_of(v.device * 0, v))) is None
    assert block_of(Says(lambda v: v.misses * 1.0)) == 2  # blocks begin at two: nobody asks for one of one


def test_last_bits_are_told_apart_from_statistics() -> None:
    found = failed(policy(Says(lambda v: v.misses * (1 + 1e-9 * len(v.device)))))
    assert found.keys() == {"independent"}
    assert "last bits depend on how many devices share a call" in found["independent"]


# A made-up experience


def test_the_experience_is_like_a_real_one() -> None:
    given = experience()
    assert len(given.views) == WAVES
    assert [array.shape for array in (given.kept, given.fresh, given.shown)] == [(WAVES * ROWS, HORIZON)] * 3
    assert {array.dtype for array in (given.kept, given.fresh, given.shown)} == {np.dtype(np.float32)}
    known = np.isfinite(given.kept)
    assert np.array_equal(known, np.isfinite(given.fresh))
    assert (known[:, 1:] <= known[:, :-1]).all()  # once NaN, always NaN
    # Device d has d % 3 steps left after the last of six waves: 5, 6, 7, 5, .. after the first, 0, 1, 2, 0, .. at last.
    assert known.sum(axis=1)[:4].tolist() == [5, 6, 7, 5]
    assert known.sum(axis=1)[-ROWS:][:4].tolist() == [0, 1, 2, 0]
    steps = np.stack([seen.step for seen in given.views])
    assert (np.diff(steps, axis=0) == 1).all()  # successors of one device can be found
    again = experience()
    assert np.array_equal(given.fresh, again.fresh, equal_nan=True)
    assert np.array_equal(given.views[3].history, again.views[3].history)


def test_a_view_without_own_candidates() -> None:
    assert view(own=0).own.shape == (ROWS, 0)
    assert all(seen.own.shape == (ROWS, 0) for seen in experience(own=0).views)
    part = rows_of(view(), slice(3, 9))
    assert np.array_equal(part.own, view().own[3:9])
    assert np.array_equal(part.asked_state, view().asked_state[3:9])
    assert not np.array_equal(part.state, part.asked_state)


# Mistakes


@dataclass
class Learns:
    """Learns the mean gain per age of the pool; each field plants one mistake."""

    mistake: str = ""
    learned: Learned | None = None
    remembered: dict[str, Any] = field(default_factory=dict)

    def fit(self, experience: Experience, rng: np.random.Generator) -> Any:
        if self.mistake == "raises":
            raise KeyError("gain")
        if self.mistake == "spoils views":
            experience.views[2].misses[:] = 0
        if self.mistake == "spoils outcomes":
            np.nan_to_num(experience.kept, copy=False)
        gain = experience.fresh - experience.kept
        age = np.concatenate([view.pool_age for view in experience.views])
        worth = np.array([np.nanmean(gain[age == a]) for a in range(1, 6)], np.float32)
        self.remembered["worth"] = worth
        return self.returned(gain, worth, rng)

    def returned(self, gain: Any, worth: Any, rng: np.random.Generator) -> Any:
        match self.mistake:
            case "list":
                return [worth]
            case "float64":
                return {"worth": worth.astype(np.float64)}
            case "number":
                return {"worth": 0.5}
            case "NaN":
                return {"worth": gain.mean(axis=0)}
            case "name":
                return {"": worth}
            case "large":
                return {"worth": worth, "table": np.zeros((128, 128), np.float32)}
            case "heavy":
                return {"worth": worth, "table": np.zeros(600, np.float32)}
            case "unseeded":
                return {"worth": worth + np.random.default_rng().random(5).astype(np.float32)}
            case "seeded":
                return {"worth": worth + rng.random(5).astype(np.float32)}
        return {"worth": worth}

    def taught(self, learned: Learned) -> Any:
        if self.mistake == "taught raises":
            raise KeyError("weights")
        if self.mistake == "taught nothing":
            return learned
        return replace(self, learned=learned)

    def urgency(self, view: View, draws: Draws) -> Urgency:
        if self.mistake == "remembers":
            return np.asarray(self.remembered["worth"][view.pool_age - 1], np.float64)
        if self.learned is None:
            if self.mistake == "careless":
                return np.asarray(self.learned["worth"])  # type: ignore[index]
            raise ContractError("Learns has learned nothing yet; fit it first")
        worth = self.learned["worth"][view.pool_age - 1].astype(np.float64)
        return np.where(view.misses > 2, np.inf, worth) if self.mistake == "infinite" else worth


@pytest.mark.parametrize("mistake", ["", "seeded"])
def test_a_good_learner_passes(mistake: str) -> None:
    findings = policy(Learns(mistake))
    assert failed(findings) == {}
    assert [finding.name for finding in findings] == [*LESSONS, *ANSWERS]


@pytest.mark.parametrize(
    ("mistake", "name", "cure"),
    [
        ("careless", "untaught", "raise device.errors.ContractError that says so"),
        ("raises", "fits", "fit raised KeyError: 'gain'"),
        ("list", "parameters", "fit returned a list; return a mapping from names to float32 arrays"),
        ("float64", "parameters", "'worth' as float64; return numpy float32 arrays"),
        ("number", "parameters", "'worth' as float; return numpy float32 arrays"),
        ("NaN", "parameters", "NaN or infinity; leave out NaN outcomes"),
        ("name", "parameters", "expected a name of 1..256 bytes"),
        ("large", "size", "bytes of parameters; a policy may install 65,536 at most"),
        ("unseeded", "deterministic", "take random numbers from `rng`"),
        ("spoils views", "experience unchanged", "fit changes misses of the experience"),
        ("spoils outcomes", "experience unchanged", "fit changes kept of the experience"),
        ("taught raises", "taught", "taught raised KeyError: 'weights'"),
        ("taught nothing", "taught", "taught returned a dict without urgency"),
        ("infinite", "numbers", "urgency is NaN or infinite"),
    ],
)
def test_a_planted_mistake_is_found_and_nothing_else(mistake: str, name: str, cure: str) -> None:
    found = failed(policy(Learns(mistake)))
    assert found.keys() == {name}
    assert cure in found[name]


def test_what_is_only_remembered_does_not_reach_a_device() -> None:
    """Devices get a new policy and the parameters; one that kept them in `fit` fails there, and here."""
    found = failed(policy(Learns("remembers")))
    assert found.keys() == {"untaught", "runs"}
    assert "devices never call fit" in found["runs"]


def test_parameters_above_two_kilobytes_are_a_warning() -> None:
    (light, heavy) = (next(f for f in policy(Learns(m)) if f.name == "size") for m in ("", "heavy"))
    assert light.ok
    assert heavy.ok
    assert "warning" not in light.message
    # 605 float32 = 2,420 bytes; frame 2, count 1, checksum 4; names 1 + 5, dtypes 2, axes and shapes 1 + 1 + 1 + 2
    assert heavy.message == f"warning: more than 2,000, {2420 + 7 + 6 + 6 + 2 + 5:,} bytes installed per device"


def test_half_a_learner_is_told_the_other_half() -> None:
    class Untaught:
        def fit(self, experience: Experience, rng: np.random.Generator) -> Learned:
            return {}

        def urgency(self, view: View, draws: Draws) -> Urgency:
            return view.hit_rate

    (found,) = policy(Untaught())
    assert (found.name, found.ok) == ("method", False)
    assert "has no taught; a policy that learns has fit(experience, rng) and taught(learned)" in found.message


def test_a_learner_may_decide_untaught_and_may_need_own_items() -> None:
    class Starts(Learns):
        def urgency(self, view: View, draws: Draws) -> Urgency:
            if not view.own.shape[1]:
                raise ConfigError("Starts: no own items; set own")
            return view.hit_rate if self.learned is None else super().urgency(view, draws)

        def taught(self, learned: Learned) -> Self:
            return replace(self, learned=learned)

    findings = {finding.name: finding for finding in policy(Starts())}
    assert failed(list(findings.values())) == {}
    assert findings["untaught"].message == "decides"
    assert "and says so: Starts: no own items" in findings["own"].message


def test_fit_gets_one_seed() -> None:
    assert rng(0, "policy").random() == rng(0, "policy").random()
    drawn: list[float] = []

    class Draws_(Learns):
        def fit(self, experience: Experience, rng: np.random.Generator) -> Any:
            drawn.append(rng.random())
            return super().fit(experience, rng)

    policy(Draws_())
    assert len(drawn) == 3  # twice to compare, once without own items
    assert len(set(drawn)) == 1
