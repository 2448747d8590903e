"""The Franka over ROS: the `Robot` protocol over franka_ros_interface."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from robot_bridge.gripper import Gripper
from robot_bridge.kinematics import SPEED_LIMITS_RAD_S, Kinematics
from robot_bridge.motion import PEAK, SETTLE_SHARE, Guard, Motion, along, check_reach
from robot_bridge.real_franka import RealFranka
from robot_bridge.rescue import Rescue
from robot_bridge.robot import Observation, RobotFault, RobotSpec
from robot_bridge.ros import messages
from robot_bridge.ros.configuration import FrankaRosConfig
from robot_bridge.ros.driver import Driver, recognise
from robot_bridge.ros.fingers import RosFingers
from robot_bridge.ros.images import ImageFeed
from robot_bridge.ros.master import Master
from robot_bridge.ros.state import ArmState, StateFeed
from robot_bridge.ros.stream import JointStream

Target = Callable[[float], NDArray[np.float64]]  # joints (7,) at a share of the time


class FrankaRos(RealFranka[ArmState]):
    """A Franka that a driver on the same ROS master controls. Every call that moves it blocks until it rests."""

    def __init__(self, config: FrankaRosConfig) -> None:
        """Meet the driver, check it, set its limits, and home the hand.

        Raises:
            RobotError: Something is missing or not as it must be; the message says what to do. The arm has not moved.
        """
        self._config = config
        kinematics = Kinematics(margin_rad=config.motion.joint_margin_rad)
        check_reach(kinematics, config.limits)
        spec = RobotSpec("franka", config.limits, config.camera, config.step_s)
        super().__init__(spec, kinematics, Rescue(config.recovery, self), config.motion.workspace_margin_m)
        timeout_s = config.connect_timeout_s
        with ExitStack() as opened:
            self._master = Master("ghvae_bridge", timeout_s)
            types = messages.load(recognise(timeout_s))
            self._feed = StateFeed(types, config.motion.state_age_s)
            opened.callback(self._feed.close)
            self._images = ImageFeed(config.images, config.camera)
            opened.callback(self._images.close)
            self._driver = Driver(types, timeout_s)
            self._driver.check_controllers()
            self._stream = JointStream(config.motion, config.limits, self._kinematics, types)
            opened.callback(self._stream.close)
            self._stream.wait_for_driver(timeout_s)
            fingers = RosFingers(config.gripper, types, timeout_s)
            opened.callback(fingers.close)
            self._gripper = Gripper(config.gripper, fingers)
            self._driver.check_hand(self._feed.newer(time.monotonic(), timeout_s), self._kinematics)
            self._driver.set_reflex(config.reflex)
            if config.gripper.homes and self._check_mode(self._feed.fresh()):
                self._gripper.home()
            self._opened = opened.pop_all()

    def free(self) -> None:
        """Send one recovery goal; see `rescue.Arm`."""
        self._driver.recover(self._config.recovery.timeout_s)

    def close(self) -> None:
        """Let go of the driver, which holds the arm. Safe to call twice."""
        self._opened.close()

    def _check_link(self) -> None:
        self._master.check()

    def _move(self, state: ArmState, delta_m: NDArray[np.float64] | NDArray[np.float32]) -> None:
        """Move the hand straight by `delta_m`, no deeper or further than what pushes back allows."""
        motion = self._config.motion
        guard = Guard(motion.contact_limit_n, motion.tick_s, motion.retreat_m)
        way = Motion(self._kinematics, state.desired_rad, state.hand_m, delta_m, guard)
        steps = np.abs(np.diff(way.path_rad, axis=0)).max(axis=0) * (len(way.path_rad) - 1)
        self._stream.begin(state, state.hand_m, state.hand_m)
        descent_s = PEAK * max(0.0, -float(delta_m[2])) / motion.descent_m_s
        self._follow(way.target, max(self._config.step_s * (1 - SETTLE_SHARE), self._least_s(steps), descent_s), way)

    def _go(self, joints_rad: NDArray[np.float64]) -> None:
        """Move the joints to `joints_rad` (7,), each in proportion."""
        state = self._rested()
        path = np.stack([state.desired_rad, joints_rad])
        hands = np.stack([self._kinematics.hand(along(path, share)) for share in np.linspace(0, 1, 20)])
        self._stream.begin(state, hands.min(axis=0), hands.max(axis=0))

        def target(share: float) -> NDArray[np.float64]:
            return along(path, share**3 * (10 - 15 * share + 6 * share**2))

        self._follow(target, self._least_s(np.abs(path[1] - path[0])), None)

    def _least_s(self, change_rad: NDArray[np.float64]) -> float:
        """Return how long a minimum-jerk motion over (7,) joint angles must take."""
        speed = self._config.motion.speed_share * SPEED_LIMITS_RAD_S
        return max(self._config.motion.tick_s, float((PEAK * change_rad / speed).max()))

    def _follow(self, target: Target, duration_s: float, way: Motion | None) -> None:
        """Stream until the target's end is reached and the arm rests; every tick looks at the state first."""
        n = int(np.ceil(duration_s / self._config.motion.tick_s))
        tick = 0
        state = self._feed.fresh()
        while tick < n or not np.array_equal(self._stream.last_rad, target(1.0)):
            if tick > 2 * n + 100:  # only a path that is changed again and again has no end
                raise RobotFault("expected a motion that ends, got one that something pushes back all the time")
            tick += 1
            self._check_mode(state)
            self._stream.send(self._stream.bounded(target(min(1.0, tick / n))), state)
            state = self._feed.fresh()
            if way is not None:
                way.feel(state.force_n, self._stream.last_rad, state.hand_m)
        self._settle(state)

    def _settle(self, state: ArmState) -> None:
        """Go on commanding the last target until the arm rests."""
        motion = self._config.motion
        for _ in range(round(motion.rest_timeout_s / motion.tick_s)):
            self._check_mode(state)
            if np.abs(state.speeds_rad_s).max() < motion.rest_rad_s:
                return
            self._stream.send(self._stream.last_rad, state)
            state = self._feed.fresh()
        speeds = state.speeds_rad_s.round(3).tolist()
        raise RobotFault(f"expected an arm at rest within {motion.rest_timeout_s:g} s, got {speeds} rad/s")

    def _look(self) -> Observation:
        rested_s = time.monotonic()
        image, came_s = self._images.newer(rested_s)
        state = self._feed.newer(rested_s, self._config.motion.state_age_s)
        self._check_mode(state)
        return Observation(image, np.array([*state.hand_m, state.yaw_rad, self._gripper.opening]), came_s)

    def _rested(self) -> ArmState:
        """Return a state from after this call.

        Raises:
            RobotFault: The arm may not move.
        """
        state = self._feed.newer(time.monotonic(), self._config.motion.state_age_s)
        self._check_mode(state)
        return state

    def _patient(self) -> ArmState:
        """Wait for a state of after this call as long as patience lasts."""
        return self._feed.newer(time.monotonic(), self._config.recovery.patience_s)
