"""LSC4Rec's collaborative training of a reranker, as a configuration asks for it: stages, and where they are kept.

A stage goes on from the weights that the one before it left. "lists" learns from the generator's lists of training
prefixes (cooperative), "newest" from everybody's newest items (the released, global adaptive re-training). In a run
"newest" means the newest of the training part: nothing that is taken during the replay reaches it, so it is no
real-time adaptation there. Only the lag protocol (`simulation.lag.report`) lets it see what comes before the target.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

import cloud.adaptive
import cloud.cooperative
import cloud.found
import cloud.generators.digits
import cloud.lessons
from cloud.cooperative import COOPERATIVE, INDEPENDENT, train
from cloud.found import FromFound
from cloud.generator import CandidateGenerator
from cloud.lessons import FromItems, FromLists, Lessons, Lists, Made, Recent
from cloud.sequences import HeldOut, Sequences
from device.errors import ConfigError
from device.models.torch_model import as_device_model
from device.seeds import draws
from simulation.config.tables import CollaborationTable
from simulation.lag.protocol import Score, ranked, scored
from simulation.metrics import parse

Stage = Literal["lists", "newest"]
STAGES: dict[str, tuple[Stage, ...]] = {
    "independent": (),
    "cooperative": ("lists",),
    "adaptive": ("lists", "newest"),
}
"""What each `[device.collaboration] training` does after the reranker's own training."""


@dataclass(frozen=True, slots=True)
class Course:
    """What a reranker learns from in company.

    Args:
        table: the options.
        generator: makes the lists; called only where a stage needs it.
        generator_name: names all that its lists depend on.
        learn: what cooperative training learns from.
        newest: what adaptive re-training learns from; in a run the training part, see above.
        held_out: validation pairs, for `patience`.
        history: newest items that the generator is given.
        pool: candidates of a validation list.
        root: folder of trained models.
    """

    table: CollaborationTable
    generator: Callable[[], CandidateGenerator]
    generator_name: str
    learn: Sequences
    newest: Sequences
    held_out: HeldOut
    n_items: int
    history: int
    pool: int
    seed: int
    root: Path
    say: Callable[[str], None]

    def go_on(self, model: object, start: str, stages: Sequence[Stage]) -> None:
        """Train `model` in place through the stages; `start` names the weights it has.

        A finished stage is only loaded. ConfigError for a reranker that is no torch module.
        """
        if not stages:
            return
        if not isinstance(model, nn.Module):
            raise ConfigError(
                f"[device.collaboration] trains torch modules only; {type(model).__name__} is none: "
                'use training = "independent"'
            )
        for stage in stages:
            start = self.folder(stage, start)
            self.say(f"{stage}: {start}")
            train(
                model,
                self.lessons(stage),
                options=replace(
                    COOPERATIVE if stage == "lists" else INDEPENDENT,
                    epochs=self.table.epochs,
                    patience=self.table.patience,
                    learning_rate=self.table.learning_rate,
                ),
                seed=self.seed,
                folder=self.root / start,
                value=self.value() if self.table.patience else None,
                progress=lambda line, stage=stage: self.say(f"{stage}: {line}"),  # type: ignore[misc]
            )

    def folder(self, stage: Stage, start: str) -> str:
        """Folder of one stage; its name holds a hash of all that its weights depend on, the code included."""
        about = {
            "start": start,
            "generator": self.generator_name,
            "options": self.table.model_dump(mode="json", exclude={"training"}),
            "data": [digest(part) for part in (self.learn, self.newest)],
            "history": self.history,
            "pool": self.pool,
            "seed": self.seed,
            "code": code(),
        }
        return f"{stage}-{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]}"

    def lessons(self, stage: Stage) -> Lessons:
        """What a stage learns from."""
        if stage == "newest":
            return FromItems(Recent(self.newest), self.n_items)
        table = self.table
        if table.lists == "found":
            return FromFound(self.made(table.beams))
        lists = Lists(table.beams, table.width, table.augment, table.faithful)
        return FromLists(self.made(lists.asked), self.n_items, lists)

    def made(self, beams: int) -> Made:
        """The generator's lists of training prefixes."""
        return Made(Recent(self.learn), self.generator(), self.history, beams)

    def value(self) -> Callable[[nn.Module], float]:
        """NDCG@10 of the reranker's own order of the generator's lists for at most 2,000 validation pairs."""
        rows = np.linspace(0, len(self.held_out.targets) - 1, min(2000, len(self.held_out.targets))).astype(np.int64)
        known, targets = self.held_out.histories[rows], self.held_out.targets[rows]
        asked = draws(self.seed, "collaboration", rows)
        items = self.generator().generate(known[:, -self.history :], self.pool, rng=asked).items
        ndcg = parse("ndcg@10")

        def value(model: nn.Module) -> float:
            shown = ranked(scored(score_of(model), known, items), items)
            return float(ndcg.of(*shown.place(targets)).mean())

        return value


def score_of(model: nn.Module) -> Score:
    """(histories, candidates) -> scores, by the weights the model has now."""
    made = as_device_model(model)
    params: dict[str, NDArray[np.generic]] = {k: v.numpy() for k, v in model.state_dict().items()}
    return lambda histories, candidates: made.score(params, histories, candidates)


def digest(part: Sequences) -> str:
    """Hash of what may be learned from."""
    arrays = (part.items, part.starts, part.ends)
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def code() -> str:
    """Hash of the sources that decide what comes of a stage."""
    parts = (cloud.cooperative, cloud.lessons, cloud.found, cloud.adaptive, cloud.generators.digits)
    return hashlib.sha256(b"".join(Path(inspect.getfile(part)).read_bytes() for part in parts)).hexdigest()
