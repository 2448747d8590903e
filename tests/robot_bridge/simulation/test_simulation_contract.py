"""The simulated Franka implements the `Robot` protocol."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from robot_bridge.robot import Robot
from tests.robot_bridge.robot_contract import RobotContract
from tests.robot_bridge.simulated import franka


class TestSimulatedFranka(RobotContract):
    @pytest.fixture(params=["bin", "pick_wipe"])
    def robot(self, request: pytest.FixtureRequest) -> Iterator[Robot]:
        robot = franka(scene=request.param, renderer="auto")
        yield robot
        robot.close()
