"""How a Franka over ROS is configured; every limit is here, and stricter than the driver's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from configs.loader import Config
from robot_bridge.camera import Camera
from robot_bridge.configuration import ForceConfig, GripperConfig, PictureConfig, RecoveryConfig
from robot_bridge.ros import names
from robot_bridge.safety import Limits


class MotionConfig(Config):
    """What the stream of joint commands may contain."""

    tick_s: float = Field(0.01, ge=0.002, le=0.05)  # ours: between two commands; the driver holds after 0.2 s without
    speed_share: float = Field(0.25, gt=0, le=0.5)  # ours: of the joints' speed limits (Franka data sheet)
    joint_margin_rad: float = Field(0.1, ge=0.02, le=0.5)  # polymetis: kept from the end of every joint's range
    workspace_margin_m: float = Field(0.02, ge=0, le=0.1)  # ours: what the hand may be measured outside the workspace
    tracking_limit_rad: float = Field(0.1, gt=0, le=0.5)  # ours: between commanded and measured joints; more: hold
    descent_m_s: float = Field(0.08, gt=0, le=0.25)  # ours: downwards, onto whatever lies there
    contact_limit_n: float = Field(10.0, gt=0, le=40)  # ours: a descent that presses more stops, before the reflex
    retreat_m: float = Field(0.002, ge=0, le=0.005)  # ours: up, with every tick that presses more
    state_age_s: float = Field(0.2, gt=0, le=0.2)  # ours: nothing moves on an older state; the driver's own timeout
    stall_s: float = Field(0.2, gt=0, le=0.2)  # ours: a stream interrupted for longer is not taken up again
    rest_rad_s: float = Field(0.03, gt=0, le=0.2)  # ours: slower than this the arm rests
    rest_timeout_s: float = Field(2.0, gt=0, le=30)  # ours: the longest wait for it


class FeedConfig(PictureConfig):
    """The camera's topic and what its pictures must be like."""

    topic: str = Field(names.CAMERA, pattern=r"^(/[A-Za-z]\w*)+$")  # RealSense's node


class FrankaRosConfig(Config):
    """A Franka over franka_ros_interface."""

    kind: Literal["franka_ros"] = "franka_ros"
    limits: Limits
    camera: Camera
    step_s: float = Field(2.5, ge=0.1, le=30)  # ours: 20 cm at a quarter of the joints' speed limits
    motion: MotionConfig = MotionConfig()
    reflex: ForceConfig = ForceConfig()
    images: FeedConfig = FeedConfig()
    gripper: GripperConfig = GripperConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    connect_timeout_s: float = Field(5.0, gt=0, le=60)  # ours: for the master, the driver and each of its parts

    @model_validator(mode="after")
    def _check_guard(self) -> FrankaRosConfig:
        if self.motion.contact_limit_n >= min(self.reflex.forces[:3]):
            raise ValueError("motion.contact_limit_n must be below the forces of the reflex, or it stops nothing")
        return self
