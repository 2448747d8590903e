"""Motion of the simulated arm: straight paths and contact limits."""

from __future__ import annotations

import numpy as np
import pytest

from robot_bridge.robot import CLOSE, OPEN
from robot_bridge.simulation.arm import MujocoArm
from robot_bridge.simulation.mujoco_import import mujoco
from robot_bridge.simulation.scene import build
from tests.robot_bridge.robot_contract import act
from tests.robot_bridge.simulated import config

LOW, HIGH = np.array(config().limits.workspace_low_m), np.array(config().limits.workspace_high_m)


def arm_over_empty_bin(contact_limit_n: float = 20.0, table_m: float | None = None) -> tuple[MujocoArm, mujoco.MjData]:
    """Return an arm in a scene without movable objects, optionally over a fixed table of a given height."""
    spec = mujoco.MjSpec.from_string(build(np.random.default_rng(0), "bin", "train", config().camera, 0.0).xml)
    for body in list(spec.bodies):
        if body.name.startswith(("object", "tool")):
            spec.delete(body)
    if table_m is not None:
        spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.1, 0.1, 0.02], pos=[0.5, 0, table_m - 0.02])
    model = spec.compile()
    data = mujoco.MjData(model)
    arm = MujocoArm(model, data, contact_limit_n)
    arm.place(np.array([0.5, 0.0, 0.15]))
    for _ in arm.hold(0.2):
        pass
    mujoco.mj_forward(model, data)
    return arm, data


def move(arm: MujocoArm, x: float, y: float, z: float, gripper: float = OPEN) -> np.ndarray:
    """Move, and return the hand's path (N, 3)."""
    path = [arm.state()[:3]]
    path += [arm.state()[:3] for _ in arm.move(act(x, y, z, gripper), 0.6)]
    return np.stack(path)


def test_hand_moves_straight_to_its_target() -> None:
    arm, _ = arm_over_empty_bin()
    for delta in ([0.1, 0.15, 0.0], [-0.15, -0.1, 0.05], [0.0, -0.1, -0.15]):
        path = move(arm, *delta) - arm.state()[:3]
        start, end = path[0], path[-1]
        direction = -start / np.linalg.norm(start)
        off_line = path - np.outer(path @ direction, direction)
        assert np.linalg.norm(off_line, axis=1).max() < 0.01
        np.testing.assert_allclose(end - start, delta, atol=0.002)


def test_gripper_moves_after_the_hand() -> None:
    arm, _ = arm_over_empty_bin()
    start = arm.state()[:3]
    states = [arm.state() for _ in arm.move(act(0.0, 0.0, 0.05, CLOSE), 0.6)]
    openings = [state[4] for state in states if np.linalg.norm(state[:3] - start) < 0.045]
    assert min(openings) > 0.95
    assert arm.state()[4] < 0.05


@pytest.mark.parametrize("gripper", [OPEN, CLOSE])
def test_descent_onto_a_table_stops_near_the_contact_limit(gripper: float) -> None:
    arm, data = arm_over_empty_bin(contact_limit_n=20.0, table_m=0.06)
    for _ in range(3):
        move(arm, 0.0, 0.0, -0.2, gripper)
        assert arm.contact_n()[2] < 25.0
    assert data.contact.dist.min(initial=0.0) > -0.002
    assert arm.state()[2] > 0.06


def test_descent_without_contact_limit_exceeds_it() -> None:
    arm, _ = arm_over_empty_bin(contact_limit_n=1e6, table_m=0.06)
    move(arm, 0.0, 0.0, -0.2)
    assert arm.contact_n()[2] > 60.0


def test_stopped_descent_continues_sideways() -> None:
    arm, _ = arm_over_empty_bin(table_m=0.06)
    path = move(arm, 0.05, 0.0, -0.09)
    assert path[-1][0] - path[0][0] == pytest.approx(0.05, abs=0.005)
    assert path[-1][2] > 0.065


def test_sideways_push_against_a_fixed_object_stops() -> None:
    arm, _ = arm_over_empty_bin(table_m=0.06)
    move(arm, -0.17, 0.0, 0.0)
    move(arm, 0.0, 0.0, -0.11)
    path = move(arm, 0.15, 0.0, 0.0)
    assert path[-1][0] - path[0][0] < 0.12
    assert np.linalg.norm(arm.contact_n()) < 25.0
