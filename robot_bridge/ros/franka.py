"""The Franka over ROS: the `Robot` protocol over franka_ros_interface."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from robot_bridge.kinematics import HOME_RAD, SPEED_LIMITS_RAD_S, Kinematics
from robot_bridge.motion import PEAK, SETTLE_SHARE, Guard, Motion, along, check_reach, draw_start
from robot_bridge.robot import CLOSE, Observation, RobotFault, RobotSpec, Step
from robot_bridge.ros import messages, names
from robot_bridge.ros.configuration import FrankaRosConfig
from robot_bridge.ros.driver import Driver, recognise
from robot_bridge.ros.gripper import BlockedFault, Gripper
from robot_bridge.ros.images import ImageFeed
from robot_bridge.ros.master import Master
from robot_bridge.ros.recovery import Recovery, Stage
from robot_bridge.ros.state import ArmState, StateFeed
from robot_bridge.ros.stream import JointStream
from robot_bridge.safety import limit_action

_LOG = logging.getLogger(__name__)
_ALERT_S = 30.0  # what telling somebody may take
_POLL_S = 0.05
_AGAIN_S = 0.5  # in reflex for so long after a recovery is another reflex

Target = Callable[[float], NDArray[np.float64]]  # joints (7,) at a share of the time


class FrankaRos:
    """A Franka that a driver on the same ROS master controls. Every call that moves it blocks until it rests."""

    def __init__(self, config: FrankaRosConfig) -> None:
        """Meet the driver, check it, set its limits, and home the hand.

        Raises:
            RobotError: Something is missing or not as it must be; the message says what to do. The arm has not moved.
        """
        self._config = config
        self._spec = RobotSpec("franka", config.limits, config.camera, config.step_s)
        self._kinematics = Kinematics(margin_rad=config.motion.joint_margin_rad)
        check_reach(self._kinematics, config.limits)
        timeout_s = config.connect_timeout_s
        self._recovery = Recovery(config.recovery)
        self._is_alerted = False
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
            self._gripper = Gripper(config.gripper, types, timeout_s)
            opened.callback(self._gripper.close)
            self._driver.check_hand(self._feed.newer(time.monotonic(), timeout_s), self._kinematics)
            self._driver.set_reflex(config.reflex)
            if config.gripper.homes and self._check_mode(self._feed.fresh()):
                self._gripper.home()
            self._opened = opened.pop_all()

    @property
    def spec(self) -> RobotSpec:
        """What this robot is."""
        return self._spec

    def reset(self, rng: np.random.Generator) -> Observation:
        """Open the gripper, rise, and go to a start pose drawn from `rng`, joints as if from home, and look.

        Raises:
            RobotFault: The arm stopped itself on the way, or its hand is below the workspace.
            CameraFault: No usable picture.
        """
        self._master.check()
        self._recovery.begin_episode()
        start = draw_start(rng, self._config.limits)
        self._open_and_rise()
        above = np.array([*start[:2], self._config.limits.workspace_high_m[2]])
        self._go(self._kinematics.solve(HOME_RAD, above))
        state = self._rested()
        self._move(state, start - state.hand_m)
        return self._look()

    def observe(self) -> Observation:
        """Look without moving; see `Robot.observe`."""
        self._master.check()
        self._check_mode(self._feed.fresh())
        return self._look()

    def step(self, action: NDArray[np.float32]) -> Step:
        """Move, then open or close, wait until the hand rests, and look; see `Robot.step`."""
        self._master.check()
        state = self._rested()
        applied = limit_action(action, state.hand_m, self._config.limits)
        self._check_inside(state)
        self._move(state, applied[:3])
        self._gripper.command(closes=bool(applied[3] == CLOSE))
        return Step(applied, self._look())

    def recover(self) -> None:
        """Free the arm from a reflex, if the budget allows; wait for state that has fallen silent. See `Robot.recover`.

        Raises:
            RobotFault: A person must look: too many reflexes, a user stop, or a driver that stays silent.
        """
        self._master.check()
        stage = self._recovery.see(self._patient().mode, time.monotonic())
        while stage is Stage.REFLEX:
            time.sleep(max(0.0, self._recovery.due_s - time.monotonic()))
            stage = self._free()
        if stage is Stage.LAST:
            self._park()
        if stage is not Stage.READY:
            raise self._person()

    def close(self) -> None:
        """Let go of the driver, which holds the arm. Safe to call twice."""
        self._opened.close()

    def _move(self, state: ArmState, delta_m: NDArray[np.float64] | NDArray[np.float32]) -> None:
        """Move the hand straight by `delta_m`, no deeper or further than what pushes back allows."""
        motion = self._config.motion
        guard = Guard(motion.contact_limit_n, motion.tick_s, motion.retreat_m)
        way = Motion(self._kinematics, state.desired_rad, state.hand_m, delta_m, guard)
        steps = np.abs(np.diff(way.path_rad, axis=0)).max(axis=0) * (len(way.path_rad) - 1)
        self._stream.begin(state, state.hand_m, state.hand_m)
        descent_s = PEAK * max(0.0, -float(delta_m[2])) / motion.descent_m_s
        self._follow(way.target, max(self._config.step_s * (1 - SETTLE_SHARE), self._least_s(steps), descent_s), way)

    def _open_and_rise(self) -> None:
        """Open the gripper, then go up; fingers that cannot open where they are do so above."""
        self._rested()
        try:
            self._gripper.command(closes=False)
        except BlockedFault as fault:
            _LOG.info("%s", fault)
            self._rise(self._rested())
            self._gripper.command(closes=False)
        self._rise(self._rested())

    def _rise(self, state: ArmState) -> None:
        """Go straight up to the top of the workspace."""
        low, high = self._config.limits.workspace_low_m[2], self._config.limits.workspace_high_m[2]
        if state.hand_m[2] < low - self._config.motion.workspace_margin_m:
            raise RobotFault(
                f"expected the hand above {low:g} m, got {state.hand_m[2]:.3f} m; guide it above the bin by hand"
            )
        if state.hand_m[2] < high:
            self._move(state, np.array([0.0, 0.0, high - state.hand_m[2]]))

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

    def _check_mode(self, state: ArmState) -> bool:
        """Return True where the arm may be moved.

        Raises:
            RobotFault: It stopped itself, or a person guides or has stopped it.
        """
        stage = self._recovery.see(state.mode, time.monotonic())
        if stage in {Stage.PARKED, Stage.STOPPED}:
            raise self._person()
        if state.mode in {names.IDLE, names.MOVING} and not state.errors and stage in {Stage.READY, Stage.LAST}:
            return True
        if state.mode == names.GUIDING:
            raise RobotFault("a person guides the arm by hand; let go of it, then call recover")
        raise RobotFault(f"the arm stopped itself ({', '.join(state.errors) or f'mode {state.mode}'}); call recover")

    def _check_inside(self, state: ArmState) -> None:
        low, high = (bound[:3] for bound in self._spec.state_bounds())
        margin_m = self._config.motion.workspace_margin_m
        if (state.hand_m < low - margin_m).any() or (state.hand_m > high + margin_m).any():
            raise RobotFault(
                f"expected a hand within {low.tolist()} to {high.tolist()} m, got {state.hand_m.round(3).tolist()}; "
                "call reset"
            )

    def _patient(self) -> ArmState:
        """Wait for a state of after this call as long as patience lasts."""
        return self._feed.newer(time.monotonic(), self._config.recovery.patience_s)

    def _free(self) -> Stage:
        """Send the one recovery goal of a reflex, and wait for what it does."""
        if self._patient().mode == names.REFLEX:
            self._recovery.sent()
            self._driver.recover(self._config.recovery.timeout_s)
        ended_s = time.monotonic()
        while True:
            mode, now_s = self._patient().mode, time.monotonic()
            stage = self._recovery.see(mode, now_s)
            if stage is not Stage.RECOVERING:
                return stage
            if mode == names.REFLEX and now_s - ended_s > _AGAIN_S:
                return self._recovery.again(now_s)
            if now_s - ended_s > self._config.recovery.timeout_s:
                raise RobotFault(f"expected an arm that is freed, got mode {mode}; look at the driver")
            time.sleep(_POLL_S)

    def _park(self) -> None:
        """Go up and home for the last time; whatever stops it there leaves the arm where it is."""
        try:
            self._rise(self._patient())
            self._go(HOME_RAD)
        except RobotFault as fault:
            _LOG.warning("the arm could not be parked: %s", fault)
        self._recovery.park()

    def _person(self) -> RobotFault:
        """Return the fault that only a person clears, after telling somebody once."""
        reason = self._recovery.why()
        if not self._is_alerted and self._config.recovery.alert:
            self._is_alerted = True
            try:
                subprocess.run([*self._config.recovery.alert, reason], timeout=_ALERT_S, check=True)  # noqa: S603
            except (OSError, subprocess.SubprocessError) as error:
                _LOG.warning("nobody could be told: %s", error)
        return RobotFault(reason)
