"""`tandemrec lag`: the lag protocol for LSC4Rec's trainings side by side, and its released score taken apart."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cloud.adaptive import Adaptation, adapt, body, personal_scores, update_bytes
from cloud.sequences import Sequences
from device.errors import ConfigError
from device.model import Items, Scores
from simulation.collaboration import STAGES, Stage, score_of
from simulation.config.tables import ExperimentConfig
from simulation.config.toml import to_toml
from simulation.data.audit import leakage_audit
from simulation.data.dataset import windows
from simulation.environment import environment
from simulation.installing import course
from simulation.lag.protocol import LAGS, MEASURES, Lagged, LagTable, lag_table, lagged_lists, scored
from simulation.lag.released_score import RULES, Decomposition, decompose
from simulation.objects import make_generator, make_split, model_of, tiers
from simulation.prepare import described, try_plugins
from simulation.runs import to_json
from simulation.shelf import Shelf, training_data
from simulation.slimming import is_slimmed
from simulation.statistics import Difference, paired_difference
from simulation.whole_folder import write_folder

Say = Callable[[str], None]
Rescore = Callable[[NDArray[np.int64], Items, Items], Scores]  # (users [U], histories [U, L], candidates [U, C])
PART = 1024  # devices whose own weights are in memory at a time
REQUEST_LAG = 2  # the released test


@dataclass(frozen=True, slots=True)
class Row:
    """One way of training the reranker."""

    name: str
    stages: tuple[Stage, ...]
    per_device: bool = False
    unlearned: bool = False  # lists also of validation prefixes, which the generator did not learn from


ROWS = (
    Row("independent", STAGES["independent"]),
    Row("cooperative", STAGES["cooperative"]),
    Row("adaptive", STAGES["adaptive"]),
    Row("adaptive per device", STAGES["cooperative"], per_device=True),
    Row("newest only", ("newest",)),
    Row("newest only per device", (), per_device=True),
    Row("cooperative, unlearned lists", STAGES["cooperative"], unlearned=True),
)
"""The published trainings; what each adaptation does without the cooperative stage; and lists of newer prefixes."""


@dataclass(frozen=True, slots=True)
class LagReport:
    """What `tandemrec lag` measured."""

    tables: Mapping[str, LagTable]  # by training
    requests: Mapping[str, Decomposition]  # by training, of the lists at lag 2
    update_bytes: Mapping[str, int]  # by training: of one adaptation per device, if the cloud trains

    def over_independent(self, training: str, lag: int, rule: str, measure: str) -> Difference:
        """Paired difference of a training and the independent one, for the same users and lists."""
        start = self.tables[ROWS[0].name]
        return paired_difference(self.tables[training].of(lag, rule, measure), start.of(lag, rule, measure))

    def markdown(self, measure: str = "ndcg@10") -> str:
        """Every table; differences in one measure."""
        parts = [f"## {name}\n\n{self.cost(name)}{table.markdown()}" for name, table in self.tables.items()]
        parts.append(f"## {measure}: paired differences with 95 % intervals over users\n\n{self.differences(measure)}")
        parts += [
            f"## Released request score, lists of lag {REQUEST_LAG}, {name}\n\n{one.markdown()}"
            for name, one in self.requests.items()
        ]
        return "\n".join(parts)

    def cost(self, name: str) -> str:
        """A line about what adaptations send, or nothing."""
        sent = self.update_bytes[name]
        return f"{sent:,} bytes per device and adaptation, if the cloud trains.\n\n" if sent else ""

    def differences(self, measure: str) -> str:
        """Of each rule over m1, and of each training over the independent one under the rules m3 and m5."""
        rules = [rule for rule in RULES if rule != "m1"]
        heads = [*(f"{rule} - m1" for rule in rules), "m3 - independent's", "m5 - independent's"]
        lines = ["| lag | training | " + " | ".join(heads) + " |", "|---:|---" + "|---:" * len(heads) + "|"]
        for lag in next(iter(self.tables.values())).lags:
            for name, table in self.tables.items():
                cells = [table.gain(lag, rule, measure) for rule in rules]
                cells += [self.over_independent(name, lag, rule, measure) for rule in ("m3", "m5")]
                texts = [f"{cell.mean:+.4f} [{cell.low:+.4f}, {cell.high:+.4f}]" for cell in cells]
                lines.append("| " + " | ".join([str(lag), name, *texts]) + " |")
        return "\n".join(lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "measures": list(MEASURES),
            "trainings": {name: self.one_training(name) for name in self.tables},
            "requests": {name: asdict(one) for name, one in self.requests.items()},
            "update_bytes": dict(self.update_bytes),
        }

    def one_training(self, name: str) -> list[dict[str, Any]]:
        """One entry per lag and rule."""
        table = self.tables[name]
        return [
            {
                "lag": lag,
                "rule": rule,
                "recall": float(table.recall[table.lags.index(lag)].mean()),
                **{m: asdict(table.mean(lag, rule, m)) for m in table.measures},
                "over m1": {m: asdict(table.gain(lag, rule, m)) for m in table.measures},
                "over independent": {m: asdict(self.over_independent(name, lag, rule, m)) for m in table.measures},
            }
            for lag in table.lags
            for rule in table.rules
        ]

    def per_user(self, names: NDArray[np.object_]) -> pa.Table:
        """One row per training, lag, rule and user; `names` are the external user ids by user index."""
        first = next(iter(self.tables.values()))
        shape = (len(self.tables), len(first.lags), len(first.rules), len(first.users))
        place = [np.broadcast_to(axis, shape).ravel().astype(np.int32) for axis in np.ogrid[tuple(map(slice, shape))]]
        text = [
            pa.DictionaryArray.from_arrays(place[axis], pa.array([str(word) for word in words]))
            for axis, words in ((0, list(self.tables)), (2, first.rules), (3, names[first.users]))
        ]
        columns = {"training": text[0], "lag": np.asarray(first.lags, np.int32)[place[1]], "rule": text[1]}
        columns["user"] = text[2]
        for number, measure in enumerate(first.measures):
            columns[measure] = np.concatenate([table.values[:, :, number].ravel() for table in self.tables.values()])
        return pa.table(columns)


def lag_report(config: ExperimentConfig, root: Path, say: Say, *, command: str = "") -> Path:
    """Train what is missing, measure, write root/<name>-lag; returns that folder."""
    import torch

    started = time.time()
    torch.set_num_threads(config.simulation.threads or torch.get_num_threads())
    if len(tiers(config)) > 1:
        raise ConfigError("lag: it looks at one reranker; take the [[device.tiers]] out, [device] model is used")
    if is_slimmed(config, tiers(config)[0]):
        raise ConfigError("lag: it trains [device] model alone; take [device.supernet] and the tier's subnet out")
    try_plugins(config)
    split = make_split(config.data, config.seed)
    say(described(split, leakage_audit(split)))
    shelf = Shelf(root / "models", split, config.seed, config.device.history, say, hide_seen=config.cloud.hide_seen)
    report = measured(config, shelf)
    summary = {"name": config.name, "command": command, **report.to_json()}
    texts = {
        "config.resolved.toml": to_toml(config.model_dump(mode="json", by_alias=True, exclude_none=True)),
        "env.json": to_json(environment(time.time() - started)),
        "results.json": to_json(summary),
        "results.md": report.markdown(),
    }
    tables = {"per_user.parquet": report.per_user(split.data.users)}
    return write_folder(root, f"{config.name}-lag", tables=tables, texts=texts)


def measured(config: ExperimentConfig, shelf: Shelf) -> LagReport:
    """All trainings over the same lists."""
    by_lag = lists(config, shelf)
    users, width = by_lag[0].users, config.cloud.pool
    data = shelf.split.data
    histories = windows(data, users, data.offsets[users + 1] - 1, config.device.history)
    candidates = np.concatenate([one.items for one in by_lag], axis=1)
    tables, requests, sent = {}, {}, {}
    for row in ROWS:
        rescored, sent[row.name] = rescore(config, shelf, row)
        scores = rescored(users, histories, candidates)
        parts = [scores[:, i * width : (i + 1) * width] for i in range(len(LAGS))]
        again = [replace(one, device_scores=part) for one, part in zip(by_lag, parts, strict=True)]
        tables[row.name] = lag_table(again)
        old = again[LAGS.index(REQUEST_LAG)]
        requests[row.name] = decompose(old.items, old.device_scores)
        said = tables[row.name].mean(REQUEST_LAG, "m3", "ndcg@10").mean
        shelf.say(f"{row.name}: NDCG@10 of m3 at lag {REQUEST_LAG} {said:.4f}")
    return LagReport(tables, requests, sent)


def lists(config: ExperimentConfig, shelf: Shelf) -> list[Lagged]:
    """The generator's lists at every lag, without scores of a reranker."""
    generator = make_generator(config, replace(shelf, length=config.cloud.history))
    made = []
    for k in LAGS:
        shelf.say(f"lists at lag {k}")
        options = {"k": k, "length": config.cloud.history, "pool": config.cloud.pool, "seed": config.seed}
        made.append(lagged_lists(generator, unscored, shelf.split, **options))
    return made


