"""One process that collects, as the supervisor sees it."""

from __future__ import annotations

import multiprocessing
import time
from ctypes import c_double
from pathlib import Path
from typing import cast

import psutil

from configs.interruption import started_without_sigint, wait
from data_collection.collection.config import CollectionRunConfig
from data_collection.collection.events import GaveUpEvent, ReadyEvent, WorkerEvent
from data_collection.collection.worker import Heartbeat, run_worker
from data_collection.storage.folder import CollectionError


class CollectionProcess:
    """A process with an arm of its own, from its start to its end."""

    def __init__(self, config: CollectionRunConfig, out: Path) -> None:
        """Start it; a terminal's Ctrl-C never reaches it: the supervisor decides."""
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._pulse: Heartbeat = cast("Heartbeat", context.Value(c_double, time.monotonic(), lock=False))
        self._process = context.Process(target=run_worker, args=(theirs, config, out, self._pulse), daemon=True)
        with started_without_sigint():
            self._process.start()
        theirs.close()
        self._stop_s = config.supervision.stop_s
        self._began_s = time.monotonic()
        self.number: int | None = None  # of the episode that it makes
        self.is_ready = False  # it has its arm

    @property
    def age_s(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._began_s

    @property
    def silent_s(self) -> float:
        """Seconds since its last sign of life; 0 while nothing is asked of it."""
        if self.is_ready and self.number is None:
            return 0.0
        return time.monotonic() - self._pulse.value

    def meet(self, timeout_s: float) -> str:
        """Wait until it has its arm, and return the arm's name.

        Raises:
            CollectionError: It has none within the time.
        """
        if not wait([self.connection], timeout_s):
            raise CollectionError(f"no arm within {timeout_s:g} s; look at what leads to it")
        try:
            told: WorkerEvent = self.connection.recv()
        except (EOFError, ConnectionError):
            raise CollectionError("a process died before it had its arm; see above") from None
        if isinstance(told, ReadyEvent):
            self.is_ready = True
            return told.robot
        raise CollectionError(told.reason if isinstance(told, GaveUpEvent) else f"expected an arm, got {told}")

    def burden(self) -> tuple[float, int]:
        """Return its memory in GiB and how many files it has open; nothing of one that has ended."""
        try:
            process = psutil.Process(self._process.pid)
            return process.memory_info().rss / 2**30, process.num_fds()
        except psutil.Error:
            return 0.0, 0

    def bid_stop(self) -> None:
        """Ask it to stop its arm and to end, without waiting for it."""
        self._process.terminate()

    def kill(self) -> None:
        """End it at once; the arm's driver holds."""
        self._process.kill()

    def stop(self) -> int | None:
        """See it end: by itself, when it is asked to, or, after a while, by force; return its exit code."""
        self._process.terminate()
        self._process.join(self._stop_s)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        exit_code = self._process.exitcode
        self.connection.close()
        self._process.close()
        return exit_code
