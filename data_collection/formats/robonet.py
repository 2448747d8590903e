"""Reads and writes episodes as RoboNet files (HDF5, file_version 0.1.0): units, gripper sign, verified writing."""

from __future__ import annotations

import importlib.metadata
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from data_collection.atomic_io import write_new
from data_collection.episode import Episode, EpisodeError, video_episode
from data_collection.formats.gripper_convention import closes
from data_collection.formats.hdf5 import naming, seal
from data_collection.formats.robonet_file import (
    FILE_VERSION,
    ROBONET_DIM,
    RobonetTrajectory,
    read_footage,
    read_trajectory,
)
from data_collection.formats.video import VideoConfig, encode_video
from robot_bridge.robot import ACTION_DIM, CLOSE, OPEN, STATE_DIM, RobotSpec

ASIDE = ".aside"  # suffix of files in quarantine, which readers skip

PSNR_FLOOR_DB = 25.0  # of the worst frame read back; ours: H.264 gives 34 to 40, another frame less than 20

# Attributes that RoboNet requires; an episode's info may replace those of the scene.
_SCENE: Final[Mapping[str, str]] = {
    "camera_configuration": "single_view",
    "camera_type": "rgb",
    "policy_desc": "unknown",
    "bin_type": "unknown",
    "bin_insert": "none",
    "gripper": "hand",
    "background": "lab",
    "object_classes": "unknown",  # names with ", " between them
}
# RoboNet's reader makes one table of these and of all names under /misc and /metadata, so none may occur twice.
_TAKEN: Final = (
    *("sdim", "state_T", "adim", "action_T", "ncam", "frame_dim", "img_T", "img_encoding", "image_format", "sha256"),
    *("file_version", "traj_ok", "low_bound", "high_bound", "environment_size", "software_version"),
)


def read_episode(path: Path, camera: int = 0, action_free: bool = False) -> Episode:
    """Read one camera of any RoboNet file as an episode.

    A file of our own gives back what was written, but for the video's loss. In a file of others positions come from
    its bounds, the gripper from `gripper.closes`, and the applied translation is the command with its target kept
    inside the bounds, as RoboNet's robots did: on Franka files it is exactly what the states show. Without timestamps
    `times_s` counts frames.

    Args:
        path: The file.
        camera: Which of its cameras.
        action_free: Take the frames alone, also of a file whose actions cannot be used.

    Raises:
        EpisodeError: Unreadable or damaged, or without what an episode needs (4-D or 5-D actions, bounds, a gripper
            that moves); the message names the file.
    """
    if action_free:
        footage = read_footage(path)
        with naming(path):
            return video_episode(footage.frames(camera), _info(footage.metadata))
    trajectory = read_trajectory(path)
    with naming(path):
        if trajectory.own is None:
            return _others_episode(trajectory, path, camera)
        return _own_episode(trajectory, trajectory.own, camera)


def write_episode(episode: Episode, path: Path, spec: RobotSpec) -> None:
    """Write an episode as one RoboNet file, complete or not at all.

    The file is built in memory, sealed by its SHA-256, and written as `atomic_io.write_new` does, compared with the
    episode when it is read back. The gripper command has RoboNet's imputed convention, 1 opens and 0 closes, so that it
    means the same as the next state and as the autograsp actions of RoboNet's other robots.

    Args:
        episode: Applied gripper commands must be exactly +1 or -1, frames of the camera's size.
        path: `<lab>_<robot>_<note>_traj<N>.hdf5`, or of an episode in quarantine; a name is never written twice.
        spec: The robot that was recorded.

    Raises:
        EpisodeError: The episode cannot be represented, the name exists, the disk is full, or what was read back
            differs. No file of that name remains.
    """
    if not {".hdf5", ASIDE} & {path.suffix}:
        raise EpisodeError(f"{path}: expected a name that ends in .hdf5, as RoboNet's reader requires")
    _check(episode, spec)
    write_new(path, _build(episode, spec), lambda part: _compare(episode, read_episode(part)))


