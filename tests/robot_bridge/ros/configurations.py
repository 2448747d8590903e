"""Configurations of the Franka over ROS for tests."""

from __future__ import annotations

from collections.abc import Sequence

from configs.loader import Config, load
from robot_bridge.franka.config import FrankaRosConfig

QUICK = (
    "robot.step_s=0.6",
    "robot.motion.speed_fraction=0.5",
    "robot.recovery.patience_s=2.0",
    "robot.recovery.back_off_s=0.2",
)


class _Sections(Config):
    robot: FrankaRosConfig


def shipped(overrides: Sequence[str] = ()) -> FrankaRosConfig:
    """Return the shipped configuration with some keys changed."""
    return load(_Sections, {"robot": "robots/franka_ros.yaml"}, overrides).robot


def config(overrides: Sequence[str] = ()) -> FrankaRosConfig:
    """Return the shipped configuration at the highest allowed speed, with some keys changed."""
    return shipped([*QUICK, *overrides])
