"""`--runner flower`: the same two apps under Flower's simulation engine, that is on Ray."""

import os
import sys
import warnings

from simulation.flower.environment import stay_local

stay_local()

from flwr.simulation import run_simulation  # noqa: E402

from device.errors import RunError  # noqa: E402
from simulation.experiment import Job  # noqa: E402
from simulation.flower.client_app import app as client_app  # noqa: E402
from simulation.flower.server_app import app_for  # noqa: E402


def run_on_ray(job: Job) -> None:
    """Run a job on Ray, on this machine or on the cluster that RAY_ADDRESS names; RunError with the server's reason.

    One CPU per actor: Flower's default of two would leave a two-core machine with a single worker. Flower hides what
    the server app raises behind its own message, so it is caught here first.
    """
    init: dict[str, object] = {"logging_level": "ERROR", "log_to_driver": False}
    if "RAY_ADDRESS" not in os.environ:
        init["num_cpus"] = os.cpu_count()  # together with an address Ray refuses it
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)  # for plug-ins: Ray's workers start afresh
    failures: list[Exception] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            run_simulation(
                server_app=app_for(job, failures.append),
                client_app=client_app,
                num_supernodes=job.clients,
                backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": init},
            )
        except Exception as error:
            raise (failures[0] if failures else RunError(f"Flower's simulation engine failed: {error}")) from error
    if failures:
        raise failures[0]
