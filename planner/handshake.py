"""Whether robot, predictor and planner fit together; asked before anything moves."""

from __future__ import annotations

import math

from ghvae_core.predictor import MismatchError, PredictorSpec
from planner.shooting import ShootingConfig
from robot_bridge.camera import MODEL_IMAGE_PX
from robot_bridge.robot import ACTION_DIM, RobotSpec


def check_fit(robot: RobotSpec, predictor: PredictorSpec, planner: ShootingConfig) -> None:
    """Compare what the three say of themselves.

    Raises:
        MismatchError: They do not fit; the message names each disagreement. Nothing moved.
    """
    wrong = []
    if predictor.image_px != MODEL_IMAGE_PX:
        wrong.append(f"image_px: the planner sends {MODEL_IMAGE_PX}, the predictor expects {predictor.image_px}")
    if predictor.action_dim != ACTION_DIM:
        wrong.append(f"action_dim: the robot has {ACTION_DIM}, the predictor expects {predictor.action_dim}")
    if predictor.n_context < 1:
        wrong.append(f"n_context: expected at least 1, the predictor says {predictor.n_context}")
    for name, ours, theirs in (
        ("step_limit_m", robot.limits.step_limit_m, predictor.step_limit_m),
        ("step_s", robot.step_s, predictor.step_s),
    ):
        if not math.isclose(ours, theirs, rel_tol=1e-3):  # a config's decimals, not a difference in kind
            wrong.append(f"{name}: the robot has {ours:g}, the predictor was trained with {theirs:g}")
    for name, wanted, most in (
        ("horizon", planner.horizon, predictor.max_horizon),
        ("n_candidates", planner.n_candidates, predictor.max_candidates),
    ):
        if wanted > most:
            wrong.append(f"{name}: the planner wants {wanted}, the predictor takes at most {most}")
    if wrong:
        raise MismatchError(
            f"the robot, the planner and the predictor '{predictor.name}' differ in " + "; ".join(wrong)
        )
