"""Configurations of the Franka over ROS for tests."""

from __future__ import annotations

from collections.abc import Sequence

from configs.loader import Config, load
from robot_bridge.franka.config import FrankaRosConfig
from tests.patience import relaxed

QUICK = (
    "robot.step_s=0.6",
    "robot.motion.speed_fraction=0.5",  # twice the default
    "robot.motion.tracking_limit_rad=0.2",  # likewise, as a simulated arm that is late lags by its speed
    f"robot.recovery.patience_s={relaxed(2.0)}",
    f"robot.connect_timeout_s={relaxed(5.0, 60.0)}",
    f"robot.images.timeout_s={relaxed(2.0, 30.0)}",
    f"robot.images.max_age_s={relaxed(0.5, 2.0)}",
    "robot.recovery.back_off_s=0.2",
)


class _Sections(Config):
    robot: FrankaRosConfig


def shipped(overrides: Sequence[str] = ()) -> FrankaRosConfig:
    """Return the shipped configuration with some keys changed."""
    return load(_Sections, {"robot": "robots/franka_ros.yaml"}, overrides).robot


def config(overrides: Sequence[str] = ()) -> FrankaRosConfig:
    """Return the shipped configuration at the highest allowed speed, with some keys changed.

    On a busy machine a state may be older, and a stream interrupted for longer, than a configuration allows.
    """
    read = shipped([*QUICK, *overrides])
    limits = {name: relaxed(getattr(read.motion, name)) for name in ("max_state_age_s", "stall_s")}
    return read.model_copy(update={"motion": read.motion.model_copy(update=limits)})
