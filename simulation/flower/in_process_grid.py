"""A Flower `Grid` without Ray, sockets or threads: the real ServerApp and ClientApp objects, called in this process."""

import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from device.errors import ConfigError, RunError, TandemError
from device.seeds import rng
from simulation.flower.environment import stay_local

stay_local()

from flwr.app import Context, Error, Message, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.clientapp.client_app import ClientAppException  # noqa: E402
from flwr.common.constant import ErrorCode  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402
from flwr.supercore.run import Run  # noqa: E402
from flwr.supercore.task_identity import TaskIdentity  # noqa: E402

Scalar: TypeAlias = bool | int | float | str

_SERVER = 0  # node ids 1..n are the clients
_RUN = 1


# --- All that is touched of flwr's private parts is in the next two functions (flwr is pinned to 1.41.0 for this). ---


@contextmanager
def _server_identity() -> Iterator[None]:
    """Say who we are while the ServerApp runs: `Message(...)` reads its run and sender from this process-wide class."""
    before = (TaskIdentity._run_id, TaskIdentity._task_id, TaskIdentity._node_id)
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = _RUN, _RUN, _SERVER
    try:
        yield
    finally:
        TaskIdentity._run_id, TaskIdentity._task_id, TaskIdentity._node_id = before


def _set_id(message: Message, message_id: str) -> None:
    """Give a message the id that a SuperLink would give it; flwr offers no public way."""
    message.metadata.__dict__["_message_id"] = message_id


def told(error: BaseException) -> str:
    """What to say of a client's exception: our own errors speak for themselves, others need their traceback."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, TandemError):
            return f"{type(cause).__name__}: {cause}"
        cause = cause.__cause__ or cause.__context__
    return "".join(traceback.format_exception(error))


class InProcessGrid(Grid):  # type: ignore[misc]  # flwr is not followed by mypy, so Grid is Any
    """Nodes 1..`clients` that run `client_app` when a message is pushed; one message in flight per node.

    Each node has one Context whose state lasts as long as the grid and whose `node_config` holds `partition-id`
    (node id - 1) and `num-partitions`. `shuffle` is the seed of the order in which nodes work and replies come back;
    None keeps the order of the messages. Messages are handed over as they are, without a copy.
    """

    def __init__(
        self,
        client_app: ClientApp,
        *,
        clients: int,
        run_config: Mapping[str, Scalar] | None = None,
        shuffle: int | None = None,
    ) -> None:
        if clients < 1:
            raise ConfigError(f"InProcessGrid: clients = {clients}; a grid needs at least 1 client")
        self._client_app = client_app
        self._contexts = {n: _context(n, clients, run_config or {}) for n in range(1, clients + 1)}
        self._shuffle = shuffle
        self._shuffles = 0
        self._sent = 0
        self._replies: dict[str, Message] = {}  # by the id of the message that was answered
        self._in_flight: dict[int, str] = {}  # node -> id of the message whose reply was not pulled yet
        self._tracebacks: dict[str, str] = {}
        self._run = Run.create_empty(_RUN)

    def set_run(self, run: Run) -> None:
        """Set what `run` returns; nothing else here depends on it."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run as Flower describes it; empty but for its id unless `set_run` was called."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """The deprecated way to make a message, demanded by the base class; use `flwr.app.Message`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Node ids 1..n; all are there from the start."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Run each message's node now and keep the reply; returns message ids in the order of `messages`.

        Raises RunError, before any node runs, for a node that does not exist or still has a message in flight.
        """
        batch = list(messages)
        self._check_destinations(batch)
        for message in batch:
            self._sent += 1
            _set_id(message, f"message-{self._sent}")
            self._in_flight[message.metadata.dst_node_id] = message.metadata.message_id
        for i in self._order(len(batch)):
            self._replies[batch[i].metadata.message_id] = self._answer(batch[i])
        return [message.metadata.message_id for message in batch]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies to these messages, each once; ids that are unknown or were pulled before are passed over."""
        known = [i for i in message_ids if i in self._replies]
        replies = [self._replies.pop(known[i]) for i in self._order(len(known))]
        for reply in replies:
            del self._in_flight[reply.metadata.src_node_id]
        return replies

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Push, then pull all; `timeout` has no effect, because every reply is there when the push returns."""
        return self.pull_messages(self.push_messages(messages))

    def traceback_of(self, reply: Message) -> str:
        """The client's traceback behind an error reply as text; empty for any other reply."""
        return self._tracebacks.get(reply.metadata.reply_to_message_id, "")

    def _check_destinations(self, batch: Sequence[Message]) -> None:
        busy = set(self._in_flight)
        for message in batch:
            node = message.metadata.dst_node_id
            if node not in self._contexts:
                raise RunError(f"message to node {node}: nodes are 1..{len(self._contexts)}; use get_node_ids()")
            if node in busy:
                raise RunError(f"message to node {node}: it still has one in flight; pull that reply before the next")
            busy.add(node)

    def _answer(self, message: Message) -> Message:
        """Run one node. As under Flower, an exception becomes an error reply and the node's state stays as it was."""
        context = self._contexts[message.metadata.dst_node_id]
        before = RecordDict(dict(context.state))
        try:
            reply = self._client_app(message, context)
            _check_reply(reply, message)
        except Exception as error:  # whatever a client raises is its reply
            context.state = before
            self._tracebacks[message.metadata.message_id] = told(error)
            reply = Message(_flower_error(error), reply_to=message)
        self._sent += 1
        _set_id(reply, f"message-{self._sent}")
        return reply

    def _order(self, n: int) -> list[int]:
        if self._shuffle is None:
            return list(range(n))
        self._shuffles += 1
        return [int(i) for i in rng(self._shuffle, "replies", self._shuffles).permutation(n)]


