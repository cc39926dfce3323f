"""The help of every command, `tandemrec run` as a user types it, and exit codes; other commands: test_commands.py."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from tiny import POLICIES, Said, changed, only_object, refused, tandemrec, written
from typer.testing import CliRunner

from device.errors import RunError
from simulation import experiment
from simulation.commands.cli import app
from simulation.config.read import load_config
from simulation.runs import FILES, REPORT, Run

ROOT = Path(__file__).parents[2]
NAMES = {
    "run",
    "sweep",
    "lag",
    "devices",
    "evaluate",
    "compare",
    "report",
    "check",
    "export",
    "bench",
    "list",
    "doctor",
    "data",
}
WITH_FIGURES = [
    "run",
    "sweep",
    "evaluate",
    "lag",
    "devices",
    "compare",
    "check",
    "export",
    "data inspect",
    "bench",
    "list",
    "doctor",
]


def leaves(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and group as the words that name it."""
    yield words
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from leaves(inner, (*words, name))


COMMANDS = list(leaves(typer.main.get_command(app)))


# Help


def test_the_commands_are_those_promised() -> None:
    assert {words[0] for words in COMMANDS if words} == NAMES
    assert {words for words in COMMANDS if words[:1] == ("data",)} == {
        ("data",),
        ("data", "inspect"),
        ("data", "convert"),
    }


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(words: tuple[str, ...]) -> None:
    said = CliRunner().invoke(app, [*words, "--help"])
    assert said.exit_code == 0
    assert "Usage:" in said.stdout
    assert ("--json" in said.stdout) == (" ".join(words) in WITH_FIGURES)
    lines = [line.strip() for line in said.stdout.splitlines() if line.strip()]
    assert len(lines[1].split()) >= 4  # a sentence follows the usage


def test_every_argument_is_explained() -> None:
    """In the docstring: click forgets the help text of an argument."""
    for words, command in zip(COMMANDS, found_commands(), strict=True):
        said = CliRunner().invoke(app, [*words, "--help"]).stdout
        for parameter in command.params:
            if isinstance(parameter, click.Argument):
                assert f"{parameter.metavar or str(parameter.name).upper()}: " in said, words


def found_commands() -> list[click.Command]:
    """The commands of COMMANDS."""
    found = []
    for words in COMMANDS:
        command = typer.main.get_command(app)
        for word in words:
            assert isinstance(command, click.Group)
            command = command.commands[word]
        found.append(command)
    return found


def test_the_version_is_that_of_the_package() -> None:
    said = tandemrec("--version")
    assert (said.code, said.out) == (0, f"tandemrec {metadata.version('tandemrec')}\n")


def test_without_words_the_help_is_shown() -> None:
    said = tandemrec()
    assert said.code == 2  # as click has it for a group without a command
    assert "Usage:" in said.out + said.err


@pytest.mark.parametrize("words", [["run"], ["rnu"], ["run", "x.toml", "--sed", "1"], ["bench", "nothing"]])
def test_words_that_are_no_command_line_end_with_2(words: list[str]) -> None:
    said = tandemrec(*words)
    assert said.code == 2
    assert "Usage:" in said.err
    assert "Traceback" not in said.err


# run


def test_run_writes_the_whole_folder(tiny_run: Path) -> None:
    assert {path.name for path in tiny_run.iterdir()} == {*FILES, REPORT}
    assert (tiny_run / REPORT).read_text(encoding="utf-8").lower().startswith("<!doctype html>")
    assert not [path.name for path in tiny_run.parent.iterdir() if path.name.startswith(".")]
    assert "tandemrec run" in Run.open(tiny_run).summary["command"]


def test_run_prints_the_table_on_stdout_and_what_it_does_on_stderr(first: Said, tiny_run: Path) -> None:
    assert all(policy in first.out for policy in POLICIES)
    assert "NDCG@10" in first.out.upper()
    assert f"run     {tiny_run}\nreport  {tiny_run / REPORT}\n" in first.out  # not broken at 80 characters
    for told in (
        "synthetic: 40 users, 80 items, 640 events",
        "leakage audit",
        "SASRec: epoch 1/1",
        "40 devices on 2 clients",
    ):
        assert told in first.err
        assert told not in first.out
    assert "epoch" not in first.out


def test_run_as_json_with_another_seed_and_value(workshop: Path, tiny_run: Path) -> None:
    words = ["run", workshop / "tiny.toml", "--runs", workshop / "runs", "--seed", 6]
    said = tandemrec(*words, "--set", "network.link=wifi", "--set", "policies.1.steps=1", "--json")
    assert said.code == 0, said.err
    told = only_object(said.out)
    assert "SASRec: epoch 1/1" in said.err
    folder = Path(told["folder"])
    assert folder.name.endswith("-6")
    assert list(told["policies"]) == ["never", "every steps=1"]
    assert told["decision_hash"] == Run.open(folder).summary["decision_hash"]
    config = load_config(folder / "config.resolved.toml")
    assert (config.seed, config.network.link, config.policies[1].options) == (6, "wifi", {"steps": 1})
    assert Run.open(tiny_run).config["seed"] == 5  # the first run is still there


