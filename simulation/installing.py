"""From a tier's table to its reranker as devices hold it, and the bytes of its installation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud.item_rows import Rows
from device.errors import ConfigError, ContractError
from device.incremental import Incremental
from device.messages import encode_patch
from device.model import DeviceModel, Parameters
from device.models.incremental_torch import IncrementalTorch
from device.models.personal_torch import PersonalTorch
from device.models.torch_model import TorchModel, as_device_model
from device.personal import Continued, Personalized
from device.seeds import rng
from simulation.collaboration import STAGES, Course
from simulation.config.tables import ExperimentConfig, PolicyTable, TierTable
from simulation.objects import is_personal, make_generator, model_of
from simulation.personalizing import trained_method
from simulation.shelf import Shelf, training_data
from simulation.slimming import cut, dense, is_slimmed, spec_of, trained_elastic


@dataclass(frozen=True, slots=True)
class Installed:
    """One tier's reranker as its devices hold it."""

    model: DeviceModel
    params: Parameters
    nbytes: int  # of the installation, streamed embeddings apart
    rows: Rows | None  # streamed item embeddings

    def nbytes_with(self, share: NDArray[np.int32]) -> int:
        """Bytes of an installation that holds the rows of items `share` [M], where rows are streamed.

        Assumed: a share is one more patch with the codes as int8, the scales as float32 and, unless it is everything,
        the ids as int32. So a device that holds a tenth of the table installs a tenth of its bytes, and 4 per item for
        saying which.
        A table that is not streamed is installed whole, for any item may be a candidate: `share` changes nothing.
        """
        if self.rows is None or not len(share):
            return self.nbytes
        share = np.sort(share)
        patch: dict[str, NDArray[np.generic]] = {"codes": self.rows.codes[share], "scale": self.rows.scale[share]}
        if len(share) < len(self.rows.scale) - 1:
            patch["ids"] = share.astype(np.int32)
        return self.nbytes + len(encode_patch(patch))


def looked_through(policy: PolicyTable, popular: NDArray[np.int32]) -> NDArray[np.int32]:
    """[M] the share of items `popular` [n], the most popular first, that a policy's own candidates come from, by id."""
    return np.sort(popular[: math.ceil(policy.resident * len(popular))]) if policy.own else popular[:0]


def largest_installation(
    config: ExperimentConfig, installed: Sequence[Installed], popular: NDArray[np.int32]
) -> list[int]:
    """Bytes per tier under the policy that installs most; without first lists, patches and what policies learned."""
    shares = [looked_through(policy, popular) for policy in config.all_policies]
    few = {len(share): share for share in (popular[:0], *shares)}.values()
    return [max(tier.nbytes_with(share) for share in few) for tier in installed]


def trained_reranker(config: ExperimentConfig, shelf: Shelf, tier: TierTable) -> Any:
    """A tier's reranker after its own training and the collaborative one that [device.collaboration] asks for.

    Of a tier whose devices get patches it is the device half, of one with a subnet the small dense module.
    """
    if is_personal(config, tier):
        return trained_method(config, shelf).device
    if is_slimmed(config, tier):
        large = trained_elastic(config, shelf, model_of(config, tier))
        return dense(large, spec_of(config, tier, large))
    plugin, training = model_of(config, tier), config.device.training.options()
    made, _ = shelf.trained(plugin, training, f"[device.model] of tier {tier.name!r}")
    stages = STAGES[config.device.collaboration.training]
    course(config, shelf).go_on(made, shelf.folder(plugin, training).name, stages)
    return made


def course(config: ExperimentConfig, shelf: Shelf) -> Course:
    """What rerankers learn from in company: the training part, validation and test left out."""
    learn, held_out = training_data(shelf.split, shelf.length, refit=shelf.refit)
    cloud_shelf, errors = replace(shelf, length=config.cloud.history), config.cloud.generator_errors
    name = cloud_shelf.folder(config.cloud.generator, config.cloud.training.options()).name
    return Course(
        config.device.collaboration,
        generator=lambda: make_generator(config, cloud_shelf),
        generator_name=name if errors is None else f"{name} {errors}",
        learn=learn,
        newest=learn,
        held_out=held_out,
        n_items=shelf.split.data.n_items,
        history=config.cloud.history,
        pool=config.cloud.pool,
        seed=shelf.seed,
        root=shelf.root,
        say=shelf.say,
    )


