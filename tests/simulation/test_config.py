"""Configurations: every file of the repository loads and builds, and every mistake is answered with place and cure."""

import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cloud.options import Training
from device.errors import ConfigError
from device.models.torch_model import as_device_model
from simulation.build import build
from simulation.config.parts import Plugin
from simulation.config.read import check, load_config, read_toml
from simulation.config.study import load_study
from simulation.config.tables import ExperimentConfig
from simulation.devices.methods import try_methods
from simulation.evaluate import EvaluationConfig, load_evaluation
from simulation.objects import make_links, make_policy, tiers

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
EVALUATIONS = [path for path in CONFIGS if "models" in tomllib.loads(path.read_text(encoding="utf-8"))]
STUDIES = [path for path in CONFIGS if "methods" in tomllib.loads(path.read_text(encoding="utf-8"))]
EXPERIMENTS = [path for path in CONFIGS if path not in [*EVALUATIONS, *STUDIES]]

SMALL = """
name = "small"
[cloud.generator]
class = "cloud.generators.floors:Popularity"
[device.model]
class = "device.models.sasrec:SASRec"
width = 8
[[policies]]
class = "device.policy:Never"
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def changed(path: Path, *replacements: tuple[str, str], more: str = "") -> Path:
    text = SMALL
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text + more)
    return path


def refused(path: Path, overrides: Sequence[str] = ()) -> list[str]:
    """The lines of the refusal, without the path that each must begin with."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines), lines
    return [line.removeprefix(f"{path}: ") for line in lines]


# The files of the repository


def test_there_are_configurations() -> None:
    assert len(CONFIGS) >= 1
    assert "quickstart" in [path.stem for path in EXPERIMENTS]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_loads_and_builds(path: Path) -> None:
    config = load_config(path)
    assert config.name == path.stem
    assert isinstance(config.cloud.training.options(), Training)
    given = {"n_items": 60, "length": 10}
    made = build(config.cloud.generator.class_, config.cloud.generator.options, "[cloud.generator]", **given)
    assert any(hasattr(made, name) for name in ("forward", "scores", "generate"))
    for tier in tiers(config):
        plugin = tier.model or config.device.model
        as_device_model(build(plugin.class_, plugin.options, "[device.model]", **given))
    assert [make_policy(policy) for policy in config.all_policies]
    assert len(make_links(config)) == len(tiers(config))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_loads_and_builds(path: Path) -> None:
    config = load_study(path)
    assert config.name == path.stem
    try_methods(config)


@pytest.mark.parametrize("path", EVALUATIONS, ids=lambda path: path.stem)
def test_every_evaluation_loads_and_builds(path: Path) -> None:
    config = check(read_toml(path), EvaluationConfig, str(path))
    assert config.name == path.stem
    assert config.models
    for table in config.models:
        made = build(table.model.class_, table.model.options, table.name, n_items=60, length=10)
        assert any(hasattr(made, name) for name in ("forward", "scores"))


# Defaults and what classes are given


def test_what_is_left_out_has_a_default(small: Path) -> None:
    config = load_config(small)
    assert (config.seed, config.cloud.pool, config.device.history) == (0, 50, 50)
    assert config.data.split.leave_last == 3
    assert config.cloud.training.options() == Training()
    assert config.device.model == Plugin.model_validate({"class": "device.models.sasrec:SASRec", "width": 8})
    assert config.device.model.options == {"width": 8}
    assert [policy.label for policy in config.all_policies] == ["never"]
    assert isinstance(config, ExperimentConfig)


def test_one_policy_may_stand_under_device(small: Path) -> None:
    changed(small, ("[[policies]]", "[device.policy]"), ('"device.policy:Never"', '"device.policy:Every"\nsteps = 4'))
    (policy,) = load_config(small).all_policies
    assert policy.options == {"steps": 4}
    assert policy.label == "every steps=4"


