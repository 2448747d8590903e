"""The simulated arm behind the driver: controllers, commands, reflexes and recovery, without ROS."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from robot_bridge.franka import recovery
from robot_bridge.kinematics import N_JOINTS, RANGES_RAD, SPEED_LIMITS_RAD_S
from robot_bridge.ros import names
from robot_bridge.ros.simulator.log import DriverLog
from robot_bridge.simulation.realtime import RealtimeSimulation

TICK_S: Final = 0.01
POSITION, VELOCITY = 1, 2  # modes of JointCommand; franka_core_msgs
_FILTER = 0.7**10  # remaining distance to a target after a tick: 30 % less each millisecond; franka_ros_controllers
_JUMP_RAD = 0.1  # a target farther than this triggers a reflex; ours
_FORCE_S = 0.1  # time constant of the external force; ours
_YIELD_S = 0.05  # time constant with which a stopped arm yields; ours
_TIMEOUT_S = 0.2  # franka_ros_interface
_FORCES = np.array([20.0, 20.0, 20.0, 25.0, 25.0, 25.0])  # N, N m; franka_ros_interface
_TORQUES_NM = np.array([20.0, 20.0, 18.0, 18.0, 16.0, 14.0, 12.0])  # franka_ros_interface
_LOW, _HIGH = np.array(RANGES_RAD).T


class SimulatedArm:
    """The state of one driver. Call `tick` from one thread only, everything else from any."""

    def __init__(self, simulation: RealtimeSimulation, log: DriverLog) -> None:
        """Hold the present pose."""
        self._log = log
        self._lock = threading.RLock()
        self.mode = recovery.MOVING
        self.errors: tuple[str, ...] = ()
        self.last_errors: tuple[str, ...] = ()
        self.controller = names.DEFAULT_CONTROLLER
        self.upper_forces, self.upper_torques_nm = _FORCES, _TORQUES_NM
        self.is_storm = False  # fault: a reflex follows every recovery
        self.set_simulation(simulation)

    def set_simulation(self, simulation: RealtimeSimulation) -> None:
        """Continue with another scene."""
        with self._lock:
            self.simulation = simulation
            self.desired_rad = simulation.joints_rad
            self.wrench = np.zeros(6)
            self._target = self.desired_rad.copy()
            self._speed: NDArray[np.float64] | None = None
            self._path: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
            self._began_s = self._commanded_s = 0.0
            self._timeout_s = _TIMEOUT_S
            self._stopped_again_s = np.inf

    def set_timeout(self, seconds: float) -> None:
        """Set the time without a command after which the arm holds; clamped as by the driver."""
        self._timeout_s = float(np.clip(seconds, 0.0, 1.0)) if np.isfinite(seconds) else _TIMEOUT_S

    def command(self, mode: int, joint_names: Sequence[str], values: Sequence[float], now_s: float) -> None:
        """Follow a joint position or velocity; hold if the command is invalid."""
        with self._lock:
            if self.mode not in {recovery.IDLE, recovery.MOVING}:
                self._log.event("ignored", mode=self.mode)
                return
            reason = _invalid(mode, joint_names, values)
            if reason:
                self._log.event("refused", why=reason)
                self._hold()
                return
            self._commanded_s = now_s
            by_name = dict(zip(joint_names, values, strict=True))
            target = np.array([by_name[name] for name in names.JOINTS])
            self._switch(names.POSITION_CONTROLLER if mode == POSITION else names.OTHER_CONTROLLERS[0])
            if mode == VELOCITY:
                self._speed = target
                return
            self._log.event("command")
            self._log.measure(self.simulation.pose()[:3, 3], command_rad=float(np.abs(target - self._target).max()))
            self._target = target
            if np.abs(target - self.desired_rad).max() > _JUMP_RAD:
                self.reflex("joint_motion_generator_velocity_limits_violation")

    def follow(self, times_s: NDArray[np.float64], joints_rad: NDArray[np.float64], now_s: float) -> None:
        """Follow a trajectory (K, 7) at times (K,), relative to now."""
        with self._lock:
            self._switch(names.DEFAULT_CONTROLLER)
            times, path = np.concatenate([[0.0], times_s]), np.vstack([self.desired_rad, joints_rad])
            self._path, self._began_s = (times, path), now_s

    def cancel(self) -> None:
        """Cancel a trajectory, and hold."""
        with self._lock:
            self._hold()

    def has_arrived(self) -> bool:
        """Return whether no trajectory is being followed."""
        return self._path is None

    def switch(self, name: str) -> None:
        """Switch to another controller; the arm holds."""
        with self._lock:
            self._switch(name)

    def reflex(self, error: str) -> None:
        """Stop immediately by a reflex."""
        with self._lock:
            if self.mode in {recovery.IDLE, recovery.MOVING}:
                self.mode, self.errors = recovery.REFLEX, (error,)
                self._hold_measured()
                hand_m = self.simulation.pose()[:3, 3].round(3).tolist()
                self._log.event("reflex", error=error, wrench=self.wrench.round(1).tolist(), hand_m=hand_m)

    def stop(self, is_stopped: bool) -> None:
        """Press or release the user stop."""
        with self._lock:
            self.mode, self.errors = (recovery.USER_STOPPED if is_stopped else recovery.IDLE), ()
            self._hold_measured()
            self._log.event("user_stop" if is_stopped else "user_release")

    def recover(self, now_s: float) -> bool:
        """Clear a reflex; return False if there is none, or the user stop is pressed."""
        with self._lock:
            self._log.event("recovery", mode=self.mode)
            if self.mode != recovery.REFLEX:
                return False
            self.mode, self.last_errors, self.errors = recovery.MOVING, self.errors, ()
            self._hold_measured()
            if self.is_storm:
                self._stopped_again_s = now_s + 0.3
            return True

    def tick(self, now_s: float) -> None:
        """Advance by one tick."""
        with self._lock:
            if now_s > self._stopped_again_s:
                self._stopped_again_s = np.inf
                self.reflex("cartesian_reflex")
            is_followed = self.controller != names.DEFAULT_CONTROLLER
            if is_followed and now_s - self._commanded_s > self._timeout_s:
                self._log.event("timeout")
                self._hold()
                self._switch(names.DEFAULT_CONTROLLER)
            if self.mode in {recovery.IDLE, recovery.MOVING}:
                self._advance(now_s)
            elif self.mode == recovery.REFLEX:
                self._yield()
            self.simulation.servo(self.desired_rad)
            self.simulation.advance(TICK_S)
            self._update_force()
            speeds = np.abs(self.simulation.speeds_rad_s)
            self._log.measure(
                self.simulation.pose()[:3, 3],
                speed_fraction=float((speeds / SPEED_LIMITS_RAD_S).max()),
                tracking_rad=float(np.abs(self.simulation.joints_rad - self.desired_rad).max()),
            )
            if speeds.max() < 1e-2:
                self.simulation.end_step()

    def _advance(self, now_s: float) -> None:
        if self._path is not None:
            times, path = self._path
            passed_s = now_s - self._began_s
            self.desired_rad = np.array([np.interp(passed_s, times, path[:, i]) for i in range(N_JOINTS)])
            self._target = self.desired_rad.copy()
            if passed_s >= times[-1]:
                self._path = None
        elif self._speed is not None:
            self.desired_rad = np.clip(self.desired_rad + self._speed * TICK_S, _LOW, _HIGH)
            self._target = self.desired_rad.copy()
        else:
            change = (self._target - self.desired_rad) * (1 - _FILTER)
            most = SPEED_LIMITS_RAD_S * TICK_S  # the driver's rate limiting
            self.desired_rad = self.desired_rad + np.clip(change, -most, most)

    def _yield(self) -> None:
        """Reduce the contact force of a stopped arm: MuJoCo contacts are softer than its servos, real ones stiffer."""
        self.desired_rad = self.desired_rad + (self.simulation.joints_rad - self.desired_rad) * TICK_S / _YIELD_S
        self._hold()

    def _update_force(self) -> None:
        force = self.simulation.push_n()
        self.wrench[:3] += (force - self.wrench[:3]) * TICK_S / _FORCE_S
        if (np.abs(self.wrench) > self.upper_forces).any():
            self.reflex("cartesian_reflex")
        elif (np.abs(self.external_nm()) > self.upper_torques_nm).any():
            self.reflex("joint_reflex")

    def external_nm(self) -> NDArray[np.float64]:
        """Return the joint torques (7,) of the external force."""
        return self.simulation.jacobian().T @ self.wrench

    def _switch(self, name: str) -> None:
        if name != self.controller:
            self._log.event("controller", to=name)
            self._hold()
            self.controller = name

    def _hold(self) -> None:
        self._target, self._speed, self._path = self.desired_rad.copy(), None, None

    def _hold_measured(self) -> None:
        self.desired_rad = self.simulation.joints_rad
        self._hold()


def _invalid(mode: int, joint_names: Sequence[str], values: Sequence[float]) -> str:
    """Return why a command is invalid, or an empty text."""
    if mode not in {POSITION, VELOCITY}:
        return f"mode {mode} is not simulated"
    if len(values) != N_JOINTS or set(joint_names) != set(names.JOINTS) or len(joint_names) != N_JOINTS:
        return f"expected {N_JOINTS} joints by name, got {len(values)} of {list(joint_names)}"
    by_name = dict(zip(joint_names, values, strict=True))
    target = np.array([by_name[name] for name in names.JOINTS])
    low, high = (_LOW, _HIGH) if mode == POSITION else (-SPEED_LIMITS_RAD_S, SPEED_LIMITS_RAD_S)
    if not ((target >= low) & (target <= high)).all():
        return f"outside the joint limits: {target.tolist()}"
    return ""
