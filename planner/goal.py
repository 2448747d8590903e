"""The goal image: reading it, checking it against the present, and taking it with the robot's camera."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from configs.loader import FOLDER
from data_collection.reports.images import filmstrip, png_bytes
from planner.plan import PlannerError
from robot_bridge.camera import MODEL_IMAGE_PX, Camera, camera_image, model_image
from robot_bridge.robot import CameraFault, RobotError

if TYPE_CHECKING:
    from robot_bridge.simulation.franka import SimulatedFranka

_DEMOS = FOLDER / "goals"  # goal images of the package, each in the scene of seed 0 of the task of its name
_STILL_S = 1.0  # ours: how long the scene must rest before the image is taken
_STILL_DISTANCE = 2.0  # of 255, RMS of two model images: above a camera's noise; as TaskConfig.min_goal_distance
_FORMATS = {"PNG": (b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"), "JPEG": (b"\xff\xd8\xff", b"\xff\xd9")}  # start, end
_MIN_CONTRAST = 2.0  # of 255, standard deviation of a channel: a lower one is a single colour; as `check_goal`
_MIN_SHARPNESS = 20.0  # ours: variance of the Laplacian of the grey image of 255; a lower one is out of focus


class GoalError(PlannerError):
    """A goal image that cannot be used. Nothing moved and nothing was written."""


def image_distance(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Return the root mean square difference of two images of one shape, on the scale 0 to 255."""
    return float(np.sqrt(np.mean((image.astype(np.float64) - other) ** 2)))


def goal_file(path: Path) -> Path:
    """Return the file of a goal image: the packaged one of a demonstration for `demo:NAME`, otherwise the path itself.

    Raises:
        GoalError: No demonstration has this name.
    """
    kind, colon, name = str(path).partition(":")
    if not colon or kind != "demo":
        return path
    file = _DEMOS / f"{name}.png"
    known = sorted(each.stem for each in _DEMOS.glob("*.png"))
    if name not in known:
        raise GoalError(f"{path}: expected the goal of a demonstration: {', '.join(f'demo:{each}' for each in known)}")
    return file


