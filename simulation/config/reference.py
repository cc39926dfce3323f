"""Every key of a configuration file with its type, default and meaning: what docs/configuration.md is made of."""

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from simulation.config.parts import PersonalizerTable, Plugin
from simulation.config.tables import (
    BudgetTable,
    ErrorsTable,
    ExperimentConfig,
    FusionTable,
    PolicyTable,
    ServersTable,
    TierTable,
)

HEADINGS = {
    "policies": "[[policies]] or [device.policy]",
    "device.tiers": "[[device.tiers]]",
    "device.fusion": "[device.fusion]",
}
TRAINING = {
    "epochs": "at most this many passes; exactly this many when `patience` is 0",
    "patience": "stop after this many validations without a better value; 0 never looks at validation",
    "batch": "users (or prefixes) per step",
    "learning_rate": "of AdamW",
    "weight_decay": "of AdamW",
    "schedule": "`linear`: the learning rate falls from epoch to epoch, in the last to 1/epochs of it",
    "loss": "softmax over sampled negatives or over the whole catalogue",
    "negatives": "how many uniform negatives a batch shares",
    "validate_every": "epochs between validations",
    "validation_users": "validation rows used while training, the same ones each time",
    "precision": "`bfloat16`: matrix products in bfloat16, faster where the processor has it",
}
MEANINGS = {
    "name": "becomes the run folder's name: letters, digits, `-`, `_`, `.`, `+`",
    "seed": "of every random number; the synthetic data follow it too",
    "metrics": "of `hr@K`, `ndcg@K`, `mrr` and `mrr@K`; the columns of the result",
    "baseline": "the policy that the others are compared with; without it `never`, else the first",
    "policies": "the policies to replay, one after the other over the same first lists",
    "data.path": "file or folder of interactions; without it the synthetic source",
    "data.format": "`auto`, or one of the formats named above",
    "data.permute_ids": "number the items in an order drawn with the seed; the file's own order may leak the next item",
    "data.k_core": "keep users and items with at least so many interactions; 0 keeps all",
    "data.min_rating": "keep interactions rated at least this",
    "data.users": "keep so many users, the same for every seed",
    "data.split.leave_last": "the last so many interactions of every user are replayed (the default split: 3)",
    "data.split.validation": "so many interactions before those are for validation",
    "data.split.min_train": "so many are left for training; a user with too few is replayed for fewer steps or none",
    "data.split.global_time": "where validation and test begin for all users: two quantiles of all times, or two times",
    "data.split.files": "three files: training, validation, test",
    "data.clock.median_s": "seconds between steps whose times are unknown or tied, median",
    "data.clock.sigma": "of the logarithm of these gaps",
    "data.synthetic.users": "number of users",
    "data.synthetic.items": "number of items",
    "data.synthetic.topics": "groups of items that interests are made of",
    "data.synthetic.length": "interactions per user",
    "data.synthetic.drift": "chance before each interaction that the topic jumps",
    "cloud.generator": "makes the candidate lists: `class` and its options",
    "cloud.generator_errors.garbled": "chance that an id of a list is put together from pieces of several",
    "cloud.generator_errors.heavy_share": "share of lists with many such ids",
    "cloud.generator_errors.heavy": "chance of it in those lists",
    "cloud.generator_errors": "invalid ids as a language model makes them; without the table there are none",
    "cloud.pool": "candidates in a list",
    "cloud.hide_seen": "items of the history are not proposed again",
    "cloud.history": "newest items that the generator looks at",
    "cloud.gflops": "speed of the data centre per request: turns a generator's flops into seconds",
    "cloud.seconds_per_request": "of a list, instead of the time that follows from the generator's flops",
    "cloud.servers": "finite servers with one line before them; without the table no request waits for another",
    "cloud.servers.count": "equal servers",
    "cloud.servers.max_wait_s": "who would wait longer is turned away and told when to come back; without it nobody is",
    "cloud.budget": "what the fleet may spend, held by the price of a request; exactly one of the three amounts",
    "cloud.budget.requests_per_step": "answered requests; one number, or one per tier: `{ new = 0.1, old = 0.05 }`",
    "cloud.budget.bytes_per_hour": "both directions, all attempts, the installation apart; one number, or one per tier",
    "cloud.budget.cloud_seconds_per_hour": "work on lists; one number, or one per tier",
    "cloud.budget.horizon": "hours (for requests per step: steps of all devices of the budget) over which spending may "
    "be uneven; at least twice what a device takes from one request to the next",
    "cloud.personalizer": "parameters of each device's own; without the table there are none",
    "cloud.personalizer.class": "`package.module:Name` of the method; its other keys are options of that class, and "
    "`[cloud.personalizer.training]` has the keys of `[cloud.training]`",
    "cloud.personalizer.when": "a device gets a patch when it is installed, and with every reply (`request`), with "
    "every so manieth one (`{ every = 3 }`), or never again (`installation`)",
    "device.model": "the reranker: `class` and its options; beside `[cloud.personalizer]` the trained model that its "
    "method goes on from",
    "device.collaboration.training": "`cooperative` goes on with the generator's lists, `adaptive` then with "
    "everybody's newest training items",
    "device.collaboration.lists": "`released`: the target is put into every list, entries count one by one; `found`: "
    "only lists that hold it of themselves, softmax over the list",
    "device.collaboration.beams": "candidates of the generator in a training list",
    "device.collaboration.width": "entries of a training list, the target included",
    "device.collaboration.augment": "what fills it: ids recombined from the list's, more of the generator's, nothing",
    "device.collaboration.faithful": "as released: padding and items twice are trained too",
    "device.collaboration.epochs": "passes of each of the two stages",
    "device.collaboration.learning_rate": "of Adam",
    "device.collaboration.patience": "stop after so many passes without a better NDCG@10 of the reranker's order of "
    "validation lists, and keep the best weights, those before the stage among them; 0 never looks",
    "device.policy": "the only policy; several go into `[[policies]]`",
    "device.tiers": "device classes; without them all devices are alike",
    "device.history": "newest items that the reranker looks at",
    "device.fusion": "how the cloud's and the device's scores are joined; without it chosen on validation per policy",
    "device.items": "item table installed whole, whole as int8, or streamed with the replies",
    "device.cache_rows": "item rows a device keeps when they are streamed",
    "device.runtime": "what computes the reranker's scores",
    "device.slate": "top places of the ranked pool that are shown and recorded",
    "policies.class": "`package.module:Name`; its other keys are options of that class",
    "policies.name": "in tables; else made of the class, its options and the ratio",
    "policies.price": "a device asks where the urgency exceeds it",
    "policies.request_ratio": "wanted share of steps with a request; the price is then found on validation",
    "policies.update": "a new list replaces the old one, or is merged with it: `merge` keeps old candidates behind it",
    "policies.slots": "candidates that a merged pool holds; without it four lists",
    "policies.delta": "replies to merged pools leave out what the device still holds",
    "policies.fusion": "`constant`: one weight for the cloud; `by-age`: weights by the age of a candidate's list, "
    "learned on validation",
    "policies.length": "candidates in a list, instead of [cloud] pool",
    "policies.own": "candidates of its own that a device adds at every step, the best of its resident items",
    "policies.resident": "share of the catalogue from which they come, the most popular items first; "
    "under streamed rows it is what is installed",
    "device.tiers.name": "in tables and for `tandemrec export --tier`",
    "device.tiers.share": "of the devices, relative to the other tiers",
    "device.tiers.model": "instead of `[device] model`; devices of such a tier get no patches",
    "device.tiers.link": "instead of `[network] link`",
    "device.fusion.alpha": "weight of the cloud's score; the device's has the rest",
    "device.fusion.normalise": "what is done to both scores before they are added",
    "network.link": "a name (`tandemrec list`) or a table with `class` and its options",
    "network.loss": "loss of a built-in link, instead of its own",
    "network.ids": "how item ids are encoded",
    "network.scores": "how the cloud's scores are encoded",
    "device.energy.radio": "whose declared constants hold; without it that of the link's name, a plug-in link's is 4g",
    "device.energy.wake_j": "joules of a message that finds the radio asleep",
    "device.energy.tail_w": "watts while the radio stays awake",
    "device.energy.tail_s": "seconds that it stays awake after its last message",
    "device.energy.up_j_per_byte": "joules of a byte sent",
    "device.energy.down_j_per_byte": "joules of a byte received",
    "device.energy.j_per_gflop": "joules of 10^9 floating-point operations of the reranker (assumed: 1)",
    "sweep.request_ratios": "wanted ratios of every policy without a price or ratio of its own that does not decide "
    "alone (never, always, every with `steps`, random with `p` do)",
    "sweep.seeds": "the whole experiment once for each",
    "sweep.processes": "policies that are tried at once; results do not depend on it",
    "sweep.bound_size": "the bound for merged lists is left out where devices x steps^3 exceed this",
    "sweep.vary": 'quoted keys and lists of values, `"cloud.pool" = [20, 50]`: a sweep folder per combination',
    "policies.family": "how a sweep's report treats it; without it `floor` for never and always, `ours` for "
    "`device.policies.gain`, `published` for our other classes, `custom` for yours",
    "simulation.devices_per_client": "devices that one Flower client hosts",
    "simulation.runner": "a loop in this process, or Flower's simulation on Ray",
    "simulation.threads": "of torch; without it torch decides",
    "simulation.window_s": "width of a wave under servers or a budget; 0 is the exact order, a longer one is faster; "
    "up to the time of the fastest answer it changes nothing",
    "simulation.calibration_devices": "at most so many devices look for prices and fusion weights",
}


