"""Simulated Franka: the `Robot` protocol over a MuJoCo scene, with exact snapshots for ground-truth prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from configs.interruption import check
from robot_bridge.motion import draw_start
from robot_bridge.robot import OPEN, Observation, RobotError, RobotFault, RobotSpec, Step
from robot_bridge.safety import limit_action
from robot_bridge.simulation import renderer as render
from robot_bridge.simulation.arm import TICK_S, MujocoArm
from robot_bridge.simulation.config import SimulationConfig
from robot_bridge.simulation.mujoco_import import mujoco
from robot_bridge.simulation.realtime import RealtimeSimulation
from robot_bridge.simulation.scene import Scene, build
from robot_bridge.simulation.success import SuccessTest, TaskProgress, TaskSuccess

_SETTLE_S = 0.6  # time for objects to come to rest before the first observation; ours
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_MAX_DRAWS = 20  # scenes drawn until one starts with its task not done; ours
_NEAR_M = 0.005  # tolerance of the hand position after a reset; ours
_MAX_RETURNS = 8  # steps of each part of the way to the start; ours


@dataclass(frozen=True)
class Snapshot:
    """Complete state of a simulated robot within its present scene."""

    scene: Scene
    physics: NDArray[np.float64]
    progress: TaskProgress | None


class SimulatedFranka:
    """A Franka over a bin in MuJoCo. Before the first `reset`, only `spec` works."""

    def __init__(self, config: SimulationConfig) -> None:
        self._config = config
        self._renderer_name = render.choose(config.renderer)
        self._spec = RobotSpec(
            "franka", config.limits, config.camera, config.step_s, renews_scene=config.resets_per_scene == 1
        )
        self._scene: Scene | None = None
        self._renderer: render.Renderer | None = None
        self._success_test: SuccessTest | None = None
        self._rested: Snapshot | None = None  # state after the last valid motion
        self._fault: str | None = None
        self._closed = False
        self._simulated_s = 0.0
        self._n_resets = 0  # number of resets of the present scene

    @property
    def spec(self) -> RobotSpec:
        """The description of this robot."""
        return self._spec

    @property
    def simulated_s(self) -> float:
        """Simulated time in seconds since construction, over all scenes."""
        return self._simulated_s

    @property
    def scene(self) -> Scene:
        """The present scene."""
        return self._check_scene()

    def reset(self, rng: np.random.Generator) -> Observation:
        """Make a new scene drawn from `rng`, open the gripper, go to a start pose above the bin, and observe.

        With `resets_per_scene` other than 1 the scene is kept, and the hand moves to its start as a real one does.

        Raises:
            RobotFault: A fault has not been cleared, or no valid scene was found.
            RobotError: The robot was closed.
        """
        self._check_open()
        self._check_fault()
        n_max = self._config.resets_per_scene
        if self._scene is not None and (n_max == 0 or self._n_resets < n_max):
            self._n_resets += 1
            self._move_to_start(draw_start(rng, self._config.limits))
            return self.observe()
        for _ in range(_MAX_DRAWS):
            self._make_scene(rng)
            if self._success_test is None or not self._success_test.result().goal_now:
                return self.observe()
        raise RobotFault(
            f"expected a scene whose task is not done, got {_MAX_DRAWS} of kind '{self._config.scene}'; "
            "use another seed"
        )

    def observe(self) -> Observation:
        """Return an observation without moving; see `Robot.observe`."""
        image = self.render()
        return Observation(image, self._arm.state(), self._simulated_s)

    def step(self, action: NDArray[np.float32]) -> Step:
        """Move, wait until the hand rests, and observe; see `Robot.step`."""
        return Step(self.advance(action), self.observe())

    def advance(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """Move as `step` does, without rendering; return the applied action (4,)."""
        check()
        self._check_scene()
        self._check_fault()
        applied = limit_action(action, self.hand(), self._config.limits)
        for _ in self._arm.move(applied, self._config.step_s):
            self._simulated_s += TICK_S
            if self._success_test:
                self._success_test.end_tick(TICK_S)
        self._rest()
        if self._success_test:
            self._success_test.end_step()
        self._rested = self.snapshot()
        return applied

    def render(self) -> NDArray[np.uint8]:
        """Return the camera image (H, W, 3) uint8 RGB."""
        self._check_scene()
        if self._renderer is None:
            self._renderer = render.make(self._renderer_name, self._model, self._config.camera)
        return self._renderer.render(self._data)

    def task_success(self) -> TaskSuccess | None:
        """Return the result of the success test so far, or None in a scene without a task."""
        self._check_scene()
        return self._success_test.result() if self._success_test else None

    def hand(self) -> NDArray[np.float64]:
        """Return the measured hand position (3,) in metres in the base frame."""
        self._check_scene()
        return self._arm.state()[:3]

    def position(self, name: str) -> NDArray[np.float64]:
        """Return the present position (3,) of an object of the scene, in metres in the base frame."""
        self._check_scene()
        return np.array(self._data.body(name).xpos)

    def tool_m(self) -> NDArray[np.float64] | None:
        """Return the present position (3,) of the tool, in metres in the base frame; None in a scene without a task."""
        task = self._check_scene().task
        return self.position(task.tool.name) if task else None

    def snapshot(self) -> Snapshot:
        """Return the exact state; simulating from it is bitwise reproducible."""
        scene = self._check_scene()
        physics = np.empty(mujoco.mj_stateSize(self._model, _STATE))
        mujoco.mj_getState(self._model, self._data, physics, _STATE)
        return Snapshot(scene, physics, self._success_test.progress if self._success_test else None)

    def restore(self, snapshot: Snapshot) -> None:
        """Restore a state of the present scene, taken from this robot or a twin. `simulated_s` is not restored.

        Raises:
            RobotError: The snapshot belongs to another scene. Nothing changed.
        """
        if snapshot.scene is not self._check_scene():
            raise RobotError(
                "expected a snapshot of the present scene, got one of another; take it after the last reset"
            )
        mujoco.mj_setState(self._model, self._data, snapshot.physics, _STATE)
        mujoco.mj_forward(self._model, self._data)
        if self._success_test and snapshot.progress:
            self._success_test.progress = snapshot.progress
        self._rested = snapshot

    def twin(self) -> SimulatedFranka:
        """Return an independent copy of this robot in the present state; several may `advance` in parallel threads."""
        scene = self._check_scene()
        self._check_fault()
        other = SimulatedFranka(self._config)
        other._attach(scene, self._model)
        other.restore(self.snapshot())
        other._simulated_s = self._simulated_s
        return other

    def realtime(self) -> RealtimeSimulation:
        """Return the present scene as a real-time simulation; this robot has no scene until its next reset."""
        self._check_scene()
        simulation = RealtimeSimulation(self._model, self._data, self._success_test)
        self._free_renderer()
        self._scene = None
        return simulation

    def recover(self) -> None:
        """Clear a fault; the arm holds the pose from before it."""
        self._fault = None

    def close(self) -> None:
        """Free the renderer. Safe to call twice."""
        self._closed = True
        self._free_renderer()

    def _make_scene(self, rng: np.random.Generator) -> None:
        config = self._config
        scene = build(rng, config.scene, config.split, config.camera, config.camera_jitter)
        self._free_renderer()
        self._rested = None
        self._attach(scene, mujoco.MjModel.from_xml_string(scene.xml))
        self._arm.place(draw_start(rng, config.limits))
        for _ in self._arm.hold(_SETTLE_S):
            self._simulated_s += TICK_S
        self._rest()
        self._rested = self.snapshot()
        self._n_resets = 1

    def _move_to_start(self, start: NDArray[np.float64]) -> None:
        """Open the gripper, raise the hand, and move it above a start position (3,), then to it."""
        high_m = self._config.limits.workspace_high_m[2]
        self.advance(np.array([0.0, 0.0, 0.0, OPEN], np.float32))
        for place in (np.array([*self.hand()[:2], high_m]), np.array([*start[:2], high_m]), start):
            for _ in range(_MAX_RETURNS):
                if np.linalg.norm(place - self.hand()) < _NEAR_M:
                    break
                self.advance(np.array([*(place - self.hand()), OPEN], np.float32))

    def _attach(self, scene: Scene, model: mujoco.MjModel) -> None:
        self._scene, self._model = scene, model
        self._data = mujoco.MjData(model)
        self._arm = MujocoArm(model, self._data, self._config.contact_limit_n)
        self._success_test = SuccessTest(scene.task, model, self._data) if scene.task else None

    def _rest(self) -> None:
        """Update all quantities derived from the state; turn an invalid state into a fault."""
        mujoco.mj_forward(self._model, self._data)
        counts = self._data.warning.number
        if not counts.any() and np.isfinite(self._data.qacc).all():
            return
        warnings = [mujoco.mjtWarning(i).name for i in np.flatnonzero(counts)]
        self._fault = f"the simulation is unstable ({', '.join(warnings) or 'not finite'})"
        if self._rested is None:
            self._scene = None
        else:
            self._attach(self._rested.scene, self._model)
            self.restore(self._rested)
        raise RobotFault(f"{self._fault}; run the command again, with another --seed if this repeats")

    def _check_open(self) -> None:
        if self._closed:
            raise RobotError("expected an open simulated Franka, got a closed one; open a new one")

    def _check_fault(self) -> None:
        if self._fault:
            raise RobotFault(f"{self._fault}, and was not recovered; open the robot again")

    def _check_scene(self) -> Scene:
        self._check_open()
        if self._scene is None:
            raise RobotError("expected a scene, got none before the first reset; call reset first")
        return self._scene

    def _free_renderer(self) -> None:
        if self._renderer:
            self._renderer.close()
            self._renderer = None
