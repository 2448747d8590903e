"""Candidates that move the objects that differ from the goal."""

import numpy as np
import pytest
from numpy.typing import NDArray

from data_collection.policies.primitives import (
    CARRY_TO,
    PUSH_TO,
    USE_ON,
    GoalDifference,
    ObjectGoal,
    Primitives,
    PrimitivesConfig,
)
from robot_bridge.camera import Camera
from robot_bridge.robot import CLOSE, OPEN, RobotSpec
from robot_bridge.safety import MotionLimits, limit_actions

SPEC = RobotSpec(
    name="franka",
    limits=MotionLimits(workspace_low_m=(0.34, -0.23, 0.012), workspace_high_m=(0.66, 0.23, 0.22), step_limit_m=0.2),
    camera=Camera(
        height_px=240, width_px=320, position_m=(0.885, 0.0, 0.495), target_m=(0.445, 0.0, 0.055), fovy_rad=0.84
    ),
    step_s=0.6,
)
STATE = np.array([0.45, 0.0, 0.15, 0.0, 1.0])
TOOL_M, OBJECT_M, THERE_M = np.array([0.5, -0.14]), np.array([0.52, 0.02]), np.array([0.52, 0.16])


def _object(here_m: NDArray[np.float64], there_m: NDArray[np.float64] | None) -> ObjectGoal:
    pixels = SPEC.camera.project(np.array([[*place, 0.02] for place in (here_m, there_m) if place is not None]))
    return ObjectGoal(pixels[0], None if there_m is None else pixels[1])


TOOL, TARGET = _object(TOOL_M, np.array([0.5, 0.1])), _object(OBJECT_M, THERE_M)


def _exact(**changes: object) -> Primitives:
    exact = {"aim_sd_m": 0.0, "turn_sd_rad": 0.0, "seen_height_m": (0.02, 0.02), "grasp_height_m": (0.02, 0.02)}
    return Primitives(PrimitivesConfig.model_validate({**exact, **changes}), SPEC)


def _draw(
    primitives: Primitives, difference: GoalDifference, n: int = 200, horizon: int = 10
) -> tuple[NDArray[np.float64], list[str]]:
    drawn = primitives.sequences(difference, STATE, n, horizon, np.random.default_rng(0))
    assert drawn.actions.shape == (n, horizon, 4) and len(drawn.families) == n
    np.testing.assert_allclose(limit_actions(drawn.actions, STATE[:3], SPEC.limits), drawn.actions, atol=1e-6)
    return STATE[:3] + drawn.actions[..., :3].cumsum(1), drawn.families


def test_without_a_goal_difference_there_are_no_candidates() -> None:
    drawn = Primitives(PrimitivesConfig(), SPEC).sequences(
        GoalDifference(None, []), STATE, 5, 10, np.random.default_rng(0)
    )
    assert drawn.actions.shape == (0, 10, 4) and drawn.families == []


def test_the_families_have_their_fractions() -> None:
    _, families = _draw(Primitives(PrimitivesConfig(), SPEC), GoalDifference(None, [TOOL, TARGET]), n=1000)
    assert families.count(USE_ON) / 1000 == pytest.approx(0.9, abs=0.03)
    assert families.count(PUSH_TO) / 1000 == pytest.approx(0.1 * 0.3, abs=0.015)


def test_one_object_is_brought_or_pushed_but_a_held_one_is_not_pushed() -> None:
    assert set(_draw(_exact(), GoalDifference(None, [TARGET]))[1]) == {CARRY_TO, PUSH_TO}
    assert set(_draw(_exact(), GoalDifference(TOOL, []))[1]) == {CARRY_TO}
    assert set(_draw(_exact(), GoalDifference(TOOL, [TARGET]))[1]) == {USE_ON, CARRY_TO}


