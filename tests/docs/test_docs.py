"""What the documentation names exists: links, files, commands with their options, configurations, make targets."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from simulation.config.read import check
from simulation.config.tables import ExperimentConfig
from simulation.data.read import detect, load

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("reports/results/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(r"(?:device|cloud|simulation|reports|configs|tests|docs|\.ci)/[\w./-]*")
CODE = re.compile(r"`([^`\n]+)`")
IMPORT_PATH = re.compile(r'class = "((?:device|cloud|simulation|reports)[\w.]+:\w+)"')


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(text(page)) if name == language]


def commands(program: str) -> list[tuple[Path, list[str]]]:
    """Lines of code blocks and inline code that start with a program, as words; placeholders are left as they are."""
    found = []
    for page in PAGES:
        whole = [body.replace("\\\n", " ") for name, body in FENCE.findall(text(page)) if name != "python"]
        lines = [line for body in whole for line in body.splitlines()]
        for line in [*lines, *CODE.findall(FENCE.sub("", text(page)))]:
            words = shlex.split(line.strip().removeprefix("$ "), comments=True) if line.count("'") % 2 == 0 else []
            if words[:1] == [program]:
                found.append((page, words[1:]))
    return found


def the_command_line() -> click.Command:
    from simulation.commands.cli import app

    return typer.main.get_command(app)


def resolve(command: click.Command, words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words name and what is left of them; the left words start with a name that is not known."""
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    return command, words


def problem(words: list[str]) -> str:
    """What is wrong with a command line; empty when nothing is."""
    if not words or words[0].startswith("-"):
        return ""
    command, rest = resolve(the_command_line(), words)
    if isinstance(command, click.Group) and rest and rest[0] != "COMMAND":
        return f"no command {rest[0]!r} in {command.name!r}"
    known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
    wrong = [word for word in rest if word.startswith("--") and word.partition("=")[0] not in {*known, "--help"}]
    return f"{command.name} has no option {wrong[0]}" if wrong else ""


def test_the_pages_are_there():
    assert {"CHANGELOG.md", "CONTRIBUTING.md", "README.md"} <= {page.name for page in PAGES}
    assert len([page for page in PAGES if page.parent.name == "decisions"]) >= 7
    assert len(PAGES) >= 14


def test_every_relative_link_leads_somewhere():
    found = [(page, target) for page in PAGES for target in LINK.findall(FENCE.sub("", text(page)))]
    own = [(page, target.partition("#")[0]) for page, target in found if "://" not in target and target[0] != "#"]
    assert len(own) >= 6
    assert [f"{page.name}: {target}" for page, target in own if not (page.parent / target).exists()] == []


def test_every_file_named_in_code_style_exists():
    """Such as `device/fleet.py`; the name of something in the file may follow, as in `device/fleet.py: rank`."""
    coded = [(page, code.partition(":")[0]) for page in PAGES for code in CODE.findall(FENCE.sub("", text(page)))]
    named = [(page, path) for page, path in coded if PATH.fullmatch(path)]
    assert len(named) >= 30
    assert [f"{page.name}: {path}" for page, path in named if not (ROOT / path).exists()] == []


def test_every_command_named_exists_with_its_options():
    found = commands("tandemrec")
    assert len(found) >= 20
    told = [(page.name, " ".join(words), problem(words)) for page, words in found]
    assert [line for line in told if line[2]] == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("tandemrec rnu x.toml", "no command 'rnu'"),
        ("tandemrec data invent x", "no command 'invent' in 'data'"),
        ("tandemrec run x.toml --sett a=b", "run has no option --sett"),
        ("tandemrec run x.toml --set a=b --json", ""),
    ],
)
def test_the_check_above_can_fail(line: str, told: str):
    found = problem(line.split()[1:])
    assert found.startswith(told) if told else found == ""


def test_every_make_target_named_exists():
    targets = set(re.findall(r"^([a-z-]+):.*##", text(ROOT / "Makefile"), re.MULTILINE))
    assert targets >= {"demo", "test", "check", "test-slow", "test-data", "test-flower", "clean", "help"}
    named = [(page.name, word) for page, words in commands("make") for word in words if re.fullmatch("[a-z-]+", word)]
    assert len(named) >= 4
    assert [(page, word) for page, word in named if word not in targets] == []


def test_every_configuration_named_exists():
    named = [(page.name, path) for page in PAGES for path in re.findall(r"configs/[\w.-]+\.toml", text(page))]
    assert len(named) >= 4
    assert [(page, path) for page, path in named if not (ROOT / path).is_file()] == []


def test_every_import_path_named_can_be_imported():
    from simulation.build import imported

    named = {(page.name, path) for page in PAGES for path in IMPORT_PATH.findall(text(page))}
    assert len(named) >= 6
    for page, path in named:
        assert callable(imported(path, page))


