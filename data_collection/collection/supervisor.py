"""Supervisor of a collection: distributes episodes to worker processes and replaces those that die or hang."""

from __future__ import annotations

import heapq
import time
from collections import Counter, deque
from collections.abc import Collection, Generator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from configs.interruption import sleep, wait
from data_collection.atomic_io import flush
from data_collection.collection.config import CollectionRunConfig
from data_collection.collection.events import (
    ClosedEvent,
    Event,
    FailedEvent,
    GaveUpEvent,
    LostEvent,
    ReadyEvent,
    ReplacedEvent,
    TickEvent,
    WaitingEvent,
    WorkerEvent,
)
from data_collection.collection.worker_process import CollectionProcess
from data_collection.episode import EpisodeError
from data_collection.storage.folder import CollectionError, EpisodeFolder
from data_collection.storage.index import Row, describe


class EpisodeNumbers:
    """Assigns episode numbers until the requested count is reached."""

    def __init__(self, closed: Collection[int], count: int) -> None:
        """Start from the numbers of existing episodes; `count` more are requested."""
        self._taken = set(closed)
        self._next = 0
        self._returned: list[int] = []
        self.left = max(0, count)  # numbers that are not yet assigned

    def take(self) -> int | None:
        """Return the next number, or None if all are assigned."""
        if not self.left:
            return None
        self.left -= 1
        if self._returned:
            return heapq.heappop(self._returned)
        while self._next in self._taken:
            self._next += 1
        self._next += 1
        return self._next - 1

    def give_back(self, number: int) -> None:
        """Return a number whose episode was not collected; it is assigned again."""
        heapq.heappush(self._returned, number)
        self.left += 1

    def give_up(self) -> None:
        """Abandon a number; another one replaces it."""
        self.left += 1


_TICK_S = 1.0  # longest wait for an event
_HOUR_S = 3600.0


