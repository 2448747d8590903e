"""The processes that train together, started by torchrun; a process that was started alone is a group of one."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType, TracebackType

import torch
from torch import distributed

from ghvae_core.models.checkpoint_files import CheckpointError

PREEMPTED = 75  # exit code after SIGTERM: start the same command again (sysexits.h: temporary failure)


@contextmanager
def collected() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one ends the process as it would have.

    After SIGTERM a process that cannot save in time ends all the same: whoever sent it will kill it soon.
    """
    received: list[int] = []
    timers: list[threading.Timer] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def receive(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the interface of signal
        received.append(number)
        for other, handler in before.items():
            signal.signal(other, handler)
        if number == signal.SIGTERM:
            timers.append(threading.Timer(EXIT_S, os._exit, [PREEMPTED]))
            timers[-1].daemon = True
            timers[-1].start()

    for number in before:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for timer in timers:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


EXIT_S = 120.0  # what saving and leaving may take once a run was told to stop; ours
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
