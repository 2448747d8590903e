"""Checks whether robot, disk and predictor are ready to collect data or to run a task. Nothing moves."""

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
from robot_bridge.factory import resolve_renderer, run_checks, spec_of
from robot_bridge.franka.checks import CheckResult, run_check

_MIN_FREE_GIB = 2.0  # as supervision.free_disk_floor_gib: with less, a collection stops


@dataclass(frozen=True)
class CheckSelection:
    """The checks in addition to those of the robot."""

    server: str | None  # address; None: check the checkpoint of a private server
    checkpoint: Path
    out: Path  # output folder; need not exist


def check_system(selection: CheckSelection, config: TaskRunConfig) -> Iterator[CheckResult]:
    """Yield one result for each check, as it completes."""
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
    return f"MuJoCo renders with {robot.renderer}" if robot.kind == "simulation" else ""


def _disk(out: Path) -> str:
    folder = next(each for each in (out.absolute(), *out.absolute().parents) if each.is_dir())
    free_gib = shutil.disk_usage(folder).free / 2**30
    if free_gib < _MIN_FREE_GIB:
        raise PlannerError(
            f"{folder}: expected {_MIN_FREE_GIB:g} GiB free, got {free_gib:.1f}; "
            "free some space, or choose another folder with --out"
        )
    return f"{free_gib:.0f} GiB free at {folder}"


def _server(address: str, config: TaskRunConfig) -> str:
    with closing(connect(address, config.planner)) as client:
        check_compatibility(spec_of(config.robot), client.spec, config.planner)
        return _describe(client.spec)


def _describe(spec: PredictorSpec) -> str:
    return f"{spec.name} is compatible: {spec.n_context} frames of context, up to {spec.max_candidates} candidates"


def _checkpoint(folder: Path) -> str:
    try:
        from ghvae_core.models.checkpoint_files import read_manifest  # noqa: PLC0415 - torch, which a server does without
    except ModuleNotFoundError as error:
        raise PlannerError(f"{missing_extra(error) or error}, or give a server with --server") from error
    read_manifest(folder)
    return f"{folder} is complete; it is loaded by a private server where --server is not given"
