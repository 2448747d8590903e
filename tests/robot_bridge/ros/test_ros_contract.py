"""The Franka over ROS implements the `Robot` protocol, with the simulated driver in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("rospy", reason="ROS is not installed; ./bootstrap.sh ros installs it")

from robot_bridge.factory import open_robot
from robot_bridge.robot import Robot
from tests.robot_bridge.robot_contract import RobotContract
from tests.robot_bridge.ros.configurations import config
from tests.robot_bridge.ros.rig import Rig

pytestmark = pytest.mark.ros


class TestFrankaRos(RobotContract):
    @pytest.fixture
    def robot(self, rig: Rig) -> Iterator[Robot]:
        robot = open_robot(config())
        yield robot
        robot.close()