class Supervisor:
    """Runs the worker processes of one collection, as a context manager; at exit all arms have stopped."""

    def __init__(self, config: CollectionRunConfig, out: Path, n_workers: int) -> None:
        self._config, self._out, self._n_workers = config, out, n_workers
        self._limits = config.supervision
        self._processes: list[CollectionProcess] = []
        self._due_s: list[float] = []  # start times of missing processes
        self._pause_s = 0.0  # current pause after episodes without success
        self._closed_s = 0.0  # time of the last closed episode
        self._restarts: deque[float] = deque()  # of the last hour
        self._faults: deque[float] = (
            deque()
        )  # of the last hour, of all processes: a new one has a new budget of its own
        self._losses: Counter[int] = Counter()  # lost processes by episode number
        self._final: str | None = None  # reason why no further episode starts
        self.robot = ""  # name of the robot, once connected

    def __enter__(self) -> Supervisor:
        """Start the processes and wait until each robot is connected.

        Raises:
            CollectionError: A robot cannot be connected. Nothing was written.
        """
        with ExitStack() as started:
            started.callback(self._stop_all)
            for _ in range(self._n_workers):
                self._processes.append(CollectionProcess(self._config, self._out))
            for process in self._processes:
                self.robot = process.wait_ready(self._limits.hang_s)
            started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_all()
        self._folder.discard_unfinished()

    @property
    def _folder(self) -> EpisodeFolder:
        return EpisodeFolder(self._out, self._config.stem(self.robot))

    def run(self, numbers: EpisodeNumbers) -> Generator[Event, None, None]:
        """Collect the episodes and yield the events. Episodes do not depend on the number of processes.

        Raises:
            CollectionError: An operator is required. All closed episodes are kept.
        """
        self._closed_s = time.monotonic()
        while numbers.left or self._is_busy():
            self._assign(numbers)
            if self._final is not None and not self._is_busy():
                raise CollectionError(self._final)
            yield from self._listen(numbers)
            for process in [each for each in self._processes if each.inactive_s > self._limits.hang_s]:
                inactive_s = process.inactive_s
                process.kill()
                yield from self._lose(process, numbers, f"hung without activity for {inactive_s:.0f} s")
            yield self._tick()

    def _is_busy(self) -> bool:
        return any(process.number is not None for process in self._processes)

    def _assign(self, numbers: EpisodeNumbers) -> None:
        """Start the processes that are due, and assign an episode to each idle one."""
        due = [due_s for due_s in self._due_s if time.monotonic() >= due_s and self._final is None]
        for due_s in due:
            self._due_s.remove(due_s)
            self._processes.append(CollectionProcess(self._config, self._out))
        for process in [each for each in self._processes if each.is_ready and each.number is None]:
            if self._final is not None or not numbers.left:
                return
            try:
                self._folder.check_space(self._config.collection.free_disk_floor_gib)
            except (CollectionError, OSError) as error:
                self._final = str(error)
                return
            process.number = numbers.take()
            with suppress(ConnectionError):  # a dead process is detected in `_listen`
                process.connection.send(process.number)

    def _listen(self, numbers: EpisodeNumbers) -> Iterator[Event]:
        """Receive the events of the processes, for at most `_TICK_S`."""
        processes = {process.connection: process for process in self._processes}
        if not processes:
            sleep(_TICK_S)
            return
        for connection in wait(list(processes), _TICK_S):
            process = next(each for each in self._processes if each.connection is connection)
            try:
                event: WorkerEvent = process.connection.recv()
            except (EOFError, OSError):  # also within a message
                yield from self._lose(process, numbers, "died")
            else:
                yield from self._take(process, event, numbers)

    def _take(self, process: CollectionProcess, event: WorkerEvent, numbers: EpisodeNumbers) -> Iterator[Event]:
        if isinstance(event, ReadyEvent):
            process.is_ready = True
        elif isinstance(event, GaveUpEvent):
            yield from self._pause(process, event, numbers)
        else:
            yield event
        is_fault = isinstance(event, FailedEvent) and event.is_fault
        if is_fault and (n := _in_an_hour(self._faults)) > self._config.faults_per_hour:
            faults = f"{n} faults of the arm within an hour"
            self._final = self._final or f"{faults}; check the arm, then continue with --resume"
            self._end(process, numbers, 0.0)
        if isinstance(event, ClosedEvent):
            process.number = None
            self._pause_s, self._closed_s = 0.0, time.monotonic()
            yield from self._replace(process)

    def _pause(self, process: CollectionProcess, event: GaveUpEvent, numbers: EpisodeNumbers) -> Iterator[Event]:
        """Stop a process that cannot continue; retry later, or end the run for an operator."""
        shortest_s, longest_s = self._limits.back_off_s
        self._pause_s = min(max(2 * self._pause_s, shortest_s), longest_s)
        self._end(process, numbers, self._pause_s)
        if event.needs_person or time.monotonic() - self._closed_s > self._limits.give_up_s:
            self._final = self._final or event.reason
        else:
            yield WaitingEvent(event.reason, self._pause_s)

    def _replace(self, process: CollectionProcess) -> Iterator[Event]:
        """Replace a process that exceeds a limit of age, memory or open files."""
        rss_gib, descriptors = process.usage()
        reasons = {
            f"it used {rss_gib:.2f} GiB of memory": rss_gib > self._limits.max_memory_gib,
            f"it had {descriptors} open files": descriptors > self._limits.max_open_files,
            f"it was {process.age_s / _HOUR_S:.1f} h old": process.age_s > self._limits.max_age_s,
        }
        for reason in [reason for reason, holds in reasons.items() if holds][:1]:
            self._drop(process, 0.0)
            yield ReplacedEvent(reason)

    def _lose(self, process: CollectionProcess, numbers: EpisodeNumbers, how: str) -> Iterator[Event]:
        """Count a process that died or hung, and reassign its episode unless its file exists."""
        number, is_given_up = process.number, False
        exit_code = self._drop(process, 0.0)
        if number is not None and (row := self._find(number)) is not None:
            yield ClosedEvent(row, swept=False, idle_episodes=0)  # its report was lost with the process
            number = None
        if number is not None:
            self._losses[number] += 1
            is_given_up = self._losses[number] >= self._limits.losses_per_episode
            if is_given_up:
                numbers.give_up()
            else:
                numbers.give_back(number)
        reason = f"a process {how} (exit code {exit_code})"
        if (n := _in_an_hour(self._restarts)) > self._limits.restarts_per_hour:
            losses = f"{reason}, the last of {n} within an hour"
            self._final = self._final or f"{losses}; check the machine, then continue with --resume"
        yield LostEvent(number, reason, is_given_up)

    def _find(self, number: int) -> Row | None:
        """Return the row of an episode that a process closed before it ended, if any."""
        path = self._folder.episode_path(number)
        with suppress(EpisodeError, OSError):
            row = describe(path)
            flush(path.parent)  # the process may have ended before it
            return row
        return None

    def _end(self, process: CollectionProcess, numbers: EpisodeNumbers, pause_s: float) -> None:
        """Stop a process and return its number."""
        if process.number is not None:
            numbers.give_back(process.number)
        self._drop(process, pause_s)

    def _drop(self, process: CollectionProcess, pause_s: float) -> int | None:
        """Stop a process and schedule its replacement; return its exit code."""
        self._processes.remove(process)
        self._due_s.append(time.monotonic() + pause_s)
        return process.stop()

    def _tick(self) -> TickEvent:
        usages = [process.usage() for process in self._processes]
        return TickEvent(sum(rss for rss, _ in usages), sum(n for _, n in usages))

    def _stop_all(self) -> None:
        for process in self._processes:
            process.request_stop()
        for process in self._processes:
            process.stop()
        self._processes.clear()


def _in_an_hour(times_s: deque[float]) -> int:
    """Append the current time, drop times older than an hour, and return the count."""
    now_s = time.monotonic()
    times_s.append(now_s)
    while now_s - times_s[0] > _HOUR_S:
        times_s.popleft()
    return len(times_s)
