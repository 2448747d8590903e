"""Episode files of a few frames, in the format of the collector."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data_collection.episode import Episode
from data_collection.formats.robonet import write_episode
from robot_bridge.camera import Camera, Crop
from robot_bridge.robot import RobotSpec
from robot_bridge.safety import MotionLimits

STEP_LIMIT_M, STEP_S = 0.2, 0.6


def spec(step_limit_m: float = STEP_LIMIT_M, crop: Crop | None = None) -> RobotSpec:
    """Return a robot with the smallest camera."""
    limits = MotionLimits(workspace_low_m=(0.3, -0.2, 0.0), workspace_high_m=(0.7, 0.2, 0.3), step_limit_m=step_limit_m)
    camera = Camera(
        height_px=240,
        width_px=320,
        crop=crop,
        position_m=(0.9, 0.0, 0.5),
        target_m=(0.4, 0.0, 0.0),
        fovy_rad=0.8,
    )
    return RobotSpec(name="franka", limits=limits, camera=camera, step_s=STEP_S)


def record(folder: Path, index: int, n_frames: int = 6, robot: RobotSpec | None = None) -> Path:
    """Write an episode of a bright square that moves over a grey background; return its path."""
    rng = np.random.default_rng(index)
    actions = rng.uniform(-0.1, 0.1, (n_frames - 1, 4)).astype(np.float32)
    actions[:, 3] = np.sign(actions[:, 3])
    frames = np.full((n_frames, 240, 320, 3), 90, np.uint8)
    for t in range(n_frames):
        frames[t, 80:140, 20 + 30 * t : 80 + 30 * t] = (220, 40, 40)
    states = np.tile(np.array([0.5, 0.0, 0.1, 0.0, 1.0]), (n_frames, 1))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"lab_franka_test_traj{index}.hdf5"
    times_s = np.arange(n_frames, dtype=np.float64) * np.float64(STEP_S)
    write_episode(Episode(frames, states, actions, actions.copy(), times_s), path, robot or spec())
    return path
