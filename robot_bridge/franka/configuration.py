"""How a Franka over ROS is configured; every limit is stricter than the driver's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from robot_bridge.franka.config import FrankaConfig, PictureConfig
from robot_bridge.ros import names


class FeedConfig(PictureConfig):
    """The camera's topic and what its pictures must be like."""

    topic: str = Field(names.CAMERA, pattern=r"^(/[A-Za-z]\w*)+$")  # RealSense's node


class FrankaRosConfig(FrankaConfig):
    """A Franka over franka_ros_interface."""

    kind: Literal["franka_ros"] = "franka_ros"
    images: FeedConfig = FeedConfig()
