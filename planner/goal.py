"""The goal picture: read, checked, and compared with the present."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from data_collection.reports.images import filmstrip, png_bytes
from planner.plan import PlannerError
from robot_bridge.camera import MODEL_IMAGE_PX, Camera, camera_image, model_image
from robot_bridge.robot import CameraFault, RobotError

if TYPE_CHECKING:
    from robot_bridge.simulation.franka import SimulatedFranka


_STILL_S = 1.0  # ours: for so long nothing may move before the picture is taken
_STILL_DIFFERENCE = 2.0  # of 255, root mean square of two model images: more than a camera's noise; as task.yaml
_LEAST_CONTRAST = 2.0  # of 255, deviation of a channel: less shows nothing; as `check_goal`
_LEAST_SHARPNESS = 20.0  # ours: variance of the Laplacian, on the grey scale of 255; less is out of focus


class GoalCapture:
    """Judges one picture after the other."""

    def __init__(self, camera: Camera, start: NDArray[np.uint8] | None) -> None:
        """Know the model image (64, 64, 3) from which the goal must differ, if there is one."""
        self._camera, self._start = camera, start
        self._rest: NDArray[np.uint8] | None = None  # the first of the pictures that have been alike
        self._since_s = 0.0  # when it came

    def check(self, picture: NDArray[np.uint8], now_s: float) -> str:
        """Return why a picture (H, W, 3) is no goal yet, or an empty text."""
        seen = model_image(picture, self._camera.crop)
        if self._rest is None or difference(seen, self._rest) > _STILL_DIFFERENCE:
            self._rest, self._since_s = seen, now_s
        if fault := self._fault(picture, seen):
            return fault
        if now_s - self._since_s < _STILL_S:
            return "something moves; take your hands out of the picture"
        return ""

    def _fault(self, picture: NDArray[np.uint8], seen: NDArray[np.uint8]) -> str:
        contrast = float(seen.std(axis=(0, 1)).max())
        if contrast < _LEAST_CONTRAST:
            return f"the picture shows a single colour (deviation {contrast:.1f}); uncover the lens"
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        sharpness = float(cv2.Laplacian(grey, cv2.CV_64F).var())
        if sharpness < _LEAST_SHARPNESS:
            return f"the picture is blurred (sharpness {sharpness:.0f}, at least {_LEAST_SHARPNESS:g}); focus the lens"
        if self._start is not None:
            differs = difference(seen, self._start)
            if differs < _STILL_DIFFERENCE:
                return f"the scene is still as at the start ({differs:.1f} of 255 away); put it as it should become"
        return ""


def capture_goal(
    see: Callable[[], NDArray[np.uint8]], capture: GoalCapture, patience_s: float, tell: Callable[[str], None]
) -> NDArray[np.uint8]:
    """Return the first picture (H, W, 3) that is a goal.

    Args:
        see: Returns the camera's picture of now.
        capture: Judges it.
        patience_s: How long to wait.
        tell: Is told why there is none yet, each time that changes.

    Raises:
        GoalError: Patience is over.
    """
    deadline_s = time.monotonic() + patience_s
    told = ""
    while True:
        try:
            picture = see()
            why = capture.check(picture, time.monotonic())
            if not why:
                return picture
        except CameraFault as fault:
            why = str(fault)
        if time.monotonic() > deadline_s:
            raise GoalError(f"expected a scene to picture within {patience_s:g} s, got none: {why}")
        if why != told:
            told = why
            tell(why)


def preview(picture: NDArray[np.uint8], camera: Camera) -> bytes:
    """Return a PNG for people: what the camera sees, its crop framed, and under it what the model sees of that.

    Args:
        picture: (H, W, 3) uint8 RGB.
        camera: That took it.
    """
    framed = picture.copy()
    if camera.crop is not None:
        rows, columns = camera.crop.rows(), camera.crop.columns()
        cv2.rectangle(framed, (columns.start, rows.start), (columns.stop - 1, rows.stop - 1), (255, 0, 0), 2)
    seen = camera_image(model_image(picture, camera.crop), camera)
    return png_bytes(filmstrip({"the camera": framed[None], "the model": seen[None]}))


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


def check_goal(goal: NDArray[np.uint8], present: NDArray[np.uint8], min_goal_distance: float) -> None:
    """Refuse a goal that shows nothing, or nothing but the present.

    Args:
        goal: (64, 64, 3) uint8 RGB.
        present: (64, 64, 3) uint8 RGB, the robot's own view, not yet moved.
        min_goal_distance: As `difference` measures; below it two images are the same but for camera noise.

    Raises:
        GoalError: There is nothing to be done.
    """
    contrast = float(goal.std(axis=(0, 1)).max())
    if contrast < min_goal_distance:
        raise GoalError(
            f"expected a goal picture that shows a scene, got one of a single colour (deviation {contrast:.1f} "
            f"of 255, at least {min_goal_distance:g} wanted); was the lens covered?"
        )
    got = difference(goal, present)
    if got < min_goal_distance:
        raise GoalError(
            f"expected a goal that differs from the present scene by at least {min_goal_distance:g} of 255 (root mean "
            f"square), got {got:.2f}; put the objects back where the task begins, or take another goal picture"
        )
