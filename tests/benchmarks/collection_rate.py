"""Rate of simulated episodes, compared with the rate of the simulator alone."""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from configs.command import run
from data_collection.collection.config import CollectionRunConfig
from data_collection.collection.events import ClosedEvent
from data_collection.collection.worker import EpisodeProducer
from data_collection.formats.robonet import read_episode
from data_collection.storage.folder import EpisodeFolder
from robot_bridge.factory import open_robot
from robot_bridge.simulation.franka import SimulatedFranka


class _Clock:
    """Sums the CPU time of the simulator's own steps."""

    def __init__(self, robot: SimulatedFranka) -> None:
        self.cpu_s = 0.0
        attach = robot._attach

        def timed(*arguments: object) -> None:
            attach(*arguments)  # type: ignore[arg-type]
            tick = robot._arm._tick

            def counted() -> None:
                began_s = time.process_time()
                tick()
                self.cpu_s += time.process_time() - began_s

            robot._arm._tick = counted  # type: ignore[method-assign]

        robot._attach = timed  # type: ignore[method-assign,assignment]


def collection_rate(
    episodes: Annotated[int, typer.Option(min=1, help="Number of episodes.")] = 20,
    steps: Annotated[int, typer.Option(min=1, help="Steps per episode.")] = 50,
) -> None:
    """Collect in one process, and print its CPU time and that of the simulator's own steps, which is the limit."""
    config = CollectionRunConfig.load(0, [f"collection.n_steps={steps}", "collection.free_disk_floor_gib=0"])
    robot = open_robot(config.robot)
    assert isinstance(robot, SimulatedFranka)
    clock = _Clock(robot)
    with tempfile.TemporaryDirectory() as name, closing(robot):
        folder = EpisodeFolder(Path(name), config.stem("franka"))
        producer = EpisodeProducer(config, folder, robot)
        list(producer.produce(0))  # warm-up
        clock.cpu_s, began_s, n_bytes = 0.0, time.process_time(), 0
        attempts = 0
        for number in range(1, episodes + 1):
            for event in producer.produce(number):
                attempts += 1
                n_bytes += event.row.n_bytes if isinstance(event, ClosedEvent) else 0
        whole_s = (time.process_time() - began_s) / episodes
        paths = [folder.episode_path(number) for number in range(1, episodes + 1)]
        began_s = time.process_time()
        for path in paths:
            read_episode(path)
        read_s = (time.process_time() - began_s) / episodes
    raw_s = clock.cpu_s / episodes
    summary = {
        "episodes": episodes,
        "steps": steps,
        "attempts": attempts,
        "cpu_s_per_episode": round(whole_s, 3),
        "episodes_per_cpu_s": round(1 / whole_s, 3),
        "simulator_alone_cpu_s": round(raw_s, 3),
        "simulator_alone_episodes_per_cpu_s": round(1 / raw_s, 3),
        "ratio": round(raw_s / whole_s, 3),
        "reading_cpu_s": round(read_s, 4),
        "kb_per_episode": round(n_bytes / episodes / 1000, 1),
        "hours_for_5000_on_2_cores": round(5000 * whole_s / 2 / 3600, 3),
    }
    print(json.dumps(summary, indent=1))


def main() -> NoReturn:
    """Run the command."""
    run(collection_rate)


if __name__ == "__main__":
    main()
