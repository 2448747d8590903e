"""A real Franka, whatever leads to it: how it resets, steps and looks, and what is checked before any of that."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from configs.interruption import check
from robot_bridge.franka.config import FrankaConfig
from robot_bridge.franka.gripper import BlockedFault, Gripper
from robot_bridge.franka.image_buffer import ImageSource
from robot_bridge.franka.recovery import ErrorRecovery
from robot_bridge.franka.state import ArmState, StateSource
from robot_bridge.franka.trajectory import TrajectoryExecutor
from robot_bridge.kinematics import HOME_RAD, Kinematics
from robot_bridge.motion import check_reach, draw_start
from robot_bridge.robot import CLOSE, Observation, RobotFault, RobotSpec, Step
from robot_bridge.safety import limit_action

_LOG = logging.getLogger(__name__)


class RealFranka(ABC):
    """Keeps the `Robot` protocol by what a subclass opens. Every call that moves the arm blocks until it rests."""

    _states: StateSource  # these four a subclass sets as it opens
    _images: ImageSource
    _drive: TrajectoryExecutor
    _gripper: Gripper

    def __init__(self, config: FrankaConfig, kinematics: Kinematics) -> None:
        """Know the arm.

        Raises:
            RobotError: A corner of the workspace is out of reach.
        """
        check_reach(kinematics, config.limits)
        self._config, self._kinematics = config, kinematics
        self._spec = RobotSpec("franka", config.limits, config.camera, config.step_s)
        self._recovery = ErrorRecovery(config.recovery, self)
        self._margin_m = config.motion.workspace_margin_m

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
        self._check_connection()
        self._recovery.begin_episode()
        start = draw_start(rng, self._spec.limits)
        self._open_and_rise()
        above = np.array([*start[:2], self._spec.limits.workspace_high_m[2]])
        self._drive.go(self._rested(), self._kinematics.solve(HOME_RAD, above))
        state = self._rested()
        self._drive.move(state, start - state.hand_m)
        return self._look()

    def observe(self) -> Observation:
        """Look without moving; see `Robot.observe`."""
        self._check_connection()
        self._rested()
        return self._look()

    def step(self, action: NDArray[np.float32]) -> Step:
        """Move, then open or close, wait until the hand rests, and look; see `Robot.step`."""
        self._check_connection()
        state = self._rested()
        applied = limit_action(action, state.hand_m, self._spec.limits)
        self._check_inside(state)
        self._drive.move(state, applied[:3])
        self._gripper.command(closes=bool(applied[3] == CLOSE))
        return Step(applied, self._look())

    def recover(self) -> None:
        """Free the arm from a reflex, if the budget allows; wait for state that has fallen silent. See `Robot.recover`.

        Raises:
            RobotFault: A person must look: too many reflexes, a user stop, or an arm that stays silent.
        """
        self._check_connection()
        self._recovery.recover()

    def mode(self) -> int:
        """Return the robot mode of now; see `rescue.Arm`."""
        return self._patient().mode

    @abstractmethod
    def free(self) -> None:
        """Send one recovery goal; see `rescue.Arm`."""

    def park(self) -> None:
        """Go up and home; see `rescue.Arm`."""
        self._rise(self._patient())
        self._drive.go(self._rested(), HOME_RAD)

    @abstractmethod
    def close(self) -> None:
        """Let go of the arm, which holds its pose. Safe to call twice."""

    @abstractmethod
    def _check_connection(self) -> None:
        """Refuse to go on where whatever leads to the arm is not the same any more."""

    def _rested(self) -> ArmState:
        """Return a state of after this call, of an arm that may be moved.

        Raises:
            RobotFault: It may not.
        """
        state = self._states.newer(time.monotonic(), self._config.motion.max_state_age_s)
        self._check_mode(state)
        return state

    def _patient(self) -> ArmState:
        """Wait for a state of after this call as long as patience lasts."""
        return self._states.newer(time.monotonic(), self._config.recovery.patience_s)

    def _look(self) -> Observation:
        """Return what is seen and measured from now on."""
        rested_s = time.monotonic()
        image, came_s = self._images.newer(rested_s)
        state = self._states.newer(rested_s, self._config.motion.max_state_age_s)
        self._check_mode(state)
        return Observation(image, np.array([*state.hand_m, state.yaw_rad, self._gripper.opening]), came_s)

    def _check_mode(self, state: ArmState) -> bool:
        """Return True where the arm may be moved; see `ErrorRecovery.check`. Every tick of a motion comes here.

        Raises:
            KeyboardInterrupt: A signal is due; see `configs.interruption`.
        """
        check()
        return self._recovery.check(state.mode, state.errors)

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
        low, high = self._spec.limits.workspace_low_m[2], self._spec.limits.workspace_high_m[2]
        if state.hand_m[2] < low - self._margin_m:
            raise RobotFault(
                f"expected the hand above {low:g} m, got {state.hand_m[2]:.3f} m; guide it above the bin by hand"
            )
        if state.hand_m[2] < high:
            self._drive.move(state, np.array([0.0, 0.0, high - state.hand_m[2]]))

    def _check_inside(self, state: ArmState) -> None:
        low, high = (bound[:3] for bound in self._spec.state_bounds())
        if (state.hand_m < low - self._margin_m).any() or (state.hand_m > high + self._margin_m).any():
            raise RobotFault(
                f"expected a hand within {low.tolist()} to {high.tolist()} m, got {state.hand_m.round(3).tolist()}; "
                "call reset"
            )
