"""Configuration of a real Franka over ROS or libfranka; every limit is stricter than the manufacturer's."""

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
    """Torques and forces above which the arm stops by a reflex; set at every start."""

    torques_nm: _Joints = (20.0, 20.0, 18.0, 18.0, 16.0, 14.0, 12.0)  # franka_ros
    forces: _Axes = (20.0, 20.0, 20.0, 25.0, 25.0, 25.0)  # franka_ros: N along x, y, z and N m about them


class ImageConfig(Config):
    """Requirements on camera images."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"age_s": "max_age_s"}

    timeout_s: float = Field(2.0, gt=0, le=30)  # ours: for an image that is newer than the motion
    max_age_s: float = Field(0.5, gt=0, le=2)  # LeRobot: an older image is refused
    brightness: tuple[float, float] = (10.0, 245.0)  # ours: lowest and highest mean, 0 to 255

    @model_validator(mode="after")
    def _check_brightness(self) -> ImageConfig:
        if not 0 <= self.brightness[0] < self.brightness[1] <= 255:
            raise ValueError("expected brightness to be two rising numbers from 0 to 255")
        return self


class VideoStreamConfig(ImageConfig):
    """A camera read through OpenCV."""

    source: int | str = 0  # device number (/dev/video0), or the address of a stream
    latency_s: float = Field(0.1, ge=0, le=0.4)  # ours: from exposure to arrival; video frames carry no time stamp


class RosImageConfig(ImageConfig):
    """A camera read from a ROS topic."""

    topic: str = Field("/camera/color/image_raw", pattern=r"^(/[A-Za-z]\w*)+$")  # RealSense's node


class GripperConfig(Config):
    """Motion of the hand."""

    width_m: float = Field(0.08, gt=0, le=0.08)  # Franka hand: its stroke
    speed_m_s: float = Field(0.1, gt=0, le=0.1)  # Franka hand
    force_n: float = Field(20.0, gt=0, le=70)  # ours; the hand holds 70 N
    held_m: float = Field(0.003, gt=0, le=0.02)  # ours: closed to less than this, the hand is empty
    timeout_s: float = Field(5.0, gt=0, le=30)  # ours: for each motion; homing may take three times as long
    homes: bool = True  # at start: before homing the hand does not know its width


class RecoveryConfig(Config):
    """Limits on recoveries from reflexes without an operator."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"alert": "notify_command"}

    per_episode: int = Field(3, ge=0)  # polymetis: 3 tries
    per_hour: int = Field(12, ge=0)  # ours
    back_off_s: float = Field(1.0, gt=0, le=60)  # polymetis: before the first recovery, doubled before each next one
    timeout_s: float = Field(5.0, gt=0, le=60)  # ours: for the arm to leave the reflex
    patience_s: float = Field(10.0, gt=0, le=600)  # ours: for states to arrive again
    notify_command: tuple[str, ...] = ()  # run once when the arm is parked; the reason is its last argument


class MotionConfig(Config):
    """Limits on joint commands and motions."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"speed_share": "speed_fraction", "state_age_s": "max_state_age_s"}

    tick_s: float = Field(0.01, ge=0.002, le=0.05)  # ours: between commands; franka_ros holds after 0.2 s without one
    speed_fraction: float = Field(0.25, gt=0, le=0.5)  # ours: of the joints' speed limits (Franka data sheet)
    joint_margin_rad: float = Field(0.1, ge=0.02, le=0.5)  # polymetis: kept from both ends of every joint's range
    workspace_margin_m: float = Field(0.02, ge=0, le=0.1)  # ours: the measured hand may be this far outside
    tracking_limit_rad: float = Field(0.1, gt=0, le=0.5)  # ours: largest tracking error of a joint; above: hold
    descent_m_s: float = Field(0.08, gt=0, le=0.25)  # ours: highest speed downwards
    contact_limit_n: float = Field(10.0, gt=0, le=40)  # ours: contact force that stops a descent, before the reflex
    retreat_m: float = Field(0.002, ge=0, le=0.005)  # ours: upwards at every tick above the contact limit
    max_state_age_s: float = Field(0.2, gt=0, le=0.2)  # ours: older states stop motion; the driver's own timeout
    stall_s: float = Field(0.2, gt=0, le=0.2)  # ours: a stream interrupted for longer is not resumed
    rest_rad_s: float = Field(0.03, gt=0, le=0.2)  # ours: below this joint speed the arm is at rest
    rest_timeout_s: float = Field(2.0, gt=0, le=30)  # ours: for the arm to come to rest


class FrankaConfig(Config):
    """A real Franka; the part common to ROS and libfranka."""

    limits: MotionLimits
    camera: Camera
    step_s: float = Field(2.5, ge=0.1, le=30)  # ours: 20 cm at a quarter of the joints' speed limits
    motion: MotionConfig = MotionConfig()
    reflex: ReflexConfig = ReflexConfig()
    gripper: GripperConfig = GripperConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    connect_timeout_s: float = Field(5.0, gt=0, le=60)  # ours: for each part of the connection

    @model_validator(mode="after")
    def _check_contact_limit(self) -> FrankaConfig:
        if self.motion.contact_limit_n >= min(self.reflex.forces[:3]):
            raise ValueError("expected motion.contact_limit_n below the forces of the reflex; else it has no effect")
        return self


class FrankaRosConfig(FrankaConfig):
    """A Franka over franka_ros_interface."""

    kind: Literal["franka_ros"] = "franka_ros"
    images: RosImageConfig = RosImageConfig()


class FrankaDirectConfig(FrankaConfig):
    """A Franka over libfranka."""

    renamed_keys: ClassVar[Mapping[str, str]] = {
        "acceleration_share": "acceleration_fraction",
        "jerk_share": "jerk_fraction",
    }

    kind: Literal["franka_direct"] = "franka_direct"
    images: VideoStreamConfig = VideoStreamConfig()
    host: str = Field("172.16.0.2", min_length=1)  # libfranka's documentation: the arm's usual address
    enforces_realtime: bool = True  # libfranka: requires a PREEMPT_RT kernel; false for a simulated arm
    acceleration_fraction: float = Field(0.5, gt=0, le=1)  # ours: of the joints' limits; a stop uses all of it
    jerk_fraction: float = Field(0.3, gt=0, le=1)  # ours: of the joints' limits