def test_a_tool_is_grasped_and_moved_over_the_target_towards_its_place() -> None:
    primitives = _exact(use_fraction=1.0, one_target_fraction=0.0)
    drawn = primitives.sequences(GoalDifference(None, [TOOL, TARGET]), STATE, 100, 14, np.random.default_rng(0))
    hands = STATE[:3] + drawn.actions[..., :3].cumsum(1)
    stroked = 0
    for path, actions in zip(hands, drawn.actions, strict=True):
        closes = int(np.argmax(actions[:, 3] == CLOSE))
        assert (actions[:closes, 3] == OPEN).all() and (actions[closes:, 3] == CLOSE).all()
        assert path[closes, 2] == pytest.approx(0.02, abs=1e-4)
        grasped = min((TOOL_M, OBJECT_M), key=lambda place: float(np.linalg.norm(path[closes, :2] - place)))
        np.testing.assert_allclose(path[closes, :2], grasped, atol=1e-3)
        low = path[closes + 1 :][path[closes + 1 :, 2] < 0.05]
        if grasped is TOOL_M:  # the stroke starts behind the target and ends before its place, along its way
            assert len(low) >= 2
            np.testing.assert_allclose(low[:, 0], OBJECT_M[0], atol=1e-3)
            assert low[0, 1] < OBJECT_M[1] - 0.04 and OBJECT_M[1] < low[-1, 1] < THERE_M[1] + 0.03
            stroked += 1
    assert 30 < stroked < 70  # the primitives do not choose the tool


def test_a_held_tool_is_used_without_opening_the_gripper() -> None:
    drawn = _exact(use_fraction=1.0).sequences(GoalDifference(TOOL, [TARGET]), STATE, 50, 10, np.random.default_rng(0))
    assert (drawn.actions[..., 3] == CLOSE).all()


def test_a_brought_object_ends_where_the_goal_shows_it() -> None:
    difference = GoalDifference(None, [TARGET])
    drawn = _exact(push_to_fraction=0.0, hang_m=(0.0, 0.0)).sequences(
        difference, STATE, 100, 12, np.random.default_rng(0)
    )
    hands = STATE[:3] + drawn.actions[..., :3].cumsum(1)
    carried = drawn.actions[:, -1, 3] == CLOSE
    assert 20 < carried.sum() < 80
    assert TARGET.goal_pixel is not None
    seen = SPEC.camera.project(hands[carried, -1])
    np.testing.assert_allclose(seen, np.tile(TARGET.goal_pixel, (len(seen), 1)), atol=0.5)
    np.testing.assert_allclose(hands[~carried, -1, :2], np.tile(THERE_M, ((~carried).sum(), 1)), atol=1e-3)


@pytest.mark.parametrize("held", [True, False])
def test_objects_hidden_in_the_goal_are_moved(held: bool) -> None:
    hidden = _object(OBJECT_M, None)
    difference = GoalDifference(hidden, [hidden]) if held else GoalDifference(None, [hidden, hidden])
    hands, _ = _draw(Primitives(PrimitivesConfig(), SPEC), difference)
    assert np.isfinite(hands).all()


def test_hidden_objects_are_pulled_to_the_goal_of_the_tool() -> None:
    """A tool held 10 cm above its goal hides the object below it in the goal image."""
    above = SPEC.camera.project(np.array([[0.42, 0.15, 0.1]]))[0]
    held, hidden = ObjectGoal(TOOL.pixel, above), _object(OBJECT_M, None)
    towards = np.array([0.42, 0.15]) - OBJECT_M

    def along(share: float) -> NDArray[np.float64]:
        primitives = _exact(behind_tool_fraction=share, use_fraction=1.0, carry_height_m=(0.1, 0.1), hang_m=(0.0, 0.0))
        hands, families = _draw(primitives, GoalDifference(held, [hidden]))
        assert set(families) == {USE_ON}
        low = [hand[hand[:, 2] < 0.05][:, :2] for hand in hands]
        ways = np.array([places[-1] - places[0] for places in low if len(places) > 1])
        lengths = np.linalg.norm(ways, axis=1) * np.linalg.norm(towards)
        return np.asarray((ways @ towards)[lengths > 0] / lengths[lengths > 0])

    assert (along(1.0) > 0.99).all() and (along(0.0) < 0.5).any()


def test_the_same_seed_draws_the_same() -> None:
    primitives, difference = Primitives(PrimitivesConfig(), SPEC), GoalDifference(None, [TOOL, TARGET])
    first, second = (primitives.sequences(difference, STATE, 20, 10, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(first.actions, second.actions)
    assert first.families == second.families