def test_the_same_command_decides_the_same(workshop: Path, tiny_run: Path, tmp_path: Path) -> None:
    said = tandemrec("run", workshop / "tiny.toml", "--runs", tmp_path, "--json")
    assert only_object(said.out)["decision_hash"] == Run.open(tiny_run).summary["decision_hash"]
    assert Path(only_object(said.out)["folder"]).name == tiny_run.name


def test_resume_keeps_what_was_finished(
    workshop: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["run", workshop / "tiny.toml", "--runs", tmp_path]
    replayed, real = [], experiment.replay_policy

    def counted(prepared: Any, what: Any, exchange: Any, job: Any) -> Any:
        replayed.append(what[0].label)
        if len(replayed) == 2:
            raise RunError("the power went")
        return real(prepared, what, exchange, job)

    monkeypatch.setattr(experiment, "replay_policy", counted)
    said = tandemrec(*words)
    assert (said.code, said.out) == (1, "")
    assert "error: the power went" in said.err
    assert not list(tmp_path.glob("tiny-*"))  # complete or absent
    resumed = tandemrec(*words, "--resume", "--json")
    assert resumed.code == 0, resumed.err
    assert replayed == [*POLICIES, POLICIES[1]]
    assert only_object(resumed.out)["decision_hash"] == Run.open(tiny_run).summary["decision_hash"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


# Exit codes


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("pool = 20", "pol = 20", ["[cloud] unknown key 'pol'", "did you mean 'pool'?"]),
        ("pool = 20", 'pool = "20"', ["[cloud] pool = '20'", "expected a whole number"]),
        ("leave_last = 3", "leave_lsat = 3", ["[data.split] unknown key 'leave_lsat'", "did you mean 'leave_last'?"]),
        ("width = 8", "widht = 8", ["[device.model]", "no option 'widht'", "did you mean 'width'?"]),
        ("floors:Markov", "floors:Markow", ["cloud.generators.floors has no 'Markow'", "did you mean 'Markov'?"]),
        ('"ndcg@10"', '"ndgc@10"', ["'ndgc@10'", "did you mean 'ndcg@10'?"]),
        ("alpha = 0.5", "alpha = 1.5", ["[device.fusion] alpha = 1.5", "expected at most 1"]),
        ('name = "tiny"', 'name = "a/b"', ["name = 'a/b'", "becomes a folder"]),
        ("seed = 5", "seed = ", ["not valid TOML", "line 3"]),
    ],
)
def test_a_wrong_configuration_ends_with_2_and_one_message(
    tmp_path: Path, old: str, new: str, words: list[str]
) -> None:
    message = refused(tandemrec("run", written(tmp_path, changed(old, new)), "--runs", tmp_path / "runs"))
    assert all(word in message for word in words), message
    assert not list((tmp_path / "runs").glob("tiny-*"))


@pytest.mark.parametrize(("new", "told"), [("steps = 0", "steps = 0"), ("stpes = 2", "did you mean 'steps'?")])
def test_a_wrong_policy_is_found_before_anything_is_trained(tmp_path: Path, new: str, told: str) -> None:
    message = refused(tandemrec("run", written(tmp_path, changed("steps = 2", new)), "--runs", tmp_path / "runs"))
    assert told in message
    assert "epoch" not in message


def test_a_wrong_reranker_is_found_before_the_generator_is_trained(tmp_path: Path) -> None:
    text = changed('class = "cloud.generators.floors:Markov"', 'class = "device.models.gru4rec:GRU4Rec"\nwidth = 4')
    config = written(tmp_path, text.replace("blocks = 1", "blcks = 1"))
    message = refused(tandemrec("run", config, "--runs", tmp_path / "runs", "--set", "cloud.training.epochs=1"))
    assert "did you mean 'blocks'?" in message
    assert "epoch" not in message


def test_a_missing_configuration_names_the_nearest(workshop: Path) -> None:
    message = refused(tandemrec("run", workshop / "tinny.toml"))
    assert f"{workshop / 'tinny.toml'}: no such file; did you mean {workshop / 'tiny.toml'}?" in message


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--set", "cloud.pol=3"], "did you mean 'pool'?"),
        (["--set", "cloud.pool"], "write key=value"),
        (["--set", "policies.7.steps=1"], "policies.7.steps=1"),
        (["--runner", "flowr"], "runner = 'flowr'"),
    ],
)
def test_wrong_overrides_end_with_2(workshop: Path, words: list[str], told: str) -> None:
    assert told in refused(tandemrec("run", workshop / "tiny.toml", *words))


def test_a_message_keeps_its_brackets(workshop: Path) -> None:
    """The names of tables look like the terminal's markup, which would swallow them."""
    assert "[data.synthetic] unknown key 'uers'" in refused(
        tandemrec("run", workshop / "tiny.toml", "--set", "data.synthetic.uers=3")
    )


def test_the_installed_script_ends_with_the_same_codes(workshop: Path) -> None:
    script = "import sys; from simulation.commands.cli import main; sys.argv[0] = 'tandemrec'; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "run", "tiny.toml", "--set", "sede=1"],
        cwd=workshop,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == ["error: tiny.toml: unknown key 'sede'; did you mean 'seed'?"]
