"""The objects at the start of an episode."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_collection.policies.object_detection import ObjectDetectionConfig
from planner.proposals import DifferenceConfig
from planner.start_scene import StartScene, start_scene
from robot_bridge.camera import model_image
from robot_bridge.robot import Observation
from tests.planner.doubles import SPEC

CONFIGS = (ObjectDetectionConfig(), DifferenceConfig())
GREEN, RED = (40, 200, 40), (210, 40, 40)
PLACES_M = {GREEN: (0.5, -0.1), RED: (0.45, 0.1)}


def _image(places_m: dict[tuple[int, int, int], tuple[float, float]]) -> NDArray[np.uint8]:
    image = np.full((240, 320, 3), 90, np.uint8)
    for color, place_m in places_m.items():
        x, y = (int(v) for v in SPEC.camera.project(np.array([[*place_m, 0.02]]))[0])
        image[y - 9 : y + 9, x - 9 : x + 9] = color
    return image


def _scene(tool_m: tuple[float, float] | None, goal: dict[tuple[int, int, int], tuple[float, float]]) -> StartScene:
    observation = Observation(_image(PLACES_M), np.array([0.6, 0.2, 0.2, 0.0, 1.0]), 0.0)
    at = None if tool_m is None else np.array([*tool_m, 0.02])
    return start_scene(observation, model_image(_image(goal)), SPEC, CONFIGS, at)


def test_objects_that_are_elsewhere_in_the_goal_move_there() -> None:
    scene = _scene(None, {**PLACES_M, RED: (0.6, 0.15)})
    moves, stays = sorted(scene.objects, key=lambda found: not found.moves)
    assert moves.moves and not stays.moves and stays.goal_pixel is None and moves.goal_pixel is not None
    there = SPEC.camera.project(np.array([[0.6, 0.15, 0.02]]))[0]
    assert np.linalg.norm(moves.goal_pixel - there) < 4
    (hidden,) = (found for found in _scene(None, {GREEN: PLACES_M[GREEN]}).objects if found.moves)
    assert hidden.goal_pixel is None


def test_the_tool_is_the_detected_object_at_its_place() -> None:
    scene = _scene(PLACES_M[GREEN], PLACES_M)
    assert scene.tool is not None and scene.tool_pixel is not None
    assert np.linalg.norm(scene.tool.pixel - scene.tool_pixel) < 3
    assert _scene(None, PLACES_M).tool is None
    assert _scene((0.38, -0.2), PLACES_M).tool is None, "nothing was detected there"
