"""The processes that train together, started by torchrun; a process that was started alone is a group of one."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType

import torch
from torch import distributed

from configs.interruption import Interruption, interruption
from ghvae_core.models.checkpoint_files import CheckpointError

PREEMPTED = 75  # exit code after SIGTERM: start the same command again (sysexits.h: temporary failure)


@contextmanager
def noted_signals() -> Iterator[Interruption]:
    """Note SIGINT and SIGTERM instead of ending; a second one ends the process as it would have without this block.

    After SIGTERM the process ends within `EXIT_S` in any case: its sender will kill it soon.
    """
    ended = threading.Event()
    with interruption(then=None) as signals:
        threading.Thread(target=_exit_after_sigterm, args=(signals, ended), daemon=True).start()
        try:
            yield signals
        finally:
            ended.set()
            signals.take()


def _exit_after_sigterm(signals: Interruption, ended: threading.Event) -> None:
    end_s = math.inf
    while not ended.wait(_CHECK_S):
        if signals.received == signal.SIGTERM:
            end_s = min(end_s, time.monotonic() + EXIT_S)
        if time.monotonic() > end_s:
            os._exit(PREEMPTED)


EXIT_S = 120.0  # what saving and leaving may take once a run was told to stop; ours
_CHECK_S = 1.0  # between two checks for SIGTERM; ours
_SILENCE = timedelta(minutes=30)  # of another process, then it counts as dead: it may be writing a large state
_PATIENCE = timedelta(days=7)  # with the first process while it decodes all episodes, which may take it days; ours


class ProcessGroup:
    """This process's place among those that train together, and what they must agree on."""

    def __init__(self, device: str) -> None:
        """Read the place from the environment that torchrun makes; nothing is opened before `with`.

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
                    f"torchrun: expected at most {torch.cuda.device_count()} processes on this machine, one a device, "
                    f"got a process {local + 1}; lower --nproc-per-node"
                )
            self.device = f"cuda:{local}"

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and talks."""
        return self.rank == 0

    def __enter__(self) -> ProcessGroup:
        """Meet the others."""
        if self.size > 1:
            if self.device != "cpu":
                torch.cuda.set_device(self.device)
            distributed.init_process_group("gloo" if self.device == "cpu" else "nccl", timeout=_SILENCE)
            self._patient = distributed.new_group(backend="gloo", timeout=_PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave together; after a failure alone, as the others may wait elsewhere."""
        if self.size > 1:
            if kind is None:
                self.wait()  # as long as it takes: the first process may be writing the checkpoint
            with forced_exit(EXIT_S, code=1):
                distributed.destroy_process_group()

    def wait(self, is_patient: bool = False) -> None:
        """Wait until all others have come here: half an hour at most, or, where one has much to do alone, for days."""
        if self.size > 1:
            distributed.barrier(self._patient if is_patient else None)

    def largest(self, *values: int) -> tuple[int, ...]:
        """Return the largest that any process gave, place by place; all must call it."""
        if self.size == 1:
            return values
        agreed = torch.tensor(values, dtype=torch.int64, device=self.device)
        distributed.all_reduce(agreed, distributed.ReduceOp.MAX)
        return tuple(int(value) for value in agreed.tolist())


@contextmanager
def forced_exit(after_s: float, code: int) -> Iterator[None]:
    """End the process, come what may, if the block takes too long: a process that hangs blocks all others."""
    timer = threading.Timer(after_s, os._exit, [code])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