def test_the_tutorials_tables_are_valid():
    whole, fragment = (tomllib.loads(body) for body in blocks(ROOT / "docs" / "tutorial.md", "toml"))
    config = check(whole, ExperimentConfig, "tiers.toml")
    assert [tier.name for tier in config.device.tiers] == ["good", "modest"]
    rest: dict[str, Any] = {key: value for key, value in whole.items() if key != "data"}
    assert check(rest | fragment, ExperimentConfig, "own data").data.path == "my-data"


def test_the_tutorials_overrides_are_valid():
    """Each `--set` of a `tandemrec run` on a file of ours is accepted by the configuration."""
    from simulation.config.read import load_config

    found = [w for _, w in commands("tandemrec") if w[:1] == ["run"] and len(w) > 1 and (ROOT / w[1]).is_file()]
    given = [(words[1], [words[i + 1] for i, word in enumerate(words) if word == "--set"]) for words in found]
    assert len([overrides for _, overrides in given if overrides]) >= 4
    for path, overrides in given:
        assert load_config(ROOT / path, overrides).all_policies


def test_the_reference_of_keys_is_that_of_the_code():
    """Mend with `tandemrec list --keys`."""
    from simulation.config.reference import reference

    assert text(ROOT / "docs" / "configuration.md").partition("may be left out.\n\n")[2] == reference()


def test_every_key_has_a_meaning_and_every_meaning_a_key():
    from simulation.config.meanings import MEANINGS, TRAINING
    from simulation.config.reference import meaning, reference

    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) ?\| (.+) \|$", reference(), re.MULTILINE)
    # the tables of training are there twice
    assert len(rows) == len(MEANINGS) + 2 * len(TRAINING)
    with pytest.raises(KeyError):
        meaning("cloud.pol")


def test_the_reference_tells_types_defaults_and_limits():
    from simulation.config.reference import reference

    lines = reference().splitlines()
    for line in (
        "| `pool` | whole number | `50` | candidates in a list; at least 1, at most 65536 |",
        "| `hide_seen` | true or false | `true` | items of the history are not proposed again |",
        '| `link` | text or table | `"4g"` | a name (`tandemrec list`) or a table with `class` and its options |',
    ):
        assert line in lines
    assert any(line.startswith("| `generator` | table | **needed** |") for line in lines)
    assert any(line.startswith("| `loss` | number |  | loss of") and "below 1" in line for line in lines)


def test_the_overrides_of_the_configuration_page_do_what_it_says():
    from simulation.config.read import load_config

    page = ROOT / "docs" / "configuration.md"
    given = [words for where, words in commands("tandemrec") if where == page and words[:1] == ["run"]]
    sets = [[words[i + 1] for i, word in enumerate(words) if word == "--set"] for words in given]
    found = {config.name: config for config in (load_config(ROOT / "configs" / "quickstart.toml", s) for s in sets)}
    assert found["measures"].metrics == ("hr@10", "ndcg@10", "mrr@10")
    assert found["fixed"].device.fusion is not None
    assert [policy.label for policy in found["one"].all_policies] == ["always"]
    assert found["second"].all_policies[1].label == "the second"
    assert (found["short"].data.split.leave_last, found["short"].network.link) == (10, "wifi")


def test_the_tutorials_convert_example_works(tmp_path: Path):
    from simulation.data.convert import convert

    (body,) = blocks(ROOT / "docs" / "tutorial.md", "csv")
    source = tmp_path / "interactions.csv"
    source.write_text(body)
    (words,) = [w for _, w in commands("tandemrec") if w[:3] == ["data", "convert", "interactions.csv"]]
    assert words[3:] == ["my-data"]
    folder = convert(source, tmp_path / words[3], seed=0)
    assert {path.name for path in folder.iterdir()} == {"interactions.parquet", "items.parquet"}
    assert len(load(folder).user) == 3


def test_the_tutorials_data_file_can_be_read(tmp_path: Path):
    (body,) = blocks(ROOT / "docs" / "tutorial.md", "csv")
    file = tmp_path / "interactions.csv"
    file.write_text(body)
    assert detect(file) == "canonical"
    table = load(file)
    # three rows: ann twice, ben once; two different items
    assert (len(table.user), len(table.users), len(table.items)) == (3, 2, 2)


def test_contributing_is_short():
    assert len(text(ROOT / "CONTRIBUTING.md").splitlines()) < 80


def test_every_decision_has_its_three_parts():
    for page in (ROOT / "docs" / "decisions").glob("*.md"):
        assert re.findall(r"^#+ (.+)$", text(page), re.MULTILINE)[1:] == ["Context", "Decision", "Consequence"], page
        assert text(page).startswith(f"# {int(page.name[:4])}. ")
