"""Command that checks whether robot, disk and predictor are ready, and reports how to fix what is not."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import ghvae_foresight  # noqa: F401 - refuses folders that hide our packages
from configs.command import print_result, refuse_unused, run
from configs.progress import announce, counted
from planner.options import (
    DEFAULT_ROBOT,
    HELP_CHECKPOINT,
    HELP_ROBOT,
    HELP_SET,
    SHIPPED,
    RobotChoice,
    task_file,
)

if TYPE_CHECKING:
    from robot_bridge.franka.checks import CheckResult


def run_doctor(  # noqa: PLR0917 - typer calls it by name
    robot: Annotated[RobotChoice, typer.Option(help=HELP_ROBOT)] = DEFAULT_ROBOT,
    task: Annotated[
        str, typer.Option(help="Task whose configuration must be compatible with the server.")
    ] = "pick_wipe",
    server: Annotated[str | None, typer.Option(help="Address of a running server to check.")] = None,
    checkpoint: Annotated[Path, typer.Option(help=HELP_CHECKPOINT)] = SHIPPED,
    out: Annotated[Path, typer.Option(help="Output folder whose free disk space is checked.")] = Path(),
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object only.")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help=HELP_SET)] = None,
) -> None:
    """Check the robot, its driver, the camera, the clock, the disk and the server. Nothing is commanded or moved.

    franka_ros: the ROS master, the release of the driver by md5, its topics, services and controllers, the rate and age
    of states and images, the robot mode, the hand's frame and position, the gripper, and the clocks. franka_direct: the
    connection, the rate of states and images, the robot mode, the hand's frame and position, and the gripper.

    Exit codes: 0 when all checks passed, 1 when a check failed, 2 when the input was refused.
    """
    refuse_unused({"--checkpoint": server is not None and checkpoint != SHIPPED}, "with --server")
    with announce("loading libraries"):
        from planner.config import load_run  # noqa: PLC0415 - what --help need not load
        from planner.doctor import CheckSelection, check_system  # noqa: PLC0415

    config = load_run(task_file(task), set_ or (), robot)
    results: list[CheckResult] = []
    for result in check_system(CheckSelection(server, checkpoint, out), config):
        results.append(result)
        if not json_:
            _show(result)
    n_failed = sum(not result.passed for result in results)
    if json_:
        print_result({"is_ready": n_failed == 0, "checks": [asdict(result) for result in results]})
    else:
        print(
            f"{n_failed} of {counted(len(results), 'check')} failed"
            if n_failed
            else f"all {len(results)} checks passed"
        )
    sys.exit(1 if n_failed else 0)


def _show(result: CheckResult) -> None:
    print(f"{'ok  ' if result.passed else 'FAIL'} {result.name:<10} {result.detail}", flush=True)
    if result.fix:
        print(f"     {'':<10} -> {result.fix}", flush=True)


def main() -> None:
    """Run the command."""
    run(run_doctor)


if __name__ == "__main__":
    main()
