"""Warnings about configurations that are legal and likely not meant, and what --seeds takes."""

from pathlib import Path

import pytest
from tiny import TOML, refused, tandemrec, written

from device.errors import ConfigError
from simulation.commands.advice import seeds_override, unpriced, unswept
from simulation.config.read import load_config
from simulation.config.tables import ExperimentConfig

HEAD = TOML.partition("[[policies]]")[0]
RANDOM = 'class = "device.policy:Random"'
MISSES = 'class = "device.policies.signals:Misses"'


def experiment(folder: Path, *policies: str, rest: str = "") -> ExperimentConfig:
    """The tiny experiment with these tables as its policies."""
    tables = "".join(f"[[policies]]\n{policy}\n" for policy in policies)
    return load_config(written(folder, HEAD + tables + rest))


def test_a_run_of_a_sweeps_file_is_warned_about(tmp_path: Path) -> None:
    (told,) = unpriced(experiment(tmp_path, RANDOM, MISSES, 'class = "device.policy:Never"'))
    assert told.startswith("random, misses name no price or request_ratio and would ask at every step at which their")
    assert "use `tandemrec sweep`, or add request_ratio" in told
    (told,) = unpriced(experiment(tmp_path, MISSES))
    assert told.startswith("misses names no price or request_ratio and would ask at every step at which its")
    many = [f'{RANDOM}\nname = "r{i}"' for i in range(5)]
    (told,) = unpriced(experiment(tmp_path, *many))
    assert told.startswith("r0, r1, r2 and 2 more name no price")


def test_who_takes_no_price_or_has_one_is_not_warned_about(tmp_path: Path) -> None:
    plain = (
        'class = "device.policy:Never"',
        'class = "device.policy:Always"',
        'class = "device.policy:Every"\nsteps = 2',
        f"{RANDOM}\np = 0.2",
        f"{RANDOM}\nrequest_ratio = 0.2",
        f"{MISSES}\nprice = 0.0",
    )
    assert unpriced(experiment(tmp_path, *plain)) == []
    budget = "[cloud.budget]\nrequests_per_step = 0.2\nhorizon = 100.0\n"  # the price is the coordinator's
    assert unpriced(experiment(tmp_path, RANDOM, rest=budget)) == []


def test_a_sweep_of_single_points_is_warned_about(tmp_path: Path) -> None:
    fixed = f"{RANDOM}\nrequest_ratio = 0.2"
    (told,) = unswept(experiment(tmp_path, fixed, 'class = "device.policy:Never"'))
    assert told == (
        "no policy is swept: random 20% has a price or request_ratio of its own and is one point, with dashes at all "
        "other ratios; take request_ratio out"
    )
    (told,) = unswept(experiment(tmp_path, fixed, f"{MISSES}\nprice = 1.5"))
    assert told.startswith("no policy is swept: random 20%, misses have prices or request ratios of their own and are")
    assert unswept(experiment(tmp_path, fixed, MISSES)) == []  # a point beside a line may be meant
    assert unswept(experiment(tmp_path, 'class = "device.policy:Never"')) == []


def test_the_commands_warn_on_stderr(tmp_path: Path) -> None:
    """Both commands end after the warning with an unknown option, so that nothing is trained here."""
    wrong = f"[[policies]]\n{MISSES}\nnothing = 1\n"
    said = tandemrec("run", written(tmp_path, f"{HEAD}[[policies]]\n{RANDOM}\n{wrong}"), "--runs", tmp_path / "runs")
    assert said.code == 2
    assert said.err.startswith("warning: random, misses")
    assert [line.partition(":")[0] for line in said.err.splitlines() if line] == ["warning", "error"]
    fixed = written(tmp_path, f"{HEAD}{wrong}request_ratio = 0.2\n")
    said = tandemrec("sweep", fixed, "--runs", tmp_path / "runs", "--seeds", "1")
    assert said.code == 2
    assert said.err.startswith("warning: no policy is swept: misses nothing=1 20% has")


@pytest.mark.parametrize("text", ["one", "1,two", "", "1 2", "[1,2]", "-1", "1,"])
def test_seeds_that_are_no_numbers_are_refused_in_words(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        seeds_override(text)
    assert str(error.value) == f"--seeds {text}: write --seeds 1,2,3"
    message = refused(tandemrec("sweep", written(tmp_path), f"--seeds={text}"))
    assert message == f"error: --seeds {text}: write --seeds 1,2,3\n"


def test_seeds_are_an_override(tmp_path: Path) -> None:
    assert seeds_override("1, 2,03") == "sweep.seeds=[1, 2, 3]"
    assert load_config(written(tmp_path), [seeds_override("4,5")]).sweep.seeds == (4, 5)
