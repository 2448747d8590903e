"""Synthetic episodes for tests."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from data_collection.episode import Episode
from robot_bridge.camera import Camera
from robot_bridge.robot import RobotSpec
from robot_bridge.safety import MotionLimits
from tests.reference_data import DATA

REAL_FILES = DATA / "robonet"  # real files, next to the project
RED = (220, 30, 40)  # of the block that moves through the frames

SPEC = RobotSpec(
    name="franka",
    limits=MotionLimits(workspace_low_m=(0.3, -0.2, 0.01), workspace_high_m=(0.7, 0.2, 0.3), step_limit_m=0.1),
    camera=Camera(height_px=240, width_px=320, position_m=(1.0, 0.0, 0.5), target_m=(0.5, 0.0, 0.0), fovy_rad=0.8),
    step_s=0.6,
)


def make_episode(n_steps: int = 6, seed: int = 0, **changes: object) -> Episode:
    """Return an episode of a red block that moves 8 pixels a step over a grey ramp, with arbitrary numbers."""
    rng = np.random.default_rng(seed)
    episode = Episode(
        frames=make_frames(n_steps + 1),
        states=rng.uniform((0.3, -0.2, 0.01, -3, 0), (0.7, 0.2, 0.3, 3, 1), (n_steps + 1, 5)),
        actions=np.column_stack([rng.normal(0, 0.05, (n_steps, 3)), rng.choice([-1, 1], n_steps)]).astype(np.float32),
        commanded=rng.normal(0, 0.1, (n_steps, 4)).astype(np.float32),
        times_s=np.cumsum(rng.uniform(0.5, 0.7, n_steps + 1)),
        info={"seed": seed, "policy_desc": "random", "share": 0.1, "kept": True},
    )
    return dataclasses.replace(episode, **changes)  # type: ignore[arg-type]


def make_frames(n_frames: int) -> NDArray[np.uint8]:
    frames = np.empty((n_frames, 240, 320, 3), dtype=np.uint8)
    frames[:] = np.linspace(0, 200, 320, dtype=np.uint8)[None, None, :, None]
    for t in range(n_frames):
        frames[t, 100:140, 8 * t : 8 * t + 48] = RED
    return frames
