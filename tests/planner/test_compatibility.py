"""Each incompatibility is refused by name."""

from dataclasses import replace

import pytest

from ghvae_core.goal_cost import GoalCost
from ghvae_core.predictor import MismatchError
from planner.compatibility import check_compatibility
from planner.solver import SolverConfig
from robot_bridge.camera import Crop
from tests.planner.doubles import PREDICTOR_SPEC, SPEC

CONFIG = SolverConfig()
WORKSPACE_M = (SPEC.limits.workspace_low_m, SPEC.limits.workspace_high_m)
TRAINED = replace(PREDICTOR_SPEC, workspace_m=WORKSPACE_M, camera=SPEC.camera)


def test_a_compatible_predictor_is_accepted() -> None:
    check_compatibility(SPEC, PREDICTOR_SPEC, CONFIG)


def test_rounding_of_a_scale_is_accepted() -> None:
    check_compatibility(SPEC, replace(PREDICTOR_SPEC, step_limit_m=0.20001), CONFIG)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image_px", 128),
        ("action_dim", 5),
        ("step_limit_m", 0.05),
        ("step_limit_m", float("nan")),
        ("step_s", 1.0),
        ("n_context", 0),
    ],
)
def test_an_incompatible_predictor_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(MismatchError, match=name):
        check_compatibility(SPEC, replace(PREDICTOR_SPEC, **{name: value}), CONFIG)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("horizon", 11), ("n_candidates", 201)])
def test_a_planner_above_the_limits_is_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(MismatchError, match=rf"{name}: the planner requires {value}"):
        check_compatibility(SPEC, PREDICTOR_SPEC, CONFIG.model_copy(update={name: value}))


def test_an_unsupported_cost_term_is_refused_by_name_with_a_fix() -> None:
    cost = SolverConfig(cost=GoalCost(steps=0.1, lpips=0.1))
    with pytest.raises(MismatchError, match=r"cost\.lpips: .* supports pixel; cost\.steps: .*predictor\.distance"):
        check_compatibility(SPEC, PREDICTOR_SPEC, cost)
    check_compatibility(SPEC, replace(PREDICTOR_SPEC, terms=("pixel", "lpips", "steps")), cost)


def test_equal_workspace_and_camera_are_accepted() -> None:
    check_compatibility(SPEC, TRAINED, CONFIG)


@pytest.mark.parametrize(
    ("low_m", "high_m", "words"),
    [
        ((0.3, -0.23, 0.012), WORKSPACE_M[1], r"workspace_low_m: the robot has \(0\.34, .*trained with \(0\.3, "),
        (WORKSPACE_M[0], (0.66, 0.23, 0.3), r"workspace_high_m: the robot has .* 0\.22\), .* with .* 0\.3\)"),
        (WORKSPACE_M[0], (0.66, float("nan"), 0.22), r"workspace_high_m: .* nan, "),
    ],
)
def test_another_workspace_is_refused_with_both_values(
    low_m: tuple[float, float, float], high_m: tuple[float, float, float], words: str
) -> None:
    with pytest.raises(MismatchError, match=words):
        check_compatibility(SPEC, replace(TRAINED, workspace_m=(low_m, high_m)), CONFIG)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("height_px", 480, "the robot has 240, the predictor was trained with 480"),
        ("width_px", 640, "the robot has 320, the predictor was trained with 640"),
        ("crop", Crop(top_px=0, left_px=40, height_px=240, width_px=240), "the robot has None, .*left_px=40"),
        ("position_m", (0.885, 0.02, 0.495), r"the robot has \(0\.885, 0, 0\.495\), .*\(0\.885, 0\.02, 0\.495\)"),
        ("target_m", (0.445, 0.02, 0.055), r"the robot has \(0\.445, 0, 0\.055\), .*\(0\.445, 0\.02, 0\.055\)"),
        ("fovy_rad", 0.9, r"the robot has 0\.84, the predictor was trained with 0\.9"),
    ],
)
def test_another_camera_is_refused_with_both_values(name: str, value: object, words: str) -> None:
    camera = SPEC.camera.model_copy(update={name: value})
    with pytest.raises(MismatchError, match=rf"camera\.{name}.*: {words}"):
        check_compatibility(SPEC, replace(TRAINED, camera=camera), CONFIG)


def test_two_calibrations_of_one_camera_are_accepted() -> None:
    # A point further along the same axis is the same direction, and a few millimetres are within the tolerance.
    camera = SPEC.camera.model_copy(
        update={"position_m": (0.89, 0.002, 0.493), "target_m": (0.335, 0.0, -0.055), "fovy_rad": 0.845}
    )
    check_compatibility(SPEC, replace(TRAINED, camera=camera), CONFIG)


def test_all_differences_are_named_together() -> None:
    with pytest.raises(MismatchError, match=r"step_limit_m: .*step_s: .*horizon: "):
        check_compatibility(SPEC, replace(PREDICTOR_SPEC, step_limit_m=0.1, step_s=1.0, max_horizon=3), CONFIG)
    assert MismatchError.exit_code == 2
