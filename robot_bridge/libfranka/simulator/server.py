"""The control box of the simulated arm: franky-sim with forces, reflexes, the user stop and recovery."""

from __future__ import annotations

import select
from typing import Any, Final

import numpy as np
from franky_sim.franka_robot_protocol import (
    AutomaticErrorRecoveryCommand,
    AutomaticErrorRecoveryStatus,
    BaseCommand,
    MoveStatus,
    RobotCommand,
    RobotMode,
    SetCollisionBehaviorCommand,
)
from franky_sim.franka_robot_server import FrankaRobotServer
from numpy.typing import NDArray

_CARTESIAN_REFLEX: Final = 7  # its index among libfranka's 41 errors
_N_ERRORS: Final = 41
_FORCE_S: Final = 0.02  # time constant of the external force; ours
_TICK_S: Final = 0.001  # libfranka
_LATE_S: Final = 0.02  # a real arm aborts a motion after 20 lost commands
_NO_FORCE = np.zeros(6)


class _Recovery(AutomaticErrorRecoveryCommand):  # type: ignore[misc]
    def handle(self, server: SimulatedServer) -> None:
        """Leave a reflex; refuse while the user stop is pressed."""
        status = AutomaticErrorRecoveryStatus
        self.reply(status.kSuccess if server.recover() else status.kCommandRejectedDueToActivatedSafetyFunctions)


class _Thresholds(SetCollisionBehaviorCommand):  # type: ignore[misc]
    def handle(self, server: SimulatedServer) -> None:
        """Set the forces above which the arm stops."""
        server.forces_n = np.array(self.upper_force_thresholds_nominal)
        super().handle(server)


class SimulatedServer(FrankaRobotServer):  # type: ignore[misc]
    """One control box, for one thread."""

    def __init__(self, robot: Any, hosts: list[str]) -> None:
        """Bind the first free address."""
        super().__init__(robot, hosts)
        # franky-sim has no public way to replace a command
        commands = self._FrankaServer__command_class_map
        commands[RobotCommand.kAutomaticErrorRecovery] = _Recovery
        commands[RobotCommand.kSetCollisionBehavior] = _Thresholds
        self.forces_n = np.full(6, np.inf)
        self.n_recoveries = 0
        self._stopped: RobotMode | None = None
        self._wrench = _NO_FORCE.copy()

    @property
    def robot_state(self) -> Any:
        """The state sent to the client."""
        state = super().robot_state.replace(O_F_ext_hat_K=tuple(self._wrench))
        if self._stopped is None:
            return state
        is_reflex = self._stopped == RobotMode.kReflex
        errors = tuple(is_reflex and i == _CARTESIAN_REFLEX for i in range(_N_ERRORS))
        return state.replace(robot_mode=self._stopped, errors=errors, reflex_reason=errors)

    def start_motion(self, *arguments: Any) -> None:
        """Start a motion.

        Raises:
            RuntimeError: The arm is stopped; franky-sim replies that the motion was aborted.
        """
        if self._stopped is not None:
            raise RuntimeError(f"the arm is stopped: {self._stopped.name}")
        super().start_motion(*arguments)

    def set_force(self, force_n: NDArray[np.float64]) -> None:
        """Set the contact force (3,) of this tick; trigger a reflex if it exceeds the thresholds."""
        self._wrench[:3] += (force_n - self._wrench[:3]) * _TICK_S / _FORCE_S
        if self._stopped is None and (np.abs(self._wrench) > self.forces_n).any():
            self.reflex()

    def wait_for_command(self) -> None:
        """Wait for the next command of a motion, for at most `_LATE_S` of real time.

        A real control box requires it within a millisecond, which a busy machine cannot guarantee.
        """
        wire = self._FrankaServer__udp_socket
        if self.current_motion_id and wire is not None:
            select.select([wire], [], [], _LATE_S)

    def reflex(self) -> None:
        """Stop immediately by a reflex."""
        self._stop(RobotMode.kReflex, MoveStatus.kReflexAborted)

    def user_stop(self) -> None:
        """Press the user stop."""
        self._stop(RobotMode.kUserStopped, MoveStatus.kPreemptedDueToActivatedSafetyFunctions)

    def release(self) -> None:
        """Release the user stop, and clear a reflex."""
        self._stopped = None

    def recover(self) -> bool:
        """Leave a reflex; return False if the user stop is pressed."""
        self.n_recoveries += 1
        if self._stopped == RobotMode.kUserStopped:
            return False
        self._stopped = None
        return True

    def _stop(self, mode: RobotMode, status: MoveStatus) -> None:
        motion = self.current_motion_id
        self.stop_motion(send_preemption_signal=False)
        self.reset_current_motion_id()
        self._stopped = mode
        if motion:
            BaseCommand.send_response(self._tcp_socket, RobotCommand.kMove, motion, status)