def test_labels_are_made_of_class_options_and_ratio(small: Path) -> None:
    more = (
        'measure = "rbo"\nrequest_ratio = 0.2\n[[policies]]\nclass = "device.policy:Always"\nname = "all"\nprice = 1.0'
    )
    changed(small, ("device.policy:Never", "device.policy:Consistency"), more=more)
    config = load_config(small)
    assert [policy.label for policy in config.all_policies] == ["consistency rbo 20%", "all"]
    assert config.policies[0].options == {"measure": "rbo"}  # a price or a ratio is no option of the class
    assert config.policies[1].options == {}


def test_training_tables_are_the_fields_of_training(small: Path) -> None:
    changed(
        small, more='[cloud.training]\nepochs = 3\nloss = "full"\nlearning_rate = 1\n[device.training]\nbatch = 7\n'
    )
    config = load_config(small)
    assert config.cloud.training.options() == Training(epochs=3, loss="full", learning_rate=1)
    assert config.device.training.options() == Training(batch=7)


# Mistakes


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("[cloud.trainning]\nepochs = 2", "[cloud] unknown key 'trainning'; did you mean 'training'?"),
        ("[cloud.training]\nepoch = 2", "[cloud.training] unknown key 'epoch'; did you mean 'epochs'?"),
        ("[network]\nlnk = '3g'", "[network] unknown key 'lnk'; did you mean 'link'?"),
        ("[data]\nsplt = 3", "[data] unknown key 'splt'; did you mean 'split'?"),
        ("[data.split]\nleave_lst = 3", "[data.split] unknown key 'leave_lst'; did you mean 'leave_last'?"),
        ("[device.fusion]\nalpha = 0.5\nnormalize = 'rank'", "[device.fusion] unknown key 'normalize'; did you mean"),
        (
            "[[device.tiers]]\nname = 'a'\nshare = 1\nlnk = '3g'",
            "[device.tiers.0] unknown key 'lnk'; did you mean 'link'?",
        ),
        ("[polices]\na = 1", "unknown key 'polices'; did you mean 'policies'?"),
        ("[simulation]\nqqq = 1", "[simulation] unknown key 'qqq'; known: devices_per_client, runner"),
    ],
)
def test_an_unknown_key_names_file_table_and_nearest_word(more: str, words: str, small: Path) -> None:
    (line,) = refused(changed(small, more=more + "\n"))
    assert line.startswith(words)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("[cloud.training]\nepochs = 'many'", "[cloud.training] epochs = 'many': expected a whole number"),
        ("[cloud.training]\nepochs = 2.5", "[cloud.training] epochs = 2.5: expected a whole number"),
        ("[cloud.training]\nloss = 'half'", "[cloud.training] loss = 'half': expected 'sampled' or 'full'"),
        ("[data]\npermute_ids = 1", "[data] permute_ids = 1: expected true or false"),
        ("[data.split]\nleave_last = 0", "[data.split] leave_last = 0: expected 1 or more"),
        ("[data.split]\nglobal_time = [0.5]", "[data.split] global_time = [0.5]: expected 2 values"),
        ("[network]\nloss = 1.0", "[network] loss = 1.0: expected a number below 1"),
        ("[simulation]\nthreads = '2'", "[simulation] threads = '2': expected a whole number"),
        ("[device.fusion]\nalpha = 1.5", "[device.fusion] alpha = 1.5: expected at most 1"),
        ("[[device.tiers]]\nname = 'a'\nshare = 0", "[device.tiers.0] share = 0: expected a number above 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(more: str, words: str, small: Path) -> None:
    lines = refused(changed(small, more=more + "\n"))
    assert lines[0].startswith(words)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("name=3", 'name = 3: expected a text in quotes, "3"'),
        ("cloud.hide_seen='yes'", "[cloud] hide_seen = 'yes': expected true or false"),
        ("seed=true", "seed = true: expected a whole number"),
        ("cloud.pool=70000", "[cloud] pool = 70000: expected at most 65536"),
        ("metrics='mrr'", "metrics = 'mrr': expected a list, [\"mrr\"]"),
        ("metrics=[3]", 'metrics.0 = 3: expected a text in quotes, "3"'),
        ("sweep.request_ratios=[0, 0.5]", "[sweep] request_ratios.0 = 0: expected a number above 0"),
        ("sweep.seeds=['a']", "[sweep] seeds.0 = 'a': expected a whole number"),
        ("sweep.seeds=[]", "[sweep] seeds = []: expected 1 or more values"),
        ("data.split={files=['a', 'b']}", "[data.split] files = ['a', 'b']: expected 3 values"),
        ("data.split={global_time=[1, 2, 3]}", "[data.split] global_time = [1, 2, 3]: expected 2 values"),
        ("device.tiers=3", "[device] tiers = 3: expected a list of tables, [[device.tiers]]"),
        ("cloud.generator='a:B'", "[cloud] generator = 'a:B': expected a table, { class = \"a:B\" }"),
        ("policies=[3]", 'policies.0 = 3: expected a table, { class = "package.module:Name" }'),
        ("data.split='last'", "[data] split = 'last': expected a table, its keys: leave_last, validation, min_train, "),
        ("device.fusion={}", "[device.fusion] 'alpha' is missing; add alpha = ..., a number"),
        ("cloud={}", "[cloud] 'generator' is missing; add generator = { class = \"package.module:Name\" }"),
        (
            "device.items='streamd'",
            "[device] items = 'streamd': expected 'resident', 'resident-int8' or 'streamed'; did ",
        ),
        ("policies.0.price='free'", "[policies.0] price = 'free': expected a number"),
        ("cloud.training.epochs=-1", "[cloud.training] epochs = -1; expected 0 or more"),
    ],
)
def test_what_was_expected_is_told_in_words_of_the_file(override: str, told: str, small: Path) -> None:
    (line,) = refused(small, [override])
    assert line.startswith(told)


