"""Content of a RoboNet file in its own units: all cameras, 5-D actions and states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from data_collection.episode import EpisodeError
from data_collection.formats.hdf5 import attribute, find, has, numbers, open_hdf5, read, text
from data_collection.formats.video import decode_video

FILE_VERSION = "0.1.0"
ROBONET_DIM = 5  # x, y, z, yaw, gripper: of states and of actions
OWN_DATASETS = {  # additional datasets of our files, with their number of dimensions
    "env/state_si": 2,
    "env/timestamps": 1,
    "policy/commanded_actions": 2,
}
OWN_ATTRIBUTES = ("gripper_convention", "software_version")

_MAX_FRAMES = 10_000  # RoboNet has at most 31; this bounds memory, not use
_MAX_BYTES = 2**31  # of one camera's decoded frames; RoboNet's largest have 20 MB


@dataclass(frozen=True)
class Video:
    """One camera's video, still encoded."""

    data: bytes  # a whole mp4 file
    shape: tuple[int, int, int]  # frames, height, width
    is_bgr: bool  # the encoded channel order, as some labs wrote it

    def frames(self) -> NDArray[np.uint8]:
        """Decode to (T, H, W, 3) uint8 RGB.

        Raises:
            EpisodeError: The video is damaged or has another count or size than promised.
        """
        frames = decode_video(self.data, self.shape)
        return np.ascontiguousarray(frames[..., ::-1]) if self.is_bgr else frames


@dataclass(frozen=True)
class RobonetTrajectory:
    """Arrays as from RoboNet's loader (0.1.0) with 5-D targets, zero padding and autograsp imputation."""

    states: NDArray[
        np.float32
    ]  # (T, 5) x, y, z in [0, 1] of the bounds, yaw [rad], gripper in bound units, high is open
    actions: NDArray[np.float32]  # (T-1, 5) dx, dy, dz [m], dyaw [rad], gripper in bound units
    videos: tuple[Video, ...]  # one a camera
    bounds: tuple[NDArray[np.float64], NDArray[np.float64]] | None  # low and high, each (5,): m, m, m, rad, gripper
    n_action_dims: int  # in the file, before padding or imputation
    n_state_dims: int
    is_gripper_imputed: bool  # the file has no gripper command; the one here is high where the next state is open
    metadata: Mapping[str, Any]
    own: Mapping[str, NDArray[Any]] | None  # the datasets of `OWN_DATASETS`; None in other files

    def frames(self, camera: int = 0) -> NDArray[np.uint8]:
        """Decode one camera: (T, H, W, 3) uint8 RGB.

        Raises:
            EpisodeError: There is no such camera, or its video is unsound.
        """
        return _decode(self.videos, camera)[: len(self.states)]


@dataclass(frozen=True)
class Footage:
    """The videos and metadata of a RoboNet file, without its actions."""

    videos: tuple[Video, ...]
    metadata: Mapping[str, Any]

    def frames(self, camera: int) -> NDArray[np.uint8]:
        """Decode one camera; as `RobonetTrajectory.frames`, all that the video has."""
        return _decode(self.videos, camera)


