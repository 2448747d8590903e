"""The supervisor of a collection: episodes by number, in this process or in several, each closed or dropped whole."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import cast

from pydantic import Field

from configs.command import ReportedError
from configs.loader import Config, load
from data_collection.collector import CollectionConfig, Collector
from data_collection.episode import EpisodeError
from data_collection.folder import CollectionError, EpisodeFolder
from data_collection.policy import RandomPolicy
from data_collection.robonet import write_episode
from robot_bridge.robot import Robot, RobotError
from robot_bridge.robots import FILES, RobotConfig, RobotName, open_robot, settled


class _Sections(Config):
    robot: RobotConfig
    collection: CollectionConfig


class RunConfig(_Sections):
    """All that decides what a collection contains."""

    seed: int = Field(ge=0)

    @classmethod
    def load(cls, seed: int, overrides: Sequence[str], robot: RobotName = "simulation") -> RunConfig:
        """Read the shipped configuration, changed by `overrides` of its sections `robot` and `collection`.

        Of renderers it names the one that works here, never `auto`, for other renderers make other episodes.

        Raises:
            EpisodeError: The renderer asked for does not work here.
        """
        files = {"robot": FILES[robot], "collection": "collection/random.yaml"}
        sections = load(_Sections, files, overrides)
        try:
            chosen = settled(sections.robot)
        except RobotError as error:
            raise EpisodeError(str(error)) from error
        return cls(seed=seed, robot=chosen, collection=sections.collection)


@dataclass(frozen=True)
class Closed:
    """One episode that is safely on disk."""

    number: int
    recorded_s: float
    families: list[str]
    dropped: dict[str, int]  # attempts that failed before it, by reason
    n_bytes: int


class _Producer:
    """Makes episodes and closes them: one arm, one process."""

    def __init__(self, config: RunConfig, folder: EpisodeFolder, robot: Robot) -> None:
        self._config = config
        self._folder = folder
        self._robot = robot
        policy = RandomPolicy(config.collection.policy, self._robot.spec)
        self._collector = Collector(self._robot, policy, config.collection)

    def produce(self, number: int) -> Closed:
        """Collect and close one episode.

        Raises:
            CollectionError: The disk is full or gone, or too many attempts failed. No part of a file is left.
        """
        try:
            self._folder.check_space(self._config.collection.free_disk_floor_gib)
            episode = self._collector.collect_episode(self._config.seed, number)
            path = self._folder.episode_path(number)
            write_episode(episode, path, self._robot.spec)
            n_bytes = path.stat().st_size
        except (EpisodeError, RobotError, OSError) as error:
            raise CollectionError(str(error), self._take_dropped()) from error
        return Closed(
            number,
            float(episode.times_s[-1] - episode.times_s[0]),
            str(episode.info["families"]).split(","),
            self._take_dropped(),
            n_bytes,
        )

    def _take_dropped(self) -> dict[str, int]:
        dropped = dict(self._collector.dropped)
        self._collector.dropped.clear()
        return dropped


def collect(
    config: RunConfig, folder: EpisodeFolder, numbers: Sequence[int], n_workers: int, robot: Robot
) -> Generator[Closed, None, None]:
    """Collect the episodes of these numbers, yielding each as it is closed. Their content does not depend on workers.

    A single worker is this process, with `robot`; several have an arm of `config.robot` each.

    When the caller stops early (closes the iterator, or an exception passes through it), open episodes are dropped.

    Raises:
        CollectionError: A worker failed. Every episode that was closed stands.
    """
    if n_workers > 1:
        yield from _collect_apart(config, folder, numbers, min(n_workers, len(numbers)))
        return
    producer = _Producer(config, folder, robot)
    for number in numbers:
        yield producer.produce(number)


def _collect_apart(
    config: RunConfig, folder: EpisodeFolder, numbers: Sequence[int], n_workers: int
) -> Generator[Closed, None, None]:
    waiting = list(reversed(numbers))
    failures: list[CollectionError] = []
    with _workers(config, folder, n_workers) as connections:
        for connection in connections:
            _ask(connection, waiting.pop())
        busy = set(connections)
        while busy:
            for connection in cast("list[Connection]", multiprocessing.connection.wait(list(busy))):
                answer = _receive(connection)
                if isinstance(answer, CollectionError):
                    failures.append(answer)
                    waiting.clear()  # the others end what they have begun
                if waiting:
                    _ask(connection, waiting.pop())
                else:
                    busy.remove(connection)
                if isinstance(answer, Closed):
                    yield answer
    if failures:
        dropped: Counter[str] = Counter()
        for failure in failures:
            dropped.update(failure.dropped)
        raise CollectionError(str(failures[0]), dropped)


def _ask(connection: Connection, number: int) -> None:
    with suppress(ConnectionError):  # a worker that is gone has left its reason for `_receive`
        connection.send(number)


def _receive(connection: Connection) -> Closed | CollectionError:
    try:
        answer: Closed | CollectionError = connection.recv()
    except (EOFError, ConnectionError):
        return CollectionError("a worker process ended; go on with --resume")
    return answer


@contextmanager
def _workers(config: RunConfig, folder: EpisodeFolder, n_workers: int) -> Iterator[list[Connection]]:
    """Start processes that make episodes on demand; on the way out all are ended and what they left is removed."""
    context = multiprocessing.get_context("spawn")
    processes: list[SpawnProcess] = []
    connections: list[Connection] = []
    try:
        for _ in range(n_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, config, folder), daemon=True)
            _start_deaf(process)
            theirs.close()
            processes.append(process)
            connections.append(ours)
        yield connections
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
        folder.discard_unfinished()


def _start_deaf(process: SpawnProcess) -> None:
    """Start a process that ignores Ctrl-C from its first moment: a terminal sends it to all, the supervisor decides."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)


def _work(connection: Connection, config: RunConfig, folder: EpisodeFolder) -> None:
    """Make the episodes that are asked for until the other side is gone, holding the folder all the while."""
    with suppress(EOFError, ConnectionError):
        try:
            with folder.lock(exclusive=False), closing(open_robot(config.robot)) as robot:
                producer = _Producer(config, folder, robot)
                while True:
                    connection.send(producer.produce(connection.recv()))
        except CollectionError as error:
            connection.send(error)
        except ReportedError as error:
            connection.send(CollectionError(str(error)))
