"""The supervisor of a collection: episodes by number, in this process or in several, each closed or dropped whole."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import cast

from pydantic import Field

from configs.command import ReportedError
from configs.loader import Config, load
from data_collection.collector import CollectionConfig, Collector
from data_collection.episode import EpisodeError
from data_collection.folder import CollectionError, EpisodeFolder
from data_collection.policy import RandomPolicy
from data_collection.robonet import write_episode
from robot_bridge.simulation.franka import SimulatedFranka, SimulationConfig


class _Sections(Config):
    robot: SimulationConfig
    collection: CollectionConfig


class RunConfig(_Sections):
    """All that decides what a collection contains."""

    seed: int = Field(ge=0)

    @classmethod
    def load(cls, seed: int, overrides: Sequence[str]) -> RunConfig:
        """Read the shipped configuration, changed by `overrides` of its sections `robot` and `collection`."""
        files = {"robot": "robots/simulation.yaml", "collection": "collection/random.yaml"}
        sections = load(_Sections, files, overrides)
        return cls(seed=seed, robot=sections.robot, collection=sections.collection)


@dataclass(frozen=True)
class Closed:
    """One episode that is safely on disk."""

    number: int
    recorded_s: float
    families: list[str]
    dropped: dict[str, int]  # attempts that failed before it, by reason
    n_bytes: int


@dataclass(frozen=True)
class _Failed:
    """The reason why a worker stopped."""

    message: str


class _Producer:
    """Makes episodes and closes them: one arm, one process."""

    def __init__(self, config: RunConfig, folder: EpisodeFolder) -> None:
        self._config = config
        self._folder = folder
        self._robot = SimulatedFranka(config.robot)
        policy = RandomPolicy(config.collection.policy, self._robot.spec)
        self._collector = Collector(self._robot, policy, config.collection)

    def produce(self, number: int) -> Closed:
        """Collect and close one episode.

        Raises:
            CollectionError: The disk is full, or too many attempts failed. No part of a file is left.
        """
        collection, spec = self._config.collection, self._robot.spec
        self._folder.check_space(collection.free_disk_floor_gib)
        episode = self._collector.collect_episode(self._config.seed, number)
        path = self._folder.path / f"{collection.lab}_{spec.name}_{collection.note}_traj{number}.hdf5"
        try:
            write_episode(episode, path, spec)
        except EpisodeError as error:
            raise CollectionError(str(error)) from error
        dropped = dict(self._collector.dropped)
        self._collector.dropped.clear()
        return Closed(
            number,
            float(episode.times_s[-1] - episode.times_s[0]),
            str(episode.info["families"]).split(","),
            dropped,
            path.stat().st_size,
        )

    def close(self) -> None:
        """Let go of the arm."""
        self._robot.close()


def collect(
    config: RunConfig, folder: EpisodeFolder, numbers: Sequence[int], n_workers: int
) -> Generator[Closed, None, None]:
    """Collect the episodes of these numbers, yielding each as it is closed. Their content does not depend on workers.

    When the caller stops early (closes the iterator, or an exception passes through it), open episodes are dropped.

    Raises:
        CollectionError: A worker failed. Every episode that was closed stands.
    """
    if n_workers > 1:
        yield from _collect_apart(config, folder, numbers, min(n_workers, len(numbers)))
        return
    producer = _Producer(config, folder)
    try:
        for number in numbers:
            yield producer.produce(number)
    finally:
        producer.close()


def _collect_apart(
    config: RunConfig, folder: EpisodeFolder, numbers: Sequence[int], n_workers: int
) -> Generator[Closed, None, None]:
    waiting = list(reversed(numbers))
    with _workers(config, folder.path, n_workers) as connections:
        busy: set[Connection] = set()
        for connection in connections:
            connection.send(waiting.pop())
            busy.add(connection)
        while busy:
            for connection in cast("list[Connection]", multiprocessing.connection.wait(list(busy))):
                closed = _receive(connection)
                if waiting:
                    connection.send(waiting.pop())
                else:
                    busy.remove(connection)
                yield closed


def _receive(connection: Connection) -> Closed:
    try:
        message = connection.recv()
    except (EOFError, ConnectionError):
        raise CollectionError("a worker process ended; go on with --resume") from None
    if isinstance(message, _Failed):
        raise CollectionError(message.message)
    closed: Closed = message
    return closed


@contextmanager
def _workers(config: RunConfig, folder: Path, n_workers: int) -> Iterator[list[Connection]]:
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
        EpisodeFolder(folder).discard_unfinished()


def _start_deaf(process: SpawnProcess) -> None:
    """Start a process that ignores Ctrl-C from its first moment: a terminal sends it to all, the supervisor decides."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, before)


def _work(connection: Connection, config: RunConfig, path: Path) -> None:
    """Make the episodes that are asked for until the other side is gone, holding the folder all the while."""
    folder = EpisodeFolder(path)
    try:
        with folder.lock(exclusive=False):
            producer = _Producer(config, folder)
            while True:
                connection.send(producer.produce(connection.recv()))
    except (EOFError, ConnectionError):
        return
    except ReportedError as error:
        connection.send(_Failed(str(error)))
