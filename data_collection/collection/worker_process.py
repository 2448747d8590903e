"""The supervisor's handle of one worker process."""

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
    """One worker process with its own robot."""

    def __init__(self, config: CollectionRunConfig, out: Path) -> None:
        """Start it; a terminal's Ctrl-C never reaches it: the supervisor decides."""
        context = multiprocessing.get_context("spawn")
        self.connection, worker_end = context.Pipe()
        self._heartbeat: Heartbeat = cast("Heartbeat", context.Value(c_double, time.monotonic(), lock=False))
        self._process = context.Process(target=run_worker, args=(worker_end, config, out, self._heartbeat), daemon=True)
        with started_without_sigint():
            self._process.start()
        worker_end.close()
        self._stop_s = config.supervision.stop_s
        self._began_s = time.monotonic()
        self.number: int | None = None  # of the episode in progress; None while idle
        self.is_ready = False  # the robot is connected

    @property
    def age_s(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self._began_s

    @property
    def inactive_s(self) -> float:
        """Seconds since its last activity; 0 while idle."""
        if self.is_ready and self.number is None:
            return 0.0
        return time.monotonic() - self._heartbeat.value

    def wait_ready(self, timeout_s: float) -> str:
        """Wait until the robot is connected, and return its name.

        Raises:
            CollectionError: It is not connected within the time.
        """
        if not wait([self.connection], timeout_s):
            raise CollectionError(f"no connection to the robot within {timeout_s:g} s; check the robot and its driver")
        try:
            event: WorkerEvent = self.connection.recv()
        except (EOFError, ConnectionError):
            raise CollectionError("a process died before its robot was connected; see above") from None
        if isinstance(event, ReadyEvent):
            self.is_ready = True
            return event.robot
        raise CollectionError(event.reason if isinstance(event, GaveUpEvent) else f"expected a robot, got {event}")

    def usage(self) -> tuple[float, int]:
        """Return its memory in GiB and its number of open files; zeros after its end."""
        try:
            process = psutil.Process(self._process.pid)
            return process.memory_info().rss / 2**30, process.num_fds()
        except psutil.Error:
            return 0.0, 0

    def request_stop(self) -> None:
        """Request the stop of its arm and its end, without waiting."""
        self._process.terminate()

    def kill(self) -> None:
        """Kill it; the arm's driver holds the position."""
        self._process.kill()

    def stop(self) -> int | None:
        """Stop the process, by force after `stop_s`; return its exit code."""
        self._process.terminate()
        self._process.join(self._stop_s)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        exit_code = self._process.exitcode
        self.connection.close()
        self._process.close()
        return exit_code