def _context(node: int, clients: int, run_config: Mapping[str, Scalar]) -> Context:
    config = {"partition-id": node - 1, "num-partitions": clients}
    return Context(_RUN, node, config, RecordDict(), dict(run_config))


def _check_reply(reply: object, message: Message) -> None:
    if not isinstance(reply, Message):
        raise TypeError(
            f"{message.metadata.message_type}: the ClientApp returned {type(reply).__name__}, not a Message"
        )
    if reply.metadata.reply_to_message_id != message.metadata.message_id:
        raise ValueError(f"{message.metadata.message_type}: the reply answers another message; use reply_to=message")


def _flower_error(error: Exception) -> Error:
    """Code and wording of the error that Flower's own simulation reports for an exception in a ClientApp."""
    wrapped = ClientAppException(str(error))
    return Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{type(wrapped)}:<'{wrapped}'>")


def failure(grid: Grid, reply: Message) -> str:
    """Why `reply` is an error, for an exception's text: the client's traceback where the grid kept it, else the reason.

    Works with any Grid, so that a ServerApp need not know in which way it is run.
    """
    kept = grid.traceback_of(reply) if isinstance(grid, InProcessGrid) else ""
    reason = kept or reply.error.reason or "no reason given"
    return f"client {reply.metadata.src_node_id} failed (code {reply.error.code}): {reason}"


def run_in_process(
    server_app: ServerApp,
    client_app: ClientApp,
    *,
    clients: int,
    run_config: Mapping[str, Scalar],
    shuffle: int | None = None,
) -> None:
    """Run `server_app` to its end against `clients` nodes of `client_app` in this process.

    What the server app raises comes out as it is. `shuffle` as in `InProcessGrid`.
    """
    grid = InProcessGrid(client_app, clients=clients, run_config=run_config, shuffle=shuffle)
    context = Context(_RUN, _SERVER, {}, RecordDict(), dict(run_config))
    with _server_identity():
        server_app(grid=grid, context=context)
