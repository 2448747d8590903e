"""Runs jobs in processes of their own, several at a time: a process that dies affects no other job."""

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
_EXIT_S = 10.0  # from the answer to the end of a process; then it is killed; ours


class ProcessFailure(NamedTuple):
    """The end of a process that returned no answer."""

    reason: str


def run_in_processes(
    work: Callable[[_Job], _Answer], queue: deque[_Job], n_workers: int
) -> Generator[tuple[_Job, _Answer | ProcessFailure], None, None]:
    """Yield each job with its answer as it completes. Each process computes with one thread.

    Jobs and answers are pickled between processes of this program. All processes are terminated when the generator is
    closed, when an exception passes through it, and when this process dies.

    Args:
        work: A function of a module, which a new process can import.
        queue: Jobs, taken from the left; the caller may add and remove jobs meanwhile.
        n_workers: Number of processes at a time.
    """
    context = multiprocessing.get_context("spawn")
    running: dict[Connection, tuple[_Job, SpawnProcess]] = {}
    try:
        while queue or running:
            while queue and len(running) < n_workers:
                job = queue.popleft()
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
    """Return the answer of a process, and wait for its end."""
    answer: _Answer | ProcessFailure
    try:
        answer = connection.recv()
        process.join(_EXIT_S)
        process.kill()
    except (EOFError, ConnectionError):
        process.join()
        answer = ProcessFailure(_exit_reason(process.exitcode or 0))
    process.join()
    connection.close()
    return answer


def _exit_reason(code: int) -> str:
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
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    connection.send(work(job))


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
