"""What sweeps are worth on a table that stays: how many things lie at its edge, with sweeps and without."""

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

_EDGE = 0.6  # of the workspace's sides is the middle


class Spell(NamedTuple):
    """One table, played on for a while."""

    at_edge: float  # share of its objects, on average over episodes
    moved: float  # share of episodes
    lifted: float  # share of episodes
    dropped: int  # attempts
    swept_s: float  # share of the simulated time


def table_reset(
    every: Annotated[list[int] | None, typer.Option(help="Episodes between two sweeps; 0: never.")] = None,
    tables: Annotated[int, typer.Option(min=1, help="Different tables, each played on.")] = 4,
    episodes: Annotated[int, typer.Option(min=2, help="On each.")] = 50,
    steps: Annotated[int, typer.Option(min=1, help="Of an episode.")] = 30,
) -> None:
    """Play on tables that stay, and print a line for each interval between sweeps; mean and standard error over tables.

    Where things really are is asked of the simulator, and told to nobody but this table.
    """
    print("| a sweep every | objects at the edge | episodes that move one | that lift one | attempts dropped | time |")
    print("|---|---|---|---|---|---|")
    for interval in every or [0, 25, 10]:
        spells = [_play(interval, table, episodes, steps) for table in range(tables)]
        cells = [
            _percent([getattr(spell, name) for spell in spells]) for name in ("at_edge", "moved", "lifted", "swept_s")
        ]
        dropped = sum(spell.dropped for spell in spells)
        name = f"{interval} episodes" if interval else "never"
        print(f"| {name} | {cells[0]} | {cells[1]} | {cells[2]} | {dropped} | {cells[3]} |", flush=True)


def _play(interval: int, table: int, episodes: int, steps: int) -> Spell:
    settings = ["robot.resets_per_scene=0", f"collection.n_steps={steps}"]
    settings += [f"collection.table_reset.sweep_every={interval or 10**6}"]
    settings += [] if interval else ["collection.table_reset.idle_episodes_before_reset=1000000"]
    config = CollectionRunConfig.load(0, settings)
    robot = open_robot(config.robot)
    assert isinstance(robot, SimulatedFranka)
    edge: list[float] = []
    kept: list[CollectedEpisode] = []
    dropped, recorded_s = 0, 0.0
    with closing(robot):
        collector = Collector(robot, config.collection)
        for number in range(episodes):
            for told in collector.attempts(table, number):
                if isinstance(told, CollectedEpisode):
                    kept.append(told)
                    recorded_s += float(told.episode.times_s[-1])
                else:
                    dropped += 1
            edge.append(_at_edge(robot))
        spent_s = robot.simulated_s
    info = [told.episode.info for told in kept]
    moved = np.mean([float(each["objects_moved_m"]) >= MOVED_M for each in info])
    lifted = np.mean([bool(each["lifted"]) for each in info])
    return Spell(float(np.mean(edge)), float(moved), float(lifted), dropped, 1 - recorded_s / spent_s)


def _at_edge(robot: SimulatedFranka) -> float:
    """Return which share of the objects lies outside the middle."""
    low, high = (bound[:2] for bound in robot.spec.state_bounds())
    places = np.array([robot.position(placed.name)[:2] for placed in robot.scene.objects])
    away = np.abs(places - (low + high) / 2) > _EDGE * (high - low) / 2
    return float(away.any(axis=1).mean())


def _percent(values: list[float]) -> str:
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{100 * np.mean(values):.0f} ± {100 * error:.0f} %"


def main() -> NoReturn:
    """Run the command."""
    run(table_reset)


if __name__ == "__main__":
    main()
