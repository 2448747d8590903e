"""Motions over ROS: tick by tick, with a look at the arm's state before every command."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robot_bridge.franka.config import FrankaConfig
from robot_bridge.franka.state import ArmState, States
from robot_bridge.franka.trajectory import Check, Drive, Trip
from robot_bridge.kinematics import Kinematics
from robot_bridge.robot import RobotFault
from robot_bridge.ros.joint_commands import JointStream


class StreamDrive(Drive):
    """Streams joint positions; the driver holds the last of them."""

    def __init__(
        self, config: FrankaConfig, kinematics: Kinematics, states: States, stream: JointStream, check: Check
    ) -> None:
        """Take what leads to the arm; nothing moves."""
        super().__init__(config, kinematics, states, check)
        self._stream = stream

    def move(self, state: ArmState, delta_m: NDArray[np.float64] | NDArray[np.float32]) -> None:
        """Move the hand straight by `delta_m`; see `Drive.move`."""
        self._follow(state, self._straight(state, delta_m))

    def go(self, state: ArmState, joints_rad: NDArray[np.float64]) -> None:
        """Move the joints to `joints_rad` (7,); see `Drive.go`."""
        self._follow(state, self._through_joints(state, joints_rad))

    def _follow(self, state: ArmState, trip: Trip) -> None:
        """Stream until the target's end is reached and the arm rests; every tick looks at the state first."""
        self._stream.begin(state, trip.low_m, trip.high_m)
        n = int(np.ceil(trip.duration_s / self._config.motion.tick_s))
        tick = 0
        state = self._states.fresh()
        while tick < n or not np.array_equal(self._stream.last_rad, trip.target(1.0)):
            if tick > 2 * n + 100:  # only a path that is changed again and again has no end
                raise RobotFault("expected a motion that ends, got one that something pushes back all the time")
            tick += 1
            self._check(state)
            self._stream.send(self._stream.bounded(trip.target(min(1.0, tick / n))), state)
            state = self._states.fresh()
            if trip.way is not None:
                trip.way.feel(state.force_n, self._stream.last_rad, state.hand_m)
        self._settle(state)

    def _settle(self, state: ArmState) -> None:
        """Go on commanding the last target until the arm rests."""
        motion = self._config.motion
        for _ in range(round(motion.rest_timeout_s / motion.tick_s)):
            self._check(state)
            if self._is_at_rest(state):
                return
            self._stream.send(self._stream.last_rad, state)
            state = self._states.fresh()
        raise self._restless(state)
