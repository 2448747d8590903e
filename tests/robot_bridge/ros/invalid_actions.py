"""A command that sends invalid actions: NaN, or targets far outside the workspace."""

from __future__ import annotations

import numpy as np

from configs.command import run
from robot_bridge.factory import open_robot
from tests.robot_bridge.ros.configurations import config

_SETTINGS = ("robot.gripper.homes=false",)
_FAR_M = 9.0


def invalid_actions(fault: str, seed: int) -> None:
    """Move a few times, then send invalid actions."""
    rng = np.random.default_rng(seed)
    robot = open_robot(config(_SETTINGS))
    try:
        robot.reset(rng)
        for _ in range(3):
            action = np.append(rng.uniform(-0.1, 0.1, 3), -1.0).astype(np.float32)
            if fault == "NaN action":
                robot.step(action)
                action[rng.integers(4)] = np.nan
            else:
                action[:3] = *rng.choice([-_FAR_M, _FAR_M], 2), _FAR_M  # not down, towards the objects
            robot.step(action)
    finally:
        robot.close()


if __name__ == "__main__":
    run(invalid_actions)
