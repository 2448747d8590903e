"""Whether robot, predictor and planner fit together; asked before anything moves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ghvae_core.predictor import MismatchError, PredictorSpec
from planner.solver import SolverConfig
from robot_bridge.camera import MODEL_IMAGE_PX, Camera
from robot_bridge.robot import ACTION_DIM, RobotSpec

# Closer than this two calibrations of one camera need not be; both move the model image by about a pixel. Ours.
_POSITION_M = 0.01
_ANGLE_RAD = 0.015
_HOW = {"steps": "; name its network with predictor.distance, or start the server with it"}
_DECIMALS = 1e-3  # of a config, relative: not a difference in kind
_WORKSPACE_M = 1e-3  # a config's decimals, not a difference in kind; ours


def check_compatibility(robot: RobotSpec, predictor: PredictorSpec, planner: SolverConfig) -> None:
    """Compare what the three say of themselves.

    Raises:
        MismatchError: They do not fit; the message names each disagreement. Nothing moved.
    """
    wrong = [*_images_and_actions(robot, predictor), *_request(predictor, planner)]
    if predictor.workspace_m is not None:
        wrong += _workspace(robot, predictor.workspace_m)
    if predictor.camera is not None:
        wrong += _camera(robot.camera, predictor.camera)
    if wrong:
        raise MismatchError(
            f"the robot, the planner and the predictor '{predictor.name}' differ in " + "; ".join(wrong)
        )


def _images_and_actions(robot: RobotSpec, predictor: PredictorSpec) -> Iterator[str]:
    if predictor.image_px != MODEL_IMAGE_PX:
        yield f"image_px: the planner sends {MODEL_IMAGE_PX}, the predictor expects {predictor.image_px}"
    if predictor.action_dim != ACTION_DIM:
        yield f"action_dim: the robot has {ACTION_DIM}, the predictor expects {predictor.action_dim}"
    if predictor.n_context < 1:
        yield f"n_context: expected at least 1, the predictor says {predictor.n_context}"
    ours, theirs = robot.limits.step_limit_m, predictor.step_limit_m
    if not math.isclose(ours, theirs, rel_tol=_DECIMALS):
        yield f"step_limit_m: {_differ(f'{ours:g}', f'{theirs:g}')}"
    if robot.step_s < predictor.step_s * (1 - _DECIMALS):  # slower is fine: the hand rests at both ends of a step
        yield f"step_s: the robot's {robot.step_s:g} is shorter than the predictor's {predictor.step_s:g}"


def _request(predictor: PredictorSpec, planner: SolverConfig) -> Iterator[str]:
    for name, wanted, most in (
        ("horizon", planner.horizon, predictor.max_horizon),
        ("n_candidates", planner.largest_request(), predictor.max_candidates),
    ):
        if wanted > most:
            yield f"{name}: the planner wants {wanted}, the predictor takes at most {most}"
    for term in planner.cost.terms():
        if term not in predictor.terms:
            can = ", ".join(predictor.terms)
            yield f"cost.{term}: the planner wants it weighed, the predictor can weigh {can}{_HOW.get(term, '')}"


def _workspace(robot: RobotSpec, trained: tuple[Sequence[float], Sequence[float]]) -> Iterator[str]:
    """Say where the box in which the hand moves is another one than in training."""
    ours = (robot.limits.workspace_low_m, robot.limits.workspace_high_m)
    for name, here, there in zip(("workspace_low_m", "workspace_high_m"), ours, trained, strict=True):
        if not np.allclose(here, there, rtol=0, atol=_WORKSPACE_M):
            yield f"{name}: {_differ(_vector(here), _vector(there))}"


def _camera(ours: Camera, trained: Camera) -> Iterator[str]:
    """Say where the camera sees something else than it did in training: what it frames, from where, and whither."""
    for name in ("height_px", "width_px", "crop"):
        here, there = getattr(ours, name), getattr(trained, name)
        if here != there:
            yield f"camera.{name}: {_differ(str(here), str(there))}"
    if not math.dist(ours.position_m, trained.position_m) <= _POSITION_M:
        yield f"camera.position_m: {_differ(_vector(ours.position_m), _vector(trained.position_m))}"
    forward, forward_trained = ours.axes()[2], trained.axes()[2]
    if not np.linalg.norm(forward - forward_trained) <= _ANGLE_RAD:  # chord and angle are equal where it matters
        towards = _differ(_vector(ours.target_m), _vector(trained.target_m))
        yield f"camera.target_m, by its direction: {towards}"
    if abs(ours.fovy_rad - trained.fovy_rad) > _ANGLE_RAD:
        yield f"camera.fovy_rad: {_differ(f'{ours.fovy_rad:g}', f'{trained.fovy_rad:g}')}"


def _differ(robot: str, predictor: str) -> str:
    return f"the robot has {robot}, the predictor was trained with {predictor}"


def _vector(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