def _own_episode(trajectory: RobonetTrajectory, own: Mapping[str, NDArray[Any]], camera: int) -> Episode:
    actions = trajectory.actions[:, [0, 1, 2, 4]]
    actions[:, 3] = np.where(actions[:, 3] > 0.5, OPEN, CLOSE)  # written as 1 and 0
    return Episode(
        frames=trajectory.frames(camera),
        states=own["env/state_si"],
        actions=actions,
        commanded=own["policy/commanded_actions"],
        times_s=own["env/timestamps"],
        info=_info(trajectory.metadata),
        workspace_m=_workspace(trajectory),
    )


def _others_episode(trajectory: RobonetTrajectory, path: Path, camera: int) -> Episode:
    if trajectory.n_action_dims not in (ROBONET_DIM - 1, ROBONET_DIM) or trajectory.n_state_dims != ROBONET_DIM:
        raise EpisodeError(
            f"expected 4-D or 5-D actions and 5-D states, got {trajectory.n_action_dims}-D and "
            f"{trajectory.n_state_dims}-D"
        )
    if trajectory.bounds is None:
        raise EpisodeError("expected low_bound and high_bound, without which positions have no unit; got none")
    low, high = trajectory.bounds
    if not (low[[0, 1, 2, 4]] < high[[0, 1, 2, 4]]).all():
        raise EpisodeError(f"expected a low_bound below the high_bound, got {low} and {high}")
    states = trajectory.states.astype(np.float64)
    states[:, :3] = low[:3] + states[:, :3] * (high - low)[:3]
    states[:, 4] = np.clip((states[:, 4] - low[4]) / (high[4] - low[4]), 0.0, 1.0)
    commanded = trajectory.actions[:, [0, 1, 2, 4]]
    commanded[:, 3] = np.where(closes(trajectory, path), CLOSE, OPEN)
    actions = commanded.copy()
    # A hand measured outside may stay there; the command must not move it further out.
    inner, outer = np.minimum(low[:3], states[:-1, :3]), np.maximum(high[:3], states[:-1, :3])
    actions[:, :3] = np.clip(states[:-1, :3] + commanded[:, :3], inner, outer) - states[:-1, :3]
    return Episode(
        frames=trajectory.frames(camera),
        states=states,
        actions=actions,
        commanded=commanded,
        times_s=np.arange(len(states), dtype=np.float64),
        info=_info(trajectory.metadata),
    )


def _workspace(trajectory: RobonetTrajectory) -> tuple[tuple[float, float, float], tuple[float, float, float]] | None:
    if trajectory.bounds is None:
        return None
    (x, y, z), (far_x, far_y, far_z) = (bound[:3].tolist() for bound in trajectory.bounds)
    return (x, y, z), (far_x, far_y, far_z)


