"""Configuration of the simulated Franka; importable without MuJoCo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from configs.loader import Config
from robot_bridge.camera import Camera
from robot_bridge.safety import MotionLimits
from robot_bridge.simulation.objects import Split
from robot_bridge.simulation.scene import SceneKind

RendererName = Literal["auto", "egl", "osmesa", "ray"]


class FaultInjectionConfig(Config):
    """Rates of random faults for tests of long runs. No fault changes what is recorded."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"deaths_per_reset": "kills_per_reset"}

    reflexes_per_reset: float = Field(default=0.0, ge=0, le=1)  # a later step ends in a reflex; ours
    freezes_per_reset: float = Field(default=0.0, ge=0, le=1)  # the camera repeats one image from then on; ours
    kills_per_reset: float = Field(default=0.0, ge=0, le=1)  # the process is killed in a later step; ours
    hangs_per_reset: float = Field(default=0.0, ge=0, le=1)  # a later step never returns; ours
    log: str = ""  # file to which the name of every injected fault is appended; empty: none

    @property
    def any(self) -> bool:
        """Whether any fault can occur."""
        rates = (self.reflexes_per_reset, self.freezes_per_reset, self.kills_per_reset, self.hangs_per_reset)
        return max(rates) > 0


class SimulationConfig(Config):
    """The simulated Franka over a bin."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"troubles": "fault_injection"}
    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {"split": {"unseen": "test"}}

    kind: Literal["simulation"] = "simulation"
    scene: SceneKind = "bin"
    split: Split = "train"  # which shapes, sizes and hues appear
    limits: MotionLimits
    camera: Camera
    step_s: float = Field(0.6, ge=0.1, le=5)  # ours: with 20 cm a step, the hand speed of a careful Franka
    contact_limit_n: float = Field(20, gt=0)  # ours: contact force that stops a descent, as a Franka's reflex
    camera_jitter: float = Field(1.0, ge=0, le=5)  # ours: 1.0 moves the camera by up to 1 cm and 1 degree per scene
    renderer: RendererName = "auto"
    resets_per_scene: int = Field(default=1, ge=0)  # ours: 1: new objects at every reset; 0: the scene is kept
    fault_injection: FaultInjectionConfig = FaultInjectionConfig()
