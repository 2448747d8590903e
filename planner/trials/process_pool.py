"""Jobs in processes of their own, so many at a time: none inherits from another, and none takes another with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import NamedTuple, TypeVar

from configs.interruption import ignore_sigint, started_without_sigint, wait

_Job = TypeVar("_Job")
_Answer = TypeVar("_Answer")
_THREADS = "OMP_NUM_THREADS"
_EXIT_S = 10.0  # from its answer to the end of a process; then it is killed; ours


class ProcessFailure(NamedTuple):
    """A process that ended without an answer."""

    reason: str


def run_in_processes(
    work: Callable[[_Job], _Answer], waiting: deque[_Job], n_workers: int
) -> Generator[tuple[_Job, _Answer | ProcessFailure], None, None]:
    """Yield each job with its answer as it is done, at most `n_workers` at a time, each in one thread of arithmetic.

    Jobs and answers are pickled between processes of this program. When the caller stops early (closes the generator,
    or an exception passes through it), the processes are ended; they end as well when this one dies in any way.

    Args:
        work: Of a module, so that it can be found by name.
        waiting: Taken from the left; the caller may add and remove while it goes on.
        n_workers: Processes at a time.
    """
    context = multiprocessing.get_context("spawn")
    running: dict[Connection, tuple[_Job, SpawnProcess]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < n_workers:
                job = waiting.popleft()
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(theirs, work, job), daemon=True)
                with started_without_sigint(), _one_thread():
                    process.start()
                theirs.close()
                running[ours] = (job, process)
            for connection in wait(list(running)):
                job, process = running[connection]
                answer = _receive(connection, process)
                del running[connection]
                yield job, answer
    finally:
        for _, process in running.values():
            process.terminate()
        for connection, (_, process) in running.items():
            process.join()
            connection.close()


def _receive(connection: Connection, process: SpawnProcess) -> _Answer | ProcessFailure:
    answer: _Answer | ProcessFailure
    try:
        answer = connection.recv()
        process.join(_EXIT_S)
        process.kill()
    except (EOFError, ConnectionError):
        process.join()
        answer = ProcessFailure(_how(process.exitcode or 0))
    process.join()
    connection.close()
    return answer


def _how(code: int) -> str:
    if code >= 0:
        return f"its process ended with code {code}"
    with suppress(ValueError):
        return f"its process was ended by {signal.Signals(-code).name}"
    return f"its process was ended by signal {-code}"


@contextmanager
def _one_thread() -> Iterator[None]:
    """Start processes that compute with one thread."""
    threads = os.environ.get(_THREADS)
    os.environ[_THREADS] = "1"  # read when numpy or torch is loaded
    try:
        yield
    finally:
        if threads is None:
            del os.environ[_THREADS]
        else:
            os.environ[_THREADS] = threads


def _work(connection: Connection, work: Callable[[_Job], _Answer], job: _Job) -> None:
    ignore_sigint()  # a terminal sends it to all processes; the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    connection.send(work(job))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