def _info(metadata: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    info = {name: value for name, value in metadata.items() if isinstance(value, str | int | float | bool)}
    if isinstance(metadata.get("object_classes"), tuple):
        info["object_classes"] = ", ".join(metadata["object_classes"])
    for name in ("software_version", "traj_ok"):  # of the file, not of the episode
        info.pop(name, None)
    return info


def _check(episode: Episode, spec: RobotSpec) -> None:
    n_dims = (episode.actions.shape[1], episode.states.shape[1])
    if n_dims != (ACTION_DIM, STATE_DIM):
        raise EpisodeError(
            f"expected {ACTION_DIM}-D actions and {STATE_DIM}-D states to write, got {n_dims[0]}-D and {n_dims[1]}-D"
        )
    expected = (spec.camera.height_px, spec.camera.width_px)
    if episode.frames.shape[1:3] != expected:
        raise EpisodeError(f"expected frames of the camera's size {expected}, got {episode.frames.shape[1:3]}")
    if not np.isin(episode.actions[:, 3], (OPEN, CLOSE)).all():
        raise EpisodeError(f"expected applied gripper commands {OPEN:+g} or {CLOSE:+g}, got other values")
    if (np.diff(episode.times_s) <= 0).any():
        raise EpisodeError("expected rising times_s, got falling or equal ones")
    for name, dtype in {"states": np.float64, "actions": np.float32, "commanded": np.float32}.items():
        if getattr(episode, name).dtype != dtype:
            raise EpisodeError(f"{name}: expected {np.dtype(dtype)}, got {getattr(episode, name).dtype}")


def _attributes(episode: Episode, spec: RobotSpec) -> dict[str, Any]:
    """Return the attributes of /metadata: robot properties, then the episode's info, then scene defaults."""
    low, high = spec.state_bounds()
    attributes: dict[str, Any] = {
        "robot": spec.name,
        "action_space": "x,y,z,theta,gripper",
        "primitives": "none",
        "contains_annotation": False,
        "term_t": len(episode.actions) - 1,
        "gripper_convention": "high_open",
        "step_limit_m": spec.limits.step_limit_m,  # the action scale
        "step_s": spec.step_s,
        "camera_calibration": spec.camera.model_dump_json(),
    }
    for name, value in episode.info.items():
        if name in _TAKEN:
            raise EpisodeError(f"info '{name}': the name has a meaning in RoboNet files; choose another")
        if attributes.setdefault(name, value) != value:
            raise EpisodeError(f"info '{name}': expected {attributes[name]!r}, the robot's value, got {value!r}")
    attributes = {**_SCENE, **attributes}
    attributes["object_classes"] = str(attributes["object_classes"]).split(", ")
    attributes["software_version"] = f"ghvae-foresight {importlib.metadata.version('ghvae-foresight')}"
    return {**attributes, "low_bound": low, "high_bound": high, "environment_size": high - low}


def _build(episode: Episode, spec: RobotSpec) -> bytes:
    """Return the bytes of the file: contiguous datasets, the earliest superblock, and a SHA-256 at the end."""
    low, high = spec.state_bounds()
    n_frames, *shape = episode.frames.shape
    states = episode.states.copy()
    states[:, :3] = (states[:, :3] - low[:3]) / (high - low)[:3]
    actions = np.zeros((n_frames - 1, ROBONET_DIM))
    actions[:, :3] = episode.actions[:, :3]
    actions[:, 4] = episode.actions[:, 3] == OPEN
    buffer = io.BytesIO()
    with h5py.File(buffer, "w", libver="earliest") as file:
        file["file_version"] = FILE_VERSION
        env, metadata = file.create_group("env"), file.create_group("metadata")
        env.attrs["n_cams"], env.attrs["cam_encoding"] = 1, "mp4"
        video = env.create_dataset(
            "cam0_video/frames", data=np.frombuffer(encode_video(episode.frames, VideoConfig()), np.uint8)
        )
        video.attrs["shape"], video.attrs["T"], video.attrs["image_format"] = np.array(shape), n_frames, "RGB"
        env["state"], env["state_si"], env["timestamps"] = states, episode.states, episode.times_s
        env["low_bound"], env["high_bound"] = np.tile(low, (n_frames, 1)), np.tile(high, (n_frames, 1))
        file["policy/actions"], file["policy/commanded_actions"] = actions, episode.commanded
        file["misc/traj_ok"] = True
        for name, value in _attributes(episode, spec).items():
            metadata.attrs[name] = value
    return seal(buffer.getvalue())


def _compare(written: Episode, found: Episode) -> None:
    """Check that a file read back equals the episode."""
    for name in ("states", "actions", "commanded", "times_s"):
        if not np.array_equal(getattr(written, name), getattr(found, name)):
            raise EpisodeError(f"{name} read back differ from those written: the disk or its driver is failing")
    if any(found.info.get(name) != value for name, value in written.info.items()):
        raise EpisodeError("info read back differs from that written")
    worst_db = min(cv2.PSNR(image, again) for image, again in zip(written.frames, found.frames, strict=True))
    if worst_db < PSNR_FLOOR_DB:
        raise EpisodeError(f"expected a video of at least {PSNR_FLOOR_DB:g} dB, got a frame of {worst_db:.1f} dB")
