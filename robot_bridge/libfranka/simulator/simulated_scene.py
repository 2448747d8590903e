"""The bin and what lies in it before franky-sim's FR3: the scene of the MuJoCo Franka with another arm."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any, Final

import numpy as np
from franky_sim.mujoco_simulator import MujocoSimulator
from numpy.typing import NDArray

from robot_bridge.kinematics import HOME_RAD

_STIFFNESS: Final = (4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0)  # N m / rad; franky-sim
_DAMPING: Final = (160.0, 160.0, 120.0, 120.0, 40.0, 40.0, 40.0)  # N m s / rad; a third of its: the arm lags less
_SENSOR: Final = '<sensor><contact name="push" subtree1="robot0_hand" reduce="netforce" data="force"/></sensor>'
_ARM: Final = "link0"  # our own


def simulate(scene_xml: str) -> tuple[MujocoSimulator, Any]:
    """Return a simulator, not started yet, and its robot.

    Its positions (nq,) are in the order of the scene's own: seven joints, two fingers, whatever is free to move.
    """
    scene = ET.fromstring(scene_xml)  # noqa: S314
    simulator = MujocoSimulator()
    simulator.init()
    world = simulator.worldbody
    for each in list(world):  # the ground is where the bin's floor is, the lights are not ours
        world.remove(each)
    robot = simulator.add_robot(initial_q=tuple(HOME_RAD), initial_hand_width=0.08, kp=_STIFFNESS, kv=_DAMPING)
    world.extend(each for each in scene.findall("worldbody/body") if each.get("name") != _ARM)
    option = simulator.scene.find("option")
    if option is not None:
        option.attrib.update({"cone": "elliptic", "impratio": "10", "iterations": "30"})  # as ours: what is held, holds
    simulator.scene.append(ET.fromstring(_SENSOR))  # noqa: S314
    return simulator, robot


def push_n(simulator: MujocoSimulator) -> NDArray[np.float64]:
    """Return the force (3,) with which contacts push the hand, in the base frame."""
    return -np.array(simulator.data.sensordata[:3])