@pytest.mark.parametrize(
    ("override", "lines"),
    [
        ("network.link=3", ['[network] link = 3: expected a text in quotes, "3", or a table, { class = "package.mod']),
        ("network.link={a=1}", ["[network.link] 'class' is missing; add class = \"package.module:Name\""]),
        (
            "device.supernet={negatives='al'}",
            ["[device.supernet] negatives = 'al': expected a whole number, or 'all'; "],
        ),
        ("device.supernet={negatives=0}", ["[device.supernet] negatives = 0: expected 1 or more, or 'all'"]),
        (
            "cloud.budget={requests_per_step='x', horizon=9}",
            ["[cloud.budget] requests_per_step = 'x': expected a number, or a table, { name = value }"],
        ),
        (
            "cloud.budget={requests_per_step={phone='x'}, horizon=9}",
            ["[cloud.budget.requests_per_step] phone = 'x': expected a number"],
        ),
        (
            "cloud.personalizer={class='a:B', when='always'}",
            ["[cloud.personalizer] when = 'always': expected 'installation' or 'request', or a table, { every = ... }"],
        ),
        (
            "cloud.personalizer={class='a:B', when={evry=3}}",
            [
                "[cloud.personalizer.when] 'every' is missing",
                "[cloud.personalizer.when] unknown key 'evry'; did you mean 'e",
            ],
        ),
    ],
)
def test_of_a_value_of_several_kinds_all_are_told_in_one_line(override: str, lines: list[str], small: Path) -> None:
    found = refused(small, [override])
    assert len(found) == len(lines)
    assert all(line.startswith(told) for line, told in zip(found, lines, strict=True)), found


