"""Effect of sweeps during a long collection on one table: objects at the edge, with and without sweeps."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, NamedTuple, NoReturn

import numpy as np
import typer

from configs.command import run
from data_collection.collection.collector import CollectedEpisode, Collector
from data_collection.collection.config import CollectionRunConfig
from data_collection.policies.object_detection import MOVED_M
from robot_bridge.factory import open_robot
from robot_bridge.simulation.franka import SimulatedFranka

_EDGE = 0.6  # fraction of the workspace's sides that counts as the middle


class TableResult(NamedTuple):
    """Results of all episodes on one table."""

    at_edge: float  # fraction of the objects, mean over episodes
    moved: float  # fraction of episodes
    lifted: float  # fraction of episodes
    dropped: int  # attempts
    swept_s: float  # fraction of the simulated time


def table_reset(
    every: Annotated[list[int] | None, typer.Option(help="Episodes between two sweeps; 0: never.")] = None,
    tables: Annotated[int, typer.Option(min=1, help="Number of different tables.")] = 4,
    episodes: Annotated[int, typer.Option(min=2, help="Episodes per table.")] = 50,
    steps: Annotated[int, typer.Option(min=1, help="Steps per episode.")] = 30,
) -> None:
    """Collect on unchanged tables; print mean and standard error over tables for each interval between sweeps.

    Object positions are read from the simulator, for this benchmark only.
    """
    print("| sweep every | objects at the edge | an object moved | an object lifted | dropped episodes | sweeping |")
    print("|---|---|---|---|---|---|")
    for interval in every or [0, 25, 10]:
        results = [_collect(interval, table, episodes, steps) for table in range(tables)]
        cells = [
            _percent([getattr(result, name) for result in results])
            for name in ("at_edge", "moved", "lifted", "swept_s")
        ]
        dropped = sum(result.dropped for result in results)
        name = f"{interval} episodes" if interval else "never"
        print(f"| {name} | {cells[0]} | {cells[1]} | {cells[2]} | {dropped} | {cells[3]} |", flush=True)


def _collect(interval: int, table: int, episodes: int, steps: int) -> TableResult:
    settings = ["robot.resets_per_scene=0", f"collection.n_steps={steps}"]
    settings += [f"collection.table_reset.sweep_every={interval or 10**6}"]
    settings += [] if interval else ["collection.table_reset.idle_episodes_before_reset=1000000"]
    config = CollectionRunConfig.load(0, settings)
    robot = open_robot(config.robot)
    assert isinstance(robot, SimulatedFranka)
    edge: list[float] = []
    collected_episodes: list[CollectedEpisode] = []
    dropped, recorded_s = 0, 0.0
    with closing(robot):
        collector = Collector(robot, config.collection)
        for number in range(episodes):
            for collected in collector.attempts(table, number):
                if isinstance(collected, CollectedEpisode):
                    collected_episodes.append(collected)
                    recorded_s += float(collected.episode.times_s[-1])
                else:
                    dropped += 1
            edge.append(_at_edge(robot))
        spent_s = robot.simulated_s
    info = [collected.episode.info for collected in collected_episodes]
    moved = np.mean([float(each["objects_moved_m"]) >= MOVED_M for each in info])
    lifted = np.mean([bool(each["lifted"]) for each in info])
    return TableResult(float(np.mean(edge)), float(moved), float(lifted), dropped, 1 - recorded_s / spent_s)


def _at_edge(robot: SimulatedFranka) -> float:
    """Return the fraction of the objects outside the middle."""
    low, high = (bound[:2] for bound in robot.spec.state_bounds())
    positions = np.array([robot.position(placed.name)[:2] for placed in robot.scene.objects])
    is_outside = np.abs(positions - (low + high) / 2) > _EDGE * (high - low) / 2
    return float(is_outside.any(axis=1).mean())


def _percent(values: list[float]) -> str:
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{100 * np.mean(values):.0f} ± {100 * error:.0f} %"


def main() -> NoReturn:
    """Run the command."""
    run(table_reset)


if __name__ == "__main__":
    main()
