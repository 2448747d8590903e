"""How a Franka without ROS is configured; every limit is stricter than the arm's own."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from robot_bridge.franka.config import FrankaConfig, PictureConfig


class EyeConfig(PictureConfig):
    """The camera, and what its pictures must be like."""

    source: int | str = 0  # number of a device (/dev/video0), or the address of a stream
    latency_s: float = Field(0.1, ge=0, le=0.4)  # ours: from light to picture; pictures carry no time of their own


class FrankaDirectConfig(FrankaConfig):
    """A Franka over libfranka's own protocol."""

    kind: Literal["franka_direct"] = "franka_direct"
    images: EyeConfig = EyeConfig()
    host: str = Field("172.16.0.2", min_length=1)  # libfranka's documentation: the arm's usual address
    enforces_realtime: bool = True  # libfranka: only on a kernel with PREEMPT_RT; a simulated arm needs none
    acceleration_share: float = Field(0.5, gt=0, le=1)  # ours: of the joints' limits; a stop takes all of it
    jerk_share: float = Field(0.3, gt=0, le=1)  # ours
