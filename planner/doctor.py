"""Is everything ready to collect or to do a task? Asked of the arm, the disk and the predictor; nothing moves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from configs.command import missing_extra
from ghvae_core.predictor import PredictorSpec
from planner.compatibility import check_compatibility
from planner.config import TaskRunConfig
from planner.plan import PlannerError
from planner.predictors import connect
from robot_bridge.factory import resolve_renderer, run_checks
from robot_bridge.franka.checks import CheckResult, run_check
from robot_bridge.robot import RobotSpec

_FREE_GIB = 2.0  # below, a collection stops between two episodes; collection.free_disk_floor_gib


@dataclass(frozen=True)
class CheckSelection:
    """What is to be looked at beside the arm."""

    server: str | None  # its address; None: a private one would be started
    checkpoint: Path
    out: Path  # where episodes or reports would go


def check_system(selection: CheckSelection, config: TaskRunConfig) -> Iterator[CheckResult]:
    """Yield a finding on each part."""
    if config.robot.kind == "simulation":
        yield run_check("renderer", lambda: _renderer(config))
    yield from run_checks(config.robot)
    yield run_check("disk", lambda: _disk(selection.out))
    if selection.server:
        yield run_check("server", lambda: _server(selection.server or "", config))
    else:
        yield run_check("checkpoint", lambda: _checkpoint(selection.checkpoint))


def _renderer(config: TaskRunConfig) -> str:
    robot = resolve_renderer(config.robot)
    return f"MuJoCo draws through {robot.renderer}" if robot.kind == "simulation" else ""


def _disk(out: Path) -> str:
    there = next(each for each in (out.absolute(), *out.absolute().parents) if each.is_dir())
    free_gib = shutil.disk_usage(there).free / 2**30
    if free_gib < _FREE_GIB:
        raise PlannerError(f"{there}: expected {_FREE_GIB:g} GiB free, got {free_gib:.1f}; make room, or name --out")
    return f"{free_gib:.0f} GiB free at {there}"


def _server(address: str, config: TaskRunConfig) -> str:
    with closing(connect(address, config.planner)) as client:
        robot = config.robot
        check_compatibility(RobotSpec("franka", robot.limits, robot.camera, robot.step_s), client.spec, config.planner)
        return _describe(client.spec)


def _describe(spec: PredictorSpec) -> str:
    return f"{spec.name} fits this arm: {spec.n_context} frames of context, up to {spec.max_candidates} candidates"


def _checkpoint(folder: Path) -> str:
    try:
        from ghvae_core.models.checkpoint_files import read_manifest  # noqa: PLC0415 - torch, where no server is named
    except ModuleNotFoundError as error:
        raise PlannerError(f"{missing_extra(error) or error}, or name a server with --server") from error
    read_manifest(folder)
    return f"{folder} is whole; a private server would load it (name one with --server)"
