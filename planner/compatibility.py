"""Checks that robot, predictor and planner are compatible, before anything moves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ghvae_core.predictor import MismatchError, PredictorSpec
from planner.solver import SolverConfig
from robot_bridge.camera import MODEL_IMAGE_PX, Camera
from robot_bridge.robot import ACTION_DIM, RobotSpec

# Tolerances between two calibrations of one camera; each moves the model image by about one pixel. Ours.
_POSITION_M = 0.01
_ANGLE_RAD = 0.015
_FIXES = {"steps": "; set its network with predictor.distance, or start the server with it"}
_DECIMALS = 1e-3  # relative; rounding of decimals in a config; ours
_WORKSPACE_M = 1e-3  # rounding of decimals in a config; ours


def check_compatibility(robot: RobotSpec, predictor: PredictorSpec, planner: SolverConfig) -> None:
    """Compare image sizes, action scale, context, horizon, cost, workspace and camera.

    Args:
        robot: Specification of the robot.
        predictor: Specification of the predictor.
        planner: Configuration of the solver.

    Raises:
        MismatchError: They are not compatible; the message names each difference. Nothing moved.
    """
    mismatches = [*_images_and_actions(robot, predictor), *_request(predictor, planner)]
    if predictor.workspace_m is not None:
        mismatches += _workspace(robot, predictor.workspace_m)
    if predictor.camera is not None:
        mismatches += _camera(robot.camera, predictor.camera)
    if mismatches:
        raise MismatchError(
            f"the robot, the planner and the predictor '{predictor.name}' differ in " + "; ".join(mismatches)
        )


def _images_and_actions(robot: RobotSpec, predictor: PredictorSpec) -> Iterator[str]:
    if predictor.image_px != MODEL_IMAGE_PX:
        yield f"image_px: the planner sends {MODEL_IMAGE_PX}, the predictor expects {predictor.image_px}"
    if predictor.action_dim != ACTION_DIM:
        yield f"action_dim: the robot has {ACTION_DIM}, the predictor expects {predictor.action_dim}"
    if predictor.n_context < 1:
        yield f"n_context: expected at least 1, the predictor has {predictor.n_context}"
    ours, theirs = robot.limits.step_limit_m, predictor.step_limit_m
    if not math.isclose(ours, theirs, rel_tol=_DECIMALS):
        yield f"step_limit_m: {_differ(f'{ours:g}', f'{theirs:g}')}"
    if robot.step_s < predictor.step_s * (1 - _DECIMALS):  # a longer step is allowed: the hand rests at both ends
        yield f"step_s: the robot's {robot.step_s:g} is shorter than the predictor's {predictor.step_s:g}"


def _request(predictor: PredictorSpec, planner: SolverConfig) -> Iterator[str]:
    for name, requested, limit in (
        ("horizon", planner.horizon, predictor.max_horizon),
        ("n_candidates", planner.largest_request(), predictor.max_candidates),
    ):
        if requested > limit:
            yield f"{name}: the planner requires {requested}, the predictor accepts at most {limit}"
    for term in planner.cost.terms():
        if term not in predictor.terms:
            known = ", ".join(predictor.terms)
            yield f"cost.{term}: the planner requires this term, the predictor supports {known}{_FIXES.get(term, '')}"


def _workspace(robot: RobotSpec, trained: tuple[Sequence[float], Sequence[float]]) -> Iterator[str]:
    """Yield the differences between the robot's workspace and that of the training data."""
    ours = (robot.limits.workspace_low_m, robot.limits.workspace_high_m)
    for name, here, there in zip(("workspace_low_m", "workspace_high_m"), ours, trained, strict=True):
        if not np.allclose(here, there, rtol=0, atol=_WORKSPACE_M):
            yield f"{name}: {_differ(_vector(here), _vector(there))}"


def _camera(ours: Camera, trained: Camera) -> Iterator[str]:
    """Yield the differences in crop, position, direction and angle of view between the two cameras."""
    for name in ("height_px", "width_px", "crop"):
        here, there = getattr(ours, name), getattr(trained, name)
        if here != there:
            yield f"camera.{name}: {_differ(str(here), str(there))}"
    if not math.dist(ours.position_m, trained.position_m) <= _POSITION_M:
        yield f"camera.position_m: {_differ(_vector(ours.position_m), _vector(trained.position_m))}"
    forward, forward_trained = ours.axes()[2], trained.axes()[2]
    if not np.linalg.norm(forward - forward_trained) <= _ANGLE_RAD:  # chord and angle are equal for small angles
        difference = _differ(_vector(ours.target_m), _vector(trained.target_m))
        yield f"camera.target_m, by its direction: {difference}"
    if abs(ours.fovy_rad - trained.fovy_rad) > _ANGLE_RAD:
        yield f"camera.fovy_rad: {_differ(f'{ours.fovy_rad:g}', f'{trained.fovy_rad:g}')}"


def _differ(robot: str, predictor: str) -> str:
    return f"the robot has {robot}, the predictor was trained with {predictor}"


def _vector(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
