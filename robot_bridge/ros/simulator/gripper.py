"""The simulated Franka hand: the four actions of franka_gripper with the timing and errors of the real one."""

from __future__ import annotations

import threading
import time
from typing import Any

import actionlib
import numpy as np

from robot_bridge.ros import names
from robot_bridge.ros.messages import Types
from robot_bridge.ros.simulator.log import DriverLog
from robot_bridge.simulation.realtime import RealtimeSimulation

_STROKE_M = 0.08  # Franka hand
_STILL_M_S = 0.002  # below this speed the fingers rest; ours
_STALL_S = 0.15  # fingers resting this long short of their target are blocked; ours
_CLOSE_M = 0.002  # tolerance of a target width; ours
_POLL_S = 0.01
_LONGEST_S = 4.0  # longest motion; ours
_BLOCKED_M = 0.12  # with `is_blocked`, the fingers are blocked while the hand is lower than this; ours
_FORCE_N = 40.0  # of motions other than a grasp; ours


class SimulatedGripper:
    """Serves homing, grasp, move and stop. Call `tick` from one thread only."""

    def __init__(self, simulation: RealtimeSimulation, types: Types, log: DriverLog) -> None:
        """Start the action servers."""
        self._types, self._log = types, log
        self.misses = False  # fault: grasps end without success
        self.hangs = False  # fault: goals never end
        self.is_blocked = False  # fault: the fingers cannot open near the floor
        self._lock = threading.Lock()
        self._still_s = 0.0
        self._motion = 0  # number of the present motion; a stop or a newer goal increments it
        self.set_simulation(simulation)
        self._servers = [
            self._serve(names.HOMING, "Homing", self._home),
            self._serve(names.GRASP, "Grasp", self._grasp),
            self._serve(names.MOVE, "Move", self._move),
            self._serve(names.STOP, "Stop", self._stop),
        ]

    def set_simulation(self, simulation: RealtimeSimulation) -> None:
        """Continue with another scene."""
        with self._lock:
            self._simulation = simulation
            self._width_m = self._goal_m = float(simulation.fingers_m.sum())
            self._speed_m_s, self._force_n = 0.1, _FORCE_N

    def tick(self, duration_s: float) -> None:
        """Advance the target of the fingers at the commanded speed."""
        with self._lock:
            most = self._speed_m_s * duration_s
            self._width_m += float(np.clip(self._goal_m - self._width_m, -most, most))
            self._simulation.grip(self._width_m, self._force_n)
            is_still = abs(self._simulation.finger_speed_m_s) < _STILL_M_S
            self._still_s = self._still_s + duration_s if is_still else 0.0

    def _serve(self, name: str, type_: str, execute: Any) -> Any:
        server: Any = None

        def on_goal(goal: Any) -> None:
            self._log.event("gripper", action=type_)
            while self.hangs and not server.is_preempt_requested():
                time.sleep(_POLL_S)
            result = self._types[f"franka_gripper/{type_}Result"]()
            result.success, result.error = execute(goal)
            if result.error:
                server.set_aborted(result, result.error)
            elif server.is_preempt_requested():
                server.set_preempted(result)
            else:
                server.set_succeeded(result)

        server = actionlib.SimpleActionServer(
            name, self._types[f"franka_gripper/{type_}Action"], on_goal, auto_start=False
        )
        server.start()
        return server

    def _home(self, _goal: Any) -> tuple[bool, str]:
        self._go(0.0, 0.1, _FORCE_N)
        self._go(_STROKE_M, 0.1, _FORCE_N)
        return self._is_at(_STROKE_M), ""

    def _move(self, goal: Any) -> tuple[bool, str]:
        if not 0 <= goal.width <= _STROKE_M:
            return False, "libfranka gripper: Command failed!"
        if self.is_blocked and self._simulation.pose()[2, 3] < _BLOCKED_M:
            return False, ""
        self._go(goal.width, goal.speed, _FORCE_N)
        return self._is_at(goal.width), ""

    def _grasp(self, goal: Any) -> tuple[bool, str]:
        if not 0 <= goal.width <= _STROKE_M:
            return False, "libfranka gripper: Command failed!"
        self._go(goal.width, goal.speed, goal.force)
        width_m = float(self._simulation.fingers_m.sum())
        is_within = goal.width - goal.epsilon.inner <= width_m <= goal.width + goal.epsilon.outer
        return is_within and not self.misses, ""

    def _stop(self, _goal: Any) -> tuple[bool, str]:
        with self._lock:
            self._motion += 1
            self._goal_m = self._width_m
        return True, ""

    def _go(self, width_m: float, speed_m_s: float, force_n: float) -> None:
        """Move until the target is reached, or the motion is blocked or stopped."""
        with self._lock:
            self._motion += 1
            motion = self._motion
            self._goal_m, self._speed_m_s, self._force_n = width_m, min(max(speed_m_s, 0.01), 0.1), force_n
            self._still_s = 0.0
        deadline_s = time.monotonic() + _LONGEST_S
        while time.monotonic() < deadline_s and self._motion == motion:
            with self._lock:
                is_reached = self._is_at(width_m) and self._still_s > _POLL_S
                is_blocked = self._still_s > _STALL_S
            if is_reached or is_blocked:
                return
            time.sleep(_POLL_S)

    def _is_at(self, width_m: float) -> bool:
        return abs(float(self._simulation.fingers_m.sum()) - width_m) < _CLOSE_M