def read_footage(path: Path) -> Footage:
    """Read the videos and the metadata of a RoboNet file.

    Raises:
        EpisodeError: As `read_trajectory`.
    """
    with open_hdf5(Path(path)) as (file, _):
        _check_version(file)
        return Footage(_videos(file), _metadata(file))


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of a RoboNet file.

    Raises:
        EpisodeError: As `read_trajectory`.
    """
    with open_hdf5(Path(path)) as (file, _):
        _check_version(file)
        return _metadata(file)


def _decode(videos: tuple[Video, ...], camera: int) -> NDArray[np.uint8]:
    if not 0 <= camera < len(videos):
        raise EpisodeError(f"expected a camera from 0 to {len(videos) - 1}, got {camera}")
    return videos[camera].frames()


def _check_version(file: h5py.File) -> None:
    version = text(file, "file_version")
    if version != FILE_VERSION:
        raise EpisodeError(f"expected RoboNet file_version {FILE_VERSION}, got {version[:20]!r}")


def read_trajectory(path: Path) -> RobonetTrajectory:
    """Read a RoboNet file. Videos are taken into memory but not yet decoded.

    Raises:
        EpisodeError: Not a sound RoboNet 0.1.0 file of mp4 videos; the message names the file and what it lacks. A
            file of our own is also refused when any byte of it has changed.
    """
    with open_hdf5(Path(path)) as (file, is_sealed):
        _check_version(file)
        metadata = _metadata(file)
        own = _own(file, metadata, is_sealed)
        states, actions = numbers(file, "env/state", 2), numbers(file, "policy/actions", 2)
        videos = _videos(file)
        bounds = _bounds(file, metadata)
        length = min(len(states), len(actions) + 1, *(video.shape[0] for video in videos))
        if length < 2:
            raise EpisodeError(f"expected at least 2 frames and states and 1 action, got {length} in common")
        if own is not None and not len(states) == len(actions) + 1 == videos[0].shape[0] == len(own["env/state_si"]):
            raise EpisodeError("counts of frames, states and actions disagree")
        return RobonetTrajectory(
            states=_pad(states)[:length],
            actions=_actions(actions, states, bounds, metadata)[: length - 1],
            videos=videos,
            bounds=bounds,
            n_action_dims=actions.shape[1],
            n_state_dims=states.shape[1],
            is_gripper_imputed=_is_imputed(actions, metadata),
            metadata=metadata,
            own=own,
        )


def _metadata(file: h5py.File) -> dict[str, Any]:
    """Return the members of /misc and the attributes of /metadata, whose names must not clash."""
    misc, attributes = find(file, "misc"), find(file, "metadata")
    if not isinstance(misc, h5py.Group):
        raise EpisodeError("'misc': expected a group, got a dataset")
    metadata = {name: read(find(misc, name)) for name in misc}
    for name in attributes.attrs:
        if name in metadata:
            raise EpisodeError(f"'{name}' is in both /misc and /metadata")
        metadata[name] = attribute(attributes, name)
    return metadata


def _own(file: h5py.File, metadata: Mapping[str, Any], is_sealed: bool) -> dict[str, NDArray[Any]] | None:
    """Return the additional datasets of our files; None for other files."""
    places = [(find(file, name.split("/")[0]), name.split("/")[1]) for name in OWN_DATASETS]
    if not any(name in metadata for name in OWN_ATTRIBUTES) and not any(has(*place) for place in places):
        return None
    if not is_sealed:
        raise EpisodeError("expected the SHA-256 at the end of the file, got none: damaged, or changed after writing")
    return {name: numbers(file, name, n_dims) for name, n_dims in OWN_DATASETS.items()}


def _videos(file: h5py.File) -> tuple[Video, ...]:
    env = find(file, "env")
    n_cams, encoding = attribute(env, "n_cams"), attribute(env, "cam_encoding")
    if not isinstance(n_cams, int) or not 1 <= n_cams <= 100:
        raise EpisodeError(f"'env@n_cams': expected the number of cameras, got {n_cams}")
    if encoding != "mp4":
        raise EpisodeError(
            f"'env@cam_encoding': expected mp4, got {encoding}; RoboNet's readers disagree on its colours"
        )
    first_format = attribute(find(file, "env/cam0_video/frames"), "image_format")
    return tuple(_video(file, camera, first_format) for camera in range(n_cams))


def _video(file: h5py.File, camera: int, first_format: object) -> Video:
    name = f"env/cam{camera}_video/frames"
    data, dataset = numbers(file, name, 1), find(file, name)
    shape, n_frames = attribute(dataset, "shape"), attribute(dataset, "T")
    image_format = attribute(dataset, "image_format") or first_format  # RoboNet's files lack it beyond camera 0
    if data.dtype != np.uint8:
        raise EpisodeError(f"'{name}': expected the bytes of an mp4 file, got {data.dtype}")
    if not isinstance(shape, np.ndarray) or shape.shape != (3,) or shape[2] != 3 or not (shape >= 1).all():
        raise EpisodeError(f"'{name}@shape': expected height, width, 3, got {shape}")
    if not isinstance(n_frames, int) or not 1 <= n_frames <= _MAX_FRAMES:
        raise EpisodeError(f"'{name}@T': expected the number of frames, got {n_frames}")
    n_bytes = n_frames * int(shape[0]) * int(shape[1]) * 3
    if n_bytes > _MAX_BYTES:
        raise EpisodeError(f"'{name}@shape': expected at most {_MAX_BYTES} bytes of frames, got {n_bytes}")
    if image_format not in ("RGB", "BGR"):
        raise EpisodeError(f"'{name}@image_format': expected RGB or BGR, got {image_format}")
    return Video(data.tobytes(), (n_frames, int(shape[0]), int(shape[1])), image_format == "BGR")


def _bounds(file: h5py.File, metadata: Mapping[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return the low and high bound, from /metadata first as RoboNet's loader does, else the first rows of /env."""
    found = []
    for name in ("low_bound", "high_bound"):
        bound = metadata.get(name)
        if bound is None and has(find(file, "env"), name):
            bound = numbers(file, f"env/{name}", 2)[0]
        if bound is None:
            return None
        if not isinstance(bound, np.ndarray) or bound.shape != (ROBONET_DIM,) or not np.isfinite(bound).all():
            raise EpisodeError(f"'{name}': expected {ROBONET_DIM} finite numbers, got {bound}")
        found.append(bound.astype(np.float64))
    if not (found[0] <= found[1]).all():
        raise EpisodeError(f"expected low_bound below high_bound, got {found[0]} and {found[1]}")
    return found[0], found[1]


def _actions(
    actions: NDArray[Any],
    states: NDArray[Any],
    bounds: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    metadata: Mapping[str, Any],
) -> NDArray[np.float32]:
    """Return 5-D actions: the gripper of an autograsp file is imputed from the next state, others are padded with 0."""
    if not _is_imputed(actions, metadata):
        return _pad(actions)
    if bounds is None:
        raise EpisodeError("'low_bound' and 'high_bound' are missing; the gripper of an autograsp file needs them")
    if len(states) < len(actions) + 1:
        raise EpisodeError(f"expected {len(actions) + 1} states to impute {len(actions)} grasps, got {len(states)}")
    low, high = bounds[0][-1], bounds[1][-1]
    opens = states[1 : len(actions) + 1, -1] > (low + high) / 2
    return np.column_stack([actions, np.where(opens, high, low)]).astype(np.float32)


def _is_imputed(actions: NDArray[Any], metadata: Mapping[str, Any]) -> bool:
    return actions.shape[1] == ROBONET_DIM - 1 and metadata.get("primitives") == "autograsp"


def _pad(values: NDArray[Any]) -> NDArray[np.float32]:
    missing = ROBONET_DIM - values.shape[1]
    if missing < 0:
        raise EpisodeError(f"expected states and actions of at most {ROBONET_DIM} numbers, got {values.shape[1]}")
    return np.pad(values, ((0, 0), (0, missing))).astype(np.float32)
