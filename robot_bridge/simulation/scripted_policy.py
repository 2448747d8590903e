"""Scripted policy: does the task of a scene from simulator state through public steps; used to make goal images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robot_bridge.robot import CLOSE, OPEN, RobotError
from robot_bridge.simulation.franka import SimulatedFranka
from robot_bridge.simulation.success import CLEAR_M

MAX_STEPS = 50  # a trial's length; paper E.1
_CARRY_M = 0.13  # height of the hand that clears all objects
_NEAR_M = 0.006  # tolerance of a hand target
_GRASP_BELOW_TOP_M = 0.013  # grasp point below the top of a tool
_GLIDE_M = 0.002  # gap between a dragged tool and the surface


def make_goal(robot: SimulatedFranka) -> NDArray[np.uint8]:
    """Return the goal image of the present task scene: the last image of the scripted policy, the tool still held.

    The policy runs in a twin; the robot itself does not move.

    Returns:
        (H, W, 3) uint8 RGB at camera size.

    Raises:
        RobotError: The scene has no task, or the policy failed; reset to another scene.
    """
    twin = robot.twin()
    try:
        perform(twin)
        return twin.render()
    finally:
        twin.close()


def perform(robot: SimulatedFranka) -> list[NDArray[np.float32]]:
    """Do the task of the present scene and lift the tool; return the applied actions, each (4,).

    Raises:
        RobotError: The scene has no task, or it was not done after `MAX_STEPS` actions. The arm rests where the last
            action left it.
    """
    policy = _ScriptedPolicy(robot)
    while not policy.done():
        policy.pick()
        policy.stroke()
        policy.lift()
    return policy.actions


class _ScriptedPolicy:
    """One execution of the task: the actions so far, and the roles of the objects."""

    def __init__(self, robot: SimulatedFranka) -> None:
        task = robot.scene.task
        if task is None:
            raise RobotError(f"expected a task scene for the scripted policy, got '{robot.scene.kind}'")
        self.actions: list[NDArray[np.float32]] = []
        self._robot = robot
        self._tool = task.tool
        self._targets = task.targets
        self._fixture = task.container
        self._side = float(np.sign(self._fixture.at_m[1]))  # direction of every stroke along y

    def done(self) -> bool:
        task_success = self._robot.task_success()
        return task_success is not None and task_success.strict and task_success.goal_now

    def pick(self) -> None:
        """Grasp the tool and lift it; repeat until it is held."""
        top_m = 2 * self._tool.shape.rest_m
        while not self._held():
            x, y, z = self._robot.position(self._tool.name)
            grasp_m = z + top_m / 2 - min(_GRASP_BELOW_TOP_M, top_m / 2)
            self._go([x, y, _CARRY_M], OPEN)
            self._go([x, y, max(grasp_m, self._low()[2])], OPEN, then=CLOSE)
            self.lift()

    def lift(self) -> None:
        """Raise the hand to carrying height."""
        x, y, _ = self._hand()
        self._go([x, y, _CARRY_M], CLOSE)

    def stroke(self) -> None:
        """Lower the tool behind the targets and drag it over the rim of the plate, or into the pan."""
        points = np.stack([self._robot.position(name) for name in self._targets])
        container = self._fixture.container
        if container.round:
            left = np.linalg.norm(self._fixture.inside(points)[:, :2], axis=1) <= container.radius_m + CLEAR_M
            points = points[left] if left.any() else points
            surface_m, reach = container.height_m, container.radius_m + 0.01
            middle = points[:, 0]
        else:
            surface_m, reach = container.height_m + 0.001, 0.03 - container.half_size_m[1]
            play = max(0.0, container.half_size_m[0] - self._tool.shape.radius_m - 0.008)
            middle = np.clip(points[:, 0], self._fixture.at_m[0] - play, self._fixture.at_m[0] + play)
        hand, tool = self._hand(), self._robot.position(self._tool.name)
        offset = hand - tool  # of the grasp point on the tool
        x = (middle.min() + middle.max()) / 2 + offset[0]
        behind = (self._side * points[:, 1]).min() - 0.058
        start_y = self._side * behind + offset[1]
        end_y = self._fixture.at_m[1] + self._side * reach + offset[1]
        z = surface_m + _GLIDE_M + self._tool.shape.rest_m + offset[2]
        self._go([x, start_y, _CARRY_M], CLOSE)
        self._go([x, start_y, z], CLOSE)
        self._go([x, end_y, z], CLOSE)

    def _go(self, target: list[float], gripper: float, then: float | None = None) -> None:
        """Move the hand to a target in as few steps as possible; `then` is the gripper command of the last one."""
        limits = self._robot.spec.limits
        goal = np.clip(np.array(target), limits.workspace_low_m, limits.workspace_high_m)
        for _ in range(4):
            delta = goal - self._hand()
            last = bool(np.linalg.norm(delta) <= limits.step_limit_m)
            if np.linalg.norm(delta) > _NEAR_M or (last and then is not None):
                self._act(delta, then if last and then is not None else gripper)
            if last:
                return

    def _act(self, delta: NDArray[np.float64], gripper: float) -> None:
        if len(self.actions) == MAX_STEPS:
            raise RobotError(
                f"the scripted policy did not finish '{self._robot.scene.kind}' in {MAX_STEPS} actions; "
                "reset to another scene"
            )
        self.actions.append(self._robot.advance(np.array([*delta, gripper], dtype=np.float32)))

    def _held(self) -> bool:
        return bool(np.linalg.norm(self._hand() - self._robot.position(self._tool.name)) < 0.05 < self._hand()[2])

    def _hand(self) -> NDArray[np.float64]:
        return self._robot.hand()

    def _low(self) -> tuple[float, float, float]:
        return self._robot.spec.limits.workspace_low_m