@pytest.mark.parametrize(
    ("load", "table", "told"),
    [
        (load_config, "methods", "this is a file for devices; run, sweep and lag want [[policies]], see configs/"),
        (load_config, "models", "this is a file for evaluate; run, sweep and lag want [[policies]], see configs/"),
        (load_study, "policies", "this is a file for run or sweep; devices wants [[methods]], see configs/devices-"),
        (
            load_study,
            "models",
            "this is a file for evaluate; devices wants [[methods]], see configs/devices-beauty.toml",
        ),
        (load_study, "nothing", "devices wants [[methods]], see configs/devices-beauty.toml"),
        (load_evaluation, "methods", "this is a file for devices; evaluate wants [[models]], see configs/reference-"),
    ],
)
def test_the_file_of_another_command_is_told_by_that_command(
    load: Callable[[Path], object], table: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "other.toml"
    path.write_text(f"[[{table}]]\nname = 'a'\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: {told}")


def test_the_file_of_one_policy_is_that_of_a_run(small: Path) -> None:
    changed(small, ("[[policies]]", "[device.policy]"))
    assert load_config(small).all_policies
    with pytest.raises(ConfigError, match="this is a file for run or sweep"):
        load_study(small)


def test_all_problems_are_told_at_once(small: Path) -> None:
    lines = refused(changed(small, ("width = 8", "width = 8\n[cloud.training]\nepochs = 'x'\nbatches = 3")))
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("old", "words"),
    [
        (
            '[cloud.generator]\nclass = "cloud.generators.floors:Popularity"\n',
            "'cloud' is missing; add a table [cloud]",
        ),
        (
            'class = "cloud.generators.floors:Popularity"\n',
            "[cloud.generator] 'class' is missing; add class = \"package.module:Name\"",
        ),
        (
            '[device.model]\nclass = "device.models.sasrec:SASRec"\nwidth = 8\n',
            "'device' is missing; add a table [device]",
        ),
        ('name = "small"\n', "'name' is missing; add name = ..., a text in quotes"),
        ('[[policies]]\nclass = "device.policy:Never"\n', "no policy: add [device.policy] or [[policies]]"),
    ],
)
def test_what_is_missing_is_named(old: str, words: str, small: Path) -> None:
    assert refused(changed(small, (old, ""))) == [words]


@pytest.mark.parametrize(
    ("split", "good"),
    [
        ("leave_last = 2\nglobal_time = [0.8, 0.9]", False),
        ("leave_last = 2\nfiles = ['a', 'b', 'c']", False),
        ("validation = 2", False),
        ("leave_last = 2", True),
        ("global_time = [0.8, 0.9]", True),
        ("files = ['a', 'b', 'c']", True),
    ],
)
def test_exactly_one_way_to_split(split: str, good: bool, small: Path) -> None:
    changed(small, more=f"[data.split]\n{split}\n")
    if good:
        assert load_config(small).data.split.validation == 1
    else:
        assert refused(small) == ["[data.split] needs exactly one of leave_last, global_time, files"]


def test_two_policies_of_one_name(small: Path) -> None:
    again = '[[policies]]\nclass = "device.policy:Never"\n'
    assert refused(changed(small, more=again)) == ["two policies are called 'never'; give one a name"]
    assert len(load_config(changed(small, more=again + 'name = "never again"\n')).policies) == 2


def test_policies_in_two_places(small: Path) -> None:
    lines = refused(changed(small, more='[device.policy]\nclass = "device.policy:Always"\n'))
    assert lines == ["both [[policies]] and [device.policy]; keep one"]


def test_streamed_rows_need_room(small: Path) -> None:
    streamed = ("width = 8", 'width = 8\n[device]\nitems = "streamed"\nhistory = 30\ncache_rows = {}')
    old, new = streamed
    # pool 50 + history 30
    (line,) = refused(changed(small, (old, new.format(79))))
    assert line.startswith("[device] cache_rows = 79: ")
    assert "80 rows" in line
    assert load_config(changed(small, (old, new.format(80)))).device.cache_rows == 80
    (line,) = refused(changed(small, (old, new.format(79).replace("streamed", "resident"))))
    assert "cache_rows has an effect with" in line


def test_streamed_rows_need_room_for_the_slots_of_every_policy(small: Path) -> None:
    tables = 'width = 8\n[device]\nitems = "streamed"\nhistory = 30\ncache_rows = {}'
    merging = '[[policies]]\nclass = "device.policy:Always"\nupdate = "merge"\nslots = 120\n'
    (line,) = refused(changed(small, ("width = 8", tables.format(149)), more=merging))
    assert "room for the pool of policy 'always merge' and one history, 150 rows" in line
    assert load_config(changed(small, ("width = 8", tables.format(150)), more=merging)).device.cache_rows == 150