def reference() -> str:
    """Markdown: one table of keys per table of the configuration."""
    sections: list[tuple[str, str, type[BaseModel]]] = [
        ("the top level, before the first table", "", ExperimentConfig),
        *below(ExperimentConfig, ""),
        (HEADINGS["policies"], "policies", PolicyTable),
        (HEADINGS["device.tiers"], "device.tiers", TierTable),
        (HEADINGS["device.fusion"], "device.fusion", FusionTable),
        ("[cloud.generator_errors]", "cloud.generator_errors", ErrorsTable),
        ("[cloud.servers]", "cloud.servers", ServersTable),
        ("[cloud.budget]", "cloud.budget", BudgetTable),
        ("[cloud.personalizer]", "cloud.personalizer", PersonalizerTable),
    ]
    return "\n\n".join(section(*each) for each in sections) + "\n"


def below(kind: type[BaseModel], path: str) -> Iterator[tuple[str, str, type[BaseModel]]]:
    """(heading, path, table) of the tables that are always there, depth first."""
    for name, field in kind.model_fields.items():
        inner, here = field.annotation, f"{path}.{name}".lstrip(".")
        if isinstance(inner, type) and issubclass(inner, BaseModel) and inner is not Plugin:
            yield f"[{here}]", here, inner
            yield from below(inner, here)


