"""Starts an experiment in one of the ways of running, and exports what a run trained."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from device.errors import ConfigError, RunError
from device.export import Exported, export_onnx
from simulation.build import imported
from simulation.config.read import check
from simulation.config.tables import ExperimentConfig, TierTable
from simulation.experiment import Job
from simulation.installing import install, trained_reranker
from simulation.objects import is_personal, model_of, tiers
from simulation.personalizing import personalizer, trained_folder
from simulation.prepare import prepare
from simulation.runs import Run
from simulation.shelf import Shelf
from simulation.slimming import is_slimmed, supernet_folder


def launch(
    config: ExperimentConfig,
    runs: Path,
    *,
    say: Callable[[str], None],
    progress: Callable[[str, int, int], None],
    resume: bool = False,
    command: str = "",
) -> Path:
    """Prepare, cut the fleet into clients, run the ServerApp over them; returns the run folder."""
    prepared = prepare(config, runs, say)
    devices = len(prepared.timeline.devices)
    clients = -(-devices // config.simulation.devices_per_client)
    say(f"{devices:,} devices on {clients:,} client{'s' * (clients > 1)} ({config.simulation.runner})")
    written: list[Path] = []
    job = Job(
        config,
        runs.resolve(),
        clients,
        say=say,
        progress=progress,
        resume=resume,
        command=command,
        prepared=prepared,
        written=written.append,
    )
    if config.simulation.runner == "flower":
        from simulation.flower.ray_simulation import run_on_ray

        run_on_ray(job)
    else:
        from simulation.flower.client_app import app
        from simulation.flower.in_process_grid import run_in_process
        from simulation.flower.server_app import app_for

        run_in_process(app_for(job), app, clients=clients, run_config={})
    if not written:
        raise RunError("the server app ended without writing a run; its log above says why")
    return written[0]


def export_tier(run_folder: Path, tier_name: str, out: Path, runs: Path) -> Exported:
    """ONNX files of the reranker that a tier of a run used; its training must still be in runs/models."""
    return exported(*opened(run_folder, tier_name, runs), out)


def export_beside(run_folder: Path, tier_name: str, out: Path, runs: Path) -> tuple[Exported, int]:
    """`export_tier`, and the bytes that an installation of the tier has in that run, streamed rows apart."""
    config, shelf, tier = opened(run_folder, tier_name, runs)
    files = exported(config, shelf, tier, out)
    with TemporaryDirectory() as scratch:
        return files, install(config, shelf, tier, Path(scratch)).nbytes


def opened(run_folder: Path, tier_name: str, runs: Path) -> tuple[ExperimentConfig, Shelf, TierTable]:
    """What a run was made of, and one of its tiers; ConfigError for a tier that it lacks."""
    from simulation.objects import make_split

    config = check(Run.open(run_folder).config, ExperimentConfig, str(run_folder / "config.resolved.toml"))
    known = {tier.name: tier for tier in tiers(config)}
    if tier_name not in known:
        raise ConfigError(f"--tier {tier_name}: this run has the tiers {', '.join(known)}")
    split = make_split(config.data, config.seed)
    shelf = Shelf(
        runs / "models", split, config.seed, config.device.history, lambda _: None, hide_seen=config.cloud.hide_seen
    )
    return config, shelf, known[tier_name]


def exported(config: ExperimentConfig, shelf: Shelf, tier: TierTable, out: Path) -> Exported:
    """The files of a tier's reranker in folder `out`; RunError without a finished training."""
    from torch import nn

    plugin = personalizer(config).plugin if is_personal(config, tier) else model_of(config, tier)
    made = imported(plugin.class_, "[device.model]")
    slimmed = is_slimmed(config, tier)
    folder = supernet_folder(config, shelf, plugin) if slimmed else trained_folder(config, shelf, tier)
    learns = isinstance(made, type) and issubclass(made, nn.Module)
    if learns and not (folder / "finished.json").exists():
        raise RunError(f"{folder}: no finished training of this run's reranker; name the run's folder with --runs")
    module = trained_reranker(config, shelf, tier)
    if not isinstance(module, nn.Module):
        raise ConfigError(f"[device.model] {plugin.class_} is no torch module, so there is nothing to export")
    out.mkdir(parents=True, exist_ok=True)
    return export_onnx(module, out, length=config.device.history, candidates=config.cloud.pool)
