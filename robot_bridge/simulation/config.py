"""How the simulated Franka is configured; importable where MuJoCo is not."""

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
    """What goes wrong in a rehearsal, by chance, and never the same way twice. None of it changes what is recorded."""

    reflexes_per_reset: float = Field(default=0.0, ge=0, le=1)  # the arm stops itself in a later step
    freezes_per_reset: float = Field(default=0.0, ge=0, le=1)  # the camera shows one picture from then on
    deaths_per_reset: float = Field(default=0.0, ge=0, le=1)  # the process is killed in a later step
    hangs_per_reset: float = Field(default=0.0, ge=0, le=1)  # a later step never returns
    log: str = ""  # a file to which each is written as it happens

    @property
    def any(self) -> bool:
        """Whether anything goes wrong at all."""
        shares = (self.reflexes_per_reset, self.freezes_per_reset, self.deaths_per_reset, self.hangs_per_reset)
        return max(shares) > 0


class SimulationConfig(Config):
    """The simulated Franka."""

    renamed_keys: ClassVar[Mapping[str, str]] = {"troubles": "fault_injection"}
    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {"split": {"unseen": "test"}}

    kind: Literal["simulation"] = "simulation"
    scene: SceneKind = "bin"
    split: Split = "train"
    limits: MotionLimits
    camera: Camera
    step_s: float = Field(0.6, ge=0.1, le=5)  # ours: a hand's speed of 20 cm a step, as a careful Franka moves
    contact_limit_n: float = Field(20, gt=0)  # ours: what a descent may press before it stops, as a Franka's reflex
    camera_jitter: float = Field(1.0, ge=0, le=5)  # ours: 1.0 moves the camera by up to 1 cm and 1 degree a scene
    renderer: RendererName = "auto"
    resets_per_scene: int = Field(default=1, ge=0)  # ours: 1: every reset draws new objects; 0: they stay for ever
    fault_injection: FaultInjectionConfig = FaultInjectionConfig()
