"""What every real Franka is configured by, whatever leads to it; every limit is stricter than the maker's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from configs.loader import Config
from robot_bridge.camera import Camera
from robot_bridge.safety import MotionLimits

_Joints = tuple[float, float, float, float, float, float, float]
_Axes = tuple[float, float, float, float, float, float]


class ReflexConfig(Config):
    """From which torque and force on the arm stops itself by a reflex; set at every start."""

    torques_nm: _Joints = (20.0, 20.0, 18.0, 18.0, 16.0, 14.0, 12.0)  # franka_ros
    forces: _Axes = (20.0, 20.0, 20.0, 25.0, 25.0, 25.0)  # franka_ros: N along x, y, z and N m about them


class ImageConfig(Config):
    """What the camera's pictures must be like."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"age_s": "max_age_s"}

    timeout_s: float = Field(2.0, gt=0, le=30)  # ours: for a picture that is newer than the motion
    max_age_s: float = Field(0.5, gt=0, le=2)  # LeRobot: an older picture is none
    brightness: tuple[float, float] = (
        10.0,
        245.0,
    )  # ours: mean of 0 to 255; else the lens is covered

    @model_validator(mode="after")
    def _check_brightness(self) -> ImageConfig:
        if not 0 <= self.brightness[0] < self.brightness[1] <= 255:
            raise ValueError("brightness must be two rising numbers from 0 to 255")
        return self


class GripperConfig(Config):
    """How the hand opens and closes."""

    width_m: float = Field(0.08, gt=0, le=0.08)  # Franka hand: its stroke
    speed_m_s: float = Field(0.1, gt=0, le=0.1)  # Franka hand
    force_n: float = Field(20.0, gt=0, le=70)  # ours; the hand holds 70 N
    held_m: float = Field(0.003, gt=0, le=0.02)  # ours: closed on less than this, it holds nothing
    timeout_s: float = Field(5.0, gt=0, le=30)  # ours: for any of its motions; homing may take three times as long
    homes: bool = True  # at start: without it the hand does not know its width


class RecoveryConfig(Config):
    """How often an arm that stopped itself may be freed without a person."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"alert": "notify_command"}

    per_episode: int = Field(3, ge=0)  # polymetis: 3 tries
    per_hour: int = Field(12, ge=0)  # ours
    back_off_s: float = Field(1.0, gt=0, le=60)  # polymetis: 1 s before the first, twice as long before each other
    timeout_s: float = Field(5.0, gt=0, le=60)  # ours: for the arm to say that the reflex is gone
    patience_s: float = Field(10.0, gt=0, le=600)  # ours: for state or pictures to come back
    notify_command: tuple[str, ...] = ()  # run once when the arm is parked; the reason is its last argument


class MotionConfig(Config):
    """What the stream of joint commands may contain."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"speed_fraction": "speed_fraction", "state_age_s": "max_state_age_s"}

    tick_s: float = Field(0.01, ge=0.002, le=0.05)  # ours: between two commands; franka_ros holds after 0.2 s without
    speed_fraction: float = Field(0.25, gt=0, le=0.5)  # ours: of the joints' speed limits (Franka data sheet)
    joint_margin_rad: float = Field(0.1, ge=0.02, le=0.5)  # polymetis: kept from the end of every joint's range
    workspace_margin_m: float = Field(0.02, ge=0, le=0.1)  # ours: what the hand may be measured outside the workspace
    tracking_limit_rad: float = Field(0.1, gt=0, le=0.5)  # ours: between commanded and measured joints; more: hold
    descent_m_s: float = Field(0.08, gt=0, le=0.25)  # ours: downwards, onto whatever lies there
    contact_limit_n: float = Field(10.0, gt=0, le=40)  # ours: a descent that presses more stops, before the reflex
    retreat_m: float = Field(0.002, ge=0, le=0.005)  # ours: up, with every tick that presses more
    max_state_age_s: float = Field(0.2, gt=0, le=0.2)  # ours: nothing moves on an older state; the driver's own timeout
    stall_s: float = Field(0.2, gt=0, le=0.2)  # ours: a stream interrupted for longer is not taken up again
    rest_rad_s: float = Field(0.03, gt=0, le=0.2)  # ours: slower than this the arm rests
    rest_timeout_s: float = Field(2.0, gt=0, le=30)  # ours: the longest wait for it


class FrankaConfig(Config):
    """A real Franka, whatever leads to it."""

    limits: MotionLimits
    camera: Camera
    step_s: float = Field(2.5, ge=0.1, le=30)  # ours: 20 cm at a quarter of the joints' speed limits
    motion: MotionConfig = MotionConfig()
    reflex: ReflexConfig = ReflexConfig()
    gripper: GripperConfig = GripperConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    connect_timeout_s: float = Field(5.0, gt=0, le=60)  # ours: for each part that leads to the arm

    @model_validator(mode="after")
    def _check_guard(self) -> FrankaConfig:
        if self.motion.contact_limit_n >= min(self.reflex.forces[:3]):
            raise ValueError("motion.contact_limit_n must be below the forces of the reflex, or it stops nothing")
        return self


class VideoConfig(ImageConfig):
    """The camera, and what its pictures must be like."""

    source: int | str = 0  # number of a device (/dev/video0), or the address of a stream
    latency_s: float = Field(0.1, ge=0, le=0.4)  # ours: from light to picture; pictures carry no time of their own


class FrankaDirectConfig(FrankaConfig):
    """A Franka over libfranka's own protocol."""

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "acceleration_share": "acceleration_fraction",
        "jerk_share": "jerk_fraction",
    }

    kind: Literal["franka_direct"] = "franka_direct"
    images: VideoConfig = VideoConfig()
    host: str = Field("172.16.0.2", min_length=1)  # libfranka's documentation: the arm's usual address
    enforces_realtime: bool = True  # libfranka: only on a kernel with PREEMPT_RT; a simulated arm needs none
    acceleration_fraction: float = Field(0.5, gt=0, le=1)  # ours: of the joints' limits; a stop takes all of it
    jerk_fraction: float = Field(0.3, gt=0, le=1)  # ours


class RosImageConfig(ImageConfig):
    """The camera's topic and what its pictures must be like."""

    topic: str = Field("/camera/color/image_raw", pattern=r"^(/[A-Za-z]\w*)+$")  # RealSense's node


class FrankaRosConfig(FrankaConfig):
    """A Franka over franka_ros_interface."""

    kind: Literal["franka_ros"] = "franka_ros"
    images: RosImageConfig = RosImageConfig()
