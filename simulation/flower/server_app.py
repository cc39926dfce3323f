"""The ServerApp: prepares the experiment, takes deliveries to the clients wave by wave, writes the run folder."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from simulation.flower.environment import stay_local

stay_local()

from flwr.app import ConfigRecord, Context, Message, RecordDict  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402

from cloud.gateway import Delivery  # noqa: E402
from device.errors import RunError  # noqa: E402
from simulation.config.read import load_config  # noqa: E402
from simulation.experiment import Job, run  # noqa: E402
from simulation.flower.in_process_grid import InProcessGrid, failure  # noqa: E402
from simulation.handout import bounds  # noqa: E402
from simulation.replay import Wave  # noqa: E402
from simulation.wire import pack_delivery, part_of, unpack_wave  # noqa: E402

WAIT_S = 120.0  # for the nodes to register: Flower starts the server before them


def app_for(job: Job, failed: Callable[[Exception], None] = lambda _: None) -> ServerApp:
    """A ServerApp that runs one job; `failed` hears of an error before Flower does."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            serve(grid, job)
        except Exception as error:
            failed(error)
            raise

    return app


def serve(grid: Grid, job: Job) -> None:
    """Run the job over the nodes of a grid."""
    nodes = wait_for_nodes(grid, job.clients)
    run(job, lambda folder, policy, devices: exchange(grid, nodes, folder, policy, devices))


def wait_for_nodes(grid: Grid, wanted: int) -> list[int]:
    """Node ids by part of the fleet, once `wanted` nodes are there; RunError after WAIT_S."""
    deadline = time.monotonic() + WAIT_S
    while len(nodes := sorted(grid.get_node_ids())) < wanted:
        if time.monotonic() > deadline:
            raise RunError(
                f"only {len(nodes)} of {wanted} Flower nodes appeared within {WAIT_S:.0f} s; start as many as `clients`"
            )
        time.sleep(0.1)
    asked = [Message(RecordDict(), node, "query.profile") for node in nodes]
    replies = good(grid, list(grid.send_and_receive(asked)), len(nodes))
    parts = {int(r.content["profile"]["part"]): r.metadata.src_node_id for r in replies}
    counts = {int(r.content["profile"]["parts"]) for r in replies}
    if sorted(parts) != list(range(len(nodes))) or counts != {len(nodes)}:
        raise RunError(
            f"nodes say they are parts {sorted(parts)} of {sorted(counts)}; each must be one of 0..{len(nodes) - 1}"
        )
    return [parts[part] for part in sorted(parts)]


def exchange(
    grid: Grid, nodes: list[int], folder: Path, policy: str, devices: int
) -> Callable[[int, Delivery], Iterator[Wave]]:
    """A function that takes one delivery to all clients and brings back their waves, in any order."""

    def one_wave(number: int, delivery: Delivery) -> Iterator[Wave]:
        messages = []
        for part, node in enumerate(nodes):
            own = part_of(delivery, *bounds(devices, part, len(nodes)))
            order = {
                "folder": str(folder),
                "policy": policy,
                "wave": number,
                "delivery": pack_delivery(own),
                "one-process": isinstance(grid, InProcessGrid),
            }
            messages.append(Message(RecordDict({"order": ConfigRecord(order)}), node, "query.advance"))
        for reply in good(grid, list(grid.send_and_receive(messages)), len(nodes)):
            yield unpack_wave(bytes(reply.content["wave"]["packed"]))

    return one_wave


def good(grid: Grid, replies: list[Message], wanted: int) -> list[Message]:
    """The replies, if all are there and none is an error; RunError says what went wrong on the client."""
    for reply in replies:
        if reply.has_error():
            raise RunError(failure(grid, reply))
    if len(replies) != wanted:
        raise RunError(f"{wanted - len(replies)} of {wanted} clients did not reply; see Flower's log for their errors")
    return replies


app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """What `flwr run .` starts: the experiment named in the run configuration."""
    given = context.run_config
    path = Path(str(given["experiment"]))
    if not path.is_absolute() and not path.is_file():
        path = (
            Path(__file__).parents[2] / path
        )  # Flower unpacks the app, its *.toml files too, into a folder of its own
    config = load_config(path, listed(str(given["overrides"])))
    root = Path(str(given["runs"])).resolve()  # clients may have another working folder

    def say(line: str) -> None:
        print(line, flush=True)

    def written(folder: Path) -> None:
        say(f"run {folder}; `tandemrec report {folder}` makes the page")

    serve(grid, Job(config, root, int(given["clients"]), say=say, command="flwr run .", written=written))


def listed(overrides: str) -> list[str]:
    """The overrides of a run configuration, which holds scalars only: `key=value` with `;` between them, or nothing."""
    return [one.strip() for one in overrides.split(";") if one.strip()]
