"""Real-time simulation: joints, fingers and camera of a simulated Franka, to be controlled by a simulated driver."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from robot_bridge.camera import Camera
from robot_bridge.kinematics import N_JOINTS
from robot_bridge.simulation import panda_mjcf
from robot_bridge.simulation import renderer as render
from robot_bridge.simulation.arm import MujocoArm
from robot_bridge.simulation.config import RendererName
from robot_bridge.simulation.mujoco_import import mujoco
from robot_bridge.simulation.success import SuccessTest, TaskSuccess


class RealtimeSimulation:
    """A scene advanced by one thread; a `RealtimeCamera` may render it from another thread at any time."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, success_test: SuccessTest | None) -> None:
        """Take over a scene at rest."""
        self.model, self._data, self._success_test = model, data, success_test
        self._arm = MujocoArm(model, data, contact_limit_n=np.inf)  # the bridge limits contact forces itself
        self._fingers = [model.joint(name).qposadr[0] for name in ("slide_left", "slide_right")]
        self._tcp = model.site("tcp").id
        self._lock = threading.Lock()
        self._due_s = float(data.time)
        self._jacobian = np.zeros((6, model.nv))
        self._mass = np.zeros((model.nv, model.nv))
        self._positions = np.array(data.qpos)

    @property
    def joints_rad(self) -> NDArray[np.float64]:
        """Measured joints (7,)."""
        return np.array(self._data.qpos[:N_JOINTS])

    @property
    def speeds_rad_s(self) -> NDArray[np.float64]:
        """Measured joint speeds (7,)."""
        return np.array(self._data.qvel[:N_JOINTS])

    @property
    def torques_nm(self) -> NDArray[np.float64]:
        """Motor torques (7,)."""
        return np.array(self._data.actuator_force[:N_JOINTS])

    @property
    def gravity_nm(self) -> NDArray[np.float64]:
        """Gravity compensation torques (7,)."""
        return np.array(self._data.qfrc_gravcomp[:N_JOINTS])

    @property
    def fingers_m(self) -> NDArray[np.float64]:
        """Distance of each finger from the middle (2,)."""
        return np.array(self._data.qpos[self._fingers])

    @property
    def finger_speed_m_s(self) -> float:
        """Rate of change of the gap between the fingers."""
        return float(self._data.qvel[self._fingers].sum())

    def pose(self) -> NDArray[np.float64]:
        """Return the hand's pose in the base frame, (4, 4)."""
        pose = np.eye(4)
        pose[:3, :3] = self._data.site_xmat[self._tcp].reshape(3, 3)
        pose[:3, 3] = self._data.site_xpos[self._tcp]
        return pose

    def jacobian(self) -> NDArray[np.float64]:
        """Return the hand's Jacobian in the base frame, (6, 7)."""
        mujoco.mj_jacSite(self.model, self._data, self._jacobian[:3], self._jacobian[3:], self._tcp)
        return self._jacobian[:, :N_JOINTS].copy()

    def mass(self) -> NDArray[np.float64]:
        """Return the arm's mass matrix, (7, 7)."""
        mujoco.mj_fullM(self.model, self._data, self._mass)
        return self._mass[:N_JOINTS, :N_JOINTS].copy()

    def push_n(self) -> NDArray[np.float64]:
        """Return the contact force on the hand (3,), base frame."""
        return self._arm.contact_n()

    def servo(self, joints_rad: NDArray[np.float64]) -> None:
        """Set the joint targets (7,) of the servos."""
        self._data.ctrl[:N_JOINTS] = joints_rad

    def grip(self, width_m: float, force_n: float) -> None:
        """Set the target width between the fingers and their largest force."""
        self._data.ctrl[N_JOINTS] = np.clip(width_m / 2, 0.0, panda_mjcf.TRAVEL_M)
        self.model.actuator_forcerange[N_JOINTS] = (-force_n, force_n)

    def advance(self, duration_s: float) -> None:
        """Simulate for a duration. It need not be a multiple of the physics step: the remainders are carried over."""
        with self._lock:
            self._due_s += duration_s
            while self._data.time < self._due_s - 1e-9:
                mujoco.mj_step(self.model, self._data)
            mujoco.mj_forward(self.model, self._data)
            self._positions = np.array(self._data.qpos)
        if self._success_test:
            self._success_test.end_tick(duration_s)

    def end_step(self) -> None:
        """Evaluate the success test; call it when the arm rests."""
        if self._success_test:
            self._success_test.end_step()

    def task_success(self) -> TaskSuccess | None:
        """Return the result of the success test so far, or None in a scene without a task."""
        return self._success_test.result() if self._success_test else None

    def positions(self) -> NDArray[np.float64]:
        """Return the positions (nq,) to render now; from any thread."""
        with self._lock:
            return self._positions


class RealtimeCamera:
    """Renders a real-time simulation. Use it in the thread that made it: its OpenGL context belongs to that thread."""

    def __init__(self, simulation: RealtimeSimulation, renderer: RendererName, camera: Camera) -> None:
        """Make the renderer in the calling thread."""
        self._simulation = simulation
        self._data = mujoco.MjData(simulation.model)
        self._renderer = render.make(renderer, simulation.model, camera)

    def render(self) -> NDArray[np.uint8]:
        """Return the present camera image, (H, W, 3) uint8 RGB."""
        self._data.qpos[:] = self._simulation.positions()
        mujoco.mj_kinematics(self._simulation.model, self._data)
        mujoco.mj_camlight(self._simulation.model, self._data)
        return self._renderer.render(self._data)

    def close(self) -> None:
        """Free the renderer."""
        self._renderer.close()
