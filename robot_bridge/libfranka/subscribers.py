"""What the arm says of itself, never older than it may be."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any, Final

import cv2
import franky
import numpy as np
from numpy.typing import NDArray

from robot_bridge.camera import Camera
from robot_bridge.franka.config import EyeConfig
from robot_bridge.franka.image_buffer import Pictures
from robot_bridge.franka.state import ArmState, StaleState
from robot_bridge.libfranka.connection import Link
from robot_bridge.robot import RobotFault

_AGAIN_S: Final = 0.5  # before a camera that is gone is opened anew
_OPEN_MS: Final = 3000
_READ_MS: Final = 1000
_CLOSE_S: Final = 5.0  # longer than any call of the thread


class VideoFeed:
    """The latest picture of one camera. A camera that falls silent is opened anew until it speaks."""

    def __init__(self, config: EyeConfig, camera: Camera) -> None:
        """Start to look."""
        self._config, self._camera = config, camera
        self._pictures = Pictures(f"camera {config.source}", config, camera)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def newer(self, than_s: float) -> tuple[NDArray[np.uint8], float]:
        """Wait for a picture that was taken after a moment; see `Pictures.newer`."""
        return self._pictures.newer(than_s)

    def close(self) -> None:
        """Stop looking. Safe to call twice."""
        self._ends.set()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while not self._ends.is_set():
            video = self._open()
            while not self._ends.is_set() and self._take(video):
                pass
            video.release()
            self._ends.wait(_AGAIN_S)

    def _take(self, video: Any) -> bool:
        """Hand on the next picture; return False where there is none."""
        is_there, pixels = video.read()
        if not is_there:
            return False
        # A picture has no time of its own: it is taken to be as old as the camera is slow.
        self._pictures.take(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), time.time() - self._config.latency_s)
        return True

    def _open(self) -> Any:
        source, camera = self._config.source, self._camera
        if isinstance(source, str):
            limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _OPEN_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _READ_MS]
            return cv2.VideoCapture(source, cv2.CAP_FFMPEG, limits)
        video = cv2.VideoCapture(source)
        video.set(cv2.CAP_PROP_FRAME_HEIGHT, camera.height_px)
        video.set(cv2.CAP_PROP_FRAME_WIDTH, camera.width_px)
        video.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the latest only, where the driver can
        return video


_POLL_S: Final = 0.0005
_PAUSE_S: Final = 0.05  # before a silent arm is asked again
_ERRORS: Final = tuple(name for name in dir(franky.Errors) if not name.startswith("_"))


class StateFeed:
    """The latest state of the arm. The arm counts time itself: a state whose time stands still is an old one."""

    def __init__(self, link: Link, age_s: float) -> None:
        """Take the connection; nothing older than `age_s` is ever given out."""
        self._link, self._age_s = link, age_s
        self._clock_s, self._came_s = -np.inf, -np.inf

    def clock_s(self) -> float:
        """Return the arm's own time, in seconds, of the latest state.

        Raises:
            StaleState: It stands still for longer than it may.
        """
        self._take()
        return self._clock_s

    def fresh(self) -> ArmState:
        """Return the state now; see `States.fresh`."""
        return self._put_together(self._take())

    def newer(self, than_s: float, timeout_s: float) -> ArmState:
        """Wait for a state that came after a monotonic time; see `States.newer`."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            with suppress(RobotFault):
                return self._next(than_s)
            if time.monotonic() > deadline_s:
                return self._next(than_s)
            time.sleep(_PAUSE_S)

    def _next(self, than_s: float) -> ArmState:
        """Return a state whose time has changed since this call, and came after `than_s`."""
        state = self._read()
        before_s = self._clock_s
        while self._clock_s == before_s or self._came_s <= than_s:
            if time.monotonic() - self._came_s > self._age_s:
                raise self._stale()
            time.sleep(_POLL_S)
            state = self._read()
        return self._put_together(state)

    def _take(self) -> Any:
        state = self._read()
        if time.monotonic() - self._came_s > self._age_s:
            raise self._stale()
        return state

    def _read(self) -> Any:
        """Return the arm's state, and note when its time was seen to change."""
        try:
            state = self._link.read()
        except RobotFault as fault:
            raise StaleState(str(fault)) from fault
        clock_s = float(state.time.to_sec())
        if clock_s != self._clock_s:
            self._clock_s, self._came_s = clock_s, time.monotonic()
        return state

    def _stale(self) -> StaleState:
        age_s = time.monotonic() - self._came_s
        return StaleState(
            f"{self._link.host}: expected a state of the last {self._age_s:g} s, got one of {age_s:.2f} s; look at the "
            "arm and its cable"
        )

    def _put_together(self, state: Any) -> ArmState:
        pose = np.array(state.O_T_EE.matrix)
        taken = ArmState(
            joints_rad=np.array(state.q),
            speeds_rad_s=np.array(state.dq),
            desired_rad=np.array(state.q_d),
            hand_m=pose[:3, 3],
            yaw_rad=float(np.arctan2(pose[1, 0], pose[0, 0])),
            force_n=np.array(state.O_F_ext_hat_K)[:3],
            mode=int(state.robot_mode),
            errors=tuple(name for name in _ERRORS if getattr(state.current_errors, name)),
            flange_to_tip=np.array(state.F_T_EE.matrix),
            time_s=self._came_s,
        )
        if not taken.is_finite():
            raise StaleState(
                f"{self._link.host}: expected a finite state, got {taken.joints_rad.tolist()}; restart the arm"
            )
        return taken
