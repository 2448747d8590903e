"""Command that takes the goal image with the robot's own camera, cropped as in training."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import ghvae_foresight  # noqa: F401 - refuses folders that hide our packages
from configs.command import print_result, refuse_unused, run
from configs.progress import announce
from planner.options import DEFAULT_ROBOT, HELP_ROBOT, HELP_SET, RobotChoice, task_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from planner.config import TaskRunConfig
    from robot_bridge.factory import RealConfig


_PATIENCE_S = 60.0  # to wait for a scene at rest; ours


_Task = Annotated[
    str | None,
    typer.Option(help="Simulation only: task that the scripted policy completes (default: pick_wipe)."),
]
_Seed = Annotated[
    int | None, typer.Option(min=0, help="Simulation only: seed of the scene, as run_task --seed (default: 0).")
]
_Start = Annotated[
    Path | None,
    typer.Option(help="Real robot only: image of the scene before the task; the goal must differ from it."),
]
_Patience = Annotated[
    float | None,
    typer.Option(min=0.1, help="Real robot only: maximum time to wait for a scene at rest (default: 60)."),
]


def run_goal(  # noqa: PLR0917 - typer calls it by name
    goal: Annotated[
        Path, typer.Argument(help="PNG to write, 64x64. A large preview is written next to it as GOAL.preview.png.")
    ],
    robot: Annotated[RobotChoice, typer.Option(help=HELP_ROBOT)] = DEFAULT_ROBOT,
    task: _Task = None,
    seed: _Seed = None,
    start: _Start = None,
    patience_s: _Patience = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help=HELP_SET)] = None,
) -> None:
    """Take the goal image of a task. Arrange the scene as the goal, step back and wait.

    The image is taken when the camera image is recent, bright and sharp, and the scene has been at rest for one second.
    Standard error shows why the command is still waiting. The arm does not move. In simulation, the scripted policy
    does the task in a copy of the scene, and its last camera image is the goal.
    """
    if robot == "simulation":
        refuse_unused({"--start": start is not None, "--patience-s": patience_s is not None}, "in simulation")
    else:
        refuse_unused({"--task": task is not None, "--seed": seed is not None}, f"with --robot {robot}")
    with announce("loading libraries"):
        from data_collection.atomic_io import write_file  # noqa: PLC0415 - what --help need not load
        from data_collection.reports.images import png_bytes  # noqa: PLC0415
        from planner.config import load_run  # noqa: PLC0415
        from planner.goal import GoalError, preview  # noqa: PLC0415
        from robot_bridge.camera import model_image  # noqa: PLC0415

    preview_file = goal.with_suffix(".preview.png")
    exists = goal.exists() or preview_file.exists()
    if goal.suffix != ".png" or (exists and not force) or not goal.parent.is_dir():
        raise GoalError(
            f"{goal}: expected a new PNG in an existing folder; choose another name, or replace it with --force"
        )
    config = load_run(task_file(task or "pick_wipe"), set_ or (), robot)
    camera = config.robot.camera
    if config.robot.kind == "simulation":
        with announce("doing the task in a copy of the scene"):
            image = _scripted(config, seed or 0)
    else:
        image = _live(config.robot, start, patience_s or _PATIENCE_S)
    write_file(preview_file, preview(image, camera))
    write_file(goal, png_bytes(model_image(image, camera.crop)))
    print_result({"goal": str(goal), "preview": str(preview_file)})


def _live(robot: RealConfig, start: Path | None, timeout_s: float) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) of a real robot's camera, once the scene rests."""
    from planner.goal import GoalCapture, capture_goal, load_goal  # noqa: PLC0415
    from robot_bridge.factory import open_camera  # noqa: PLC0415

    before = load_goal(start, robot.camera) if start else None
    with open_camera(robot) as read:
        return capture_goal(read, GoalCapture(robot.camera, before), timeout_s, _report)


def _report(reason: str) -> None:
    print(f"waiting: {reason}", file=sys.stderr, flush=True)


def _scripted(config: TaskRunConfig, seed: int) -> NDArray[np.uint8]:
    """Return an image (H, W, 3) of the simulated scene after the scripted policy."""
    import numpy as np  # noqa: PLC0415

    from planner.goal import scripted_goal  # noqa: PLC0415
    from robot_bridge.factory import resolve_renderer  # noqa: PLC0415
    from robot_bridge.simulation.franka import SimulatedFranka  # noqa: PLC0415

    robot_config = resolve_renderer(config.robot)
    assert robot_config.kind == "simulation"  # noqa: S101 - checked by the caller
    with closing(SimulatedFranka(robot_config)) as robot:
        robot.reset(np.random.default_rng(seed).spawn(2)[0])
        return scripted_goal(robot, seed)


def main() -> None:
    """Run the command."""
    run(run_goal)


if __name__ == "__main__":
    main()
