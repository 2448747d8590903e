"""Proposals: the difference to the goal, and candidates after the safety limits."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from data_collection.policies.object_detection import ObjectDetectionConfig
from data_collection.policies.primitives import GoalDifference
from data_collection.policies.random_policy import PolicyConfig
from planner.plan import HOLD, PREVIOUS, PlanningState
from planner.proposals import DifferenceConfig, Proposals, find_difference
from robot_bridge.camera import Crop, model_image
from robot_bridge.robot import Observation, RobotError, RobotSpec
from robot_bridge.safety import limit_actions
from robot_bridge.simulation.scripted_policy import make_goal
from tests.planner.doubles import SPEC, planning_state, with_rest
from tests.robot_bridge.simulated import franka

PURPLE, GREEN, ORANGE = (150, 0, 200), (60, 220, 20), (250, 150, 0)
Disc = tuple[tuple[float, float], float, tuple[int, int, int]]  # position, radius in pixels, colour


def _image(*discs: Disc) -> NDArray[np.uint8]:
    image = np.full((240, 320, 3), 45, np.uint8)
    rows, columns = np.mgrid[:240, :320]
    for place, radius, colour in discs:
        column, row = SPEC.camera.project(np.array([[*place, 0.02]]))[0]
        image[(columns - column) ** 2 + (rows - row) ** 2 < radius**2] = colour
    return image


def _difference(
    now: NDArray[np.uint8], goal: NDArray[np.uint8], opening: float = 1.0, spec: RobotSpec = SPEC
) -> GoalDifference:
    observation = Observation(now, np.array([0.5, -0.15, 0.1, 0.0, opening]), 0.0)
    return find_difference(
        observation, model_image(goal, spec.camera.crop), spec, ObjectDetectionConfig(), DifferenceConfig()
    )


def test_a_moved_object_is_found_with_its_place_in_the_goal() -> None:
    plate, start, moved = ((0.5, 0.0), 30, PURPLE), ((0.5, 0.0), 8, GREEN), ((0.45, 0.15), 8, GREEN)
    held, others = _difference(_image(plate, start), _image(plate, moved))
    assert held is None and len(others) == 1
    assert others[0].goal_pixel is not None
    now, goal = SPEC.camera.project(np.array([[0.5, 0.0, 0.02], [0.45, 0.15, 0.02]]))
    np.testing.assert_allclose(others[0].pixel, now, atol=1.0)
    np.testing.assert_allclose(others[0].goal_pixel, goal, atol=2.0)  # a model pixel is 5 x 4 of the camera's


def test_an_object_hidden_in_the_goal_has_no_place_there() -> None:
    (hidden,) = _difference(_image(((0.5, 0.0), 8, GREEN)), _image()).others
    assert hidden.goal_pixel is None


def test_a_partly_covered_object_has_not_moved() -> None:
    plate, cover = ((0.5, 0.0), 30, PURPLE), ((0.5, 0.06), 20, (240, 240, 240))
    assert _difference(_image(plate), _image(plate, cover)).others == []


def test_objects_out_of_reach_or_outside_the_crop_are_left_out() -> None:
    reach = ((0.5, 0.0), 8, GREEN)
    far = ((0.3, 0.2), 8, ORANGE)  # 4 cm outside the workspace
    assert len(_difference(_image(reach, far), _image()).others) == 1
    column, row = SPEC.camera.project(np.array([[0.5, 0.0, 0.02]]))[0]
    around = Crop(top_px=int(row) - 40, left_px=int(column) - 40, height_px=80, width_px=80)
    right = Crop(top_px=0, left_px=int(column) + 9, height_px=240, width_px=320 - int(column) - 9)
    spec = replace(SPEC, camera=SPEC.camera.model_copy(update={"crop": right}))
    same = _image(reach)
    assert _difference(same, same, spec=spec).others == []
    spec = replace(SPEC, camera=SPEC.camera.model_copy(update={"crop": around}))
    assert len(_difference(same, _image(), spec=spec).others) == 1


def test_equal_images_have_no_difference() -> None:
    same = _image(((0.5, 0.0), 20, PURPLE), ((0.4, 0.1), 8, ORANGE))
    assert _difference(same, same) == GoalDifference(None, [])


def test_an_object_at_the_fingertips_is_held_when_they_are_apart() -> None:
    hand = ((0.5, -0.15), 8, ORANGE)
    at_hand = SPEC.camera.project(np.array([[0.5, -0.15, 0.1]]))[0]
    now = _image(((0.4, 0.1), 8, GREEN))
    rows, columns = np.mgrid[:240, :320]
    now[(columns - at_hand[0]) ** 2 + (rows - at_hand[1] - 8) ** 2 < 64] = ORANGE
    goal = _image(((0.6, 0.1), 8, GREEN), hand)
    closed = _difference(now, goal, opening=0.5)
    assert closed.held is not None and len(closed.others) == 1
    np.testing.assert_allclose(closed.held.pixel, at_hand + np.array([0, 8]), atol=1)
    assert _difference(now, goal, opening=1.0).held is None
    far = _difference(_image(((0.4, 0.1), 8, GREEN)), goal, opening=0.5)
    assert far.held is not None and far.held.goal_pixel is None and len(far.others) == 1  # it is not visible


def test_an_object_held_at_its_place_in_the_goal_is_still_held() -> None:
    at_hand = SPEC.camera.project(np.array([[0.5, -0.15, 0.1]]))[0]
    rows, columns = np.mgrid[:240, :320]
    now = _image(((0.4, 0.1), 8, GREEN))
    now[(columns - at_hand[0]) ** 2 + (rows - at_hand[1] - 8) ** 2 < 100] = ORANGE
    goal = now.copy()
    goal[(goal == GREEN).all(-1)] = 45
    found = _difference(now, goal, opening=0.5)
    assert found.held is not None and found.held.goal_pixel is not None and len(found.others) == 1


@pytest.mark.parametrize("task", ["pick_wipe", "pick_sweep"])
def test_in_the_task_scenes_the_difference_is_the_tool_and_the_targets(task: str) -> None:
    """Unseen tools and objects, the goal as 64x64 image, the camera off its calibration by up to a centimetre."""
    robot = franka(scene=task, split="test")
    found = []
    for seed in range(6):
        observation = robot.reset(np.random.default_rng(seed))
        try:
            goal = model_image(make_goal(robot))
        except RobotError:
            continue
        others = find_difference(observation, goal, robot.spec, ObjectDetectionConfig(), DifferenceConfig()).others
        assert robot.scene.task is not None
        names = [robot.scene.task.tool.name, *robot.scene.task.targets]
        places = SPEC.camera.unproject(np.stack([each.pixel for each in others]), 0.02)[:, :2]
        near = [np.linalg.norm(places - robot.position(name)[:2], axis=1).min() < 0.03 for name in names]
        found.append(all(near) and len(others) == len(names))
    robot.close()
    assert np.mean(found) >= 0.7, found  # an object may hide another


@pytest.fixture
def proposals() -> Proposals:
    return Proposals(PolicyConfig(), DifferenceConfig(), SPEC)


@pytest.mark.parametrize("seed", range(5))
def test_every_candidate_is_already_limited(proposals: Proposals, seed: int) -> None:
    rest = np.array([[0.9, -0.9, -0.9, 0.3]] * 3, np.float32)  # far beyond every limit
    start = with_rest(rest)
    drawn = proposals.draw(start, 50, 10, np.random.default_rng(seed))
    assert drawn.actions.shape == (50, 10, 4) and drawn.actions.dtype == np.float32 and len(drawn.families) == 50
    again = limit_actions(drawn.actions, start.observation.state[:3], SPEC.limits)
    np.testing.assert_allclose(again, drawn.actions, atol=1e-6)
    hands = start.observation.state[:3] + drawn.actions[:, :, :3].cumsum(1)
    assert (hands > np.array(SPEC.limits.workspace_low_m) - 1e-6).all()
    assert (hands < np.array(SPEC.limits.workspace_high_m) + 1e-6).all()
    assert set(np.unique(drawn.actions[..., 3])) <= {-1.0, 1.0}


@pytest.mark.parametrize("gripper", [-1.0, 1.0])
def test_the_first_candidate_holds_still_with_the_gripper_as_it_is(proposals: Proposals, gripper: float) -> None:
    start = PlanningState(**{**vars(planning_state()), "gripper": gripper})
    drawn = proposals.draw(start, 8, 4, np.random.default_rng(0))
    assert drawn.families[0] == HOLD and PREVIOUS not in drawn.families
    np.testing.assert_array_equal(drawn.actions[0], [[0, 0, 0, gripper]] * 4)


def test_the_rest_of_the_previous_plan_is_continued_by_holding_still(proposals: Proposals) -> None:
    rest = np.array([[0.01, 0, 0, 1], [0, 0.02, 0, 1]], np.float32)
    drawn = proposals.draw(with_rest(rest), 8, 4, np.random.default_rng(0))
    assert drawn.families[:2] == [HOLD, PREVIOUS]
    np.testing.assert_allclose(drawn.actions[1], [*rest, [0, 0, 0, 1], [0, 0, 0, 1]], atol=1e-7)


def test_a_longer_rest_is_cut_to_the_horizon(proposals: Proposals) -> None:
    rest = np.tile(np.array([0.001, 0, 0, -1], np.float32), (7, 1))
    assert proposals.draw(with_rest(rest), 8, 3, np.random.default_rng(0)).actions.shape == (8, 3, 4)
