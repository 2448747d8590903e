"""Success tests of the task scenes, evaluated over the steps of one episode."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from robot_bridge.simulation.mujoco_import import mujoco
from robot_bridge.simulation.scene import SceneTask

CLEAR_M = 0.004  # an object is off the plate when its centre is this far beyond the rim; ours
PAN_HEIGHT_M = 0.08  # an object is in the pan below this height; ours
LIFT_M = 0.03  # a tool is picked when it was this far above its rest height; ours
LIFT_S = 0.6  # ... for this long, between the fingers: three steps of 0.2 s; ours
GAP_M = 0.004  # ... with at least this gap between the fingers; ours


@dataclass(frozen=True)
class TaskSuccess:
    """Result of the success test so far."""

    goal: bool  # all targets were at their goal at the end of some step
    goal_now: bool  # all targets are at their goal now
    picked: bool  # the tool was lifted and held
    touched: bool  # the tool touched a target after it was picked
    strict: bool  # the goal was reached with the tool: not before it was picked, and after it touched a target
    distance_m: float  # from the farthest target to its goal; 0 when all are there


@dataclass(frozen=True)
class TaskProgress:
    """Counters of a success test; immutable, so that a snapshot can hold them."""

    goal: bool = False
    held_s: float = 0.0
    touched: bool = False
    by_hand: bool = False  # the goal was reached before the tool was picked
    strict: bool = False

    @property
    def picked(self) -> bool:
        """Whether the tool has been held long enough."""
        return self.held_s >= LIFT_S - 1e-9


class SuccessTest:
    """Evaluates the success of one task scene while the simulation advances."""

    def __init__(self, task: SceneTask, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self._data = data
        self._fixture = task.container
        self._tool = model.body(task.tool.name).id
        self._targets = [model.body(name).id for name in task.targets]
        self._rest_m = task.tool.at_m[2]
        self._finger = model.joint("slide_left").qposadr[0]
        self._body_of_geom = np.array(model.geom_bodyid)
        self._is_target = np.isin(np.arange(model.nbody), self._targets)
        self.progress = TaskProgress()

    def end_tick(self, duration_s: float) -> None:
        """Count the tick of `duration_s` that has just been simulated."""
        progress = self.progress
        lifted = self._data.xpos[self._tool][2] > self._rest_m + LIFT_M
        if lifted and 2 * self._data.qpos[self._finger] > GAP_M:
            progress = replace(progress, held_s=progress.held_s + duration_s)
        if progress.picked and not progress.touched:
            bodies = self._body_of_geom[self._data.contact.geom]
            with_tool = bodies == self._tool
            touched = bool((with_tool & self._is_target[bodies[:, ::-1]]).any())
            progress = replace(progress, touched=touched)
        self.progress = progress

    def end_step(self) -> None:
        """Evaluate, at the end of a step, whether all targets are at their goal."""
        if self._distance_m() == 0:
            progress = self.progress
            by_hand = progress.by_hand or not progress.picked
            self.progress = replace(
                progress, goal=True, by_hand=by_hand, strict=progress.strict or (progress.touched and not by_hand)
            )

    def result(self) -> TaskSuccess:
        """Return the result so far."""
        counted, distance_m = self.progress, self._distance_m()
        return TaskSuccess(counted.goal, distance_m == 0, counted.picked, counted.touched, counted.strict, distance_m)

    def _distance_m(self) -> float:
        points = self._fixture.inside(self._data.xpos[self._targets])
        container = self._fixture.container
        if container.round:
            short = container.radius_m + CLEAR_M - np.linalg.norm(points[:, :2], axis=1)
            return float(np.maximum(short, 0.0).max())
        outside = np.maximum(np.abs(points[:, :2]) - np.array(container.half_size_m), 0.0)
        above = np.maximum(points[:, 2] - PAN_HEIGHT_M, 0.0)
        return float((np.linalg.norm(outside, axis=1) + above).max())