def load_goal(path: Path, camera: Camera) -> NDArray[np.uint8]:
    """Read a goal image, PNG or JPEG, of the model's size or of the camera's size.

    Args:
        path: The file.
        camera: The robot's camera. An image of its size is cropped and scaled as the model's input is.

    Returns:
        (64, 64, 3) uint8 RGB. An image of the model's size is returned unchanged.

    Raises:
        GoalError: The file is missing, is not an image, or has another size. An image of another size comes from
            another camera or was cropped by hand; it is never resized.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise GoalError(f"{path}: expected a goal image, PNG or JPEG; {error.strerror}") from None
    if fault := _fault(data):
        raise GoalError(f"{path}: expected a goal image, PNG or JPEG, got {fault}")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise GoalError(f"{path}: expected a goal image, PNG or JPEG, got one that OpenCV cannot read; save it again")
    height, width = image.shape[:2]
    if (height, width) not in {(MODEL_IMAGE_PX, MODEL_IMAGE_PX), (camera.height_px, camera.width_px)}:
        raise GoalError(
            f"{path}: expected {MODEL_IMAGE_PX}x{MODEL_IMAGE_PX} or {camera.height_px}x{camera.width_px} "
            f"(height x width), got {height}x{width}; take the goal image with the robot's own camera"
        )
    rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    return model_image(rgb, camera.crop)


def _fault(data: bytes) -> str:
    """Return why the bytes are no complete PNG or JPEG; empty if they are one."""
    kind = next((kind for kind, (start, _) in _FORMATS.items() if data.startswith(start)), None)
    if kind is None:
        return f"{len(data)} bytes of another format"
    try:
        with Image.open(io.BytesIO(data), formats=(kind,)) as image:
            image.load()
        is_whole = _FORMATS[kind][1] in data
    except (OSError, SyntaxError, ValueError):  # as Pillow reports damage
        is_whole = False
    return "" if is_whole else f"a truncated or damaged {kind} of {len(data)} bytes; copy or take it again"


def scripted_goal(robot: SimulatedFranka, seed: int) -> NDArray[np.uint8]:
    """Return the camera image (H, W, 3) RGB after the scripted policy has done the task in a copy of the scene.

    Args:
        robot: The robot; it does not move.
        seed: Seed of the scene, for the error message.

    Raises:
        GoalError: The scripted policy fails in this scene.
    """
    from robot_bridge.simulation.scripted_policy import make_goal  # noqa: PLC0415 - MuJoCo, which a real arm does without

    try:
        return make_goal(robot)
    except RobotError as error:
        raise GoalError(
            f"the scripted policy does not succeed in the scene of seed {seed}; choose another seed or give --goal"
        ) from error


def check_goal(goal: NDArray[np.uint8], present: NDArray[np.uint8], min_goal_distance: float) -> None:
    """Refuse a goal image of a single colour, or one that shows the present scene.

    Args:
        goal: (64, 64, 3) uint8 RGB.
        present: (64, 64, 3) uint8 RGB, from the robot's camera before it moves.
        min_goal_distance: Least `image_distance` of the two; a smaller one is camera noise.

    Raises:
        GoalError: The goal is refused.
    """
    contrast = float(goal.std(axis=(0, 1)).max())
    if contrast < min_goal_distance:
        raise GoalError(
            f"expected a goal image that shows a scene, got one of a single colour (deviation {contrast:.1f} "
            f"of 255, at least {min_goal_distance:g} required); check that the lens was not covered"
        )
    distance = image_distance(goal, present)
    if distance < min_goal_distance:
        raise GoalError(
            f"expected a goal that differs from the present scene by at least {min_goal_distance:g} of 255 (root mean "
            f"square), got {distance:.2f}; return the objects to the start of the task, or take another goal image"
        )


class GoalCapture:
    """Checks one camera image after the other until one can serve as the goal.

    Args:
        camera: The camera that takes the images.
        start: Model image (64, 64, 3) of the scene before the task, from which the goal must differ; None: no check.
    """

    def __init__(self, camera: Camera, start: NDArray[np.uint8] | None) -> None:
        self._camera, self._start = camera, start
        self._reference: NDArray[np.uint8] | None = None  # the first of the images since the scene rests
        self._since_s = 0.0  # when it was taken

    def check(self, image: NDArray[np.uint8], now_s: float) -> str:
        """Return why an image (H, W, 3) cannot be the goal yet; empty if it can."""
        seen = model_image(image, self._camera.crop)
        if self._reference is None or image_distance(seen, self._reference) > _STILL_DISTANCE:
            self._reference, self._since_s = seen, now_s
        if fault := self._fault(image, seen):
            return fault
        if now_s - self._since_s < _STILL_S:
            return "the scene moves; keep hands out of the image"
        return ""

    def _fault(self, image: NDArray[np.uint8], seen: NDArray[np.uint8]) -> str:
        contrast = float(seen.std(axis=(0, 1)).max())
        if contrast < _MIN_CONTRAST:
            return f"the image shows a single colour (deviation {contrast:.1f}); uncover the lens"
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        sharpness = float(cv2.Laplacian(grey, cv2.CV_64F).var())
        if sharpness < _MIN_SHARPNESS:
            return f"the image is blurred (sharpness {sharpness:.0f}, at least {_MIN_SHARPNESS:g}); focus the lens"
        if self._start is not None:
            distance = image_distance(seen, self._start)
            if distance < _STILL_DISTANCE:
                return f"the scene is unchanged from the start ({distance:.1f} of 255); arrange it as the goal"
        return ""


def capture_goal(
    read: Callable[[], NDArray[np.uint8]], capture: GoalCapture, timeout_s: float, report: Callable[[str], None]
) -> NDArray[np.uint8]:
    """Wait for the first camera image that can serve as the goal.

    Args:
        read: Returns the latest camera image (H, W, 3).
        capture: Checks the images.
        timeout_s: Longest wait.
        report: Called with the reason why there is no goal yet, each time the reason changes.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        GoalError: No image passed the checks in time.
    """
    deadline_s = time.monotonic() + timeout_s
    reported = ""
    while True:
        try:
            image = read()
            reason = capture.check(image, time.monotonic())
            if not reason:
                return image
        except CameraFault as fault:
            reason = str(fault)
        if time.monotonic() > deadline_s:
            raise GoalError(f"expected a goal image within {timeout_s:g} s, got none: {reason}")
        if reason != reported:
            reported = reason
            report(reason)


def preview(image: NDArray[np.uint8], camera: Camera) -> bytes:
    """Return a PNG that shows a camera image (H, W, 3) with its crop outlined, and below it the model's view of it."""
    outlined = image.copy()
    if camera.crop is not None:
        rows, columns = camera.crop.rows(), camera.crop.columns()
        cv2.rectangle(outlined, (columns.start, rows.start), (columns.stop - 1, rows.stop - 1), (255, 0, 0), 2)
    seen = camera_image(model_image(image, camera.crop), camera)
    return png_bytes(filmstrip({"the camera": outlined[None], "the model": seen[None]}))
