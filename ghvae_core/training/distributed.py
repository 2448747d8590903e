"""The processes of one training run, started by torchrun, and how they stop; a single process is a group of one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType

import torch
from torch import distributed

from configs.interruption import Interruption, interruption
from ghvae_core.models.checkpoint_files import CheckpointError

PREEMPTED = 75  # exit code after SIGTERM: start the same command again (sysexits.h: temporary failure)
EXIT_S = 120.0  # to save and exit after SIGTERM, or to close the process group; ours
_SIGNAL_INTERVAL_S = 0.5  # between two checks for SIGTERM; ours
_TIMEOUT = timedelta(minutes=30)  # without another process, which may be writing a large state; ours
_DECODING_TIMEOUT = timedelta(days=7)  # while the first process decodes all episodes; ours


class ProcessGroup:
    """Rank, size and device of this process, and collective operations of all processes."""

    def __init__(self, device: str) -> None:
        """Read the rank from the environment that torchrun sets; nothing is opened before `with`.

        Args:
            device: "cpu", or "cuda", of which each process takes its own.

        Raises:
            CheckpointError: More processes than devices.
        """
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.device = device
        if device == "cuda" and self.size > 1:
            local = int(os.environ.get("LOCAL_RANK", "0"))
            if local >= torch.cuda.device_count():
                raise CheckpointError(
                    f"torchrun: expected at most {torch.cuda.device_count()} processes on this machine, one per "
                    f"device, got process {local + 1}; lower --nproc-per-node"
                )
            self.device = f"cuda:{local}"

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def __enter__(self) -> ProcessGroup:
        """Connect all processes."""
        if self.size > 1:
            if self.device != "cpu":
                torch.cuda.set_device(self.device)
            distributed.init_process_group("gloo" if self.device == "cpu" else "nccl", timeout=_TIMEOUT)
            self._patient = distributed.new_group(backend="gloo", timeout=_DECODING_TIMEOUT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Wait for all processes, then disconnect; after an exception without waiting."""
        if self.size > 1:
            if kind is None:
                self.wait()  # the first process may still be writing the checkpoint
            with forced_exit(EXIT_S, code=1):
                distributed.destroy_process_group()

    def wait(self, is_patient: bool = False) -> None:
        """Wait until all processes call this: at most 30 minutes, or 7 days if `is_patient`."""
        if self.size > 1:
            distributed.barrier(self._patient if is_patient else None)

    def largest(self, *values: int) -> tuple[int, ...]:
        """Return the element-wise maximum over all processes; all must call it."""
        if self.size == 1:
            return values
        agreed = torch.tensor(values, dtype=torch.int64, device=self.device)
        distributed.all_reduce(agreed, distributed.ReduceOp.MAX)
        return tuple(int(value) for value in agreed.tolist())


@contextmanager
def stop_signals() -> Iterator[Interruption]:
    """Note SIGINT and SIGTERM for the next step boundary; a second signal has its previous effect.

    A process that has not ended `EXIT_S` after SIGTERM exits with `PREEMPTED`: a scheduler would kill it soon.

    Raises:
        KeyboardInterrupt: At the end of the block, where a signal arrived that was not taken.
    """
    with interruption(then=None) as stop, _bounded_exit(stop):
        yield stop


@contextmanager
def _bounded_exit(stop: Interruption) -> Iterator[None]:
    """End the process if the block does not end within `EXIT_S` after SIGTERM."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_SIGNAL_INTERVAL_S):
            if stop.received == signal.SIGTERM:
                if not ended.wait(EXIT_S):
                    os._exit(PREEMPTED)
                return

    watcher = threading.Thread(target=watch, name="sigterm", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


@contextmanager
def forced_exit(after_s: float, code: int) -> Iterator[None]:
    """End the process if the block takes longer: a process that hangs blocks all others."""
    timer = threading.Timer(after_s, os._exit, [code])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
