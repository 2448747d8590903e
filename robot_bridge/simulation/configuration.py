"""How the simulated Franka is configured; importable where MuJoCo is not."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from configs.loader import Config
from robot_bridge.camera import Camera
from robot_bridge.safety import Limits
from robot_bridge.simulation.objects import Split
from robot_bridge.simulation.scene import Kind

RendererName = Literal["auto", "egl", "osmesa", "ray"]


class SimulationConfig(Config):
    """The simulated Franka."""

    kind: Literal["simulation"] = "simulation"
    scene: Kind = "bin"
    split: Split = "train"
    limits: Limits
    camera: Camera
    step_s: float = Field(0.6, ge=0.1, le=5)  # ours: a hand's speed of 20 cm a step, as a careful Franka moves
    contact_limit_n: float = Field(20, gt=0)  # ours: what a descent may press before it stops, as a Franka's reflex
    camera_jitter: float = Field(1.0, ge=0, le=5)  # ours: 1.0 moves the camera by up to 1 cm and 1 degree a scene
    renderer: RendererName = "auto"
