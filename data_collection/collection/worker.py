"""Worker process: collects requested episodes with one robot and reports each attempt to the supervisor."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from configs.command import ReportedError
from configs.interruption import check, ignore_sigint, interruption, wait
from data_collection.atomic_io import make_folder
from data_collection.collection.collector import CollectedEpisode, Collector, DroppedAttempt
from data_collection.collection.config import CollectionRunConfig
from data_collection.collection.events import ClosedEvent, FailedEvent, GaveUpEvent, ReadyEvent, WorkerEvent
from data_collection.episode import EpisodeError
from data_collection.formats.robonet import write_episode
from data_collection.storage.folder import EpisodeFolder
from data_collection.storage.index import describe
from robot_bridge.factory import open_robot
from robot_bridge.robot import Observation, Robot, RobotError, RobotFault, RobotSpec, Step

_LOG = logging.getLogger(__name__)
_ORPHAN_S = 10.0  # ours: time after which a process without supervisor ends in any case


class Heartbeat(Protocol):
    """Shared memory for the time of the last activity of a process."""

    value: float  # monotonic seconds, the same clock in all processes


class MonitoredRobot:
    """A robot that records activity and checks for signals on each call."""

    def __init__(self, robot: Robot, heartbeat: Heartbeat) -> None:
        self._robot, self._heartbeat = robot, heartbeat

    @property
    def spec(self) -> RobotSpec:
        """See `Robot.spec`."""
        return self._robot.spec

    def reset(self, rng: np.random.Generator) -> Observation:
        """See `Robot.reset`."""
        self._beat()
        return self._robot.reset(rng)

    def observe(self) -> Observation:
        """See `Robot.observe`."""
        self._beat()
        return self._robot.observe()

    def step(self, action: NDArray[np.float32]) -> Step:
        """See `Robot.step`."""
        self._beat()
        return self._robot.step(action)

    def recover(self) -> None:
        """See `Robot.recover`."""
        self._beat()
        self._robot.recover()

    def close(self) -> None:
        """See `Robot.close`."""
        self._robot.close()

    def _beat(self) -> None:
        self._heartbeat.value = time.monotonic()
        check()


class EpisodeProducer:
    """Collects episodes and writes their files."""

    def __init__(self, config: CollectionRunConfig, folder: EpisodeFolder, robot: Robot) -> None:
        self._config, self._folder, self._robot = config, folder, robot
        self._collector = Collector(robot, config.collection)

    def produce(self, number: int) -> Iterator[WorkerEvent]:
        """Yield an event for each attempt at an episode; the last is `ClosedEvent` or `GaveUpEvent`."""
        last: DroppedAttempt | None = None
        try:
            for result in self._collector.attempts(self._config.seed, number):
                if isinstance(result, CollectedEpisode):
                    yield from self._close(number, result)
                    return
                last = result
                yield self._set_aside(number, result)
        except RobotFault as fault:
            yield GaveUpEvent(str(fault), needs_person=True)
        except (EpisodeError, RobotError, OSError) as error:
            yield GaveUpEvent(str(error), needs_person=not isinstance(error, RobotError))
        else:
            n = self._config.collection.max_faults_in_row
            words = f", the last with {last.kind}: {last.reason}" if last else ""
            yield GaveUpEvent(f"episode {number}: {n} attempts failed in a row{words}", bool(last and last.is_fault))

    def _close(self, number: int, collected: CollectedEpisode) -> Iterator[WorkerEvent]:
        """Write an episode; a write error is reported as a failed attempt and raised."""
        path = self._folder.episode_path(number)
        try:
            write_episode(collected.episode, path, self._robot.spec)
        except EpisodeError as error:
            yield FailedEvent(number, int(collected.episode.info["attempt"]), "not_written", str(error), None, False)
            raise
        yield ClosedEvent(describe(path), collected.swept, collected.idle_episodes)

    def _set_aside(self, number: int, dropped: DroppedAttempt) -> FailedEvent:
        """Write a rejected attempt to quarantine if the file format can hold it."""
        file: str | None = None
        if dropped.rejected is not None:
            path = self._folder.attempt_path(number, dropped.attempt, dropped.kind)
            make_folder(path.parent)
            with suppress(EpisodeError):  # the format has no falling times and one frame size
                write_episode(dropped.rejected, path, self._robot.spec)
                file = str(path.relative_to(self._folder.path))
        return FailedEvent(number, dropped.attempt, dropped.kind, dropped.reason, file, dropped.is_fault)


def run_worker(connection: Connection, config: CollectionRunConfig, out: Path, heartbeat: Heartbeat) -> None:
    """Collect requested episodes until the connection closes; SIGTERM stops the arm, then the process."""
    ignore_sigint()  # a terminal sends it to all processes; the supervisor decides
    threading.Thread(target=_follow_parent, daemon=True).start()
    heartbeat.value = time.monotonic()
    # The supervisor sends SIGTERM more than once.
    with suppress(EOFError, ConnectionError, KeyboardInterrupt), interruption((signal.SIGTERM,), signal.SIG_IGN):
        try:
            with closing(open_robot(config.robot)) as robot:
                connection.send(ReadyEvent(robot.spec.name))
                folder = EpisodeFolder(out, config.stem(robot.spec.name))
                _serve(connection, EpisodeProducer(config, folder, MonitoredRobot(robot, heartbeat)), folder, heartbeat)
        except ReportedError as error:
            connection.send(GaveUpEvent(str(error), needs_person=False))
    sys.stderr.flush()
    os._exit(0)  # the arm is closed; remaining threads of ROS would keep the process running


def _serve(connection: Connection, producer: EpisodeProducer, folder: EpisodeFolder, heartbeat: Heartbeat) -> None:
    number = _next_number(connection)
    with folder.lock(exclusive=False):
        while number is not None:
            heartbeat.value = time.monotonic()
            for event in producer.produce(number):
                connection.send(event)
            number = _next_number(connection)


def _next_number(connection: Connection) -> int | None:
    """Wait for the number of the next episode; None at the end."""
    wait([connection])
    number: int | None = connection.recv()
    return number


def _follow_parent() -> None:
    """End the process after its supervisor; the arm stops first if possible."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_ORPHAN_S)
        os._exit(1)
