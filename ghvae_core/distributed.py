"""The processes that train together, started by torchrun; a process that was started alone is a group of one."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType

import torch
from torch import distributed

from ghvae_core.manifest import CheckpointError

EXIT_S = 120.0  # what saving and leaving may take once a run was told to stop; ours
_SILENCE = timedelta(minutes=30)  # of another process, then it counts as dead: it may be writing a large state


class Group:
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

    def __enter__(self) -> Group:
        """Meet the others."""
        if self.size > 1:
            if self.device != "cpu":
                torch.cuda.set_device(self.device)
            distributed.init_process_group("gloo" if self.device == "cpu" else "nccl", timeout=_SILENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave together; after a failure alone, as the others may wait elsewhere."""
        if self.size > 1:
            with forced_exit(EXIT_S, code=1):
                if kind is None:
                    self.wait()
                distributed.destroy_process_group()

    def wait(self) -> None:
        """Wait until all others have come here."""
        if self.size > 1:
            distributed.barrier()

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
