"""Reads one episode with all its cameras for export."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_collection.episode import Episode, EpisodeError
from data_collection.formats.robonet import read_episode
from data_collection.formats.robonet_file import Video, read_footage

STATE_NAMES = ("x_m", "y_m", "z_m", "yaw_rad", "gripper_opening")
ACTION_NAMES = ("dx_m", "dy_m", "dz_m", "gripper")  # gripper: +1 closes, -1 opens


@dataclass(frozen=True)
class EpisodeArrays:
    """An episode of T actions, with the T + 1 frames of each camera."""

    path: Path
    episode: Episode  # its frames are those of camera 0
    videos: tuple[Video, ...]  # one per camera, encoded

    @property
    def step_s(self) -> float:
        """Commanded duration of one step; 1 in files without it, as in their `times_s`."""
        return float(self.episode.info.get("step_s", 1.0))

    def frames(self, camera: int) -> NDArray[np.uint8]:
        """Return the frames of a camera: (T + 1, H, W, 3) uint8 RGB.

        Raises:
            EpisodeError: The video is damaged, or has fewer frames.
        """
        if camera == 0:
            return self.episode.frames
        return self.videos[camera].frames()[: len(self.episode.states)]

    def description(self) -> str:
        """Return the metadata of the episode as one line of JSON with sorted keys."""
        info = {
            name: value if not isinstance(value, float) or math.isfinite(value) else str(value)
            for name, value in self.episode.info.items()
        }
        described = {
            "source": self.path.name,
            "info": info,
            "workspace_m": self.episode.workspace_m,
            "step_s": self.step_s,
            "state_names": STATE_NAMES,
            "action_names": ACTION_NAMES,
        }
        return json.dumps(described, sort_keys=True, ensure_ascii=False, allow_nan=False)


def read_episode_arrays(path: Path) -> EpisodeArrays:
    """Read a RoboNet file with all its cameras.

    Raises:
        EpisodeError: As `robonet.read_episode`; the message names the file.
    """
    arrays = EpisodeArrays(path, read_episode(path), read_footage(path).videos)
    if not (math.isfinite(arrays.step_s) and arrays.step_s > 0):
        raise EpisodeError(f"{path}: expected a step_s above 0, got {arrays.step_s}")
    return arrays
