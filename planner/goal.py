"""The goal picture: read, checked, and compared with the present."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from planner.plan import PlannerError
from robot_bridge.camera import MODEL_IMAGE_PX, Camera, model_image
from robot_bridge.robot import RobotError

if TYPE_CHECKING:
    from robot_bridge.simulation.franka import SimulatedFranka


class GoalError(PlannerError):
    """A goal picture that cannot be planned towards. Nothing moved and nothing was written."""


def load_goal(path: Path, camera: Camera) -> NDArray[np.uint8]:
    """Read a goal picture, PNG or JPEG, of the model's size or exactly of the camera's.

    Args:
        path: The picture.
        camera: The camera that the robot looks through; its crop is what the model sees of a full picture.

    Returns:
        (64, 64, 3) uint8 RGB. A picture of the model's size is returned as it is.

    Raises:
        GoalError: No such file, no picture, or one of another size. It is never resized to fit: a picture of another
            shape was taken by another camera or cropped by hand.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise GoalError(f"{path}: expected a goal picture, PNG or JPEG; {error.strerror}") from None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise GoalError(f"{path}: expected a goal picture, PNG or JPEG, got {len(data)} bytes that are neither")
    height, width = image.shape[:2]
    if (height, width) not in {(MODEL_IMAGE_PX, MODEL_IMAGE_PX), (camera.height_px, camera.width_px)}:
        raise GoalError(
            f"{path}: expected {MODEL_IMAGE_PX}x{MODEL_IMAGE_PX} or {camera.height_px}x{camera.width_px} "
            f"(height x width), got {height}x{width}; take the goal picture with the robot's own camera"
        )
    rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    return model_image(rgb, camera.crop)


def scripted_goal(robot: SimulatedFranka, seed: int) -> NDArray[np.uint8]:
    """Return what the scripted arm makes of the present scene, (H, W, 3) RGB; the robot does not move.

    Raises:
        GoalError: The script fails in it.
    """
    from robot_bridge.simulation.scripted_policy import make_goal  # noqa: PLC0415 - MuJoCo, which a real arm does without

    try:
        return make_goal(robot)
    except RobotError as error:
        raise GoalError(
            f"the scripted arm does not succeed in the scene of seed {seed}; try another seed or give --goal"
        ) from error


def difference(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the root of the mean squared difference of two images of one shape, on the scale 0 to 255."""
    return float(np.sqrt(np.mean((image.astype(np.float64) - other) ** 2)))


def check_goal(goal: NDArray[np.uint8], present: NDArray[np.uint8], least_difference: float) -> None:
    """Refuse a goal that shows nothing, or nothing but the present.

    Args:
        goal: (64, 64, 3) uint8 RGB.
        present: (64, 64, 3) uint8 RGB, the robot's own view, not yet moved.
        least_difference: As `difference` measures; below it two images are the same but for camera noise.

    Raises:
        GoalError: There is nothing to be done.
    """
    contrast = float(goal.std(axis=(0, 1)).max())
    if contrast < least_difference:
        raise GoalError(
            f"expected a goal picture that shows a scene, got one of a single colour (deviation {contrast:.1f} "
            f"of 255, at least {least_difference:g} wanted); was the lens covered?"
        )
    got = difference(goal, present)
    if got < least_difference:
        raise GoalError(
            f"expected a goal that differs from the present scene by at least {least_difference:g} of 255 (root mean "
            f"square), got {got:.2f}; put the objects back where the task begins, or take another goal picture"
        )
