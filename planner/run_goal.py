"""The command that takes a goal picture through the robot's own camera, cropped exactly as in training."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from configs.command import run
from planner.trials.variant import SECTIONS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from planner.config import TaskRunConfig
    from robot_bridge.factory import RealConfig


def run_goal(  # noqa: PLR0917 - typer calls it by name
    goal: Annotated[Path, typer.Argument(help="the PNG to write, 64x64; beside it GOAL.preview.png, for people")],
    robot: Annotated[
        Literal["simulation", "franka_ros", "franka_direct"], typer.Option(help="whose camera")
    ] = "franka_ros",
    task: Annotated[str, typer.Option(help="in simulation: whose scene the scripted arm finishes")] = "pick_wipe",
    seed: Annotated[int, typer.Option(min=0, help="in simulation: draws the scene, as run_task --seed does")] = 0,
    start: Annotated[
        Path | None, typer.Option(help="a picture of the scene before the task, from which the goal must differ")
    ] = None,
    patience_s: Annotated[float, typer.Option(min=0.1, help="longest wait for a scene that rests")] = 60.0,
    force: Annotated[bool, typer.Option("--force", help="replace a file that exists")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help=SECTIONS)] = None,
) -> None:
    """Take the goal picture of a task: put the scene as it should become, step back, and wait.

    The picture is taken when the camera is well (fresh, bright enough, sharp) and nothing has moved for a second; why
    it is not taken yet is said on standard error. The arm does not move. In simulation the scripted arm does the task
    in a twin of the scene, and its last view is the goal.
    """
    from data_collection.atomic_io import write_file  # noqa: PLC0415
    from data_collection.reports.images import png_bytes  # noqa: PLC0415 - what --help need not load
    from planner.config import load_run  # noqa: PLC0415
    from planner.goal import GoalError, preview  # noqa: PLC0415
    from robot_bridge.camera import model_image  # noqa: PLC0415

    shown = goal.with_suffix(".preview.png")
    is_taken = goal.exists() or shown.exists()
    if goal.suffix != ".png" or (is_taken and not force) or not goal.parent.is_dir():
        raise GoalError(f"{goal}: expected a new PNG in a folder that exists; name another, or replace it with --force")
    config = load_run(task if task.endswith(".yaml") else f"tasks/{task}.yaml", set_ or (), robot)
    camera = config.robot.camera
    picture = _scripted(config, seed) if config.robot.kind == "simulation" else _live(config.robot, start, patience_s)
    write_file(shown, preview(picture, camera))
    write_file(goal, png_bytes(model_image(picture, camera.crop)))
    print(json.dumps({"goal": str(goal), "preview": str(shown)}))


def _live(robot: RealConfig, start: Path | None, patience_s: float) -> NDArray[np.uint8]:
    from planner.goal import GoalCapture, capture_goal, load_goal  # noqa: PLC0415
    from robot_bridge.factory import open_camera  # noqa: PLC0415

    before = load_goal(start, robot.camera) if start else None
    with open_camera(robot) as see:
        return capture_goal(see, GoalCapture(robot.camera, before), patience_s, _tell)


def _tell(why: str) -> None:
    print(f"waiting: {why}", file=sys.stderr, flush=True)


def _scripted(config: TaskRunConfig, seed: int) -> NDArray[np.uint8]:
    import numpy as np  # noqa: PLC0415

    from planner.goal import scripted_goal  # noqa: PLC0415
    from robot_bridge.factory import resolve_renderer  # noqa: PLC0415
    from robot_bridge.simulation.franka import SimulatedFranka  # noqa: PLC0415

    robot_config = resolve_renderer(config.robot)
    assert robot_config.kind == "simulation"  # noqa: S101 - asked by the caller
    with closing(SimulatedFranka(robot_config)) as robot:
        robot.reset(np.random.default_rng(seed).spawn(2)[0])
        return scripted_goal(robot, seed)


def main() -> None:
    """Run the command."""
    run(run_goal)


if __name__ == "__main__":
    main()
