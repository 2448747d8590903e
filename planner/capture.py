"""A goal picture from the live camera: taken when the scene is as it should be, and cropped as in training."""

from __future__ import annotations

import time
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from data_collection.reports.images import filmstrip, png_bytes
from planner.goal import GoalError, difference
from robot_bridge.camera import Camera, camera_image, model_image
from robot_bridge.robot import CameraFault

_STILL_S = 1.0  # ours: for so long nothing may move before the picture is taken
_STILL_DIFFERENCE = 2.0  # of 255, root mean square of two model images: more than a camera's noise; as task.yaml
_LEAST_CONTRAST = 2.0  # of 255, deviation of a channel: less shows nothing; as `check_goal`
_LEAST_SHARPNESS = 20.0  # ours: variance of the Laplacian, on the grey scale of 255; less is out of focus


class Sitting:
    """Judges one picture after the other."""

    def __init__(self, camera: Camera, start: NDArray[np.uint8] | None) -> None:
        """Know the model image (64, 64, 3) from which the goal must differ, if there is one."""
        self._camera, self._start = camera, start
        self._rest: NDArray[np.uint8] | None = None  # the first of the pictures that have been alike
        self._since_s = 0.0  # when it came

    def judge(self, picture: NDArray[np.uint8], now_s: float) -> str:
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


def sit(
    see: Callable[[], NDArray[np.uint8]], sitting: Sitting, patience_s: float, tell: Callable[[str], None]
) -> NDArray[np.uint8]:
    """Return the first picture (H, W, 3) that is a goal.

    Args:
        see: Returns the camera's picture of now.
        sitting: Judges it.
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
            why = sitting.judge(picture, time.monotonic())
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
