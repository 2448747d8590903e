"""What the control box of a simulated arm says and does beyond franky-sim: forces, reflexes, user stop, recovery."""

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

_CARTESIAN_REFLEX: Final = 7  # its place among libfranka's 41 errors
_N_ERRORS: Final = 41
_FORCE_S: Final = 0.02  # of the low-pass behind the external force; ours
_TICK_S: Final = 0.001
_LATE_S: Final = 0.02  # as many milliseconds as lost commands end a real motion
_NO_FORCE = np.zeros(6)


class _Recovery(AutomaticErrorRecoveryCommand):  # type: ignore[misc]
    def handle(self, server: SimulatedServer) -> None:
        """Leave a reflex; refuse while a person has stopped the arm."""
        status = AutomaticErrorRecoveryStatus
        self.reply(status.kSuccess if server.recover() else status.kCommandRejectedDueToActivatedSafetyFunctions)


class _Thresholds(SetCollisionBehaviorCommand):  # type: ignore[misc]
    def handle(self, server: SimulatedServer) -> None:
        """Take the forces from which on the arm stops."""
        server.forces_n = np.array(self.upper_force_thresholds_nominal)
        super().handle(server)


class SimulatedServer(FrankaRobotServer):  # type: ignore[misc]
    """One control box. One thread advances it."""

    def __init__(self, robot: Any, hosts: list[str]) -> None:
        """Bind the first of the addresses that is free."""
        super().__init__(robot, hosts)
        # franky-sim has no other way to replace a command
        commands = self._FrankaServer__command_class_map
        commands[RobotCommand.kAutomaticErrorRecovery] = _Recovery
        commands[RobotCommand.kSetCollisionBehavior] = _Thresholds
        self.forces_n = np.full(6, np.inf)
        self.n_recoveries = 0
        self._stopped: RobotMode | None = None
        self._wrench = _NO_FORCE.copy()

    @property
    def robot_state(self) -> Any:
        """The state as it goes over the wire."""
        state = super().robot_state.replace(O_F_ext_hat_K=tuple(self._wrench))
        if self._stopped is None:
            return state
        is_reflex = self._stopped == RobotMode.kReflex
        errors = tuple(is_reflex and i == _CARTESIAN_REFLEX for i in range(_N_ERRORS))
        return state.replace(robot_mode=self._stopped, errors=errors, reflex_reason=errors)

    def start_motion(self, *arguments: Any) -> None:
        """Begin a motion.

        Raises:
            RuntimeError: The arm is stopped; franky-sim answers that the motion is aborted.
        """
        if self._stopped is not None:
            raise RuntimeError(f"the arm is stopped: {self._stopped.name}")
        super().start_motion(*arguments)

    def feel(self, force_n: NDArray[np.float64]) -> None:
        """Take the force (3,) of this millisecond, and stop where it is too large."""
        self._wrench[:3] += (force_n - self._wrench[:3]) * _TICK_S / _FORCE_S
        if self._stopped is None and (np.abs(self._wrench) > self.forces_n).any():
            self.reflex()

    def wait_for_command(self) -> None:
        """Let no time pass until a motion's next command has come, or is late beyond hope.

        A control box demands it within a millisecond; a machine that is busy with other work cannot keep that.
        """
        wire = self._FrankaServer__udp_socket
        if self.current_motion_id and wire is not None:
            select.select([wire], [], [], _LATE_S)

    def reflex(self) -> None:
        """Stop at once, where the arm is."""
        self._stop(RobotMode.kReflex, MoveStatus.kReflexAborted)

    def user_stop(self) -> None:
        """Press the user stop."""
        self._stop(RobotMode.kUserStopped, MoveStatus.kPreemptedDueToActivatedSafetyFunctions)

    def release(self) -> None:
        """Release the user stop, and forget a reflex."""
        self._stopped = None

    def recover(self) -> bool:
        """Leave a reflex; return False where a person has stopped the arm."""
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