def install(config: ExperimentConfig, shelf: Shelf, tier: TierTable, folder: Path) -> Installed:
    """Train (or load) a tier's reranker and put it into the form that its devices run.

    What is installed is counted as it is encoded: a patch of all arrays, the ONNX file's bytes among them.
    """
    from torch import nn

    if is_slimmed(config, tier) and config.device.runtime == "torch":
        large = trained_elastic(config, shelf, model_of(config, tier))
        return laid_out(config, Installed(*cut(large, spec_of(config, tier, large)), None))
    made = trained_reranker(config, shelf, tier)
    wrapped = PersonalTorch if is_personal(config, tier) else as_device_model
    if not isinstance(made, nn.Module):
        params = made.init(rng(config.seed, "device model", tier.name))
        return laid_out(config, Installed(made, params, len(encode_patch(params)), None))
    if config.device.runtime != "torch":
        return exported(config, made, folder / tier.name)
    params = {k: v.numpy() for k, v in made.state_dict().items()}
    return laid_out(config, Installed(wrapped(made), params, len(encode_patch(params)), None))


def laid_out(config: ExperimentConfig, made: Installed) -> Installed:
    """The item table resident in full, resident as int8, or streamed row by row as int8; the model with its states."""
    made = replace(made, model=with_states(config, made.model))
    if config.device.items == "resident":
        return made
    name = getattr(made.model, "item_table", None)
    if name is None:
        raise ConfigError(
            f'[device] items = "{config.device.items}": {type(made.model).__name__} has no attribute item_table naming '
            'its table of item embeddings; add one, or use items = "resident"'
        )
    rows = Rows.of(made.params[name])
    params = {**made.params, name: rows.table()}
    body = {k: v for k, v in made.params.items() if k != name}
    if config.device.items == "resident-int8":
        return Installed(
            made.model,
            params,
            len(encode_patch({**body, f"{name}.codes": rows.codes, f"{name}.scale": rows.scale})),
            None,
        )
    return Installed(made.model, params, len(encode_patch(body)), rows)


def with_states(config: ExperimentConfig, model: Any) -> Any:
    """The model as one that goes on from its state where [device] states says so, else the model itself.

    ConfigError for one that cannot.
    """
    if config.device.states == "recomputed":
        return model
    from torch import nn

    where = '[device] states = "incremental"'
    if isinstance(model, Personalized):
        return with_body(model, where)
    module = model.module if isinstance(model, TorchModel) else model
    try:
        found = IncrementalTorch(module) if isinstance(module, nn.Module) else module
    except ContractError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not isinstance(found, Incremental):
        raise ConfigError(f"{where}: {type(model).__name__} keeps no state; give it start, advance and score_state")
    return found


def with_body(model: Personalized, where: str) -> Personalized:
    """A model that takes patches, if its body goes on from a state; ConfigError where it does not."""
    if not isinstance(model, Continued):
        module = getattr(model, "module", model)
        raise ConfigError(
            f"{where}: patches work in all of {type(module).__name__}, or it does not say what its body shows; use a "
            "device half whose patches work behind a body that keeps a state, as MaskedHead with relative = true does"
        )
    try:
        model.body()
    except ContractError as error:
        raise ConfigError(f"{where}: {error}; for MaskedHead set relative = true") from error
    return model


def exported(config: ExperimentConfig, module: Any, folder: Path) -> Installed:
    """The reranker as an ONNX file, fp32 or int8, run by onnxruntime; the file is what is installed."""
    from device.export import export_onnx
    from device.models.onnx_file import OnnxFile

    if config.device.items != "resident":
        raise ConfigError(
            f'[device] runtime = "{config.device.runtime}" holds its item table in the file; use items = "resident"'
        )
    int8 = config.device.runtime == "onnxruntime-int8"
    made = export_onnx(module, folder, length=config.device.history, candidates=config.cloud.pool, int8=int8)
    model = OnnxFile(made.files[-1].path)
    params = model.init(rng(config.seed, "device model"))
    return Installed(model, params, len(encode_patch(params)), None)