def section(heading: str, path: str, kind: type[BaseModel]) -> str:
    """One table of keys."""
    rows = [row(f"{path}.{field.alias or name}".lstrip("."), field) for name, field in kind.model_fields.items()]
    title = f"### `{heading}`" if heading.startswith("[") else f"### {heading[0].upper()}{heading[1:]}"
    return "\n".join([title, "", "| key | type | default | meaning |", "|---|---|---|---|", *filter(None, rows)])


def row(path: str, field: FieldInfo) -> str:
    """One line; empty for a table that has a section of its own."""
    inner = field.annotation
    if isinstance(inner, type) and issubclass(inner, BaseModel) and inner is not Plugin:
        return ""
    text = meaning(path) + limits(field)
    return f"| `{path.rpartition('.')[2]}` | {kind_of(inner)} | {default(field)} | {text} |"


def meaning(path: str) -> str:
    """What a key is for; KeyError when nobody has said so yet."""
    table, _, key = path.rpartition(".")
    return TRAINING[key] if table.endswith(".training") else MEANINGS[path]


def limits(field: FieldInfo) -> str:
    """`; at least 1` and the like, from the field's constraints."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    said = [f"{words[name]} {getattr(c, name)}" for c in field.metadata for name in words if hasattr(c, name)]
    return "; " + ", ".join(said) if said else ""


def kind_of(annotation: Any) -> str:
    """A type as a user writes it."""
    arguments = [a for a in get_args(annotation) if a is not type(None) and a is not Ellipsis]
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{word}`" for word in arguments)
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(kind_of(a) for a in arguments)
    if get_origin(annotation) is tuple:
        same = Ellipsis in get_args(annotation)
        return f"list of {kind_of(arguments[0])}" if same else f"{len(arguments)} × {kind_of(arguments[0])}"
    if get_origin(annotation) is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return "table"
    if get_origin(annotation) is Annotated:
        return kind_of(arguments[0])
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[annotation]


def default(field: FieldInfo) -> str:
    """A default as TOML; empty where a value may be left out, bold where it has to be given."""
    value = field.default
    if value is PydanticUndefined:
        return "**needed**"
    if value is None or value == ():
        return ""
    shown = list(value) if isinstance(value, tuple) else value
    return f"`{str(shown).lower() if isinstance(shown, bool) else repr(shown)}`".replace("'", '"')
