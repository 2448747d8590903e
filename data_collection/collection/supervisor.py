"""The supervisor of a collection: keeps processes at work, and starts others in place of those that die or hang."""

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
    """Hands out the numbers of episodes, until there are as many as are wanted."""

    def __init__(self, closed: Collection[int], count: int) -> None:
        """Begin with the numbers of the episodes that exist; `count` more are wanted."""
        self._taken = set(closed)
        self._next = 0
        self._returned: list[int] = []
        self.left = max(0, count)  # how many have not been handed out

    def take(self) -> int | None:
        """Return the next number, or None where enough are taken."""
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
        """Take back a number whose episode was not made; it is handed out again."""
        heapq.heappush(self._returned, number)
        self.left += 1

    def give_up(self) -> None:
        """Let another number take the place of one whose episode cannot be made."""
        self.left += 1


_TICK_S = 1.0  # between two looks at processes that say nothing
_HOUR_S = 3600.0


class Supervisor:
    """Runs the processes of one collection, as a context: on the way out all have stopped their arms and ended."""

    def __init__(self, config: CollectionRunConfig, out: Path, n_workers: int) -> None:
        self._config, self._out, self._n_workers = config, out, n_workers
        self._limits = config.supervision
        self._processes: list[CollectionProcess] = []
        self._due_s: list[float] = []  # when those that are missing may start
        self._pause_s = 0.0  # after the last episode without success
        self._closed_s = 0.0  # when something was last closed
        self._restarts: deque[float] = deque()  # of the last hour
        self._faults: deque[float] = (
            deque()
        )  # of the last hour, of all processes: a new one has a new budget of its own
        self._losses: Counter[int] = Counter()  # processes, by the number that they were at
        self._final: str | None = None  # why no further episode is begun
        self.robot = ""  # its name, once one is there

    def __enter__(self) -> Supervisor:
        """Start the processes and wait until each has its arm.

        Raises:
            CollectionError: An arm cannot be had. Nothing was written.
        """
        with ExitStack() as started:
            started.callback(self._stop_all)
            for _ in range(self._n_workers):
                self._processes.append(CollectionProcess(self._config, self._out))
            for process in self._processes:
                self.robot = process.meet(self._limits.hang_s)
            started.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_all()
        self._folder.discard_unfinished()

    @property
    def _folder(self) -> EpisodeFolder:
        return EpisodeFolder(self._out, self._config.stem(self.robot))

    def run(self, numbers: EpisodeNumbers) -> Generator[Event, None, None]:
        """Have the episodes made, and tell what happens. What they contain does not depend on how many work on it.

        Raises:
            CollectionError: A person must look. Every episode that was closed stands.
        """
        self._closed_s = time.monotonic()
        while numbers.left or self._is_busy():
            self._hand_out(numbers)
            if self._final is not None and not self._is_busy():
                raise CollectionError(self._final)
            yield from self._listen(numbers)
            for process in [each for each in self._processes if each.silent_s > self._limits.hang_s]:
                silent_s = process.silent_s
                process.kill()
                yield from self._lose(process, numbers, f"hung without a sign of life for {silent_s:.0f} s")
            yield self._tick()

    def _is_busy(self) -> bool:
        return any(process.number is not None for process in self._processes)

    def _hand_out(self, numbers: EpisodeNumbers) -> None:
        """Start the processes that are due, and give every idle one something to do."""
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
            with suppress(ConnectionError):  # one that is gone is found later
                process.connection.send(process.number)

    def _listen(self, numbers: EpisodeNumbers) -> Iterator[Event]:
        """Take what processes have to say; wait a moment where that is nothing."""
        processes = {process.connection: process for process in self._processes}
        if not processes:
            sleep(_TICK_S)
            return
        for connection in wait(list(processes), _TICK_S):
            process = next(each for each in self._processes if each.connection is connection)
            try:
                told: WorkerEvent = process.connection.recv()
            except (EOFError, OSError):  # also in the middle of a word
                yield from self._lose(process, numbers, "died")
            else:
                yield from self._take(process, told, numbers)

    def _take(self, process: CollectionProcess, told: WorkerEvent, numbers: EpisodeNumbers) -> Iterator[Event]:
        if isinstance(told, ReadyEvent):
            process.is_ready = True
        elif isinstance(told, GaveUpEvent):
            yield from self._pause(process, told, numbers)
        else:
            yield told
        if isinstance(told, FailedEvent) and told.is_fault and _in_an_hour(self._faults) > self._config.faults_per_hour:
            n = len(self._faults)
            self._final = self._final or f"the arm stopped itself {n} times within an hour; look at it, then --resume"
            self._end(process, numbers, 0.0)
        if isinstance(told, ClosedEvent):
            process.number = None
            self._pause_s, self._closed_s = 0.0, time.monotonic()
            yield from self._renew(process)

    def _pause(self, process: CollectionProcess, told: GaveUpEvent, numbers: EpisodeNumbers) -> Iterator[Event]:
        """End a process that cannot go on, and let another try later; or let a person look."""
        shortest_s, longest_s = self._limits.back_off_s
        self._pause_s = min(max(2 * self._pause_s, shortest_s), longest_s)
        self._end(process, numbers, self._pause_s)
        if told.needs_person or time.monotonic() - self._closed_s > self._limits.give_up_s:
            self._final = self._final or told.reason
        else:
            yield WaitingEvent(told.reason, self._pause_s)

    def _renew(self, process: CollectionProcess) -> Iterator[Event]:
        """Replace a process that is old or takes too much."""
        rss_gib, descriptors = process.burden()
        reasons = {
            f"it took {rss_gib:.2f} GiB of memory": rss_gib > self._limits.max_memory_gib,
            f"it had {descriptors} files open": descriptors > self._limits.max_open_files,
            f"it was {process.age_s / _HOUR_S:.1f} h old": process.age_s > self._limits.max_age_s,
        }
        for reason in [reason for reason, holds in reasons.items() if holds][:1]:
            self._drop(process, 0.0)
            yield ReplacedEvent(reason)

    def _lose(self, process: CollectionProcess, numbers: EpisodeNumbers, how: str) -> Iterator[Event]:
        """Count a process that died or hung, and have its episode made again, unless it is there."""
        number, is_given_up = process.number, False
        exit_code = self._drop(process, 0.0)
        if number is not None and (row := self._find(number)) is not None:
            yield ClosedEvent(row, swept=False, idle_episodes=0)  # the last word, which it could no longer say
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
            self._final = self._final or f"{reason}, the last of {n} within an hour; look at the machine, then --resume"
        yield LostEvent(number, reason, is_given_up)

    def _find(self, number: int) -> Row | None:
        """Return the row of an episode that a process closed before it ended."""
        path = self._folder.episode_path(number)
        with suppress(EpisodeError, OSError):
            row = describe(path)
            flush(path.parent)  # it may have ended just before
            return row
        return None

    def _end(self, process: CollectionProcess, numbers: EpisodeNumbers, pause_s: float) -> None:
        """Let go of a process, and of the number that it was at."""
        if process.number is not None:
            numbers.give_back(process.number)
        self._drop(process, pause_s)

    def _drop(self, process: CollectionProcess, pause_s: float) -> int | None:
        """See a process end, and let another take its place after a pause; return its exit code."""
        self._processes.remove(process)
        self._due_s.append(time.monotonic() + pause_s)
        return process.stop()

    def _tick(self) -> TickEvent:
        burdens = [process.burden() for process in self._processes]
        return TickEvent(sum(rss for rss, _ in burdens), sum(n for _, n in burdens))

    def _stop_all(self) -> None:
        for process in self._processes:
            process.bid_stop()
        for process in self._processes:
            process.stop()
        self._processes.clear()


def _in_an_hour(times_s: deque[float]) -> int:
    """Add the present to monotonic times, forget what is older than an hour, and return how many are left."""
    now_s = time.monotonic()
    times_s.append(now_s)
    while now_s - times_s[0] > _HOUR_S:
        times_s.popleft()
    return len(times_s)
