"""Work spread over processes that share what was computed before them: forked, so nothing is copied or pickled."""

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from device.errors import RunError, TandemError

Work = Callable[[], None]


def spread(work: Sequence[Work], processes: int, done: Callable[[], None]) -> None:
    """Do all of `work`, each piece once, and call `done` after each; what a piece makes it must leave on disk.

    Pieces start in the order given, each with one thread of torch, so that its results do not depend on `processes`.
    With one process, one piece, or where no process can be forked they run here. The first error ends all processes:
    our own errors come out as they were; others, and killed processes, as RunError.
    """
    if min(processes, len(work)) <= 1 or "fork" not in multiprocessing.get_all_start_methods():
        one_by_one(work, done)
        return
    context = multiprocessing.get_context("fork")
    turn = context.Value("q", 0)
    crew: dict[Any, BaseProcess] = {}
    try:
        for _ in range(min(processes, len(work))):
            ours, theirs = context.Pipe(duplex=False)
            crew[ours] = context.Process(target=labour, args=(work, turn, theirs), daemon=True)
            crew[ours].start()
            theirs.close()
        listen(crew, done)
    finally:
        for process in crew.values():
            process.terminate()
            process.join()


def one_by_one(work: Sequence[Work], done: Callable[[], None]) -> None:
    """All of it in this process."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for piece in work:
            piece()
            done()
    finally:
        torch.set_num_threads(before)


def listen(crew: dict[Any, BaseProcess], done: Callable[[], None]) -> None:
    """Until every process has ended well."""
    while crew:
        for connection in wait(list(crew)):
            assert isinstance(connection, Connection)
            try:
                said = connection.recv()
            except EOFError:
                process = crew.pop(connection)
                process.join()
                if process.exitcode:
                    raise RunError(
                        f"a process of the sweep was killed (exit code {process.exitcode}), perhaps for memory; "
                        "lower [sweep] processes and start again: what is finished is kept"
                    ) from None
                continue
            if isinstance(said, TandemError):
                raise said
            if said is not None:
                raise RunError(f"a process of the sweep failed: {said}")
            done()


def labour(work: Sequence[Work], turn: Any, tell: Connection) -> None:
    """What each process does: take the next piece until none is left, and say what became of it."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and ends us
    torch.set_num_threads(1)
    while True:
        with turn.get_lock():
            number, turn.value = turn.value, turn.value + 1
        if number >= len(work):
            return
        try:
            work[number]()
            tell.send(None)
        except TandemError as error:
            tell.send(error)
        except Exception as error:  # whatever it is, the parent has to hear of it
            tell.send(f"{type(error).__name__}: {error}")