def unscored(histories: Items, candidates: Items) -> Scores:
    """All candidates alike."""
    return np.zeros(candidates.shape, np.float32)


def rescore(config: ExperimentConfig, shelf: Shelf, row: Row) -> tuple[Rescore, int]:
    """(scores of one training, bytes of one adaptation); made if it is missing. What is newest ends before the target.

    An adaptation per device brings it its own small set of weights, one with everybody's newest items the whole model.
    """
    data, training = shelf.split.data, config.device.training.options()
    plugin = model_of(config, tiers(config)[0])
    before = Sequences(data.item, data.offsets[:-1], np.maximum(data.offsets[1:] - 1, data.offsets[:-1]))
    shelf.say(f"training: {row.name}")
    model, _ = shelf.trained(plugin, training, "[device.model]")
    made = replace(course(config, shelf), newest=before)
    if row.unlearned:  # what validates is learned from, so there is nothing to stop by
        newer, _ = training_data(shelf.split, shelf.length, refit=True)
        made = replace(made, learn=newer, table=made.table.model_copy(update={"patience": 0}))
    made.go_on(model, shelf.folder(plugin, training).name, row.stages)
    score = score_of(model)

    def personal(users: NDArray[np.int64], histories: Items, candidates: Items) -> Scores:
        scores = np.zeros(candidates.shape, np.float32)
        for part in np.split(np.arange(len(users)), range(PART, len(users), PART)):
            own = adapt(
                model,
                histories[part],
                users[part],
                n_items=data.n_items,
                seed=config.seed,
                options=Adaptation(),
            )
            scores[part] = personal_scores(model, own, histories[part], candidates[part])
        return scores

    def alike(users: NDArray[np.int64], histories: Items, candidates: Items) -> Scores:
        return scored(score, histories, candidates)

    if row.per_device:
        return personal, update_bytes(model, body(model))
    return alike, update_bytes(model, list(dict(model.named_parameters()))) if "newest" in row.stages else 0