def test_the_cloud_must_know_the_rows_a_device_needs(small: Path) -> None:
    tables = 'width = 8\n[device]\nitems = "{}"\nhistory = 30\n[cloud]\nhistory = {}'
    (line,) = refused(changed(small, ("width = 8", tables.format("streamed", 29))))
    assert line.startswith("[cloud] history = 29 is shorter than [device] history = 30")
    assert load_config(changed(small, ("width = 8", tables.format("streamed", 30)))).cloud.history == 30
    assert load_config(changed(small, ("width = 8", tables.format("resident", 29)))).cloud.history == 29


@pytest.mark.parametrize("name", ["a/b", "..", "", "two words", "x."])
def test_a_name_becomes_a_folder(name: str, small: Path) -> None:
    (line,) = refused(changed(small, ('"small"', f'"{name}"')))
    assert line.startswith(f"name = {name!r}: ")


def test_an_unknown_measure(small: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape("'hits@10' is not a measure; did you mean 'hr@10'?")):
        load_config(small, ['metrics=["hits@10"]'])


def test_an_unknown_measure_names_the_file(small: Path) -> None:
    refused(small, ['metrics=["hits@10"]'])


@pytest.mark.parametrize(
    "line", ["batch = 0", "validate_every = 0", "negatives = 0", "epochs = -1", "patience = -1", "learning_rate = -1.0"]
)
def test_a_training_that_cannot_be(line: str, small: Path) -> None:
    with pytest.raises(ConfigError, match="expected"):
        load_config(changed(small, more=f"[cloud.training]\n{line}\n"))


# Files


def test_a_missing_file_names_the_nearest(small: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"did you mean {small}?")):
        load_config(small.with_name("smal.toml"))
    with pytest.raises(ConfigError, match=r"no such file$"):
        load_config(small.parent / "nowhere" / "x.toml")


@pytest.mark.parametrize("content", [b"name = ", b"name = 1\nname = 2", b'name = "\xff"'])
def test_a_file_that_is_not_toml(content: bytes, small: Path) -> None:
    small.write_bytes(content)
    assert refused(small)[0].startswith("not valid TOML")


# --set


def test_overrides_reach_every_place(small: Path) -> None:
    overrides = [
        "seed=5",
        "name=other",  # a bare word is text
        "network.link=3g",
        'metrics=["hr@1"]',
        "device.model.width=16",
        "cloud.training.epochs=2",  # a table the file does not have
        "data.split={ leave_last = 7 }",
        "policies.0.price=0.5",
        " policies.0.name = first = 1st",
    ]
    config = load_config(small, overrides)
    assert (config.seed, config.name, config.network.link, config.metrics) == (5, "other", "3g", ("hr@1",))
    assert config.device.model.options == {"width": 16}
    assert (config.cloud.training.options().epochs, config.data.split.leave_last) == (2, 7)
    assert (config.policies[0].price, config.policies[0].label) == (0.5, " first = 1st")


def test_a_later_override_wins(small: Path) -> None:
    assert load_config(small, ["seed=5", "seed=6"]).seed == 6


def test_overrides_are_checked_as_the_file_is(small: Path) -> None:
    (line,) = refused(small, ["device.training.epoch=2"])
    assert line == "[device.training] unknown key 'epoch'; " + line.partition("; ")[2]
    (line,) = refused(small, ["seed=abc"])
    assert line.startswith("seed = 'abc': ")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed", "--set seed: write key=value"),
        ("name.x=1", "--set name.x=1: 'name' is not a table"),
        ("device.model.width.x=1", "'width' is not a table"),
        ("policies.price=1", "'policies' is a list; set it whole, or a key of one of its tables"),
    ],
)
def test_an_override_that_leads_nowhere(override: str, words: str, small: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_config(small, [override])


@pytest.mark.parametrize("override", ["policies.first.price=1", "policies.7.price=1"])
def test_an_override_of_a_list_entry_that_is_not_there(override: str, small: Path) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"--set {override}")):
        load_config(small, [override])
