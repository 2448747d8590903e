"""Motion of the simulated arm: actions executed tick by tick."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from robot_bridge.kinematics import HOME_RAD, N_JOINTS, Kinematics, Pose
from robot_bridge.motion import SETTLE_FRACTION, ContactGuard, Motion
from robot_bridge.robot import CLOSE
from robot_bridge.simulation import panda_mjcf
from robot_bridge.simulation.mujoco_import import mujoco

TICK_S = 0.008  # between two joint targets and two contact readings; shorter than any contact; ours
GRIP_S = 0.25  # added when the gripper opens or closes, for the travel of the fingers; ours


@functools.cache
def _arm_model() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(panda_mjcf.arm_xml())


def kinematics() -> Kinematics:
    """Return the kinematics of the simulated arm, computed by MuJoCo on a model of the arm alone."""
    model = _arm_model()
    data = mujoco.MjData(model)
    tcp = model.site("tcp").id
    jacobian = np.zeros((6, model.nv))

    def pose(joints_rad: NDArray[np.float64]) -> Pose:
        data.qpos[:N_JOINTS] = joints_rad
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], tcp)
        return Pose(np.array(data.site_xpos[tcp]), data.site_xmat[tcp].reshape(3, 3), jacobian[:, :N_JOINTS])

    return Kinematics(pose)


class MujocoArm:
    """The arm within one simulated scene."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, contact_limit_n: float) -> None:
        self._model, self._data = model, data
        self._guard = ContactGuard(contact_limit_n, TICK_S)
        self._kinematics = kinematics()
        self._tcp = model.site("tcp").id
        self._fingers = [model.joint(name).qposadr[0] for name in ("slide_left", "slide_right")]
        push = model.sensor("push")
        self._push = slice(push.adr[0], push.adr[0] + push.dim[0])
        self._n_substeps = round(TICK_S / model.opt.timestep)

    def place(self, hand_m: NDArray[np.float64]) -> None:
        """Set the arm at rest with the hand at `hand_m` and the gripper open, without motion."""
        joints = self._kinematics.solve(HOME_RAD, hand_m)
        self._data.qpos[:N_JOINTS] = joints
        self._data.qpos[self._fingers] = panda_mjcf.TRAVEL_M
        self._data.ctrl[:] = [*joints, panda_mjcf.TRAVEL_M]

    def state(self) -> NDArray[np.float64]:
        """Return the measured state (5,); see `Observation.state`."""
        axes = self._data.site_xmat[self._tcp].reshape(3, 3)
        opening = np.clip(self._data.qpos[self._fingers].mean() / panda_mjcf.TRAVEL_M, 0.0, 1.0)
        return np.array([*self._data.site_xpos[self._tcp], np.arctan2(axes[1, 0], axes[0, 0]), opening])

    def hold(self, duration_s: float) -> Iterator[None]:
        """Hold the present targets; yields after each tick."""
        for _ in range(round(duration_s / TICK_S)):
            self._tick()
            yield

    def move(self, action: NDArray[np.float32], step_s: float) -> Iterator[None]:
        """Execute a limited action: first the hand's motion, then the gripper's; yields after each tick."""
        motion = Motion(self._kinematics, self._commanded(), self._tcp_m(), action[:3], self._guard)
        finger_m = 0.0 if action[3] == CLOSE else panda_mjcf.TRAVEL_M
        n_moving, n = self._n_ticks(step_s, finger_m)
        for tick in range(n):
            if tick >= n_moving:
                self._data.ctrl[N_JOINTS] = finger_m
            self._data.ctrl[:N_JOINTS] = motion.target(min(1.0, (tick + 1) / n_moving))
            self._tick()
            motion.limit_by_contact(self.contact_n(), self._commanded(), self._tcp_m())
            yield

    def contact_n(self) -> NDArray[np.float64]:
        """Return the contact force on the hand and its fingers (3,), in newtons, base frame."""
        return -np.array(self._data.sensordata[self._push])

    def _n_ticks(self, step_s: float, finger_m: float) -> tuple[int, int]:
        """Return the number of ticks of the hand motion and of the whole step."""
        n_moving = round(step_s * (1 - SETTLE_FRACTION) / TICK_S)
        grip_s = GRIP_S if finger_m != self._data.ctrl[N_JOINTS] else 0.0
        return n_moving, n_moving + round((step_s * SETTLE_FRACTION + grip_s) / TICK_S)

    def _tick(self) -> None:
        mujoco.mj_step(self._model, self._data, self._n_substeps)

    def _commanded(self) -> NDArray[np.float64]:
        return np.array(self._data.ctrl[:N_JOINTS])

    def _tcp_m(self) -> NDArray[np.float64]:
        return np.array(self._data.site_xpos[self._tcp])
