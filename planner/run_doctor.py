"""The command that says whether everything is ready, and what to do where it is not."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from configs.command import run
from planner.trials.variant import SECTIONS, SHIPPED

if TYPE_CHECKING:
    from robot_bridge.franka.checks import CheckResult


def run_doctor(  # noqa: PLR0917 - typer calls it by name
    robot: Annotated[
        Literal["simulation", "franka_ros", "franka_direct"], typer.Option(help="which arm")
    ] = "franka_ros",
    task: Annotated[str, typer.Option(help="whose planning must fit the server")] = "pick_wipe",
    server: Annotated[str | None, typer.Option(help="address of a server, to shake hands with")] = None,
    checkpoint: Annotated[Path, typer.Option(help="folder of the model, where --server is not given")] = SHIPPED,
    out: Annotated[Path, typer.Option(help="where episodes or reports would be written")] = Path(),
    json_: Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help=SECTIONS)] = None,
) -> None:
    """Look at the arm, its driver, the camera, the clock, the disk and the server; nothing is commanded or moved.

    Of franka_ros: the ROS master, the driver's release by md5, its topics, services and controllers, rate and age of
    state and pictures, the robot mode, the hand's frame and place, the fingers, and the clocks. Of franka_direct: the
    arm's answer, rate of state and pictures, the robot mode, the hand's frame and place, and the fingers.

    Exits with 0 where all is ready, 1 where something is not, 2 when the input was refused.
    """
    from planner.config import load_run  # noqa: PLC0415 - what --help need not load
    from planner.doctor import CheckSelection, check_system  # noqa: PLC0415

    file = task if task.endswith(".yaml") else f"tasks/{task}.yaml"
    config = load_run(file, set_ or (), robot)
    results: list[CheckResult] = []
    for result in check_system(CheckSelection(server, checkpoint, out), config):
        results.append(result)
        if not json_:
            _show(result)
    n_wrong = sum(not result.passed for result in results)
    if json_:
        print(json.dumps({"is_ready": n_wrong == 0, "findings": [asdict(result) for result in results]}))
    else:
        print(f"{n_wrong} of {len(results)} are not as they must be" if n_wrong else f"all {len(results)} are well")
    sys.exit(1 if n_wrong else 0)


def _show(result: CheckResult) -> None:
    print(f"{'ok   ' if result.passed else 'WRONG'} {result.name:<10} {result.detail}", flush=True)
    if result.fix:
        print(f"      {'':<10} -> {result.fix}", flush=True)


def main() -> None:
    """Run the command."""
    run(run_doctor)


if __name__ == "__main__":
    main()
