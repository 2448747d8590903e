"""What every real Franka is configured by, whatever leads to it; every limit is stricter than the maker's."""

from __future__ import annotations

from pydantic import Field, model_validator

from configs.loader import Config

_Joints = tuple[float, float, float, float, float, float, float]
_Axes = tuple[float, float, float, float, float, float]


class ForceConfig(Config):
    """From which torque and force on the arm stops itself by a reflex; set at every start."""

    torques_nm: _Joints = (20.0, 20.0, 18.0, 18.0, 16.0, 14.0, 12.0)  # franka_ros
    forces: _Axes = (20.0, 20.0, 20.0, 25.0, 25.0, 25.0)  # franka_ros: N along x, y, z and N m about them


class PictureConfig(Config):
    """What the camera's pictures must be like."""

    timeout_s: float = Field(2.0, gt=0, le=30)  # ours: for a picture that is newer than the motion
    age_s: float = Field(0.5, gt=0, le=2)  # LeRobot: an older picture is none
    brightness: tuple[float, float] = (
        10.0,
        245.0,
    )  # ours: mean of 0 to 255; else the lens is covered

    @model_validator(mode="after")
    def _check_brightness(self) -> PictureConfig:
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

    per_episode: int = Field(3, ge=0)  # polymetis: 3 tries
    per_hour: int = Field(12, ge=0)  # ours
    back_off_s: float = Field(1.0, gt=0, le=60)  # polymetis: 1 s before the first, twice as long before each other
    timeout_s: float = Field(5.0, gt=0, le=60)  # ours: for the arm to say that the reflex is gone
    patience_s: float = Field(10.0, gt=0, le=600)  # ours: for state or pictures to come back
    alert: tuple[str, ...] = ()  # a command and its arguments, run once, with the reason after them, when parked
