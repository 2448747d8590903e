"""A real Franka over any connection: reset, step, observe, and the checks before each motion."""

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
    """Implements the `Robot` protocol on the connection of a subclass. Motions block until the arm rests."""

    _states: StateSource  # a subclass sets these four when it connects
    _images: ImageSource
    _executor: TrajectoryExecutor
    _gripper: Gripper

    def __init__(self, config: FrankaConfig, kinematics: Kinematics) -> None:
        """Check the configuration; nothing is connected yet.

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
        """The description of this robot."""
        return self._spec

    def reset(self, rng: np.random.Generator) -> Observation:
        """Open the gripper, raise the hand, move to a start pose drawn from `rng` as if from home, and observe.

        Raises:
            RobotFault: The arm stopped on the way, or its hand is below the workspace.
            CameraFault: No usable image.
        """
        self._check_connection()
        self._recovery.begin_episode()
        start = draw_start(rng, self._spec.limits)
        self._open_and_raise()
        above = np.array([*start[:2], self._spec.limits.workspace_high_m[2]])
        self._executor.move_joints(self._ready_state(), self._kinematics.solve(HOME_RAD, above))
        state = self._ready_state()
        self._executor.move_hand(state, start - state.hand_m)
        return self._observation()

    def observe(self) -> Observation:
        """Return an observation without moving; see `Robot.observe`."""
        self._check_connection()
        self._ready_state()
        return self._observation()

    def step(self, action: NDArray[np.float32]) -> Step:
        """Move, then open or close, wait until the hand rests, and observe; see `Robot.step`."""
        self._check_connection()
        state = self._ready_state()
        applied = limit_action(action, state.hand_m, self._spec.limits)
        self._check_inside(state)
        self._executor.move_hand(state, applied[:3])
        self._gripper.command(closes=bool(applied[3] == CLOSE))
        return Step(applied, self._observation())

    def recover(self) -> None:
        """Recover the arm from a reflex, if the budget allows; wait for states if none arrive. See `Robot.recover`.

        Raises:
            RobotFault: It needs an operator: too many reflexes, the user stop, or no state from the arm.
        """
        self._check_connection()
        self._recovery.recover()

    def mode(self) -> int:
        """Return the present robot mode; see `RecoverableArm`."""
        return self._next_state().mode

    @abstractmethod
    def send_recovery(self) -> None:
        """Send one recovery goal; see `RecoverableArm`."""

    def park(self) -> None:
        """Move up, then home; see `RecoverableArm`."""
        self._raise_hand(self._next_state())
        self._executor.move_joints(self._ready_state(), HOME_RAD)

    @abstractmethod
    def close(self) -> None:
        """Release the arm, which holds its pose. Safe to call twice."""

    @abstractmethod
    def _check_connection(self) -> None:
        """Raise a RobotError if the connection has changed since it was made."""

    def _ready_state(self) -> ArmState:
        """Return a state newer than this call, of an arm that may move.

        Raises:
            RobotFault: It may not move.
        """
        state = self._states.newer(time.monotonic(), self._config.motion.max_state_age_s)
        self._check_mode(state)
        return state

    def _next_state(self) -> ArmState:
        """Return a state newer than this call; waits for at most `recovery.patience_s`."""
        return self._states.newer(time.monotonic(), self._config.recovery.patience_s)

    def _observation(self) -> Observation:
        """Return an image and a state newer than this call."""
        rested_s = time.monotonic()
        image, arrived_s = self._images.newer(rested_s)
        state = self._states.newer(rested_s, self._config.motion.max_state_age_s)
        self._check_mode(state)
        return Observation(image, np.array([*state.hand_m, state.yaw_rad, self._gripper.opening]), arrived_s)

    def _check_mode(self, state: ArmState) -> bool:
        """Return True if the arm may move; see `ErrorRecovery.check`. Called at every tick of a motion.

        Raises:
            KeyboardInterrupt: A signal is pending; see `configs.interruption`.
        """
        check()
        return self._recovery.check(state.mode, state.errors)

    def _open_and_raise(self) -> None:
        """Open the gripper, then raise the hand; if the fingers are blocked, open them after raising."""
        self._ready_state()
        try:
            self._gripper.command(closes=False)
        except BlockedFault as fault:
            _LOG.info("%s", fault)
            self._raise_hand(self._ready_state())
            self._gripper.command(closes=False)
        self._raise_hand(self._ready_state())

    def _raise_hand(self, state: ArmState) -> None:
        """Move the hand straight up to the top of the workspace."""
        low, high = self._spec.limits.workspace_low_m[2], self._spec.limits.workspace_high_m[2]
        if state.hand_m[2] < low - self._margin_m:
            raise RobotFault(
                f"expected the hand above {low:g} m, got {state.hand_m[2]:.3f} m; guide it above the bin by hand"
            )
        if state.hand_m[2] < high:
            self._executor.move_hand(state, np.array([0.0, 0.0, high - state.hand_m[2]]))

    def _check_inside(self, state: ArmState) -> None:
        low, high = (bound[:3] for bound in self._spec.state_bounds())
        if (state.hand_m < low - self._margin_m).any() or (state.hand_m > high + self._margin_m).any():
            raise RobotFault(
                f"expected a hand within {low.tolist()} to {high.tolist()} m, got {state.hand_m.round(3).tolist()}; "
                "call reset"
            )
