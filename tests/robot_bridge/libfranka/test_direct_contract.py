"""The Franka over libfranka implements the `Robot` protocol, with the simulated arm in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from robot_bridge.factory import open_robot
from robot_bridge.robot import Robot
from tests.robot_bridge.libfranka.rig import Rig
from tests.robot_bridge.robot_contract import RobotContract

pytestmark = pytest.mark.libfranka


class TestFrankaDirect(RobotContract):
    @pytest.fixture
    def robot(self, rig: Rig) -> Iterator[Robot]:
        robot = open_robot(rig.config())
        yield robot
        robot.close()
