"""The arm's motion: hand targets to joint targets, along a straight path, with a guard against pressing down."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from robot_bridge.robot import CLOSE
from robot_bridge.simulation import panda
from robot_bridge.simulation.engine import mujoco

TICK_S = 0.008  # between two looks of the guard, and two joint targets; the shortest touch is not missed
SETTLE_SHARE = 0.25  # of a step, after the hand's motion, for it to come to rest
GRIP_S = 0.25  # longer when the gripper opens or closes: the fingers travel and take hold
_PUSH_S = 0.025  # a sideways push is averaged over this long: an object that is hit and flies off stops nothing
_KNOT_M = 0.05  # between two solved points of a path: joints in between keep the hand within 1 mm of the line
_DAMPING = 1e-4  # of the least squares
_HOMING = 0.5  # share of the way to the home posture, within what leaves the hand alone, of one iteration
_DOWN = np.diag([1.0, -1.0, -1.0])  # the hand's orientation


@functools.cache
def _arm_model() -> mujoco.MjModel:
    return mujoco.MjModel.from_xml_string(panda.arm_xml())


class Kinematics:
    """Inverse kinematics of the hand pointing straight down, by damped least squares on a model of the arm alone."""

    def __init__(self) -> None:
        self._model = _arm_model()
        self._data = mujoco.MjData(self._model)
        self._tcp = self._model.site("tcp").id
        self._jacobian = np.zeros((6, self._model.nv))
        self._low, self._high = self._model.jnt_range[: panda.N_JOINTS].T

    def solve(self, start_rad: NDArray[np.float64], hand_m: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the joints (7,) in radians, near `start_rad`, that bring the hand (3,) to `hand_m`."""
        joints = start_rad.copy()
        for _ in range(8):
            error = self._error(joints, hand_m)
            if np.abs(error).max() < 1e-4:
                break
            jacobian = self._jacobian[:, : panda.N_JOINTS]
            home = _HOMING * (panda.HOME_RAD - joints)  # the elbow's one free motion ends where no history shows
            step = home + jacobian.T @ np.linalg.solve(
                jacobian @ jacobian.T + _DAMPING * np.eye(6), error - jacobian @ home
            )
            joints = np.clip(joints + np.clip(step, -0.3, 0.3), self._low, self._high)
        return joints

    def hand(self, joints_rad: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the hand's position (3,) in metres for joints (7,)."""
        self._data.qpos[: panda.N_JOINTS] = joints_rad
        mujoco.mj_kinematics(self._model, self._data)
        return np.array(self._data.site_xpos[self._tcp])

    def _error(self, joints: NDArray[np.float64], hand_m: NDArray[np.float64]) -> NDArray[np.float64]:
        position = self.hand(joints)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_jacSite(self._model, self._data, self._jacobian[:3], self._jacobian[3:], self._tcp)
        axes = self._data.site_xmat[self._tcp].reshape(3, 3)
        turn = 0.5 * np.cross(axes.T, _DOWN.T).sum(axis=0)
        return np.concatenate([hand_m - position, turn])


class Arm:
    """The arm within one simulated scene."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, contact_limit_n: float) -> None:
        self._model, self._data = model, data
        self._limit_n = contact_limit_n
        self._kinematics = Kinematics()
        self._tcp = model.site("tcp").id
        self._fingers = [model.joint(name).qposadr[0] for name in ("slide_left", "slide_right")]
        self._hand = np.zeros(model.ngeom, dtype=bool)
        self._hand[[model.geom(name).id for name in panda.HAND_GEOMS]] = True
        self._n_substeps = round(TICK_S / model.opt.timestep)

    def place(self, hand_m: NDArray[np.float64]) -> None:
        """Put the arm at rest with the hand at `hand_m` and the gripper open, without motion."""
        joints = self._kinematics.solve(panda.HOME_RAD, hand_m)
        self._data.qpos[: panda.N_JOINTS] = joints
        self._data.qpos[self._fingers] = panda.TRAVEL_M
        self._data.ctrl[:] = [*joints, panda.TRAVEL_M]

    def state(self) -> NDArray[np.float64]:
        """Return the measured state (5,), as `Observation.state` describes it."""
        axes = self._data.site_xmat[self._tcp].reshape(3, 3)
        opening = np.clip(self._data.qpos[self._fingers].mean() / panda.TRAVEL_M, 0.0, 1.0)
        return np.array([*self._data.site_xpos[self._tcp], np.arctan2(axes[1, 0], axes[0, 0]), opening])

    def hold(self, duration_s: float) -> Iterator[None]:
        """Keep the present targets, yielding after each tick."""
        for _ in range(round(duration_s / TICK_S)):
            self._tick()
            yield

    def move(self, action: NDArray[np.float32], step_s: float) -> Iterator[None]:
        """Perform a limited action: first the hand's motion, then the gripper's; yields after each tick.

        A hand that is pushed up by more than the contact limit stays at that height for the rest of the step, while
        the horizontal part goes on; one that is pushed back sideways, and not for a moment only, stays where it is.
        """
        path = self._path(action[:3])
        finger_m = 0.0 if action[3] == CLOSE else panda.TRAVEL_M
        n_moving, n = self._n_ticks(step_s, finger_m)
        sideways_n = np.zeros(2)
        for tick in range(n):
            share = min(1.0, (tick + 1) / n_moving)
            if tick >= n_moving:
                self._data.ctrl[panda.N_JOINTS] = finger_m
            # Minimum jerk: rest, smooth acceleration, rest.
            self._data.ctrl[: panda.N_JOINTS] = _along(path, share**3 * (10 - 15 * share + 6 * share**2))
            self._tick()
            force_n = self.contact_n()
            sideways_n += (force_n[:2] - sideways_n) * TICK_S / _PUSH_S
            if np.linalg.norm(sideways_n) > self._limit_n:
                path = self._path(np.zeros(3))[1:].repeat(2, axis=0)
                sideways_n[:] = 0.0
            elif force_n[2] > self._limit_n:
                path = self._stay_above(path, self._data.site_xpos[self._tcp][2])
            yield

    def contact_n(self) -> NDArray[np.float64]:
        """Return the force (3,) in newtons, base frame, with which contacts push the hand and its fingers."""
        contact = self._data.contact
        owned = self._hand[contact.geom]
        touching = (owned[:, 0] != owned[:, 1]) & (contact.efc_address >= 0)
        if not touching.any():
            return np.zeros(3)
        forces = self._data.efc_force[contact.efc_address[touching, None] + np.arange(3)]  # elliptic cone: as it is
        on_second = np.einsum("ki,kij->kj", forces, contact.frame[touching].reshape(-1, 3, 3))
        total: NDArray[np.float64] = np.where(owned[touching, 1:], on_second, -on_second).sum(axis=0)
        return total

    def _n_ticks(self, step_s: float, finger_m: float) -> tuple[int, int]:
        """Return how many ticks the hand moves, and how many the whole step takes."""
        n_moving = round(step_s * (1 - SETTLE_SHARE) / TICK_S)
        grip_s = GRIP_S if finger_m != self._data.ctrl[panda.N_JOINTS] else 0.0
        return n_moving, n_moving + round((step_s * SETTLE_SHARE + grip_s) / TICK_S)

    def _tick(self) -> None:
        mujoco.mj_step(self._model, self._data, self._n_substeps)

    def _path(self, delta_m: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Return joints (K, 7) at equal distances on the straight line from here by `delta_m`; first the present."""
        here = np.array(self._data.site_xpos[self._tcp])
        n = max(1, int(np.ceil(np.linalg.norm(delta_m) / _KNOT_M)))
        joints = [np.array(self._data.ctrl[: panda.N_JOINTS])]
        for i in range(n):
            joints.append(self._kinematics.solve(joints[-1], here + (i + 1) / n * delta_m))
        return np.stack(joints)

    def _stay_above(self, path: NDArray[np.float64], height_m: float) -> NDArray[np.float64]:
        """Return the path with every hand position below `height_m` lifted to it."""
        lifted = path.copy()
        for i, joints in enumerate(path):
            hand = self._kinematics.hand(joints)
            if hand[2] < height_m:
                lifted[i] = self._kinematics.solve(joints, np.array([hand[0], hand[1], height_m]))
        return lifted


def _along(path: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Return the joints (7,) at a share of the path, linear between its points."""
    at = share * (len(path) - 1)
    i = min(int(at), len(path) - 2)
    joints: NDArray[np.float64] = path[i] + (at - i) * (path[i + 1] - path[i])
    return joints
